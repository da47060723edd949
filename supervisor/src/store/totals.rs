//! How much there is, and whether more fits.

use std::collections::{BTreeSet, HashMap};
use std::io::{Error, ErrorKind};
use std::sync::Arc;

use super::file::{Place, path};
use super::limits::{MAX_OBJECTS, MAX_OBJECTS_PER_RESOURCE, MAX_TOTAL_BYTES};
use super::{Key, Object, StoreError, WatchEvent, WatchEventKind};

#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    objects: usize,
    bytes: usize,
    /// Zero for those that had some.
    by_resource: HashMap<Arc<str>, usize>,
}

impl Totals {
    pub(super) fn add(&mut self, object: &Object) {
        self.objects += 1;
        self.bytes += object.text.len();
        *self.by_resource.entry(object.key.resource.clone()).or_default() += 1;
    }

    pub(super) fn remove(&mut self, object: &Object) {
        self.objects -= 1;
        self.bytes -= object.text.len();
        if let Some(count) = self.by_resource.get_mut(&object.key.resource) {
            *count -= 1;
        }
    }

    pub(super) fn follow(&mut self, event: &WatchEvent) {
        if let Some(previous) = &event.previous {
            self.remove(previous);
        }
        match event.kind {
            WatchEventKind::Added | WatchEventKind::Modified => self.add(&event.object),
            WatchEventKind::Deleted => {}
        }
    }

    pub(super) fn check_create(&self, key: &Key) -> Result<(), StoreError> {
        if self.by_resource.get(&key.resource).is_some_and(|count| *count >= MAX_OBJECTS_PER_RESOURCE) {
            return Err(StoreError::TooMany { resource: key.resource.to_string(), limit: MAX_OBJECTS_PER_RESOURCE });
        }
        if self.objects >= MAX_OBJECTS {
            return Err(StoreError::TooMany { resource: "all resources".to_owned(), limit: MAX_OBJECTS });
        }
        Ok(())
    }

    /// Whatever makes the store smaller is welcome, also above the limit.
    pub(super) fn check_bytes(&self, key: &Key, before: usize, after: usize) -> Result<(), StoreError> {
        if after > before && self.bytes - before + after > MAX_TOTAL_BYTES {
            let cause = format!("all objects together may have {MAX_TOTAL_BYTES} bytes");
            let cause = Error::new(ErrorKind::QuotaExceeded, cause);
            return Err(StoreError::Io { operation: "store", path: path(key, Place::Main), cause });
        }
        Ok(())
    }

    pub(super) fn count(&self, resource: &str) -> usize {
        self.by_resource.get(resource).copied().unwrap_or_default()
    }

    pub(super) fn resources(&self) -> BTreeSet<Arc<str>> {
        let used = self.by_resource.iter().filter(|(_, count)| **count > 0);
        used.map(|(resource, _)| resource.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Version;
    use super::*;

    fn key(resource: &str) -> Key {
        Key::new(resource, "default", "new")
    }

    fn full(resources: usize, each: usize) -> Totals {
        let by_resource = (0..resources).map(|number| (format!("r{number}").into(), each)).collect();
        Totals { objects: resources * each, bytes: 0, by_resource }
    }

    #[test]
    fn a_resource_has_a_largest_number_of_objects() {
        assert!(full(1, MAX_OBJECTS_PER_RESOURCE - 1).check_create(&key("r0")).is_ok());
        let totals = full(1, MAX_OBJECTS_PER_RESOURCE);
        assert_eq!(totals.check_create(&key("r0")).unwrap_err().to_string(), "there are 10000 objects of r0 already");
        assert!(totals.check_create(&key("r1")).is_ok());
    }

    #[test]
    fn the_store_has_a_largest_number_of_objects() {
        let each = MAX_OBJECTS / 4;
        assert!(full(4, each - 1).check_create(&key("r9")).is_ok());
        let error = full(4, each).check_create(&key("r9")).unwrap_err();
        assert_eq!(error.to_string(), "there are 20000 objects of all resources already");
    }

    #[test]
    fn the_store_has_a_largest_size_and_may_always_shrink() {
        let mut totals = full(1, 1);
        totals.bytes = MAX_TOTAL_BYTES - 10;
        assert!(totals.check_bytes(&key("pods"), 0, 10).is_ok());
        let error = totals.check_bytes(&key("pods"), 0, 11).unwrap_err();
        let expected = "store objects/pods/default/new.json: all objects together may have 134217728 bytes";
        assert_eq!(error.to_string(), expected);
        totals.bytes = MAX_TOTAL_BYTES + 10;
        assert!(totals.check_bytes(&key("pods"), 5, 6).is_err());
        assert!(totals.check_bytes(&key("pods"), 5, 5).is_ok());
    }

    #[test]
    fn totals_follow_the_events() {
        let object = |version, note: &str| Object::new(key("pods"), Version(version), json!({ "note": note }));
        let (first, second) = (object(1, ""), object(2, "longer"));
        let event = |kind, object: &Object, previous: Option<&Object>| WatchEvent {
            kind,
            object: object.clone(),
            previous: previous.cloned(),
        };
        let mut totals = Totals::default();
        totals.follow(&event(WatchEventKind::Added, &first, None));
        totals.follow(&event(WatchEventKind::Modified, &second, Some(&first)));
        assert_eq!((totals.objects, totals.bytes, totals.by_resource["pods"]), (1, second.text.len(), 1));
        totals.follow(&event(WatchEventKind::Deleted, &second, Some(&second)));
        assert_eq!((totals.objects, totals.bytes, totals.by_resource["pods"]), (0, 0, 0));
    }
}

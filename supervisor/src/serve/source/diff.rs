//! What has to happen for the store to say what the files say. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::manifest::Wanted;
use crate::serve::pods::PODS;
use crate::store::Key;

/// An object of the store, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    pub key: Key,
    pub uid: String,
    /// The file that it comes from; none: it belongs to somebody else.
    pub file: Option<String>,
    pub hash: String,
    /// It is being deleted.
    pub ending: bool,
    /// Because of its file, not by a user.
    pub by_file: bool,
    /// Its file was away since the last look.
    pub was_away: bool,
}

/// One thing to do.
#[derive(Debug, PartialEq)]
pub enum Step {
    Create(Wanted),
    /// Of everything but pods.
    Update(Wanted),
    /// Graceful deletion of a pod; its successor comes when it is gone.
    End {
        key: Key,
    },
    /// Somebody deletes a pod that its file still wants: only its object goes, and another one comes (ST3).
    Again {
        key: Key,
    },
    Delete {
        key: Key,
    },
    Refuse {
        key: Key,
        file: String,
        why: String,
    },
}

impl Step {
    pub fn key(&self) -> &Key {
        match self {
            Self::Create(wanted) | Self::Update(wanted) => &wanted.key,
            Self::End { key } | Self::Again { key } | Self::Delete { key } | Self::Refuse { key, .. } => key,
        }
    }
}

/// Creations in the order of the resources, then endings. What `broken` files said before stays.
pub fn diff(wanted: Vec<Wanted>, stored: &[Stored], broken: &BTreeSet<String>) -> Vec<Step> {
    let known: BTreeMap<&Key, &Stored> = stored.iter().map(|stored| (&stored.key, stored)).collect();
    let mut steps = Vec::new();
    let mut seen: BTreeMap<Key, String> = BTreeMap::new();
    for wanted in wanted {
        if let Some(first) = seen.get(&wanted.key) {
            steps.push(duplicate(wanted, first));
            continue;
        }
        seen.insert(wanted.key.clone(), wanted.file.clone());
        steps.extend(one(wanted, &known, broken));
    }
    steps.sort_by_key(|step| rank(step.key()));
    for old in stored.iter().filter(|old| !seen.contains_key(&old.key)) {
        let ours = old.file.as_ref().is_some_and(|file| !broken.contains(file));
        if ours && !old.ending {
            let key = old.key.clone();
            steps.push(if *key.resource == *PODS { Step::End { key } } else { Step::Delete { key } });
        }
    }
    steps
}

fn one(wanted: Wanted, known: &BTreeMap<&Key, &Stored>, broken: &BTreeSet<String>) -> Option<Step> {
    let Some(old) = known.get(&wanted.key) else { return Some(Step::Create(wanted)) };
    let Some(owner) = &old.file else {
        let why = format!("{}: {} exists already and does not come from a manifest", wanted.file, wanted.key);
        return Some(Step::Refuse { key: wanted.key, file: wanted.file, why });
    };
    if *owner != wanted.file && broken.contains(owner) {
        let why = format!("{}: {} comes from {owner}", wanted.file, wanted.key);
        return Some(Step::Refuse { key: wanted.key, file: wanted.file, why });
    }
    match &wanted.uid {
        Some(uid) if *uid == old.uid && old.ending && !old.by_file => Some(Step::Again { key: wanted.key }),
        Some(uid) if *uid == old.uid && !old.ending && old.was_away => Some(Step::End { key: wanted.key }),
        Some(uid) if *uid == old.uid => None,
        Some(_) if old.ending => None,
        Some(_) => Some(Step::End { key: wanted.key }),
        None if old.hash == wanted.hash && *owner == wanted.file => None,
        None => Some(Step::Update(wanted)),
    }
}

/// Section 10.8: `FailedValidation`.
fn duplicate(wanted: Wanted, first: &str) -> Step {
    let why = format!("{}: {} comes from {first} already, ignoring", wanted.file, wanted.key);
    Step::Refuse { key: wanted.key, file: wanted.file, why }
}

fn rank(key: &Key) -> usize {
    super::RESOURCES.iter().position(|resource| **resource == *key.resource).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(resource: &str, name: &str, file: &str, hash: &str) -> Wanted {
        let uid = (resource == PODS).then(|| format!("uid-{hash}"));
        let key = Key::new(resource, "default", name);
        Wanted { key, file: file.into(), hash: hash.into(), uid, value: serde_json::Value::Null }
    }

    fn stored(wanted: &Wanted) -> Stored {
        Stored {
            key: wanted.key.clone(),
            uid: wanted.uid.clone().unwrap_or_default(),
            file: Some(wanted.file.clone()),
            hash: wanted.hash.clone(),
            ending: false,
            by_file: false,
            was_away: false,
        }
    }

    fn none() -> BTreeSet<String> {
        BTreeSet::new()
    }

    #[test]
    fn what_is_new_is_created_pods_last() {
        let (pod, map) = (wanted(PODS, "p", "a", "1"), wanted("configmaps", "c", "a", "1"));
        let steps = diff(vec![pod.clone(), map.clone()], &[], &none());
        assert_eq!(steps, [Step::Create(map.clone()), Step::Create(pod.clone())]);
        assert_eq!(diff(vec![pod.clone(), map.clone()], &[stored(&pod), stored(&map)], &none()), []);
    }

    /// ST4
    #[test]
    fn an_edited_pod_ends_and_comes_again_when_it_is_gone() {
        let (old, new) = (wanted(PODS, "p", "a", "1"), wanted(PODS, "p", "a", "2"));
        let end = Step::End { key: old.key.clone() };
        assert_eq!(diff(vec![new.clone()], &[stored(&old)], &none()), [end]);
        let ending = Stored { ending: true, ..stored(&old) };
        assert_eq!(diff(vec![new.clone()], &[ending], &none()), []);
        assert_eq!(diff(vec![new.clone()], &[], &none()), [Step::Create(new)]);
    }

    #[test]
    fn other_objects_are_updated_in_place() {
        let (old, new) = (wanted("configmaps", "c", "a", "1"), wanted("configmaps", "c", "a", "2"));
        assert_eq!(diff(vec![new.clone()], &[stored(&old)], &none()), [Step::Update(new)]);
        let moved = wanted("configmaps", "c", "b", "1");
        assert_eq!(diff(vec![moved.clone()], &[stored(&old)], &none()), [Step::Update(moved)]);
    }

    #[test]
    fn what_no_file_says_any_more_goes() {
        let (pod, map) = (wanted(PODS, "p", "a", "1"), wanted("configmaps", "c", "a", "1"));
        let foreign = Stored { file: None, ..stored(&wanted("secrets", "s", "a", "1")) };
        let steps = diff(Vec::new(), &[stored(&pod), stored(&map), foreign], &none());
        assert_eq!(steps, [Step::End { key: pod.key }, Step::Delete { key: map.key }]);
    }

    #[test]
    fn a_broken_file_changes_nothing() {
        let (pod, map) = (wanted(PODS, "p", "a", "1"), wanted("configmaps", "c", "a", "1"));
        let broken = BTreeSet::from(["a".to_owned()]);
        assert_eq!(diff(Vec::new(), &[stored(&pod), stored(&map)], &broken), []);
        let other = wanted("configmaps", "c", "b", "2");
        let steps = diff(vec![other], &[stored(&map)], &broken);
        assert!(matches!(&steps[..], [Step::Refuse { why, .. }] if why.contains("comes from a")), "{steps:?}");
    }

    /// ST3
    #[test]
    fn a_pod_that_somebody_deletes_is_shown_again() {
        let pod = wanted(PODS, "p", "a", "1");
        let ending = Stored { ending: true, ..stored(&pod) };
        assert_eq!(diff(vec![pod.clone()], &[ending], &none()), [Step::Again { key: pod.key }]);
    }

    /// ST4: the same content in a file that was removed is another life of the same pod.
    #[test]
    fn a_pod_whose_file_was_away_ends_and_comes_again_when_it_is_gone() {
        let pod = wanted(PODS, "p", "a", "1");
        let away = Stored { was_away: true, ..stored(&pod) };
        assert_eq!(diff(vec![pod.clone()], &[away], &none()), [Step::End { key: pod.key.clone() }]);
        let ending = Stored { ending: true, by_file: true, ..stored(&pod) };
        assert_eq!(diff(vec![pod.clone()], &[ending], &none()), []);
        let map = wanted("configmaps", "c", "a", "1");
        assert_eq!(diff(vec![map.clone()], &[Stored { was_away: true, ..stored(&map) }], &none()), []);
    }

    #[test]
    fn nobody_s_objects_are_taken_over() {
        let own = wanted("configmaps", "c", "b", "1");
        let foreign = Stored { file: None, ..stored(&own) };
        let steps = diff(vec![own.clone(), wanted("configmaps", "c", "c", "1")], &[foreign], &none());
        assert!(matches!(&steps[..], [Step::Refuse { .. }, Step::Refuse { .. }]), "{steps:?}");
    }
}

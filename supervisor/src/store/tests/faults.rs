//! A disk that refuses: each operation in turn, once or for good, with each error (F05).

use std::collections::BTreeMap;

use rustix::io::Errno;

use super::super::limits::VERSION_BLOCK;
use super::super::state::State;
use super::cuts::{ask, start, turn};
use super::sim::{FULL, Fault, Rule, SimDisk};
use super::*;

use Durability::{Disk, Kernel};

/// Changes in groups; each object is made, changed and removed in both ways, alone and with others.
fn script() -> Vec<Vec<(Change, Durability)>> {
    let (a, b, c) = (pod("a"), pod("b"), Key::new("nodes", "", "c"));
    vec![
        vec![(create(&a, "1"), Disk)],
        vec![(create(&b, "1"), Kernel)],
        vec![(update(&a, "2"), Kernel), (create(&c, "1"), Disk), (update(&b, "2"), Disk)],
        vec![(update(&a, "3"), Kernel)],
        vec![(update(&a, "4"), Kernel), (update(&c, "2"), Kernel)],
        vec![(delete(&a), Disk), (update(&b, "3"), Disk)],
        vec![(create(&a, "5"), Disk), (update(&a, "6"), Kernel), (delete(&c), Kernel), (create(&c, "3"), Disk)],
        vec![(update(&a, "7"), Disk), (delete(&b), Kernel)],
        vec![(create(&b, "4"), Disk), (delete(&b), Disk), (create(&b, "5"), Disk), (create(&b, "6"), Disk)],
    ]
}

/// What counts, by the answers alone.
#[derive(Debug, Default)]
struct Model(BTreeMap<Key, String>);

impl Model {
    fn follow(&mut self, change: &Change, result: Result<Object, StoreError>, errno: Errno) {
        match (change, result) {
            (Change::Create { key, .. } | Change::Update { key, .. }, Ok(object)) => {
                self.0.insert(key.clone(), object.text.to_string());
            }
            (Change::Delete { key, .. }, Ok(_)) => drop(self.0.remove(key)),
            (Change::Create { key, .. }, Err(StoreError::Exists(_))) => assert!(self.0.contains_key(key)),
            (Change::Update { key, .. } | Change::Delete { key, .. }, Err(StoreError::NotFound(_))) => {
                assert!(!self.0.contains_key(key));
            }
            (_, Err(StoreError::Io { cause, .. })) => assert_eq!(cause.raw_os_error(), Some(errno.raw_os_error())),
            (change, Err(error)) => panic!("{change:?}: {error}"),
        }
    }

    fn assert_is(&self, state: &State, context: &str) {
        let found: BTreeMap<_, _> =
            state.objects.iter().map(|(key, stored)| (key.clone(), stored.object.text.to_string())).collect();
        assert_eq!(found, self.0, "{context}");
    }
}

/// Plays the script; returns what the answers promise.
fn play(state: &mut State, errno: Errno) -> Model {
    let mut model = Model::default();
    for group in script() {
        let asked: Vec<_> =
            group.into_iter().map(|(change, durability)| (change.clone(), ask(state, change, durability))).collect();
        while turn(state) {}
        for (change, mut result) in asked {
            model.follow(&change, result.try_recv().expect("answered"), errno);
        }
        model.assert_is(state, "in memory");
    }
    model
}

fn calls() -> (usize, usize) {
    let disk = SimDisk::default();
    let (mut state, _) = start(&disk);
    let first = disk.calls();
    play(&mut state, Errno::IO);
    (first, disk.calls())
}

#[test]
fn a_failed_operation_fails_its_changes_and_leaves_nothing_behind() {
    let (first, end) = calls();
    assert!(end - first > 50, "{first} {end}");
    for number in first..end {
        for errno in [Errno::NOSPC, Errno::ROFS, Errno::IO] {
            let disk = SimDisk::default();
            let (mut state, _) = start(&disk);
            disk.set_fault(Some(Fault { first: number, last: number, errno }));
            let model = play(&mut state, errno);
            let (again, damaged) = start(&disk.copy());
            assert!(damaged.is_empty(), "call {number}: {damaged:#?}");
            model.assert_is(&again, &format!("after call {number}"));
        }
    }
}

#[test]
fn the_store_goes_on_once_the_disk_does() {
    let (first, end) = calls();
    for number in first..end {
        let disk = SimDisk::default();
        let (mut state, _) = start(&disk);
        let errno = Errno::NOSPC;
        disk.set_fault(Some(Fault { first: number, last: usize::MAX, errno }));
        let mut model = play(&mut state, errno);
        disk.set_fault(None);
        let change = create(&pod("after"), "");
        let mut result = ask(&mut state, change.clone(), Kernel);
        while turn(&mut state) {}
        model.follow(&change, result.try_recv().unwrap(), errno);
        model.assert_is(&state, "in memory");
        let (again, damaged) = start(&disk.copy());
        for damaged in damaged {
            // A file that could not be written, nor be removed.
            assert!(damaged.path.extension().is_some_and(|extension| extension == "tmp"), "call {number}: {damaged}");
        }
        model.assert_is(&again, &format!("after calls from {number}"));
    }
}

#[test]
fn a_disk_that_refuses_from_the_start_on_is_named() {
    let disk = SimDisk::default();
    drop(start(&disk));
    disk.set_fault(Some(Fault { first: 0, last: usize::MAX, errno: Errno::ROFS }));
    let error = State::open(Box::new(disk), Path::new("/store")).unwrap_err().to_string();
    assert!(error.ends_with(": Read-only file system (os error 30)"), "{error}");
}

#[test]
fn a_change_that_was_refused_for_one_that_failed_is_looked_at_again() {
    let disk = SimDisk::default();
    let (mut state, _) = start(&disk);
    let web = pod("web");
    let mut first = ask(&mut state, create(&web, "1"), Disk);
    let mut second = ask(&mut state, create(&web, "2"), Disk);
    let mut third = ask(&mut state, create(&web, "3"), Disk);
    let mkdirs = 2;
    let number = disk.calls() + mkdirs;
    disk.set_fault(Some(Fault { first: number, last: number, errno: Errno::NOSPC }));
    while turn(&mut state) {}
    let error = first.try_recv().unwrap().unwrap_err().to_string();
    assert_eq!(error, "write objects/pods/default/.web.json.tmp: No space left on device (os error 28)");
    assert_eq!(note(&second.try_recv().unwrap().unwrap()), "2");
    assert!(matches!(third.try_recv().unwrap(), Err(StoreError::Exists(_))));
}

#[test]
fn on_a_full_disk_the_store_opens_and_changes_say_why_not() {
    let disk = SimDisk::default();
    let (mut state, _) = start(&disk);
    ask(&mut state, create(&pod("a"), "1"), Disk).close();
    while turn(&mut state) {}
    drop(state);
    let disk = disk.copy();
    let before = start(&disk.copy()).0;
    disk.set_rule(Some(FULL));
    let (mut state, damaged) = start(&disk);
    assert!(damaged.is_empty() && state.objects.len() == 1 && state.version == before.version);
    let mut result = ask(&mut state, update(&pod("a"), "2"), Kernel);
    while turn(&mut state) {}
    let error = result.try_recv().unwrap().unwrap_err().to_string();
    assert_eq!(error, "write .version.tmp: No space left on device (os error 28)");
    disk.set_rule(None);
    let mut result = ask(&mut state, update(&pod("a"), "2"), Kernel);
    while turn(&mut state) {}
    assert!(result.try_recv().unwrap().unwrap().version > before.version);
}

#[test]
fn no_version_is_given_that_is_not_reserved() {
    const NO_RESERVATION: Rule = |_, path| (path == Path::new(".version.tmp")).then_some(Errno::IO);
    let disk = SimDisk::default();
    let (mut state, _) = start(&disk);
    let key = pod("a");
    drop(ask(&mut state, create(&key, ""), Kernel));
    while turn(&mut state) {}
    disk.set_rule(Some(NO_RESERVATION));
    let first = state.version;
    let update_once = |state: &mut State| {
        let mut result = ask(state, update(&key, ""), Kernel);
        while turn(state) {}
        result.try_recv().unwrap()
    };
    while update_once(&mut state).is_ok() {}
    let last = state.version;
    assert_eq!(last.0 - first.0, VERSION_BLOCK - 1, "all that was reserved is used");
    assert_eq!(start(&disk.copy()).0.version, last);
    disk.set_rule(None);
    assert!(update_once(&mut state).unwrap().version > last);
}

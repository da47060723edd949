//! What users of the store see, on a real directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::super::WatchEventKind;
use super::super::limits::{HISTORY_BYTES, HISTORY_EVENTS, MAX_OBJECT_BYTES, VERSION_BLOCK, VERSION_LEAP};
use super::*;

use Durability::{Disk, Kernel};

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, damaged) = open(dir.path());
    assert!(damaged.is_empty() && store.version() == Version(1));
    for durability in [Disk, Kernel] {
        let a = pod(&format!("{durability:?}-a"));
        let b = pod(&format!("{durability:?}-b"));
        commit(&store, create(&a, "1"), durability).unwrap();
        commit(&store, create(&b, "1"), durability).unwrap();
        commit(&store, update(&b, "2"), Kernel).unwrap();
        commit(&store, update(&b, "3"), Kernel).unwrap();
        commit(&store, delete(&a), durability).unwrap();
    }
    let (before, version) = store.list("pods", None);
    assert_eq!(before.len(), 2);
    drop(store);
    let (store, damaged) = open(dir.path());
    assert!(damaged.is_empty(), "{damaged:?}");
    let (after, later) = store.list("pods", None);
    assert_eq!(texts(&after), texts(&before));
    assert!(later >= version, "{later} {version}");
}

fn texts(objects: &[Object]) -> Vec<(Key, Version, String)> {
    objects.iter().map(|object| (object.key.clone(), object.version, object.text.to_string())).collect()
}

#[test]
fn preconditions_see_what_is_queued() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let web = pod("web");
    let first = store.commit(create(&web, "1"), Disk);
    let second = store.commit(create(&web, "2"), Disk);
    let third = store.commit(update(&web, "3"), Kernel);
    let fourth = store.commit(update_at(&web, Version(1), "4"), Disk);
    let (first, third) = (wait(first).unwrap(), wait(third).unwrap());
    assert!(matches!(wait(second), Err(StoreError::Exists(key)) if key == web));
    assert!(matches!(wait(fourth), Err(StoreError::Conflict { found, .. }) if found == third.version));
    assert!(first.version < third.version);
    let last = commit(&store, update_at(&web, third.version, "5"), Disk).unwrap();
    assert_eq!(note(&store.get(&web).unwrap()), "5");
    let gone = commit(&store, delete(&web), Disk).unwrap();
    assert_eq!((note(&gone).as_str(), gone.version > last.version), ("5", true));
    assert!(matches!(commit(&store, update(&web, "6"), Disk), Err(StoreError::NotFound(_))));
    assert!(matches!(commit(&store, delete(&web), Kernel), Err(StoreError::NotFound(_))));
    assert!(store.get(&web).is_none());
}

#[test]
fn a_change_happens_though_nobody_waits_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    for number in 0..100 {
        drop(store.commit(create(&pod(&format!("p{number}")), ""), Disk));
    }
    drop(store);
    let (store, _) = open(dir.path());
    assert_eq!(store.count("pods"), 100);
    assert_eq!(store.resources().iter().map(|name| &**name).collect::<Vec<_>>(), ["pods"]);
    assert_eq!(store.count("secrets"), 0);
}

#[test]
fn a_change_for_the_kernel_alone_is_visible_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    drop(store.commit(create(&pod("a"), "1"), Kernel));
    assert_eq!(note(&store.get(&pod("a")).unwrap()), "1");
}

#[test]
fn lists_are_in_order_and_of_one_namespace_if_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let keys = [("pods", "b", "a"), ("pods", "a", "b"), ("pods", "a", "a"), ("podsx", "a", "a"), ("nodes", "", "n")];
    for (resource, namespace, name) in keys {
        commit(&store, create(&Key::new(resource, namespace, name), ""), Kernel).unwrap();
    }
    let names = |resource, namespace| {
        let (objects, _) = store.list(resource, namespace);
        objects.iter().map(|object| format!("{}/{}", object.key.namespace, object.key.name)).collect::<Vec<_>>()
    };
    assert_eq!(names("pods", None), ["a/a", "a/b", "b/a"]);
    assert_eq!(names("pods", Some("a")), ["a/a", "a/b"]);
    assert_eq!(names("pods", Some("c")), [""; 0]);
    assert_eq!(names("nodes", None), ["/n"]);
    assert_eq!(names("nodes", Some("")), ["/n"]);
}

#[test]
fn only_one_process_uses_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let error = Store::open(dir.path()).unwrap_err().to_string();
    let lock = dir.path().join("lock");
    assert_eq!(
        error,
        format!("flock {}: another process uses this store (pid {})", lock.display(), std::process::id())
    );
    drop(first);
    open(dir.path());
}

#[test]
fn nobody_else_reads_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("deep/store");
    let (store, _) = open(&root);
    commit(&store, create(&pod("a"), ""), Disk).unwrap();
    commit(&store, update(&pod("a"), ""), Kernel).unwrap();
    let mut left = vec![root];
    let mut files = Vec::new();
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o077, 0, "{}", path.display());
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            files.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    files.sort();
    assert_eq!(files, ["a.json", "a.late0", "lock", "version"]);
}

#[test]
fn a_directory_that_cannot_be_written_is_named() {
    let error = Store::open(std::path::Path::new("/proc/self/store")).unwrap_err().to_string();
    assert!(error.starts_with("mkdir /proc/self/store: "), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Store::open(file.path()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("mkdir {}: ", file.path().display())), "{error}");
}

#[test]
fn versions_go_on_after_a_restart_and_old_watches_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    assert!(store.watch("pods", None, Version(0)).is_ok());
    let last = commit(&store, create(&pod("a"), ""), Disk).unwrap().version;
    let error = store.watch("pods", None, Version(last.0 + 1)).unwrap_err();
    assert_eq!(error.to_string(), "Too large resource version: 3, current: 2");
    drop(store);
    let (store, _) = open(dir.path());
    let version = store.version();
    assert!(version > last && version.0 <= last.0 + VERSION_BLOCK, "{version}");
    let error = store.watch("pods", None, last).unwrap_err();
    assert_eq!(error.to_string(), format!("too old resource version: {last} ({version})"));
    assert!(store.watch("pods", None, version).is_ok());
}

#[test]
fn a_watch_gets_every_change_of_its_namespace_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let (a, b) = (Key::new("pods", "a", "x"), Key::new("pods", "b", "x"));
    let mut all = store.watch("pods", None, Version(1)).unwrap();
    let mut in_b = store.watch("pods", Some("b"), Version(1)).unwrap();
    let mut others = store.watch("secrets", None, Version(1)).unwrap();
    drop(store.commit(create(&a, "1"), Disk));
    drop(store.commit(update(&a, "2"), Kernel));
    drop(store.commit(create(&b, "3"), Disk));
    drop(store.commit(delete(&a), Disk));
    let mut late = None;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let event = wait(all.next()).unwrap();
        let previous = event.previous.as_ref().map(note).unwrap_or_default();
        seen.push((event.kind, event.object.version.0, note(&event.object), previous));
        late.get_or_insert_with(|| store.watch("pods", None, event.object.version).unwrap());
    }
    let expected = [
        (WatchEventKind::Added, 2, "1", ""),
        (WatchEventKind::Modified, 3, "2", "1"),
        (WatchEventKind::Added, 4, "3", ""),
        (WatchEventKind::Deleted, 5, "2", "2"),
    ];
    assert_eq!(
        seen,
        expected.map(|(kind, version, note, previous)| (kind, version, note.to_owned(), previous.to_owned()))
    );
    assert_eq!(wait(in_b.next()).unwrap().object.version, Version(4));
    assert_eq!(wait(late.unwrap().next()).unwrap().object.version, Version(3));
    drop(store);
    assert!(wait(in_b.next()).is_none() && wait(others.next()).is_none());
}

#[test]
fn a_watch_that_lags_is_cut_off_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let key = pod("a");
    commit(&store, create(&key, ""), Kernel).unwrap();
    let start = store.version();
    let mut lags = store.watch("pods", None, start).unwrap();
    let mut elsewhere = store.watch("pods", Some("other"), start).unwrap();
    let mut keeps_up = store.watch("pods", None, start).unwrap();
    for _ in 0..=HISTORY_EVENTS {
        let version = commit(&store, update(&key, ""), Kernel).unwrap().version;
        assert_eq!(wait(keeps_up.next()).unwrap().object.version, version);
    }
    assert!(wait(lags.next()).is_none());
    assert!(
        matches!(store.watch("pods", None, start), Err(StoreError::Gone { oldest, .. }) if oldest.0 == start.0 + 1)
    );
    let far = Key::new("pods", "other", "b");
    let version = commit(&store, create(&far, ""), Kernel).unwrap().version;
    assert_eq!(wait(elsewhere.next()).unwrap().object.version, version);
    assert!(store.watch("secrets", None, Version(1)).is_ok(), "another resource has its own history");
}

#[test]
fn the_history_is_bounded_in_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let key = pod("a");
    let large = "x".repeat(MAX_OBJECT_BYTES - 100);
    let start = commit(&store, create(&key, &large), Kernel).unwrap().version;
    let fitting = HISTORY_BYTES / (2 * MAX_OBJECT_BYTES);
    for _ in 0..=fitting {
        commit(&store, update(&key, &large), Kernel).unwrap();
    }
    assert!(matches!(store.watch("pods", None, start), Err(StoreError::Gone { .. })));
    assert!(store.watch("pods", None, Version(store.version().0 - 1)).is_ok());
}

#[test]
fn an_object_has_a_largest_size() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let overhead = value(&pod("a"), "").to_string().len();
    commit(&store, create(&pod("a"), &"x".repeat(MAX_OBJECT_BYTES - overhead)), Disk).unwrap();
    let error = commit(&store, update(&pod("a"), &"x".repeat(MAX_OBJECT_BYTES - overhead + 1)), Disk).unwrap_err();
    let expected =
        "pods \"a\" in namespace \"default\": 1572865 bytes are more than the 1572864 that an object may have";
    assert_eq!(error.to_string(), expected);
    drop(store);
    assert!(open(dir.path()).1.is_empty());
}

#[test]
fn each_damaged_file_costs_its_own_object_and_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let pods = dir.path().join("objects/pods/default");
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage); 5] = [
        ("empty", |_| Vec::new()),
        ("truncated: 40 of 131 bytes", |mut bytes| {
            bytes.truncate(bytes.len() - 91);
            bytes
        }),
        ("wrong checksum", |mut bytes| {
            let last = bytes.len() - 10;
            bytes[last] ^= 4;
            bytes
        }),
        ("not a file of the store", |bytes| vec![0; bytes.len()]),
        ("schema 2 is newer than 1, the newest that this monopod reads", |bytes| {
            String::from_utf8(bytes).unwrap().replace("object 1", "object 2").into_bytes()
        }),
    ];
    for (round, (cause, damage)) in damages.into_iter().enumerate() {
        let (store, _) = open(dir.path());
        for name in ["a", "b"] {
            drop(store.commit(delete(&pod(name)), Disk));
            commit(&store, create(&pod(name), ""), Disk).unwrap();
        }
        drop(store);
        let file = pods.join("a.json");
        let bytes = damage(fs::read(&file).unwrap());
        fs::write(&file, &bytes).unwrap();
        let (store, damaged) = open(dir.path());
        let [damaged] = damaged.try_into().unwrap();
        let head: String = cause.chars().take(9).collect();
        assert!(damaged.cause.starts_with(&head), "{cause}: {damaged}");
        assert_eq!((&damaged.path, &damaged.key), (&file, &Some(pod("a"))));
        assert_eq!(damaged.kept, dir.path().join(format!("quarantine/{}-a.json", round + 1)));
        assert_eq!(fs::read(&damaged.kept).unwrap(), bytes);
        assert!(
            fs::read_to_string(dir.path().join(format!("quarantine/{}.cause", round + 1))).unwrap().contains(&head)
        );
        let message = damaged.to_string();
        assert!(message.ends_with(r#"; pods "a" in namespace "default" is missing"#), "{message}");
        assert!(store.get(&pod("a")).is_none() && store.get(&pod("b")).is_some());
    }
}

#[test]
fn what_does_not_belong_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    commit(&store, create(&pod("a"), ""), Disk).unwrap();
    drop(store);
    let pods = dir.path().join("objects/pods/default");
    fs::copy(pods.join("a.json"), pods.join("b.json")).unwrap();
    fs::write(pods.join(".c.json.tmp"), "half").unwrap();
    fs::write(pods.join("a.json~"), "editor").unwrap();
    fs::create_dir(pods.join("dir")).unwrap();
    fs::write(dir.path().join("objects/stray"), "").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", pods.join("link.json")).unwrap();
    fs::create_dir(dir.path().join("objects/pods/empty")).unwrap();
    fs::write(dir.path().join(".version.tmp"), "half").unwrap();
    let (store, damaged) = open(dir.path());
    let mut causes: Vec<_> = damaged
        .iter()
        .map(|damaged| (damaged.path.file_name().unwrap().to_str().unwrap().to_owned(), damaged.cause.clone()))
        .collect();
    causes.sort();
    let expected = [
        (".c.json.tmp", "left by a change that was not finished, and that nobody was told of"),
        ("a.json~", "not a file of the store"),
        ("b.json", r#"it is the file of pods "a" in namespace "default""#),
        ("dir", "not a file of the store"),
        ("link.json", "open: Too many levels of symbolic links (os error 40)"),
        ("stray", "not a file of the store"),
    ];
    assert_eq!(causes, expected.map(|(name, cause)| (name.to_owned(), cause.to_owned())));
    assert_eq!(store.count("pods"), 1);
    assert!(!dir.path().join("objects/pods/empty").exists());
    drop(store);
    assert!(open(dir.path()).1.is_empty(), "it is named once");
}

#[test]
fn a_lost_version_file_never_turns_the_counter_back() {
    type Damage = fn(&Path);
    let damages: [Damage; 3] = [
        |path| fs::remove_file(path).unwrap(),
        |path| fs::write(path, "").unwrap(),
        |path| fs::write(path, [0; 99]).unwrap(),
    ];
    for (index, damage) in damages.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = open(dir.path());
        commit(&store, create(&pod("a"), ""), Disk).unwrap();
        commit(&store, create(&pod("b"), ""), Disk).unwrap();
        let last = commit(&store, delete(&pod("b")), Disk).unwrap().version;
        drop(store);
        damage(&dir.path().join("version"));
        let (store, damaged) = open(dir.path());
        assert_eq!(damaged.len(), usize::from(index > 0), "{damaged:?}");
        assert!(store.version().0 >= VERSION_LEAP && store.version() > last);
        assert!(store.get(&pod("a")).is_some());
        let next = commit(&store, create(&pod("c"), ""), Disk).unwrap().version;
        drop(store);
        let (store, _) = open(dir.path());
        assert!(store.version() >= next && store.version().0 < next.0 + VERSION_BLOCK);
    }
}

#[test]
fn a_late_state_that_is_damaged_falls_back_to_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    let first = commit(&store, create(&pod("a"), "disk"), Disk).unwrap();
    commit(&store, update(&pod("a"), "kernel"), Kernel).unwrap();
    drop(store);
    fs::write(dir.path().join("objects/pods/default/a.late0"), "").unwrap();
    let (store, damaged) = open(dir.path());
    assert_eq!(damaged.len(), 1);
    let message = damaged[0].to_string();
    assert!(message.ends_with(r#"; pods "a" in namespace "default" is as it was at version 2"#), "{message}");
    assert_eq!(texts(&[store.get(&pod("a")).unwrap()]), texts(&[first]));
}

#[test]
fn a_late_state_whose_main_file_is_lost_is_brought_to_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    commit(&store, create(&pod("a"), "disk"), Disk).unwrap();
    let late = commit(&store, update(&pod("a"), "kernel"), Kernel).unwrap();
    drop(store);
    let main = dir.path().join("objects/pods/default/a.json");
    fs::write(&main, "").unwrap();
    let (store, damaged) = open(dir.path());
    assert_eq!(damaged[0].remains, Some(late.version));
    drop(store);
    assert!(fs::read_to_string(&main).unwrap().contains("\"kernel\""));
    assert_eq!(note(&open(dir.path()).0.get(&pod("a")).unwrap()), "kernel");
}

//! Real file systems that are full or read-only, in a mount namespace of the test's own.

use std::path::PathBuf;
use std::thread;

use nix::sched::CloneFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_remount};

use super::*;

use Durability::{Disk, Kernel};

/// Runs with a file system of 256 KiB that this thread and those that it starts see, and nobody else.
fn on_a_small_disk(test: impl FnOnce(PathBuf) + Send) {
    let dir = tempfile::tempdir().unwrap();
    let run = || {
        #[expect(clippy::disallowed_methods, reason = "the thread ends with the test")]
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
        mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), c"size=256k").unwrap();
        test(dir.path().to_path_buf());
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap());
}

#[test]
fn a_full_disk_refuses_changes_and_takes_them_again_once_there_is_space() {
    on_a_small_disk(|root| {
        let (store, _) = open(&root);
        let text = "x".repeat(20_000);
        let mut stored = Vec::new();
        let error = loop {
            let key = pod(&format!("p{}", stored.len()));
            match commit(&store, create(&key, &text), Disk) {
                Ok(object) => stored.push(object),
                Err(error) => break error.to_string(),
            }
        };
        let name = format!("{}/objects/pods/default/.p{}.json.tmp", root.display(), stored.len());
        assert_eq!(error, format!("write {name}: No space left on device (os error 28)"));
        assert!(commit(&store, update(&pod("p0"), &text), Kernel).is_err());
        drop(store);
        let (store, damaged) = open(&root);
        assert!(damaged.is_empty(), "{damaged:?}");
        assert_eq!(store.count("pods"), stored.len());
        commit(&store, delete(&pod("p1")), Disk).unwrap();
        commit(&store, update(&pod("p0"), "short"), Disk).unwrap();
        assert_eq!(store.get(&pod("p2")).unwrap().text, stored[2].text);
    });
}

#[test]
fn a_read_only_disk_is_named_by_changes_and_by_the_start() {
    on_a_small_disk(|root| {
        let (store, _) = open(&root);
        commit(&store, create(&pod("a"), ""), Disk).unwrap();
        mount_remount(&root, MountFlags::RDONLY, c"").unwrap();
        for durability in [Disk, Kernel] {
            let error = commit(&store, update(&pod("a"), ""), durability).unwrap_err().to_string();
            assert!(error.ends_with(".tmp: Read-only file system (os error 30)"), "{error}");
        }
        assert!(store.get(&pod("a")).is_some());
        drop(store);
        let error = Store::open(&root).unwrap_err().to_string();
        assert_eq!(error, format!("create {}/.version.tmp: Read-only file system (os error 30)", root.display()));
        mount_remount(&root, MountFlags::empty(), c"").unwrap();
        assert!(open(&root).0.get(&pod("a")).is_some());
    });
}

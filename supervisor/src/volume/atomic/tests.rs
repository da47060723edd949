use super::*;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

fn payload(files: &[(&str, &str)]) -> Payload {
    let file = |content: &str| File { content: content.into(), mode: 0o644, owner: None };
    files.iter().map(|(path, content)| ((*path).to_owned(), file(content))).collect()
}

fn open(path: &Path) -> OwnedFd {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn entries(path: &Path) -> Vec<String> {
    let names = path.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Writes, and removes what was replaced.
fn update(root: &Path, files: &[(&str, &str)]) -> bool {
    let fd = open(root);
    match write(fd.as_fd(), &payload(files), None, None).unwrap() {
        Written::Unchanged => false,
        Written::Changed { old } => {
            if let Some(old) = old {
                remove_old(fd.as_fd(), &old).unwrap();
            }
            true
        }
    }
}

/// VO20, VO21, VO22
#[test]
fn files_stand_behind_links_and_change_together() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    assert!(update(root, &[("a", "1"), ("sub/b", "2")]));
    assert_eq!(std::fs::read_link(root.join("a")).unwrap(), Path::new("..data/a"));
    assert_eq!(std::fs::read_link(root.join("sub")).unwrap(), Path::new("..data/sub"));
    assert_eq!((read(&root.join("a")), read(&root.join("sub/b"))), ("1".into(), "2".into()));
    let first = std::fs::read_link(root.join("..data")).unwrap();
    assert!(!update(root, &[("a", "1"), ("sub/b", "2")]));
    assert_eq!(std::fs::read_link(root.join("..data")).unwrap(), first);
    assert!(update(root, &[("a", "3"), ("c", "4")]));
    assert_eq!((read(&root.join("a")), read(&root.join("c"))), ("3".into(), "4".into()));
    let second = std::fs::read_link(root.join("..data")).unwrap().to_str().unwrap().to_owned();
    assert_eq!(entries(root), [second.as_str(), "..data", "a", "c"]);
    let time = second.strip_prefix("..").and_then(|name| name.split_once('.')).unwrap();
    assert_eq!(time.0.split('_').count(), 6, "{second}");
    assert!(update(root, &[]));
    assert_eq!(entries(root).len(), 2);
}

/// VO22, VO29, VO50
#[test]
fn files_have_mode_owner_and_group() {
    let dir = tempfile::tempdir().unwrap();
    let root = open(dir.path());
    let mut files = payload(&[("secret", "x"), ("sub/plain", "y")]);
    files.insert("token".into(), File { content: b"t".into(), mode: 0o600, owner: Some(1000) });
    files.get_mut("secret").unwrap().mode = 0o400;
    write(root.as_fd(), &files, Some(2000), None).unwrap();
    for (path, mode, owner, group) in [
        ("secret", 0o440, 0, 2000),
        ("sub/plain", 0o644, 0, 2000),
        ("token", 0o640, 1000, 2000),
        ("sub", 0o2755, 0, 2000),
        ("..data", 0o2755, 0, 2000),
    ] {
        let found = dir.path().join(path).metadata().unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid(), found.gid()), (mode, owner, group), "{path}");
    }
}

/// D22: in a pod with users of its own files belong to its root, its user and its group, as in any other.
#[test]
fn files_belong_to_the_pods_own_users() {
    let dir = tempfile::tempdir().unwrap();
    let root = open(dir.path());
    let ids = crate::user_namespace::IdRange::free(&BTreeSet::new());
    let first = ids.unwrap().first();
    let mut files = payload(&[("sub/plain", "y")]);
    files.insert("token".into(), File { content: b"t".into(), mode: 0o600, owner: Some(1000) });
    write(root.as_fd(), &files, Some(2000), ids).unwrap();
    for (path, owner, group) in [("..data/sub/plain", 0, 2000), ("..data/token", 1000, 2000), ("..data/sub", 0, 2000)] {
        let found = dir.path().join(path).metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (first + owner, first + group), "{path}");
    }
    for link in ["..data", "token", "sub"] {
        let found = dir.path().join(link).symlink_metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (first, first), "{link}");
    }
    let error = write(root.as_fd(), &payload(&[("a", "b")]), Some(65_536), ids).unwrap_err();
    assert!(matches!(error, VolumeError::NotInPod(_)), "{error}");
}

/// VO23, P10
#[test]
fn a_path_never_leaves_the_volume() {
    let dir = tempfile::tempdir().unwrap();
    let root = open(dir.path());
    for path in ["../x", "/x", "a/../../x", "..data/x", "..x", "a//b", "a/.", "", "a/../b"] {
        let error = write(root.as_fd(), &payload(&[(path, "x")]), None, None).unwrap_err();
        assert_eq!(error.to_string(), format!("invalid path {path:?}"));
    }
    assert_eq!(entries(dir.path()).len(), 0);
}

/// P12: what somebody planted under a name of ours is replaced, never written through.
#[test]
fn planted_links_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let canary = outside.path().join("canary");
    std::fs::write(&canary, "same").unwrap();
    let root = dir.path();
    symlink(&canary, root.join("a")).unwrap();
    symlink(outside.path(), root.join("sub")).unwrap();
    symlink(outside.path(), root.join("..data")).unwrap();
    symlink(&canary, root.join("..data_tmp")).unwrap();
    symlink(outside.path(), root.join("stale")).unwrap();
    update(root, &[("a", "1"), ("sub/b", "2")]);
    update(root, &[("a", "3")]);
    sweep(open(root).as_fd()).unwrap();
    assert_eq!(read(&canary), "same");
    assert_eq!(entries(outside.path()), ["canary"]);
    assert_eq!(read(&root.join("a")), "3");
}

#[test]
fn what_an_interrupted_update_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    update(root, &[("a", "1")]);
    std::fs::create_dir(root.join("..2020_01_01_00_00_00.1")).unwrap();
    std::fs::write(root.join("..2020_01_01_00_00_00.1/a"), "old").unwrap();
    symlink("x", root.join("..data_tmp")).unwrap();
    std::fs::remove_file(root.join("a")).unwrap();
    sweep(open(root).as_fd()).unwrap();
    assert!(!update(root, &[("a", "1")]), "only the link was missing");
    assert_eq!(entries(root).len(), 3);
    assert_eq!(read(&root.join("a")), "1");
}

/// 1,000 edits; a reader sees whole files only, and both files of one version when it holds on to `..data`.
#[test]
fn a_reader_never_sees_a_torn_file() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let version = |n: usize| format!("{n:04}").repeat(2_000);
    let of = move |n: usize| payload(&[("a", &version(n)), ("b", &version(n))]);
    let fd = open(&root);
    write(fd.as_fd(), &of(0), None, None).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let text = read(&root.join("a"));
                assert!(text.len() == 8_000 && text.as_bytes().chunks(4).all(|part| part == &text.as_bytes()[..4]));
                reads += 1;
            }
            reads
        });
        // What was replaced stays for a while in life; here for as long as the reader may be held up.
        let old: Vec<_> = (1..=1_000)
            .filter_map(|n| match write(fd.as_fd(), &of(n), None, None).unwrap() {
                Written::Changed { old } => old,
                Written::Unchanged => None,
            })
            .collect();
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
        assert_eq!(old.len(), 1_000);
        old.iter().for_each(|name| remove_old(fd.as_fd(), name).unwrap());
    });
}

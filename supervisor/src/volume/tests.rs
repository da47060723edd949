use super::*;
use std::os::unix::fs::{MetadataExt as _, symlink};

fn volume(place: PersistentPlace, group_policy: GroupPolicy) -> Persistent {
    Persistent { place, read_only: false, group_policy, size_bytes: Some(1 << 20) }
}

fn made(volume: &Persistent, group: Option<u32>) -> Result<OwnedFd, VolumeError> {
    persistent(
        volume,
        &Site { pod_dir: Path::new("/nowhere"), group, given: &AtomicU64::new(0), ids: None, user_namespace: None },
    )
}

/// VO35, VO50
#[test]
fn a_claim_s_directory_is_made_once_and_given_to_the_group() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("claims/one");
    let claim = volume(PersistentPlace::Claim(path.clone()), GroupPolicy::Always);
    made(&claim, None).unwrap();
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o777);
    std::fs::write(path.join("kept"), "x").unwrap();
    made(&claim, Some(2000)).unwrap();
    assert_eq!(path.join("kept").metadata().unwrap().gid(), 2000);
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o2777);
}

/// VO52: a root that is right already spares the walk.
#[test]
fn on_root_mismatch_looks_at_the_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("claims/one");
    let claim = volume(PersistentPlace::Claim(path.clone()), GroupPolicy::OnRootMismatch);
    made(&claim, Some(2000)).unwrap();
    std::fs::write(path.join("foreign"), "x").unwrap();
    std::os::unix::fs::chown(path.join("foreign"), None, Some(7)).unwrap();
    made(&claim, Some(2000)).unwrap();
    assert_eq!(path.join("foreign").metadata().unwrap().gid(), 7);
    made(&claim, Some(3000)).unwrap();
    assert_eq!(path.join("foreign").metadata().unwrap().gid(), 3000);
}

#[test]
fn an_administrator_s_directory_is_never_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none");
    let error = made(&volume(PersistentPlace::Local(path.clone()), GroupPolicy::Always), None).unwrap_err();
    assert_eq!(error.to_string(), format!("path {:?} does not exist", path.display().to_string()));
    assert!(!path.exists());
}

/// D6
#[test]
fn a_file_is_read_inside_the_volume_only() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("env"), "A='1'").unwrap();
    symlink("/etc/passwd", dir.path().join("link")).unwrap();
    let root = open_directory(dir.path()).unwrap();
    assert_eq!(read_file(root.as_fd(), "env").unwrap().unwrap(), b"A='1'");
    assert_eq!(read_file(root.as_fd(), "none").unwrap(), None);
    for path in ["link", "../etc/passwd"] {
        assert!(matches!(read_file(root.as_fd(), path), Err(VolumeError::Escapes { .. })), "{path}");
    }
}

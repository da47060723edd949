//! Links beside the logs: one per container, under a name that says whose it is (rule LF1). Only collectors of logs read
//! them, so a container never fails for its link.

use std::io;
use std::path::Path;

use super::dirs::Dirs;
use super::record::{ContainerRecord, PodReference};

/// The longest name of a file (path_resolution(7)).
const NAME_MAX: usize = 255;
const ENDING: &str = ".log";

/// `<pod>_<ns>_<container>-<id>.log`; a long one is cut before its ending, as the kubelet does.
fn name(pod: &PodReference, own: &ContainerRecord) -> String {
    let whole = format!("{}_{}_{}-{}", pod.name, pod.namespace, own.name, own.id);
    let cut = whole.get(..NAME_MAX - ENDING.len()).unwrap_or(&whole);
    format!("{cut}{ENDING}")
}

/// Replaces what has the name already: cut names may be the same, and the newest container is the one to look at.
pub(super) fn make(dirs: &Dirs, pod: &PodReference, own: &ContainerRecord) -> io::Result<()> {
    let Some(log) = &own.log else { return Ok(()) };
    let path = dirs.log_links().join(name(pod, own));
    match std::os::unix::fs::symlink(log, &path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(&path)?;
            std::os::unix::fs::symlink(log, &path)
        }
        other => other,
    }
}

/// Unless the link leads to the log of another container by now.
pub(super) fn remove(dirs: &Dirs, pod: &PodReference, own: &ContainerRecord) -> io::Result<()> {
    let path = dirs.log_links().join(name(pod, own));
    match std::fs::read_link(&path) {
        Ok(target) if Some(&target) == own.log.as_ref() => remove_file(&path),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes links to logs that are gone with their directories. Others may be a kubelet's, or about to get their file.
///
/// # Errors
/// A link can't be removed.
pub fn sweep(dirs: &Dirs) -> io::Result<()> {
    for entry in std::fs::read_dir(dirs.log_links()).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(target) = std::fs::read_link(&path) else { continue };
        if target.starts_with(&dirs.log) && target.parent().is_some_and(|dir| !dir.exists()) {
            remove_file(&path)?;
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::id::{ContainerId, SandboxId};
    use crate::engine::record::VERSION;

    fn pod(name: &str) -> PodReference {
        PodReference { namespace: "ns".into(), name: name.into(), uid: "u".into() }
    }

    fn container(dirs: &Dirs, number: u32) -> ContainerRecord {
        ContainerRecord {
            version: VERSION,
            id: ContainerId::random(),
            sandbox: SandboxId::random(),
            name: "app".into(),
            log: Some(dirs.log.join(format!("ns_p_u/app/{number}.log"))),
            memo: serde_json::Value::Null,
        }
    }

    fn dirs(root: &Path) -> Dirs {
        let dirs = Dirs { data: root.join("data"), run: root.join("run"), log: root.join("pods") };
        std::fs::create_dir_all(dirs.log_links()).unwrap();
        std::fs::create_dir_all(dirs.log.join("ns_p_u/app")).unwrap();
        dirs
    }

    fn links(dirs: &Dirs) -> usize {
        std::fs::read_dir(dirs.log_links()).unwrap().count()
    }

    /// LF1
    #[test]
    fn a_link_is_named_after_its_container_and_a_long_name_is_cut() {
        let root = tempfile::tempdir().unwrap();
        let own = container(&dirs(root.path()), 0);
        assert_eq!(name(&pod("p"), &own), format!("p_ns_app-{}.log", own.id));
        let long = name(&pod(&"p".repeat(250)), &own);
        assert_eq!((long.len(), long.ends_with("p_.log")), (255, true));
    }

    #[test]
    fn a_link_goes_with_its_container_and_not_with_another_of_its_name() {
        let root = tempfile::tempdir().unwrap();
        let dirs = dirs(root.path());
        let (long, first, second) = (pod(&"p".repeat(250)), container(&dirs, 0), container(&dirs, 1));
        make(&dirs, &long, &first).unwrap();
        make(&dirs, &long, &second).unwrap();
        remove(&dirs, &long, &first).unwrap();
        assert_eq!(links(&dirs), 1);
        remove(&dirs, &long, &second).unwrap();
        remove(&dirs, &long, &second).unwrap();
        assert_eq!(links(&dirs), 0);
    }

    #[test]
    fn only_links_to_logs_that_are_gone_are_swept() {
        let root = tempfile::tempdir().unwrap();
        let dirs = dirs(root.path());
        make(&dirs, &pod("p"), &container(&dirs, 0)).unwrap();
        std::os::unix::fs::symlink("/somewhere/else/0.log", dirs.log_links().join("foreign.log")).unwrap();
        sweep(&dirs).unwrap();
        assert_eq!(links(&dirs), 2);
        std::fs::remove_dir_all(dirs.log.join("ns_p_u")).unwrap();
        sweep(&dirs).unwrap();
        assert_eq!(links(&dirs), 1);
    }
}

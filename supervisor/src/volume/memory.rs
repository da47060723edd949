//! Volumes that live in memory: detached mounts, which the pod's monitor keeps (rules VO11, VO12, VO25).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, PodSpec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::VolumeError;
use crate::user_namespace::{IdRange, host_id};

/// What somebody may do with others' files in the root of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    /// Everything.
    Free,
    /// Nothing but what the files' modes say: the sticky bit, as a tmpfs has it by default (tmpfs(5)).
    Kept,
}

/// An `emptyDir`: every user may write to it; a group gets everything that is made in it (VO11, VO50).
pub(super) fn empty_dir(size_bytes: u64, group: Option<u32>, ids: Option<IdRange>) -> Result<OwnedFd, VolumeError> {
    mount("tmpfs", [("size", size_bytes.to_string())].into_iter().chain(ownership(group, Others::Kept, ids)?), true)
}

/// For files that we write (VO25).
pub(super) fn content(group: Option<u32>, ids: Option<IdRange>) -> Result<OwnedFd, VolumeError> {
    mount("tmpfs", ownership(group, Others::Free, ids)?.into_iter(), true)
}

/// Pages of one size; the kernel hands out what the node set aside (VO12).
pub(super) fn huge_pages(page_bytes: u64, group: Option<u32>, ids: Option<IdRange>) -> Result<OwnedFd, VolumeError> {
    let page = ("pagesize", page_bytes.to_string());
    mount("hugetlbfs", [page].into_iter().chain(ownership(group, Others::Free, ids)?), false)
}

/// In memory files have the ids that the host knows them by: before Linux 6.3 no tmpfs can be mounted with an id map.
fn ownership(
    group: Option<u32>,
    others: Others,
    ids: Option<IdRange>,
) -> Result<Vec<(&'static str, String)>, VolumeError> {
    let sticky = match others {
        Others::Free => 0,
        Others::Kept => 0o1000,
    };
    let mode = |bits: u32| ("mode", format!("{:o}", bits | sticky));
    let mut options = vec![mode(if group.is_some() { 0o2777 } else { 0o777 })];
    if group.is_some() || ids.is_some() {
        options.push(("gid", host_id(ids, group.unwrap_or(0))?.to_string()));
    }
    options.extend(ids.map(|ids| ("uid", ids.first().to_string())));
    Ok(options)
}

fn mount(
    kind: &'static str,
    options: impl Iterator<Item = (&'static str, String)>,
    never_swapped: bool,
) -> Result<OwnedFd, VolumeError> {
    let call = |call| VolumeError::system(call, kind);
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(call("fsopen"))?;
    for (key, value) in [("source", kind.to_owned())].into_iter().chain(options) {
        rustix::mount::fsconfig_set_string(&fs, key, value.as_str())
            .map_err(VolumeError::system("fsconfig", format!("{kind}, {key}={value}")))?;
    }
    if never_swapped {
        // Secrets must not reach the disk; kernels before 6.4 do not know the option.
        match rustix::mount::fsconfig_set_flag(&fs, "noswap") {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(VolumeError::system("fsconfig", "noswap")(error)),
        }
    }
    rustix::mount::fsconfig_create(&fs).map_err(call("fsconfig create"))?;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(call("fsmount"))
}

/// The smallest of `sizeLimit`, the pod's memory limit and the node's memory, zeros left out (VO11).
pub(super) fn size_bytes(source: &EmptyDirVolumeSource, bounds: [u64; 2]) -> Result<u64, VolumeError> {
    let limit = size_limit(source)?.unwrap_or(0);
    Ok([limit].into_iter().chain(bounds).filter(|bytes| *bytes > 0).min().unwrap_or(0))
}

/// `sizeLimit` in bytes; zero is none.
pub(super) fn size_limit(source: &EmptyDirVolumeSource) -> Result<Option<u64>, VolumeError> {
    let Some(limit) = &source.size_limit else { return Ok(None) };
    let quantity: cgroupd::quantity::Quantity =
        limit.0.parse().map_err(|cause| VolumeError::SizeLimit { text: limit.0.clone(), cause: format!("{cause}") })?;
    Ok(u64::try_from(quantity.value()).ok().filter(|bytes| *bytes > 0))
}

/// The page size of `HugePages` or `HugePages-SIZE` (VO12): named, or the only one that the pod requests.
pub(super) fn page_bytes(medium: &str, spec: &PodSpec) -> Result<u64, VolumeError> {
    let mut requested: Vec<u64> = Vec::new();
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let requests = container.resources.iter().filter_map(|resources| resources.requests.as_ref()).flatten();
        let sizes = requests.filter_map(|(name, _)| name.strip_prefix("hugepages-"));
        requested.extend(sizes.filter_map(bytes));
    }
    requested.sort_unstable();
    requested.dedup();
    let missing = || {
        VolumeError::Content(format!(
            "medium {medium}: hugePages storage requested, but there is no resource request for huge pages"
        ))
    };
    match medium.strip_prefix("HugePages-") {
        Some(size) => {
            let size = bytes(size).ok_or_else(missing)?;
            requested.contains(&size).then_some(size).ok_or_else(missing)
        }
        None => match requested.as_slice() {
            [one] => Ok(*one),
            [] => Err(missing()),
            _ => Err(VolumeError::Content(
                "medium: HugePages can't be used if container requests multiple huge page sizes".to_owned(),
            )),
        },
    }
}

fn bytes(quantity: &str) -> Option<u64> {
    let quantity: cgroupd::quantity::Quantity = quantity.parse().ok()?;
    u64::try_from(quantity.value()).ok()
}

/// Several layers of an image as one tree, read-only (VO36); the uppermost first. With a user namespace they appear with the
/// ids that they have there.
pub(super) fn overlay(
    layers: &[impl AsRef<Path>],
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, VolumeError> {
    let call = |call| VolumeError::system(call, "overlay");
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(call("fsopen"))?;
    for layer in layers {
        let layer = layer.as_ref();
        if let Some(namespace) = user_namespace {
            add_mapped(&fs, layer, namespace)?;
            continue;
        }
        // Names are digests below the store: short enough for `fsconfig`, and without `:`.
        rustix::mount::fsconfig_set_string(&fs, "lowerdir+", layer)
            .map_err(VolumeError::system("fsconfig(lowerdir+)", layer))?;
    }
    rustix::mount::fsconfig_create(&fs).map_err(call("fsconfig create"))?;
    rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_RDONLY)
        .map_err(call("fsmount"))
}

/// A layer by a mount that is nowhere attached, which overlayfs takes since Linux 6.15.
fn add_mapped(fs: &OwnedFd, layer: &Path, namespace: BorrowedFd<'_>) -> Result<(), VolumeError> {
    let root = super::open_directory(layer)?;
    let copy = super::detached_copy(root.as_fd(), None, false, super::Missing::Refused, Some(namespace))?;
    // The root of a new mount is a mere handle.
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(&copy, ".", flags, Mode::empty()).map_err(VolumeError::system("openat", layer))?;
    rustix::mount::fsconfig_set_fd(fs, "lowerdir+", &opened)
        .map_err(VolumeError::system("fsconfig(lowerdir+, mounted with an id map)", layer))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    /// VO11: the smallest, zero values left out.
    #[test]
    fn a_memory_volume_is_as_large_as_limit_pod_and_node_allow() {
        for (limit, bounds, expected) in [
            (None, [0, 1 << 30], 1 << 30),
            (None, [8 << 20, 1 << 30], 8 << 20),
            (Some("16Mi"), [0, 1 << 30], 16 << 20),
            (Some("2Gi"), [0, 1 << 30], 1 << 30),
            (Some("0"), [0, 1 << 30], 1 << 30),
            (Some("16Mi"), [0, 0], 16 << 20),
        ] {
            let size_limit = limit.map(|text: &str| Quantity(text.to_owned()));
            let source = EmptyDirVolumeSource { size_limit, ..EmptyDirVolumeSource::default() };
            assert_eq!(size_bytes(&source, bounds).unwrap(), expected, "{limit:?}");
        }
    }

    /// VO11, VO50
    #[test]
    fn a_memory_volume_is_sticky_as_the_kubelet_leaves_it() {
        let mode = |group, others| ownership(group, others, None).unwrap().remove(0).1;
        assert_eq!([mode(None, Others::Kept), mode(Some(7), Others::Kept)], ["1777", "3777"]);
        assert_eq!([mode(None, Others::Free), mode(Some(7), Others::Free)], ["777", "2777"]);
    }

    /// D22: in memory nothing is mapped, so the pod's ids are written as the host's.
    #[test]
    fn a_pods_own_users_own_its_memory() {
        let ids = IdRange::free(&std::collections::BTreeSet::new());
        let of = |group, ids| ownership(group, Others::Free, ids).map(|options| format!("{options:?}"));
        assert_eq!(of(None, None).unwrap(), r#"[("mode", "777")]"#);
        assert_eq!(of(Some(7), None).unwrap(), r#"[("mode", "2777"), ("gid", "7")]"#);
        assert_eq!(of(None, ids).unwrap(), r#"[("mode", "777"), ("gid", "2013265920"), ("uid", "2013265920")]"#);
        assert_eq!(of(Some(7), ids).unwrap(), r#"[("mode", "2777"), ("gid", "2013265927"), ("uid", "2013265920")]"#);
        let told = of(Some(70_000), ids).unwrap_err().to_string();
        assert_eq!(told, "id 70000 does not exist in a pod with hostUsers: false, whose ids end at 65535");
    }

    /// VO12
    #[test]
    fn huge_pages_have_one_size() {
        let spec = |requests: &[&str]| -> PodSpec {
            let requests: Vec<String> = requests.iter().map(|name| format!("\"{name}\":\"4Mi\"")).collect();
            let text =
                format!(r#"{{"containers":[{{"name":"c","resources":{{"requests":{{{}}}}}}}]}}"#, requests.join(","));
            serde_json::from_str(&text).unwrap()
        };
        let none = "hugePages storage requested, but there is no resource request for huge pages";
        for (medium, requests, expected) in [
            ("HugePages", vec!["hugepages-2Mi"], Ok(2 << 20)),
            ("HugePages", vec!["cpu"], Err(format!("medium HugePages: {none}"))),
            (
                "HugePages",
                vec!["hugepages-2Mi", "hugepages-1Gi"],
                Err("medium: HugePages can't be used if container requests multiple huge page sizes".to_owned()),
            ),
            ("HugePages-1Gi", vec!["hugepages-2Mi", "hugepages-1Gi"], Ok(1 << 30)),
            ("HugePages-1Gi", vec!["hugepages-2Mi"], Err(format!("medium HugePages-1Gi: {none}"))),
        ] {
            let got = page_bytes(medium, &spec(&requests)).map_err(|error| error.to_string());
            assert_eq!(got, expected, "{medium} {requests:?}");
        }
    }
}

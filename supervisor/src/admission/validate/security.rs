//! Security contexts (US4, CP5, PV5-PV7, SY3, D19).

use k8s_openapi::api::core::v1::{AppArmorProfile, PodSecurityContext, PodSpec, SeccompProfile, SecurityContext};

use super::error::{Errors, Path};

/// Bytes of the name of an AppArmor profile.
const APPARMOR_MAX: usize = 4095;
/// Bytes of the name of a sysctl.
const SYSCTL_MAX: usize = 253;

const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";
const SYSCTL: &str = r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn id(id: Option<i64>, path: &Path, errors: &mut Errors) {
    if let Some(id) = id
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        errors.invalid(path, id, ID_RANGE);
    }
}

pub(super) fn container(context: &SecurityContext, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    id(context.run_as_user, &path.field("runAsUser"), errors);
    id(context.run_as_group, &path.field("runAsGroup"), errors);
    let mount = path.field("procMount");
    errors.one_of(&mount, context.proc_mount.as_ref(), &["Default", "Unmasked"]);
    if context.proc_mount.as_deref() == Some("Unmasked") && spec.host_users != Some(false) {
        errors.invalid(&mount, "Unmasked", "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), errors);
    apparmor(context.app_armor_profile.as_ref(), &path.field("appArmorProfile"), errors);
    if context.allow_privilege_escalation == Some(false) {
        no_escalation(context, path, errors);
    }
}

/// CP5
fn no_escalation(context: &SecurityContext, path: &Path, errors: &mut Errors) {
    let shown = serde_json::to_value(context).unwrap_or_default();
    if context.privileged == Some(true) {
        errors.invalid(path, shown.clone(), "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
    }
    let added = context.capabilities.iter().filter_map(|capabilities| capabilities.add.as_ref()).flatten();
    if added.into_iter().any(|name| name == "CAP_SYS_ADMIN") {
        let detail = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
        errors.invalid(path, shown, detail);
    }
}

pub(super) fn pod(context: &PodSecurityContext, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    id(context.run_as_user, &path.field("runAsUser"), errors);
    id(context.run_as_group, &path.field("runAsGroup"), errors);
    id(context.fs_group, &path.field("fsGroup"), errors);
    for (index, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(Some(*group), &path.field("supplementalGroups").index(index), errors);
    }
    let change = path.field("fsGroupChangePolicy");
    errors.one_of(&change, context.fs_group_change_policy.as_ref(), &["OnRootMismatch", "Always"]);
    let groups = path.field("supplementalGroupsPolicy");
    errors.one_of(&groups, context.supplemental_groups_policy.as_ref(), &["Merge", "Strict"]);
    seccomp(context.seccomp_profile.as_ref(), &path.field("seccompProfile"), errors);
    apparmor(context.app_armor_profile.as_ref(), &path.field("appArmorProfile"), errors);
    sysctls(context, spec, &path.field("sysctls"), errors);
}

/// PV6
fn seccomp(profile: Option<&SeccompProfile>, path: &Path, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let supported = ["Localhost", "RuntimeDefault", "Unconfined"];
    let file_path = path.field("localhostProfile");
    let file = profile.localhost_profile.as_deref();
    match profile.type_.as_str() {
        "" => errors.required(&path.field("type"), "type is required when seccompProfile is set"),
        "Localhost" => match file {
            None | Some("") => errors.required(&file_path, "must be set when seccomp type is Localhost"),
            Some(file) => super::volumes::relative_path(file, &file_path, errors),
        },
        "RuntimeDefault" | "Unconfined" => {
            if let Some(file) = file {
                errors.invalid(&file_path, file, "can only be set when seccomp type is Localhost");
            }
        }
        other => errors.not_supported(&path.field("type"), other, &supported),
    }
}

/// PV7
fn apparmor(profile: Option<&AppArmorProfile>, path: &Path, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let name_path = path.field("localhostProfile");
    let name = profile.localhost_profile.as_deref();
    match profile.type_.as_str() {
        "Localhost" => match name.map(str::trim) {
            None | Some("") => errors.required(&name_path, "must be set when AppArmor type is Localhost"),
            Some(trimmed) if Some(trimmed) != name => {
                errors.invalid(&name_path, name, "must not be padded with whitespace");
            }
            Some(trimmed) if trimmed.len() > APPARMOR_MAX => errors.too_long(&name_path, APPARMOR_MAX),
            Some(_) => {}
        },
        "RuntimeDefault" | "Unconfined" => {
            if let Some(name) = name {
                errors.invalid(&name_path, name, "can only be set when AppArmor type is Localhost");
            }
        }
        "" => errors.required(&path.field("type"), "type is required when appArmorProfile is set"),
        other => errors.not_supported(&path.field("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

/// SY3, D19
fn sysctls(context: &PodSecurityContext, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let mut seen = Vec::new();
    for (index, sysctl) in context.sysctls.iter().flatten().enumerate() {
        let path = path.index(index).field("name");
        let name = sysctl.name.as_str();
        let dotted = dotted(name);
        if name.is_empty() {
            errors.required(&path, "");
        } else if !is_sysctl(name) {
            errors.invalid(&path, name, SYSCTL);
        } else if seen.contains(&dotted) {
            errors.duplicate(&path, name);
        }
        if spec.host_network == Some(true) && dotted.starts_with("net.") {
            errors.invalid(&path, name, "may not be specified when 'hostNetwork' is true");
        }
        if spec.host_ipc == Some(true) && is_ipc(&dotted) {
            errors.invalid(&path, name, "may not be specified when 'hostIPC' is true");
        }
        seen.push(dotted);
    }
}

/// `a/b.c` is what `a.b/c` is when the first separator is a slash.
fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name[at..].starts_with('/') => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        Some(_) | None => name.to_owned(),
    }
}

fn is_ipc(name: &str) -> bool {
    ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|group| name.starts_with(group)) || name == "kernel.sem"
}

fn is_sysctl(name: &str) -> bool {
    let is_end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_part = |part: &str| {
        part.starts_with(is_end) && part.ends_with(is_end) && part.chars().all(|c| is_end(c) || c == '-' || c == '_')
    };
    name.len() <= SYSCTL_MAX && name.split(['.', '/']).all(is_part)
}

//! Volumes and where they are mounted (VO3, VO15, VO16, VO22-VO30, VO35-VO46).

use std::collections::BTreeSet;

use cgroupd::Quantity as Amount;
use k8s_openapi::api::core::v1::{
    Container, DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath, PodSpec,
    ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount, VolumeProjection,
};

use super::error::{Errors, Path};
use super::{env, names};

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";
/// VO29
const TOKEN_MIN_SECONDS: i64 = 600;
const TOKEN_MAX_SECONDS: i64 = 1 << 32;

/// Checks all volumes.
pub(super) fn volumes(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let path = path.index(index);
        let name = path.field("name");
        if volume.name.is_empty() {
            errors.required(&name, "");
        } else {
            errors.invalid_all(&name, &volume.name, names::label(&volume.name));
        }
        if !seen.insert(&volume.name) {
            errors.duplicate(&name, volume.name.as_str());
        }
        self::volume(volume, spec, &path, errors);
    }
}

/// The names of the sources that a volume has, in the API's words.
fn sources(volume: &Volume) -> Vec<String> {
    let Ok(serde_json::Value::Object(fields)) = serde_json::to_value(volume) else {
        return Vec::new();
    };
    fields.into_iter().map(|(name, _)| name).filter(|name| name != "name").collect()
}

fn volume(volume: &Volume, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let sources = sources(volume);
    if sources.is_empty() {
        errors.required(path, "must specify a volume type");
    }
    for more in sources.iter().skip(1) {
        errors.forbidden(&path.field(more), "may not specify more than 1 volume type");
    }
    match sources.first().map(String::as_str) {
        Some("emptyDir") => volume.empty_dir.iter().for_each(|s| empty_dir(s, &path.field("emptyDir"), errors)),
        Some("hostPath") => volume.host_path.iter().for_each(|s| host_path(s, &path.field("hostPath"), errors)),
        Some("configMap") => volume.config_map.iter().for_each(|source| {
            let path = path.field("configMap");
            required(&source.name, &path.field("name"), errors);
            mode(source.default_mode, &path.field("defaultMode"), errors);
            items(source.items.as_ref(), &path.field("items"), errors);
        }),
        Some("secret") => volume.secret.iter().for_each(|source| {
            let path = path.field("secret");
            required(source.secret_name.as_deref().unwrap_or_default(), &path.field("secretName"), errors);
            mode(source.default_mode, &path.field("defaultMode"), errors);
            items(source.items.as_ref(), &path.field("items"), errors);
        }),
        Some("downwardAPI") => volume.downward_api.iter().for_each(|source| {
            let path = path.field("downwardAPI");
            mode(source.default_mode, &path.field("defaultMode"), errors);
            source.items.iter().flatten().enumerate().for_each(|(index, file)| {
                downward_file(file, &path.field("items").index(index), errors);
            });
        }),
        Some("projected") => volume.projected.iter().for_each(|s| projected(s, spec, &path.field("projected"), errors)),
        Some("persistentVolumeClaim") => volume.persistent_volume_claim.iter().for_each(|source| {
            let path = path.field("persistentVolumeClaim").field("claimName");
            required(&source.claim_name, &path, errors);
        }),
        Some("image") => volume.image.iter().for_each(|source| {
            let path = path.field("image");
            required(source.reference.as_deref().unwrap_or_default(), &path.field("reference"), errors);
            errors.one_of(&path.field("pullPolicy"), source.pull_policy.as_ref(), super::container::PULL_POLICIES);
        }),
        Some("gitRepo") => errors.forbidden(&path.field("gitRepo"), "gitRepo volumes are disabled"),
        Some(_) | None => {}
    }
}

fn required(value: &str, path: &Path, errors: &mut Errors) {
    if value.is_empty() {
        errors.required(path, "");
    }
}

/// VO22
fn mode(mode: Option<i32>, path: &Path, errors: &mut Errors) {
    if let Some(mode) = mode
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(path, mode, MODE);
    }
}

fn empty_dir(source: &EmptyDirVolumeSource, path: &Path, errors: &mut Errors) {
    if let Some(limit) = &source.size_limit {
        let path = path.field("sizeLimit");
        match limit.0.parse::<Amount>() {
            Ok(amount) if amount.is_negative() => {
                errors.forbidden(&path, "SizeLimit field must be a valid resource quantity");
            }
            Ok(_) => {}
            Err(cause) => errors.invalid(&path, limit.0.as_str(), cause.to_string()),
        }
    }
    let medium = source.medium.as_deref().unwrap_or_default();
    if !matches!(medium, "" | "Memory" | "HugePages") && !medium.starts_with("HugePages-") {
        errors.not_supported(&path.field("medium"), medium, &["", "HugePages", "Memory"]);
    }
}

/// VO15, VO16
fn host_path(source: &HostPathVolumeSource, path: &Path, errors: &mut Errors) {
    let at = path.field("path");
    required(&source.path, &at, errors);
    if source.path.split('/').any(|part| part == "..") {
        errors.invalid(&at, source.path.as_str(), "must not contain '..'");
    }
    let types = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    errors.one_of(&path.field("type"), source.type_.as_ref(), &types);
}

fn items(items: Option<&Vec<KeyToPath>>, path: &Path, errors: &mut Errors) {
    for (index, item) in items.into_iter().flatten().enumerate() {
        let path = path.index(index);
        required(&item.key, &path.field("key"), errors);
        required(&item.path, &path.field("path"), errors);
        file_path(&item.path, &path.field("path"), errors);
        mode(item.mode, &path.field("mode"), errors);
    }
}

/// A path below something: relative and without `..` (VO40).
pub(super) fn relative_path(text: &str, path: &Path, errors: &mut Errors) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

/// The path of a file in a volume that is written by us: its names must not collide with `..data` (VO23).
fn file_path(text: &str, path: &Path, errors: &mut Errors) {
    relative_path(text, path, errors);
    if text.starts_with("..") && !text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not start with '..'");
    }
}

fn downward_file(file: &DownwardAPIVolumeFile, path: &Path, errors: &mut Errors) {
    required(&file.path, &path.field("path"), errors);
    file_path(&file.path, &path.field("path"), errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(_), Some(_)) => {
            errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
        }
        (Some(field), None) => env::field_ref(field, env::VOLUME_FIELDS, &path.field("fieldRef"), errors),
        (None, Some(resource)) => {
            let path = path.field("resourceFieldRef");
            required(resource.container_name.as_deref().unwrap_or_default(), &path.field("containerName"), errors);
            env::resource_field_ref(resource, &path, errors);
        }
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(file.mode, &path.field("mode"), errors);
}

/// VO28
fn projected(source: &ProjectedVolumeSource, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    mode(source.default_mode, &path.field("defaultMode"), errors);
    let mut paths = BTreeSet::new();
    for (index, part) in source.sources.iter().flatten().enumerate() {
        let path = path.field("sources").index(index);
        let kinds = projection_kinds(part);
        if kinds.is_empty() {
            errors.required(&path, "must specify a source");
        }
        for more in kinds.iter().skip(1) {
            errors.forbidden(&path.field(more), "may not specify more than 1 volume type per source");
        }
        for file in projection(part, spec, &path, errors) {
            if !file.is_empty() && !paths.insert(file.to_owned()) {
                errors.invalid(&path, source_name(part), "conflicting duplicate paths");
            }
        }
    }
}

fn projection_kinds(part: &VolumeProjection) -> Vec<&'static str> {
    let kinds = [
        (part.secret.is_some(), "secret"),
        (part.config_map.is_some(), "configMap"),
        (part.downward_api.is_some(), "downwardAPI"),
        (part.service_account_token.is_some(), "serviceAccountToken"),
        (part.cluster_trust_bundle.is_some(), "clusterTrustBundle"),
        (part.pod_certificate.is_some(), "podCertificate"),
    ];
    kinds.into_iter().filter_map(|(is_set, name)| is_set.then_some(name)).collect()
}

fn source_name(part: &VolumeProjection) -> &str {
    let secret = part.secret.as_ref().map(|source| source.name.as_str());
    let config_map = part.config_map.as_ref().map(|source| source.name.as_str());
    secret.or(config_map).unwrap_or_default()
}

/// Checks one source; returns the paths that it names.
fn projection<'a>(part: &'a VolumeProjection, spec: &PodSpec, path: &Path, errors: &mut Errors) -> Vec<&'a str> {
    let mut named = Vec::new();
    let key_sources = [
        ("secret", part.secret.as_ref().map(|source| (&source.name, &source.items))),
        ("configMap", part.config_map.as_ref().map(|source| (&source.name, &source.items))),
    ];
    for (kind, source) in key_sources {
        if let Some((name, keys)) = source {
            required(name, &path.field(kind).field("name"), errors);
            items(keys.as_ref(), &path.field(kind).field("items"), errors);
            named.extend(keys.iter().flatten().map(|item| item.path.as_str()));
        }
    }
    for (index, file) in part.downward_api.iter().filter_map(|api| api.items.as_ref()).flatten().enumerate() {
        downward_file(file, &path.field("downwardAPI").field("items").index(index), errors);
        named.push(&file.path);
    }
    if let Some(source) = &part.service_account_token {
        token(source, spec, &path.field("serviceAccountToken"), errors);
        named.push(&source.path);
    }
    if let Some(bundle) = &part.cluster_trust_bundle {
        required(&bundle.path, &path.field("clusterTrustBundle").field("path"), errors);
        named.push(&bundle.path);
    }
    named
}

/// VO29, VA11
fn token(token: &ServiceAccountTokenProjection, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    if spec.service_account_name.as_deref().unwrap_or_default().is_empty() {
        errors.forbidden(path, "must not be specified when serviceAccountName is not set");
    }
    let seconds = token.expiration_seconds.unwrap_or(TOKEN_MIN_SECONDS);
    if seconds < TOKEN_MIN_SECONDS {
        errors.invalid(&path.field("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
    } else if seconds > TOKEN_MAX_SECONDS {
        let detail = "may not specify a duration larger than 2^32 seconds";
        errors.invalid(&path.field("expirationSeconds"), seconds, detail);
    }
    required(&token.path, &path.field("path"), errors);
    file_path(&token.path, &path.field("path"), errors);
}

/// The mounts of one container.
pub(super) fn mounts(container: &Container, spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let is_privileged = container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true));
    let mut seen = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.index(index);
        let name = path.field("name");
        if mount.name.is_empty() {
            errors.required(&name, "");
        }
        if !spec.volumes.iter().flatten().any(|volume| volume.name == mount.name) {
            errors.not_found(&name, &mount.name);
        }
        let target = path.field("mountPath");
        required(&mount.mount_path, &target, errors);
        if mount.mount_path.contains(':') {
            errors.invalid(&target, mount.mount_path.as_str(), "must not contain ':'");
        }
        if !seen.insert(&mount.mount_path) {
            errors.invalid(&target, mount.mount_path.as_str(), "must be unique");
        }
        sub_paths(mount, &path, errors);
        propagation(mount, is_privileged, &path, errors);
    }
}

/// VO40
fn sub_paths(mount: &VolumeMount, path: &Path, errors: &mut Errors) {
    let sub_path = mount.sub_path.as_deref().filter(|text| !text.is_empty());
    let expression = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty());
    if let Some(text) = sub_path {
        relative_path(text, &path.field("subPath"), errors);
    }
    if let Some(text) = expression {
        if sub_path.is_some() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&path.field("subPathExpr"), text, detail);
        }
        relative_path(text, &path.field("subPathExpr"), errors);
    }
}

/// VO45, VO46
fn propagation(mount: &VolumeMount, is_privileged: bool, path: &Path, errors: &mut Errors) {
    let at = path.field("mountPropagation");
    let propagation = mount.mount_propagation.as_deref();
    errors.one_of(&at, mount.mount_propagation.as_ref(), &["Bidirectional", "HostToContainer", "None"]);
    if propagation == Some("Bidirectional") && !is_privileged {
        errors.forbidden(&at, "Bidirectional mount propagation is available only to privileged containers");
    }
    let at = path.field("recursiveReadOnly");
    errors.one_of(&at, mount.recursive_read_only.as_ref(), &["Disabled", "Enabled", "IfPossible"]);
    if matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")) {
        if mount.read_only != Some(true) {
            errors.forbidden(&at, "may only be specified when readOnly is true");
        }
        if !matches!(propagation, None | Some("None")) {
            errors.forbidden(&at, "may only be specified when mountPropagation is None or not specified");
        }
    }
}

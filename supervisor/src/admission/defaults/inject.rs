//! Defaults that depend on other objects (admission plug-ins): priority, tolerations, service account and its token.

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector,
    PodSpec, ProjectedVolumeSource, ServiceAccount, ServiceAccountTokenProjection, Toleration, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::set_text;

/// Seconds for which a pod stays on a node that is not ready or not reachable.
const TOLERATION_SECONDS: i64 = 300;
/// Where the API token of a service account is mounted.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Life of that token: an hour, and 7 seconds by which it is told from one that a user asked for (VO32).
const TOKEN_SECONDS: i64 = 3607;
/// The priority class that no pressure evicts.
pub const NODE_CRITICAL: &str = "system-node-critical";
/// Pods of at least this priority are critical.
pub const CRITICAL: i32 = 2_000_000_000;
/// Classes that exist without an object.
pub const BUILT_IN: [(&str, i32); 2] = [(NODE_CRITICAL, CRITICAL + 1000), ("system-cluster-critical", CRITICAL)];

/// Why a pod's priority can't be set; refused with 403.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PriorityError {
    /// VA15
    #[error("no PriorityClass with name {0} was found")]
    NotFound(String),
    /// A number that is not that of the class.
    #[error(
        "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {computed} from the given PriorityClass name"
    )]
    Given {
        /// In the manifest.
        given: i32,
        /// By the class.
        computed: i32,
    },
}

/// VA15: sets `priority`, `priorityClassName` and `preemptionPolicy` from the class of that name, a built-in one or the
/// global default among `classes`.
pub fn set_priority(spec: &mut PodSpec, classes: &[PriorityClass]) -> Result<(), PriorityError> {
    let name = spec.priority_class_name.as_deref().unwrap_or_default();
    let class = if name.is_empty() {
        classes.iter().filter(|class| class.global_default == Some(true)).min_by_key(|class| class.value)
    } else {
        classes.iter().find(|class| class.metadata.name.as_deref() == Some(name))
    };
    let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
    let (computed, preemption) = match (class, built_in) {
        (Some(class), _) => (class.value.unwrap_or_default(), class.preemption_policy.clone()),
        (None, Some((_, value))) => (*value, None),
        (None, None) if name.is_empty() => (0, None),
        (None, None) => return Err(PriorityError::NotFound(name.to_owned())),
    };
    if let Some(given) = spec.priority.filter(|given| *given != computed) {
        return Err(PriorityError::Given { given, computed });
    }
    if let Some(class) = class {
        spec.priority_class_name = class.metadata.name.clone();
    }
    spec.priority = Some(computed);
    set_text(&mut spec.preemption_policy, preemption.as_deref().unwrap_or("PreemptLowerPriority"));
    Ok(())
}

/// The two tolerations that every pod gets unless it tolerates these taints already.
pub fn add_tolerations(spec: &mut PodSpec) {
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.iter().any(|toleration| tolerates(toleration, key)) {
            tolerations.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some("NoExecute".to_owned()),
                toleration_seconds: Some(TOLERATION_SECONDS),
                value: None,
            });
        }
    }
}

fn tolerates(toleration: &Toleration, key: &str) -> bool {
    let is = |field: &Option<String>, value: &str| field.as_deref().is_none_or(|text| text.is_empty() || text == value);
    is(&toleration.key, key) && is(&toleration.effect, "NoExecute")
}

/// VA14: refused with 403.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceAccountError {
    /// No such object.
    #[error("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found")]
    NotFound {
        /// The pod's.
        namespace: String,
        /// The account's.
        name: String,
    },
}

/// VA14: names the service account (`default` unless given) in both fields and takes over its image pull secrets.
/// `find` looks an account of the pod's namespace up.
pub fn set_service_account<'a>(
    spec: &mut PodSpec,
    namespace: &str,
    find: impl FnOnce(&str) -> Option<&'a ServiceAccount>,
) -> Result<&'a ServiceAccount, ServiceAccountError> {
    let deprecated = spec.service_account.clone().filter(|name| !name.is_empty());
    set_text(&mut spec.service_account_name, deprecated.as_deref().unwrap_or("default"));
    let name = spec.service_account_name.clone().unwrap_or_default();
    spec.service_account = Some(name.clone());
    let account = find(&name).ok_or_else(|| ServiceAccountError::NotFound { namespace: namespace.to_owned(), name })?;
    if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
        spec.image_pull_secrets = account.image_pull_secrets.clone().filter(|secrets| !secrets.is_empty());
    }
    Ok(account)
}

/// Where [`inject_token`] takes the name of its volume from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenVolume {
    /// Five random characters, as in generated names.
    pub suffix: String,
}

/// VO32: mounts the API token in every container that mounts nothing there, unless the pod or its account says
/// `automountServiceAccountToken: false` (the pod wins).
pub fn inject_token(spec: &mut PodSpec, account: &ServiceAccount, volume: &TokenVolume) {
    let wanted = spec.automount_service_account_token.or(account.automount_service_account_token).unwrap_or(true);
    if !wanted {
        return;
    }
    let name = format!("kube-api-access-{}", volume.suffix);
    let mut is_used = false;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        is_used |= mount_token(container, &name);
    }
    if is_used {
        spec.volumes.get_or_insert_default().push(token_volume(name));
    }
}

fn mount_token(container: &mut Container, volume: &str) -> bool {
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|mount| mount.mount_path == TOKEN_PATH) {
        return false;
    }
    mounts.push(VolumeMount {
        name: volume.to_owned(),
        mount_path: TOKEN_PATH.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    true
}

fn token_volume(name: String) -> Volume {
    let token = ServiceAccountTokenProjection {
        expiration_seconds: Some(TOKEN_SECONDS),
        path: "token".to_owned(),
        audience: None,
    };
    let certificate = ConfigMapProjection {
        name: "kube-root-ca.crt".to_owned(),
        items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
        optional: None,
    };
    let namespace = DownwardAPIVolumeFile {
        path: "namespace".to_owned(),
        field_ref: Some(ObjectFieldSelector {
            api_version: Some("v1".to_owned()),
            field_path: "metadata.namespace".to_owned(),
        }),
        ..DownwardAPIVolumeFile::default()
    };
    let sources = vec![
        VolumeProjection { service_account_token: Some(token), ..VolumeProjection::default() },
        VolumeProjection { config_map: Some(certificate), ..VolumeProjection::default() },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection { items: Some(vec![namespace]) }),
            ..VolumeProjection::default()
        },
    ];
    let projected = ProjectedVolumeSource { default_mode: Some(0o644), sources: Some(sources) };
    Volume { name, projected: Some(projected), ..Volume::default() }
}

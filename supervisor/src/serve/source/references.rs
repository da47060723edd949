//! What a static pod may not refer to: objects of the API, which may be there or not when its node starts it (ST5). Pure.

use k8s_openapi::api::core::v1::{Container, PodSpec, Volume, VolumeProjection};

/// A field, and the resource that it refers to.
type Reference = (String, &'static str);

/// The first field that refers to an object.
pub(super) fn first(spec: &PodSpec) -> Option<Reference> {
    let name = spec.service_account_name.as_deref().unwrap_or_default();
    let account = (!name.is_empty()).then(|| ("spec.serviceAccountName".to_owned(), "serviceaccounts"));
    let indexed = |what: &str, index: usize| format!("spec.{what}[{index}]");
    let pull = spec.image_pull_secrets.iter().flatten().enumerate();
    let mut pull = pull.map(|(index, _)| (indexed("imagePullSecrets", index), "secrets"));
    let claims = spec.resource_claims.iter().flatten().enumerate();
    let mut claims = claims.map(|(index, _)| (indexed("resourceClaims", index), "resourceclaims"));
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.map(|(index, own)| (indexed("initContainers", index), own));
    let apps = spec.containers.iter().enumerate().map(|(index, own)| (indexed("containers", index), own));
    let volumes = spec.volumes.iter().flatten().enumerate();
    let mut volumes = volumes.map(|(index, own)| (indexed("volumes", index), own));
    account
        .or_else(|| pull.next())
        .or_else(|| claims.next())
        .or_else(|| init.chain(apps).find_map(|(path, own)| container(&path, own)))
        .or_else(|| volumes.find_map(|(path, own)| volume(&path, own)))
}

fn container(path: &str, own: &Container) -> Option<Reference> {
    let from = own.env_from.iter().flatten().enumerate().find_map(|(index, from)| {
        let path = format!("{path}.envFrom[{index}]");
        let map = from.config_map_ref.as_ref().map(|_| (format!("{path}.configMapRef"), "configmaps"));
        map.or_else(|| from.secret_ref.as_ref().map(|_| (format!("{path}.secretRef"), "secrets")))
    });
    let mut variables = own.env.iter().flatten().enumerate();
    from.or_else(|| {
        variables.find_map(|(index, variable)| {
            let path = format!("{path}.env[{index}].valueFrom");
            let source = variable.value_from.as_ref()?;
            let map = source.config_map_key_ref.as_ref().map(|_| (format!("{path}.configMapKeyRef"), "configmaps"));
            map.or_else(|| source.secret_key_ref.as_ref().map(|_| (format!("{path}.secretKeyRef"), "secrets")))
        })
    })
}

fn volume(path: &str, own: &Volume) -> Option<Reference> {
    let found = [
        (own.config_map.is_some(), "configMap", "configmaps"),
        (own.secret.is_some(), "secret", "secrets"),
        (own.persistent_volume_claim.is_some(), "persistentVolumeClaim", "persistentvolumeclaims"),
        (own.ephemeral.is_some(), "ephemeral", "persistentvolumeclaims"),
        (own.csi.is_some(), "csi", "csidrivers"),
    ];
    let projected = own.projected.as_ref().and_then(|projected| projected.sources.as_ref());
    let mut sources = projected.into_iter().flatten().enumerate();
    first_of(path, found).or_else(|| {
        sources.find_map(|(index, source)| projection(&format!("{path}.projected.sources[{index}]"), source))
    })
}

fn projection(path: &str, own: &VolumeProjection) -> Option<Reference> {
    let found = [
        (own.config_map.is_some(), "configMap", "configmaps"),
        (own.secret.is_some(), "secret", "secrets"),
        (own.service_account_token.is_some(), "serviceAccountToken", "serviceaccounts"),
        (own.cluster_trust_bundle.is_some(), "clusterTrustBundle", "clustertrustbundles"),
        (own.pod_certificate.is_some(), "podCertificate", "podcertificaterequests"),
    ];
    first_of(path, found)
}

/// The first field that is there.
fn first_of(path: &str, fields: [(bool, &str, &'static str); 5]) -> Option<Reference> {
    let found = fields.into_iter().find(|(is_there, ..)| *is_there);
    found.map(|(_, field, resource)| (format!("{path}.{field}"), resource))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn found(mut spec: Value) -> Option<Reference> {
        if spec.get("containers").is_none() {
            spec["containers"] = json!([{"name": "c"}]);
        }
        first(&serde_json::from_value(spec).unwrap())
    }

    /// ST5
    #[test]
    fn every_reference_to_an_object_is_found_with_its_field() {
        let env = |source: Value| json!({"containers": [{"name": "c", "env": [{"name": "E", "valueFrom": source}]}]});
        let projected = |source: Value| json!({"volumes": [{"name": "v", "projected": {"sources": [source]}}]});
        for (spec, field, resource) in [
            (json!({"serviceAccountName": "default"}), "spec.serviceAccountName", "serviceaccounts"),
            (json!({"imagePullSecrets": [{"name": "s"}]}), "spec.imagePullSecrets[0]", "secrets"),
            (
                env(json!({"secretKeyRef": {"name": "s", "key": "k"}})),
                "spec.containers[0].env[0].valueFrom.secretKeyRef",
                "secrets",
            ),
            (
                env(json!({"configMapKeyRef": {"name": "s", "key": "k", "optional": true}})),
                "spec.containers[0].env[0].valueFrom.configMapKeyRef",
                "configmaps",
            ),
            (
                json!({"initContainers": [{"name": "i", "envFrom": [{"prefix": "P"}, {"secretRef": {"name": "s"}}]}]}),
                "spec.initContainers[0].envFrom[1].secretRef",
                "secrets",
            ),
            (
                json!({"volumes": [{"name": "e", "emptyDir": {}}, {"name": "m", "configMap": {"name": "m"}}]}),
                "spec.volumes[1].configMap",
                "configmaps",
            ),
            (
                json!({"volumes": [{"name": "p", "persistentVolumeClaim": {"claimName": "p"}}]}),
                "spec.volumes[0].persistentVolumeClaim",
                "persistentvolumeclaims",
            ),
            (
                projected(json!({"serviceAccountToken": {"path": "t"}})),
                "spec.volumes[0].projected.sources[0].serviceAccountToken",
                "serviceaccounts",
            ),
        ] {
            assert_eq!(found(spec), Some((field.to_owned(), resource)), "{field}");
        }
    }

    #[test]
    fn what_a_node_has_by_itself_may_be_used() {
        let spec = json!({
            "containers": [{"name": "c", "env": [
                {"name": "A", "value": "b"}, {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ]}],
            "volumes": [
                {"name": "e", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/"}},
                {"name": "d", "downwardAPI": {}}, {"name": "i", "image": {"reference": "busybox"}},
                {"name": "p", "projected": {"sources": [{"downwardAPI": {}}]}},
            ],
        });
        assert_eq!(found(spec), None);
    }
}

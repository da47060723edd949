use super::*;
use crate::convert::facts::{NoFiles, NodeFacts, Objects, PodFacts};
use k8s_openapi::api::core::v1::Service;
use std::rc::Rc;

struct Some1;

impl Objects for Some1 {
    fn config_map(&self, _: &str, name: &str) -> Option<Rc<ConfigMap>> {
        let text = r#"{"data":{"a":"1","b":"2"},"binaryData":{"c":"AAE="}}"#;
        (name == "m").then(|| Rc::new(serde_json::from_str(text).unwrap()))
    }
    fn secret(&self, _: &str, name: &str) -> Option<Rc<Secret>> {
        (name == "s").then(|| Rc::new(serde_json::from_str(r#"{"data":{"k":"c2VjcmV0"}}"#).unwrap()))
    }
    fn services(&self, _: &str) -> Vec<Rc<Service>> {
        Vec::new()
    }
}

fn pod(security: &str) -> Pod {
    let text = format!(
        r#"{{"metadata":{{"name":"p","namespace":"ns","labels":{{"b":"2","a":"x\"y"}}}},
        "spec":{{"securityContext":{security},"containers":[
            {{"name":"c","resources":{{"requests":{{"cpu":"250m"}}}}}},{{"name":"d"}}]}}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

/// Path, content, mode, owner.
type Shown = (String, String, u32, Option<u32>);

fn files(volume: &str, security: &str) -> Result<Vec<Shown>, String> {
    let volume: Volume = serde_json::from_str(&format!(r#"{{"name":"v",{volume}}}"#)).unwrap();
    let pod_facts = PodFacts { ips: Vec::new(), hostname: String::new() };
    let node = NodeFacts {
        name: "n".into(),
        ips: Vec::new(),
        allocatable_cpu_milli: 2000,
        allocatable_memory_bytes: 1 << 30,
        allocatable_ephemeral_bytes: 1 << 30,
        cpus: 2,
        nofile: (1, 1),
        apparmor: false,
        capabilities: 0,
    };
    let pod = pod(security);
    let sources = Sources { pod: &pod, pod_facts: &pod_facts, node: &node, objects: &Some1, files: &NoFiles };
    let mut token = |source: &ServiceAccountTokenProjection| {
        let audience = source.audience.clone().unwrap_or_default();
        if audience == "none" { Err("no".to_owned()) } else { Ok(format!("token for {audience}")) }
    };
    let found = of(&volume, sources, &mut token).unwrap().map_err(|error| error.to_string())?;
    let text = |file: &File| String::from_utf8_lossy(&file.content).into_owned();
    Ok(found.into_iter().map(|(path, file)| (path, text(&file), file.mode, file.owner)).collect())
}

fn file(path: &str, content: &str, mode: u32) -> Shown {
    (path.into(), content.into(), mode, None)
}

/// VO22, VO23
#[test]
fn keys_become_files() {
    for (volume, expected) in [
        (
            r#""configMap":{"name":"m"}"#,
            vec![file("a", "1", 0o644), file("b", "2", 0o644), file("c", "\0\u{1}", 0o644)],
        ),
        (
            r#""configMap":{"name":"m","defaultMode":256,"items":[{"key":"a","path":"x/y"},{"key":"b","path":"b","mode":511}]}"#,
            vec![file("b", "2", 0o777), file("x/y", "1", 0o400)],
        ),
        (r#""configMap":{"name":"m","optional":true,"items":[{"key":"no","path":"x"}]}"#, vec![]),
        (r#""configMap":{"name":"no","optional":true}"#, vec![]),
        (r#""secret":{"secretName":"s","defaultMode":256}"#, vec![file("k", "secret", 0o400)]),
        (r#""secret":{"secretName":"no","optional":true}"#, vec![]),
    ] {
        assert_eq!(files(volume, "{}"), Ok(expected), "{volume}");
    }
}

/// VO23, VO24, VO28, VO30
#[test]
fn what_is_missing_has_kubelet_s_words() {
    for (volume, expected) in [
        (r#""configMap":{"name":"no"}"#, r#"configmap "no" not found"#),
        (r#""secret":{"secretName":"no"}"#, r#"secret "no" not found"#),
        (
            r#""configMap":{"name":"m","items":[{"key":"k","path":"x"}]}"#,
            "configmap references non-existent config key: k",
        ),
        (r#""secret":{"secretName":"s","items":[{"key":"x","path":"x"}]}"#, "references non-existent secret key: x"),
        (
            r#""projected":{"sources":[{"configMap":{"name":"x"}},{"secret":{"name":"y"}}]}"#,
            r#"[configmap "x" not found, secret "y" not found]"#,
        ),
        (
            r#""projected":{"sources":[{"clusterTrustBundle":{"path":"x","name":"b"}}]}"#,
            "volume type projected source clusterTrustBundle is not supported",
        ),
        (
            r#""projected":{"sources":[{"serviceAccountToken":{"path":"t","audience":"none"}}]}"#,
            "failed to fetch token: no",
        ),
        (
            r#""downwardAPI":{"items":[{"path":"x","resourceFieldRef":{"containerName":"z","resource":"limits.cpu"}}]}"#,
            "container z not found",
        ),
    ] {
        assert_eq!(files(volume, "{}"), Err(expected.to_owned()), "{volume}");
    }
}

/// VO31
#[test]
fn fields_of_the_pod_become_files() {
    let volume = r#""downwardAPI":{"items":[
        {"path":"labels","fieldRef":{"fieldPath":"metadata.labels"}},
        {"path":"one","mode":256,"fieldRef":{"fieldPath":"metadata.labels['b']"}},
        {"path":"cpu","resourceFieldRef":{"containerName":"c","resource":"requests.cpu","divisor":"1m"}},
        {"path":"limit","resourceFieldRef":{"containerName":"c","resource":"limits.cpu"}}]}"#;
    let expected = vec![
        file("cpu", "250", 0o644),
        file("labels", "a=\"x\\\"y\"\nb=\"2\"", 0o644),
        file("limit", "2", 0o644),
        file("one", "2", 0o400),
    ];
    assert_eq!(files(volume, "{}"), Ok(expected));
}

/// VO28, VO29
#[test]
fn a_projected_volume_merges_its_sources() {
    let volume = r#""projected":{"defaultMode":292,"sources":[
        {"configMap":{"name":"m","items":[{"key":"a","path":"a"}]}},{"secret":{"name":"s"}},
        {"serviceAccountToken":{"path":"token","audience":"vault"}}]}"#;
    for (security, mode, owner) in
        [("{}", 0o444, None), (r#"{"fsGroup":5}"#, 0o600, None), (r#"{"runAsUser":1000}"#, 0o600, Some(1000))]
    {
        let token = ("token".to_owned(), "token for vault".to_owned(), mode, owner);
        let expected = vec![file("a", "1", 0o444), file("k", "secret", 0o444), token];
        assert_eq!(files(volume, security), Ok(expected), "{security}");
    }
}

/// VO29
#[test]
fn a_user_is_common_when_every_container_has_it() {
    for (own, pod_wide, expected) in [
        (["5", "5"], "null", Some(5)),
        (["5", "6"], "null", None),
        (["5", "null"], "null", None),
        (["null", "null"], "7", Some(7)),
        (["5", "null"], "7", None),
    ] {
        let [a, b] = own;
        let text = format!(
            r#"{{"spec":{{"securityContext":{{"runAsUser":{pod_wide}}},"initContainers":[{{"name":"a","securityContext":{{"runAsUser":{a}}}}}],
            "containers":[{{"name":"b","securityContext":{{"runAsUser":{b}}}}}]}}}}"#
        );
        assert_eq!(common_user(&serde_json::from_str(&text).unwrap()), expected, "{own:?} {pod_wide}");
    }
}

#[test]
fn a_volume_knows_what_it_is_made_from() {
    let volume = |text: &str| serde_json::from_str::<Volume>(&format!(r#"{{"name":"v",{text}}}"#)).unwrap();
    let projected =
        r#""projected":{"sources":[{"configMap":{"name":"x"}},{"secret":{"name":"y"}},{"downwardAPI":{}}]}"#;
    for (text, kind, name, expected) in [
        (r#""configMap":{"name":"x"}"#, Kind::ConfigMap, "x", true),
        (r#""configMap":{"name":"x"}"#, Kind::ConfigMap, "y", false),
        (r#""configMap":{"name":"x"}"#, Kind::Secret, "x", false),
        (r#""secret":{"secretName":"x"}"#, Kind::Secret, "x", true),
        (r#""emptyDir":{}"#, Kind::Secret, "x", false),
        (projected, Kind::ConfigMap, "x", true),
        (projected, Kind::Secret, "y", true),
        (projected, Kind::Pod, "", true),
        (r#""downwardAPI":{}"#, Kind::Pod, "", true),
    ] {
        assert_eq!(refers_to(&volume(text), kind, name), expected, "{text} {kind:?} {name}");
    }
}

use super::*;
use crate::admission::{pss, validate};
use crate::manifest;
use k8s_openapi::api::core::v1::{Pod, PodSpec, ServiceAccount};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

const MANIFESTS: [(&str, &str); 12] = [
    ("01", include_str!("../../../../tests/manifests/01-shared-volume.yaml")),
    ("02", include_str!("../../../../tests/manifests/02-hostpath-counter.yaml")),
    ("03", include_str!("../../../../tests/manifests/03-network-demo.yaml")),
    ("04", include_str!("../../../../tests/manifests/04-full-pod.yaml")),
    ("05", include_str!("../../../../tests/manifests/05-init-and-sidecars.yaml")),
    ("06", include_str!("../../../../tests/manifests/06-volumes.yaml")),
    ("07", include_str!("../../../../tests/manifests/07-downward-api.yaml")),
    ("08", include_str!("../../../../tests/manifests/08-restricted-namespace.yaml")),
    ("09", include_str!("../../../../tests/manifests/09-extended-resources.yaml")),
    ("10", include_str!("../../../../tests/manifests/10-wait-for-service.yaml")),
    ("11", include_str!("../../../../tests/manifests/11-shared-pid.yaml")),
    ("12", include_str!("../../../../tests/manifests/12-oom.yaml")),
];

fn spec(rest: &str) -> PodSpec {
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  {rest}");
    let mut object = manifest::decode("t", &text).unwrap().remove(0).object;
    super::object(&mut object);
    let Object::Pod(pod) = object else { panic!("not a Pod") };
    pod.spec.unwrap()
}

#[test]
fn every_manifest_decodes_defaults_and_validates_and_defaulting_is_idempotent() {
    for (name, text) in MANIFESTS {
        let manifests = manifest::decode(name, text).unwrap();
        assert!(!manifests.is_empty());
        for mut manifest in manifests {
            super::object(&mut manifest.object);
            if let Object::Pod(pod) = &mut manifest.object {
                let account = ServiceAccount::default();
                set_service_account(pod.spec.as_mut().unwrap(), "default", |_| Some(&account)).unwrap();
            }
            assert_eq!(validate::validate(&manifest.object), Ok(()), "{name}");
            let once = manifest.object.clone();
            super::object(&mut manifest.object);
            assert_eq!(manifest.object, once, "{name}");
            if let Object::Pod(pod) = &manifest.object {
                let json = serde_json::to_string(pod).unwrap();
                assert_eq!(serde_json::from_str::<Pod>(&json).unwrap(), **pod, "{name}");
                assert!(validate::warnings(pod).is_empty(), "{name}");
                assert_eq!(pss::evaluate(pss::Level::Privileged, pss::Version::Latest, pod), []);
            }
        }
    }
}

#[test]
fn a_full_pod_becomes_what_a_cluster_stored() {
    // Recorded from a real API server; without the legacy `default-token` volume nothing else differs.
    let recorded = include_str!("recorded-full-pod.yaml");
    let recorded = serde_json::to_value(pod_of(recorded).spec.unwrap()).unwrap();
    let mut pod = pod_of(MANIFESTS[3].1);
    let spec = pod.spec.as_mut().unwrap();
    let account = ServiceAccount::default();
    set_service_account(spec, "default", |_| Some(&account)).unwrap();
    let mut class = PriorityClass { value: Some(1_000_000), ..PriorityClass::default() };
    class.metadata.name = Some("high-priority".to_owned());
    set_priority(spec, &[class]).unwrap();
    add_tolerations(spec);
    spec.node_name = Some("node1".to_owned());
    super::pod(&mut pod);
    let ours = serde_json::to_value(pod.spec.unwrap()).unwrap();
    let newer = ["hostIPC", "hostNetwork", "hostPID"];
    for (key, value) in ours.as_object().unwrap() {
        if !newer.contains(&key.as_str()) {
            assert_eq!(Some(value), recorded.get(key), "{key}");
        }
    }
    for key in recorded.as_object().unwrap().keys() {
        assert!(ours.get(key).is_some(), "{key}");
    }
}

/// The last Pod of a manifest.
fn pod_of(text: &str) -> Pod {
    let manifests = manifest::decode("t", text).unwrap().into_iter().rev();
    let mut pods =
        manifests.filter_map(|manifest| if let Object::Pod(pod) = manifest.object { Some(*pod) } else { None });
    pods.next().unwrap()
}

#[test]
fn images_without_a_fixed_tag_are_always_pulled() {
    // IP1
    for (image, policy) in [
        ("busybox", "Always"),
        ("busybox:latest", "Always"),
        ("busybox:1.36", "IfNotPresent"),
        ("r:5000/busybox", "Always"),
        ("r:5000/busybox:1", "IfNotPresent"),
        ("busybox@sha256:00", "IfNotPresent"),
        ("busybox:latest@sha256:00", "IfNotPresent"),
    ] {
        assert_eq!(image_pull_policy(image), policy, "{image}");
    }
}

#[test]
fn a_limit_is_also_the_request_and_both_are_whole_milli_units() {
    // RL1, QT3, QT4
    let spec = spec(
        "initContainers: [{name: i, image: b, resources: {limits: {memory: 1024Mi}}}]\n  containers: [{name: c, image: b, resources: {limits: {cpu: 0.5, memory: 1Gi}, requests: {cpu: 0.1m}}}]",
    );
    let shown = |value: &k8s_openapi::api::core::v1::Container| serde_json::to_string(&value.resources).unwrap();
    assert_eq!(
        shown(&spec.containers[0]),
        r#"{"limits":{"cpu":"500m","memory":"1Gi"},"requests":{"cpu":"1m","memory":"1Gi"}}"#
    );
    assert_eq!(shown(&spec.init_containers.unwrap()[0]), r#"{"limits":{"memory":"1Gi"},"requests":{"memory":"1Gi"}}"#);
}

#[test]
fn the_pods_request_is_what_its_containers_request_else_its_limit() {
    // PL2, ER2
    let spec = spec(
        "resources: {limits: {cpu: 1, memory: 1Gi}}\n  initContainers: [{name: s, image: b, restartPolicy: Always, resources: {requests: {cpu: 100m}}}, {name: i, image: b, resources: {requests: {cpu: 500m}}}]\n  containers: [{name: c, image: b, resources: {requests: {cpu: 200m}}}]",
    );
    let requests = serde_json::to_string(&spec.resources.unwrap().requests).unwrap();
    assert_eq!(requests, r#"{"cpu":"600m","memory":"1Gi"}"#);
}

#[test]
fn probes_ports_and_volumes_get_their_defaults() {
    // PR1, VO3, VO22
    let spec = spec(
        "hostNetwork: true\n  volumes: [{name: v}, {name: s, secret: {secretName: s}}, {name: i, image: {reference: r}}, {name: h, hostPath: {path: /}}]\n  containers: [{name: c, image: b, ports: [{containerPort: 80}], livenessProbe: {httpGet: {port: 80}, timeoutSeconds: 0, periodSeconds: 7}, startupProbe: {grpc: {port: 1}}}]",
    );
    let json = serde_json::to_value(&spec).unwrap();
    let container = &json["containers"][0];
    assert_eq!(
        container["livenessProbe"].to_string(),
        r#"{"failureThreshold":3,"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"periodSeconds":7,"successThreshold":1,"timeoutSeconds":1}"#
    );
    assert_eq!(container["startupProbe"]["grpc"]["service"], Value::from(""));
    assert_eq!(container["ports"][0].to_string(), r#"{"containerPort":80,"hostPort":80,"protocol":"TCP"}"#);
    assert_eq!(
        json["volumes"].to_string(),
        r#"[{"emptyDir":{},"name":"v"},{"name":"s","secret":{"defaultMode":420,"secretName":"s"}},{"image":{"pullPolicy":"Always","reference":"r"},"name":"i"},{"hostPath":{"path":"/","type":""},"name":"h"}]"#
    );
}

#[test]
fn priority_comes_from_the_class() {
    // VA15
    let mut one = spec("containers: []");
    set_priority(&mut one, &[]).unwrap();
    assert_eq!((one.priority, one.preemption_policy.as_deref()), (Some(0), Some("PreemptLowerPriority")));
    let mut critical = spec("priorityClassName: system-node-critical\n  containers: []");
    set_priority(&mut critical, &[]).unwrap();
    assert_eq!(critical.priority, Some(2_000_001_000));
    let mut unknown = spec("priorityClassName: none\n  containers: []");
    assert_eq!(set_priority(&mut unknown, &[]).unwrap_err().to_string(), "no PriorityClass with name none was found");
    let mut given = spec("priority: 5\n  containers: []");
    assert!(set_priority(&mut given, &[]).is_err());
}

#[test]
fn the_service_account_is_looked_up_and_its_token_mounted() {
    // VA14, VO32
    let volume = TokenVolume { suffix: "abcde".to_owned() };
    let mut one = spec(
        "containers: [{name: a, image: b}, {name: c, image: b, volumeMounts: [{name: x, mountPath: /var/run/secrets/kubernetes.io/serviceaccount}]}]",
    );
    let account = ServiceAccount::default();
    set_service_account(&mut one, "ns", |name| (name == "default").then_some(&account)).unwrap();
    assert_eq!(
        (one.service_account_name.as_deref(), one.service_account.as_deref()),
        (Some("default"), Some("default"))
    );
    inject_token(&mut one, &account, &volume);
    let mounts: Vec<usize> = one.containers.iter().map(|c| c.volume_mounts.as_ref().unwrap().len()).collect();
    assert_eq!(mounts, [1, 1]);
    assert_eq!(one.containers[0].volume_mounts.as_ref().unwrap()[0].name, "kube-api-access-abcde");
    let projected = one.volumes.unwrap().remove(0).projected.unwrap();
    assert_eq!((projected.default_mode, projected.sources.unwrap().len()), (Some(0o644), 3));

    let mut none = spec("automountServiceAccountToken: false\n  containers: [{name: a, image: b}]");
    inject_token(&mut none, &account, &volume);
    assert_eq!((&none.volumes, &none.containers[0].volume_mounts), (&None, &None));
    let error = set_service_account(&mut none, "ns", |_| None).unwrap_err();
    assert_eq!(error.to_string(), "error looking up service account ns/default: serviceaccount \"default\" not found");
}

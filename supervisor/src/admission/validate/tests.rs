use super::*;
use crate::admission::defaults;
use crate::manifest;

/// Decodes and defaults one object.
fn object(text: &str) -> Object {
    let mut object = manifest::decode("t", text).unwrap().remove(0).object;
    defaults::object(&mut object);
    object
}

fn pod(rest: &str) -> Pod {
    let Object::Pod(pod) = object(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: bad}}\nspec:\n  {rest}"))
    else {
        panic!("not a Pod")
    };
    *pod
}

/// A pod of one container with these fields.
fn with(fields: &str) -> Pod {
    pod(&format!("containers: [{{name: c, image: busybox, {fields}}}]"))
}

fn text(result: Result<(), Invalid>) -> String {
    result.err().map(|invalid| invalid.to_string()).unwrap_or_default()
}

#[test]
fn pods_are_refused_word_for_word() {
    // The first block is what a cluster was recorded to answer.
    let one = "containers: [{name: c, image: busybox}]";
    let table = [
        (
            pod("containers: [{name: c, image: b}, {name: c, image: b}]"),
            "spec.containers[1].name: Duplicate value: \"c\"",
        ),
        (pod("containers: [{name: c}]"), "spec.containers[0].image: Required value"),
        (pod("containers: []"), "spec.containers: Required value"),
        (
            pod(&format!("restartPolicy: Sometimes\n  {one}")),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (with("volumeMounts: [{name: v, mountPath: /v}]"), "spec.containers[0].volumeMounts[0].name: Not found: \"v\""),
        (
            with("livenessProbe: {exec: {command: [a]}, tcpSocket: {port: 70000}}"),
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            pod(
                "containers: [{name: c, image: b, imagePullPolicy: Maybe, ports: [{containerPort: 70000, protocol: ICMP}]}]\n  dnsPolicy: Never\n  activeDeadlineSeconds: -1",
            ),
            "[spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive, spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\", spec.containers[0].imagePullPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"IfNotPresent\", \"Never\", spec.dnsPolicy: Unsupported value: \"Never\": supported values: \"ClusterFirstWithHostNet\", \"ClusterFirst\", \"Default\", \"None\", spec.activeDeadlineSeconds: Invalid value: -1: must be between 1 and 2147483647, inclusive]",
        ),
        // RL2-RL4, PL1, PL3, QT2, QT6
        (
            with("resources: {requests: {cpu: 2}, limits: {cpu: 1}}"),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            with("resources: {limits: {memory: 12XB}}"),
            "[spec.containers[0].resources.limits[memory]: Invalid value: \"12XB\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$', spec.containers[0].resources.requests[memory]: Invalid value: \"12XB\": quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$']",
        ),
        (
            with("resources: {requests: {cpu: -1}}"),
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            with("resources: {requests: {disk: 1}}"),
            "spec.containers[0].resources.requests[disk]: Invalid value: \"disk\": must be a standard resource for containers",
        ),
        (
            with("resources: {requests: {a.b/gpu: 1}}"),
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
        ),
        (
            with("resources: {limits: {a.b/gpu: 2}, requests: {a.b/gpu: 1}}"),
            "spec.containers[0].resources.requests: Invalid value: \"1\": must be equal to a.b/gpu limit of 2",
        ),
        (
            with("resources: {limits: {hugepages-2Mi: 2Mi}}"),
            "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
        ),
        (
            pod(
                "resources: {limits: {cpu: 1}, requests: {cpu: 1}}\n  containers: [{name: c, image: b, resources: {requests: {cpu: 2}}}]",
            ),
            "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
        ),
        (
            pod(
                "resources: {limits: {memory: 1Gi}}\n  containers: [{name: c, image: b, resources: {limits: {memory: 2Gi}, requests: {memory: 1Mi}}}]",
            ),
            "spec.containers[0].resources.limits[memory]: Invalid value: \"2Gi\": must be less than or equal to pod limits of 1Gi",
        ),
        // VA3, VA4, VA6-VA9, RR2, RC5
        (
            pod("containers: [{name: A_b, image: ' b'}]"),
            "[spec.containers[0].name: Invalid value: \"A_b\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?'), spec.containers[0].image: Invalid value: \" b\": must not have leading or trailing whitespace]",
        ),
        (
            with("lifecycle: {preStop: {sleep: {seconds: 31}}}"),
            "spec.containers[0].lifecycle.preStop.sleep.seconds: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
        ),
        (
            with("lifecycle: {preStop: {}}"),
            "spec.containers[0].lifecycle.preStop: Required value: must specify a handler type",
        ),
        (
            with("readinessProbe: {tcpSocket: {port: 1}, terminationGracePeriodSeconds: 1}"),
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
        ),
        (
            with("livenessProbe: {tcpSocket: {port: 1}, successThreshold: 2}"),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            pod(
                "initContainers: [{name: i, image: b, livenessProbe: {tcpSocket: {port: 1}}}]\n  containers: [{name: c, image: b}]",
            ),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            pod(&format!("ephemeralContainers: [{{name: e, image: b}}]\n  {one}")),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            pod(&format!("schedulingGates: [{{name: g}}]\n  nodeName: node\n  {one}")),
            "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
        ),
        (
            with("restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [1]}}]"),
            "spec.containers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
        ),
        (
            pod(
                "restartPolicy: Never\n  containers: [{name: c, image: b, resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]}]",
            ),
            "spec.containers[0].resizePolicy[0]: Invalid value: \"RestartContainer\": must be 'NotRequired' when pod `restartPolicy` is 'Never'",
        ),
        // RZ3
        (
            pod(&format!(
                "initContainers: [{{name: i, image: b, resizePolicy: [{{resourceName: cpu, restartPolicy: RestartContainer}}]}}]\n  {one}"
            )),
            "spec.initContainers[0].resizePolicy[0]: Invalid value: \"RestartContainer\": must be 'NotRequired' for init containers without restartPolicy=Always",
        ),
        // EN4, EN10
        (
            with("env: [{name: 'a=b', value: x}]"),
            "spec.containers[0].env[0].name: Invalid value: \"a=b\": a valid environment variable name must consist only of printable ASCII characters other than '='",
        ),
        (
            with("env: [{name: a, valueFrom: {}}]"),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        (
            with("env: [{name: a, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]"),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            with("env: [{name: a, valueFrom: {fieldRef: {fieldPath: status.phase}}}]"),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
        ),
        (
            with("env: [{name: a, valueFrom: {fieldRef: {fieldPath: spec.x}}}]"),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x\": error converting fieldPath: field label not supported: spec.x",
        ),
        // VO3, VO16, VO22, VO28, VO40, VO45, VO46
        (
            pod(&format!("volumes: [{{name: v, emptyDir: {{}}, hostPath: {{path: /a/../b}}}}]\n  {one}")),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            pod(&format!("volumes: [{{name: v, hostPath: {{path: /a/../b}}}}]\n  {one}")),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            pod(&format!("volumes: [{{name: v, secret: {{secretName: s, defaultMode: 512}}}}]\n  {one}")),
            "spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            pod(&format!(
                "serviceAccountName: s\n  volumes: [{{name: v, projected: {{sources: [{{configMap: {{name: m, items: [{{key: a, path: x}}]}}}}, {{serviceAccountToken: {{path: x}}}}]}}}}]\n  {one}"
            )),
            "spec.volumes[0].projected.sources[1]: Invalid value: \"\": conflicting duplicate paths",
        ),
        (
            pod(
                "volumes: [{name: v}]\n  containers: [{name: c, image: b, volumeMounts: [{name: v, mountPath: /a, subPath: ../x}, {name: v, mountPath: /a}]}]",
            ),
            "[spec.containers[0].volumeMounts[0].subPath: Invalid value: \"../x\": must not contain '..', spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique]",
        ),
        (
            pod(
                "volumes: [{name: v}]\n  containers: [{name: c, image: b, volumeMounts: [{name: v, mountPath: /a, mountPropagation: Bidirectional, recursiveReadOnly: Enabled}]}]",
            ),
            "[spec.containers[0].volumeMounts[0].mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers, spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true, spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified]",
        ),
        // 8.3-8.5, HN4
        (
            pod(&format!("dnsPolicy: None\n  {one}")),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            pod(&format!("shareProcessNamespace: true\n  hostPID: true\n  {one}")),
            "spec.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
        ),
        (
            with("ports: [{containerPort: 80, hostPort: 8080}, {containerPort: 81, hostPort: 8080}]"),
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//8080\"",
        ),
        (
            pod("hostNetwork: true\n  containers: [{name: c, image: b, ports: [{containerPort: 80, hostPort: 81}]}]"),
            "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
        ),
        (
            pod(&format!(
                "hostNetwork: true\n  securityContext: {{sysctls: [{{name: net.core.x, value: '1'}}]}}\n  {one}"
            )),
            "spec.securityContext.sysctls[0].name: Invalid value: \"net.core.x\": may not be specified when 'hostNetwork' is true",
        ),
        // US4, PV5
        (
            pod(&format!("securityContext: {{runAsUser: -1}}\n  {one}")),
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            with("securityContext: {procMount: Unmasked}"),
            "spec.containers[0].securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`",
        ),
        (
            with("securityContext: {privileged: true, allowPrivilegeEscalation: false}"),
            "spec.containers[0].securityContext: Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ),
    ];
    for (pod, expected) in table {
        assert_eq!(text(validate_pod(&pod)), expected);
    }
}

#[test]
fn metadata_is_refused_word_for_word() {
    let mut bad = with("");
    bad.metadata.name = Some("Bad_".to_owned());
    bad.spec.as_mut().unwrap().containers[0].image = None;
    let invalid = validate_pod(&bad).unwrap_err();
    assert_eq!(
        invalid.message("Pod", "Bad_"),
        "Pod \"Bad_\" is invalid: [metadata.name: Invalid value: \"Bad_\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*'), spec.containers[0].image: Required value]"
    );
    assert_eq!(invalid.causes()[1].field, "spec.containers[0].image");
    let mut bad = with("");
    bad.metadata.labels = Some([("a".to_owned(), "x y".to_owned())].into());
    assert_eq!(
        text(validate_pod(&bad)),
        "metadata.labels: Invalid value: \"x y\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
    );
    let mut bad = with("");
    bad.metadata.annotations = Some([("a".to_owned(), "x".repeat(ANNOTATIONS_MAX))].into());
    assert_eq!(text(validate_pod(&bad)), "metadata.annotations: Too long: may not be more than 262144 bytes");
}

#[test]
fn updates_may_change_what_they_may() {
    // UP2-UP5, DL2
    let old = with("");
    let change = |edit: fn(&mut k8s_openapi::api::core::v1::PodSpec)| {
        let mut new = old.clone();
        edit(new.spec.as_mut().unwrap());
        text(validate_update(&old, &new))
    };
    assert_eq!(change(|spec| spec.containers[0].image = Some("other".to_owned())), "");
    assert_eq!(change(|spec| spec.active_deadline_seconds = Some(5)), "");
    assert_eq!(
        change(|spec| spec.containers[0].command = Some(vec!["x".to_owned()])),
        "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n+ spec.containers[0].command: [\"x\"]\n"
    );
    assert!(
        change(|spec| spec.restart_policy = Some("Never".to_owned()))
            .ends_with("- spec.restartPolicy: \"Always\"\n+ spec.restartPolicy: \"Never\"\n")
    );
    assert_eq!(
        change(|spec| spec.containers.push(Default::default())),
        "spec.containers: Forbidden: pod updates may not add or remove containers"
    );
    let mut deadline = old.clone();
    deadline.spec.as_mut().unwrap().active_deadline_seconds = Some(5);
    assert_eq!(
        text(validate_update(&deadline, &old)),
        "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"
    );
    let mut tolerant = old.clone();
    defaults::add_tolerations(tolerant.spec.as_mut().unwrap());
    assert_eq!(text(validate_update(&old, &tolerant)), "");
    assert_eq!(
        text(validate_update(&tolerant, &old)),
        "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
    );
    let mut renamed = old.clone();
    renamed.metadata.name = Some("other".to_owned());
    assert_eq!(text(validate_update(&old, &renamed)), "metadata.name: Invalid value: \"other\": field is immutable");
}

#[test]
fn ephemeral_containers_are_added_and_stay() {
    // VA8, EP1
    let one = with("");
    let ephemeral = |fields: &str| {
        pod(&format!(
            "containers: [{{name: c, image: busybox}}]\n  ephemeralContainers: [{{name: e, image: b, {fields}}}]"
        ))
    };
    assert_eq!(text(validate_ephemeral_containers(&one, &ephemeral("targetContainerName: c"))), "");
    assert_eq!(
        text(validate_ephemeral_containers(&one, &ephemeral("targetContainerName: x"))),
        "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\""
    );
    assert_eq!(
        text(validate_ephemeral_containers(&one, &ephemeral("ports: [{containerPort: 1, protocol: TCP}]"))),
        "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container"
    );
    assert!(
        text(validate_ephemeral_containers(&ephemeral(""), &one))
            .contains("existing ephemeral containers \"e\" may not be removed")
    );
}

#[test]
fn warnings_do_not_refuse() {
    // VA13, QT5, HN6
    let mut pod = pod(
        "terminationGracePeriodSeconds: -1\n  imagePullSecrets: [{name: a}, {name: a}]\n  containers: [{name: c, image: b, env: [{name: A}, {name: A}], ports: [{containerPort: 80}, {containerPort: 80}], resources: {limits: {memory: 100.5}}}]",
    );
    pod.metadata.name = Some("a.b".to_owned());
    assert_eq!(text(validate_pod(&pod)), "");
    let warnings = warnings(&pod);
    for expected in [
        "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
        "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        "spec.imagePullSecrets[1].name: duplicate name \"a\"",
        "spec.containers[0].resources.limits[memory]: fractional byte value \"100500m\" is invalid, must be an integer",
    ] {
        assert!(warnings.iter().any(|warning| warning == expected), "{expected}\n{warnings:#?}");
    }
    assert!(warnings[0].starts_with("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [a lowercase"));
}

#[test]
fn other_objects_are_refused_word_for_word() {
    let table = [
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {'a/b': x}",
            "data[a/b]: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ntype: kubernetes.io/dockerconfigjson",
            "data[.dockerconfigjson]: Required value",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, labels: {pod-security.kubernetes.io/enforce: x}}",
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, baseline, restricted",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, namespace: b}",
            "metadata.namespace: Forbidden: not allowed on this type",
        ),
        (
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: a}\nspec: {accessModes: [ReadWriteOnce]}",
            "spec.resources[storage]: Required value",
        ),
        (
            "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: a}\nvalue: 1000000001",
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}, {port: 80, name: a}]}",
            "[spec.ports[0].name: Required value, spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}]",
        ),
    ];
    for (source, expected) in table {
        assert_eq!(text(validate(&object(source))), expected, "{source}");
    }
}

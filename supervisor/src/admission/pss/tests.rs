use super::*;
use crate::manifest::{self, Object};

fn pod(text: &str) -> Pod {
    let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: nginx}}\n{text}");
    let Object::Pod(pod) = manifest::decode("t", &text).unwrap().remove(0).object else { panic!("not a Pod") };
    *pod
}

fn shown(level: Level, minor: u32, text: &str) -> String {
    details(&evaluate(level, Version::Minor(minor), &pod(text)))
}

#[test]
fn the_golden_message_is_composed() {
    // PS6
    let plain = pod("spec: {containers: [{name: nginx, image: nginx}]}");
    let violations = evaluate(Level::Restricted, Version::Latest, &plain);
    assert_eq!(
        forbidden("nginx", Level::Restricted, Version::Latest, &violations),
        "pods \"nginx\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"nginx\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (container \"nginx\" must set securityContext.capabilities.drop=[\"ALL\"]), runAsNonRoot != true (pod or container \"nginx\" must set securityContext.runAsNonRoot=true), seccompProfile (pod or container \"nginx\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    assert!(
        would_violate(Level::Restricted, Version::Latest, &violations)
            .starts_with("would violate PodSecurity \"restricted:latest\": allow")
    );
    assert_eq!(evaluate(Level::Baseline, Version::Latest, &plain), []);
    assert_eq!(evaluate(Level::Privileged, Version::Latest, &plain), []);
}

#[test]
fn the_hardened_pod_passes_restricted() {
    // PS7
    let text = include_str!("../../../../tests/manifests/08-restricted-namespace.yaml");
    for manifest in manifest::decode("t", text).unwrap() {
        if let Object::Pod(mut pod) = manifest.object {
            assert_eq!(evaluate(Level::Restricted, Version::Latest, &pod), []);
            let container = &mut pod.spec.as_mut().unwrap().containers[0];
            let capabilities = container.security_context.as_mut().unwrap().capabilities.as_mut().unwrap();
            capabilities.add = Some(vec!["NET_BIND_SERVICE".to_owned()]);
            assert_eq!(evaluate(Level::Restricted, Version::Latest, &pod), []);
        }
    }
}

#[test]
fn every_baseline_check_has_its_text() {
    let table = [
        (
            "spec: {securityContext: {appArmorProfile: {type: Unconfined}}, containers: [{name: a, securityContext: {appArmorProfile: {type: Unconfined}}}]}",
            "forbidden AppArmor profile (pod and container \"a\" must not set AppArmor profile type to \"Unconfined\")",
        ),
        (
            "spec: {containers: [{name: a, securityContext: {capabilities: {add: [SYS_ADMIN, CHOWN]}}}, {name: b, securityContext: {capabilities: {add: [NET_RAW]}}}]}",
            "non-default capabilities (containers \"a\", \"b\" must not include \"NET_RAW\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            "spec: {hostNetwork: true, hostIPC: true, containers: [{name: a}]}",
            "host namespaces (hostNetwork=true, hostIPC=true)",
        ),
        (
            "spec: {volumes: [{name: v, hostPath: {path: /}}], containers: [{name: a}]}",
            "hostPath volumes (volume \"v\")",
        ),
        (
            "spec: {containers: [{name: a, ports: [{containerPort: 80, hostPort: 80}]}]}",
            "hostPort (container \"a\" uses hostPort 80)",
        ),
        (
            "spec: {containers: [{name: a, ports: [{containerPort: 80, hostPort: 80}]}, {name: b, ports: [{containerPort: 80, hostPort: 81}]}]}",
            "hostPort (containers \"a\", \"b\" use hostPorts 80, 81)",
        ),
        (
            "spec: {containers: [{name: a, livenessProbe: {httpGet: {port: 80, host: 1.2.3.4}}}]}",
            "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"1.2.3.4\")",
        ),
        (
            "spec: {initContainers: [{name: i, securityContext: {privileged: true}}], containers: [{name: a}]}",
            "privileged (container \"i\" must not set securityContext.privileged=true)",
        ),
        (
            "spec: {containers: [{name: a, securityContext: {procMount: Unmasked}}]}",
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            "spec: {securityContext: {seLinuxOptions: {type: x}}, containers: [{name: a, securityContext: {seLinuxOptions: {user: u, role: r}}}]}",
            "seLinuxOptions (pod and container \"a\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set; role may not be set)",
        ),
        (
            "spec: {securityContext: {seccompProfile: {type: Unconfined}}, containers: [{name: a, securityContext: {seccompProfile: {type: Unconfined}}}]}",
            "seccompProfile (pod and container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            "spec: {securityContext: {sysctls: [{name: kernel.msgmax, value: '1'}, {name: net.ipv4.tcp_rmem, value: '1'}, {name: net.core.x, value: '1'}]}, containers: [{name: a}]}",
            "forbidden sysctls (kernel.msgmax, net.core.x)",
        ),
        (
            "spec: {securityContext: {windowsOptions: {hostProcess: true}}, containers: [{name: a}]}",
            "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            "spec: {containers: [{name: a}], ephemeralContainers: [{name: e, securityContext: {privileged: true}}]}",
            "privileged (container \"e\" must not set securityContext.privileged=true)",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(shown(Level::Baseline, 36, text), expected, "{text}");
    }
}

/// A container that restricted accepts, with more fields.
fn hardened(more: &str) -> String {
    format!(
        "{{name: a, securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}, runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}{more}}}}}"
    )
}

#[test]
fn every_restricted_check_has_its_text_and_replaces_the_baseline_one() {
    let base = hardened("");
    let table = [
        (format!("spec: {{containers: [{base}]}}"), ""),
        (
            format!(
                "spec: {{volumes: [{{name: v, hostPath: {{path: /}}}}, {{name: w, nfs: {{server: s, path: /}}}}], containers: [{base}]}}"
            ),
            "restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\")",
        ),
        (
            format!("spec: {{containers: [{}]}}", hardened(", runAsUser: 0")),
            "runAsUser=0 (container \"a\" must not set runAsUser=0)",
        ),
        (format!("spec: {{hostUsers: false, containers: [{}]}}", hardened(", runAsUser: 0")), ""),
        (
            format!("spec: {{hostUsers: false, containers: [{}]}}", hardened(", procMount: Unmasked")),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (format!("spec: {{securityContext: {{runAsNonRoot: false}}, containers: [{base}]}}"), ""),
        (
            format!("spec: {{containers: [{}]}}", base.replace("runAsNonRoot: true", "runAsNonRoot: false")),
            "runAsNonRoot != true (container \"a\" must not set securityContext.runAsNonRoot=false)",
        ),
        (
            format!("spec: {{containers: [{}]}}", base.replace("RuntimeDefault", "Unconfined")),
            "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            format!("spec: {{containers: [{}]}}", base.replace("drop: [ALL]", "drop: [KILL], add: [CHOWN]")),
            "unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]; container \"a\" must not include \"CHOWN\" in securityContext.capabilities.add)",
        ),
        (
            format!("spec: {{hostPID: true, containers: [{}]}}", base.replace("false", "true")),
            "host namespaces (hostPID=true), allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false)",
        ),
    ];
    for (text, expected) in table {
        assert_eq!(shown(Level::Restricted, 36, &text), expected, "{text}");
    }
}

#[test]
fn checks_came_with_their_versions() {
    let sysctl = "spec: {securityContext: {sysctls: [{name: net.ipv4.tcp_rmem, value: '1'}]}, containers: [{name: a}]}";
    assert_eq!(shown(Level::Baseline, 31, sysctl), "forbidden sysctls (net.ipv4.tcp_rmem)");
    assert_eq!(shown(Level::Baseline, 32, sysctl), "");
    let host = "spec: {containers: [{name: a, lifecycle: {preStop: {httpGet: {port: 80, host: h}}}}]}";
    assert_eq!(shown(Level::Baseline, 33, host), "");
    assert_ne!(shown(Level::Baseline, 34, host), "");
    let engine = "spec: {containers: [{name: a, securityContext: {seLinuxOptions: {type: container_engine_t}}}]}";
    assert_ne!(shown(Level::Baseline, 30, engine), "");
    assert_eq!(shown(Level::Baseline, 31, engine), "");
    let users = "spec: {hostUsers: false, containers: [{name: a, securityContext: {procMount: Unmasked}}]}";
    assert_ne!(shown(Level::Baseline, 34, users), "");
    assert_eq!(shown(Level::Baseline, 35, users), "");
}

#[test]
fn labels_make_the_policy() {
    let policy = |labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| (format!("pod-security.kubernetes.io/{k}"), (*v).to_owned())).collect();
        let Policy { enforce, audit, warn } = Policy::of_labels(&labels);
        [enforce, audit, warn].map(|rule| format!("{}:{}", rule.level, rule.version))
    };
    assert_eq!(policy(&[]), ["privileged:latest", "privileged:latest", "privileged:latest"]);
    assert_eq!(
        policy(&[("enforce", "baseline"), ("enforce-version", "v1.30")]),
        ["baseline:v1.30", "privileged:latest", "baseline:v1.30"]
    );
    assert_eq!(
        policy(&[("enforce", "x"), ("audit", "x"), ("warn", "x")]),
        ["restricted:latest", "privileged:latest", "privileged:latest"]
    );
    for (text, expected) in [
        ("v1.3", Some(Version::Minor(3))),
        ("latest", Some(Version::Latest)),
        ("1.3", None),
        ("v2.1", None),
        ("v1.x", None),
    ] {
        assert_eq!(Version::parse(text), expected);
    }
}

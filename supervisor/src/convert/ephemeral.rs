//! An ephemeral container is a container without ports, probes, hooks and resources (EP1).

use k8s_openapi::api::core::v1::{Container, EphemeralContainer};

/// What a launch is planned from.
pub fn container(own: &EphemeralContainer) -> Container {
    let own = own.clone();
    Container {
        args: own.args,
        command: own.command,
        env: own.env,
        env_from: own.env_from,
        image: own.image,
        image_pull_policy: own.image_pull_policy,
        name: own.name,
        security_context: own.security_context,
        stdin: own.stdin,
        stdin_once: own.stdin_once,
        termination_message_path: own.termination_message_path,
        termination_message_policy: own.termination_message_policy,
        tty: own.tty,
        volume_devices: own.volume_devices,
        volume_mounts: own.volume_mounts,
        working_dir: own.working_dir,
        ..Container::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EP1, EP3: what `kubectl debug` writes is all there.
    #[test]
    fn nothing_that_an_ephemeral_container_may_have_is_lost() {
        let written = r#"{"name":"d","image":"busybox","imagePullPolicy":"Always","command":["sh"],"args":["-c"],
            "env":[{"name":"A"}],"envFrom":[],"stdin":true,"stdinOnce":true,"tty":true,"workingDir":"/","volumeMounts":[],
            "volumeDevices":[],"securityContext":{"capabilities":{"add":["SYS_PTRACE"]}},
            "terminationMessagePath":"/m","terminationMessagePolicy":"File"}"#;
        let own: EphemeralContainer = serde_json::from_str(written).unwrap();
        let expected: serde_json::Value = serde_json::from_str(written).unwrap();
        assert_eq!(serde_json::to_value(container(&own)).unwrap(), expected);
    }
}

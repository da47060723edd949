//! `monopod create pod`: what `kubectl run` does.

use serde_json::{Value, json};

use super::super::client::error::VerbError;
use super::object;

/// A pod of one container: `create pod NAME --image IMAGE -- ARGUMENTS`
#[derive(Debug, clap::Args)]
pub(in super::super) struct Pod {
    #[arg(value_name = "NAME")]
    name: String,
    /// Image of its container
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// When its image is pulled: Always, IfNotPresent or Never
    #[arg(long, value_name = "POLICY")]
    image_pull_policy: Option<String>,
    /// A variable; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Labels; run=NAME by default
    #[arg(short, long, value_name = "KEY=VALUE", value_delimiter = ',')]
    labels: Vec<String>,
    /// A port that it listens at
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// When it is started again: Always, OnFailure or Never
    #[arg(long, value_name = "POLICY", default_value = "Always")]
    restart: String,
    /// What stands after -- is the command, not only its arguments
    #[arg(long)]
    command: bool,
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

impl Pod {
    pub(super) fn object(&self) -> Result<Value, VerbError> {
        let mut container = json!({"name": self.name, "image": self.image});
        if !self.env.is_empty() {
            container["env"] = variables(&self.env)?;
        }
        if let Some(policy) = &self.image_pull_policy {
            container["imagePullPolicy"] = policy.as_str().into();
        }
        if let Some(port) = self.port {
            container["ports"] = json!([{"containerPort": port}]);
        }
        if !self.arguments.is_empty() {
            container[if self.command { "command" } else { "args" }] = json!(self.arguments);
        }
        let mut pod = object("v1", "Pod", &self.name);
        pod["metadata"]["labels"] =
            if self.labels.is_empty() { json!({"run": self.name}) } else { pairs(&self.labels, "label")? };
        pod["spec"] = json!({"containers": [container], "restartPolicy": self.restart});
        Ok(pod)
    }
}

/// `NAME=VALUE` as the variables of a container.
///
/// # Errors
/// One has no name or no value.
pub(in super::super) fn variables(texts: &[String]) -> Result<Value, VerbError> {
    let variable = |text: &String| {
        let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
        let (name, value) = pair.ok_or_else(|| VerbError::usage(format!("invalid env: {text}")))?;
        Ok(json!({"name": name, "value": value}))
    };
    texts.iter().map(variable).collect()
}

/// `KEY=VALUE` as an object.
///
/// # Errors
/// One has no key or no value.
pub(in super::super) fn pairs(texts: &[String], what: &str) -> Result<Value, VerbError> {
    let mut all = json!({});
    for text in texts {
        let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
        let (key, value) = pair.ok_or_else(|| VerbError::usage(format!("unexpected {what} spec: {text}")))?;
        all[key] = value.into();
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::made;

    #[test]
    fn a_pod_has_one_container_with_what_was_said() {
        let pod = made(&["pod", "p", "--image=i"]).unwrap();
        let expected = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "labels": {"run": "p"}},
            "spec": {"containers": [{"name": "p", "image": "i"}], "restartPolicy": "Always"}});
        assert_eq!(pod, expected);
        let pod = made(&[
            "pod",
            "p",
            "--image=i",
            "--env=A=b=c",
            "--port=80",
            "-l",
            "x=y,z=1",
            "--restart=Never",
            "--command",
            "--",
            "sh",
            "-c",
        ])
        .unwrap();
        let expected = json!({"name": "p", "image": "i", "env": [{"name": "A", "value": "b=c"}],
            "ports": [{"containerPort": 80}], "command": ["sh", "-c"]});
        assert_eq!(pod["spec"]["containers"][0], expected);
        assert_eq!(pod["metadata"]["labels"], json!({"x": "y", "z": "1"}));
        assert_eq!(made(&["pod", "p", "--image=i", "--env=A"]), Err("error: invalid env: A".to_owned()));
    }
}

//! `monopod version`, `monopod cluster-info`

use std::process::ExitCode;

use serde_json::{Value, json};

use super::client::Call;
use super::client::error::VerbError;
use super::{Place, output, say};
use crate::api::discovery;

/// Shows the version of this program and that of the running node
#[derive(Debug, clap::Args)]
pub struct VersionCommand {
    #[command(flatten)]
    place: Place,
    /// Does not ask the node
    #[arg(long)]
    client: bool,
    /// json or yaml
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Json,
    Yaml,
}

/// Shows where the node answers
#[derive(Debug, clap::Args)]
pub struct ClusterInfoCommand {
    #[command(flatten)]
    place: Place,
}

/// Runs `monopod version`.
///
/// # Errors
/// The node does not answer; the version of this program is shown all the same.
pub async fn version(command: &VersionCommand) -> Result<ExitCode, VerbError> {
    let mut versions = json!({"clientVersion": discovery::version()});
    let asked = match command.client {
        true => Ok(None),
        false => command.place.client().json(Call::get("/version")).await.map(Some),
    };
    if let Ok(Some(version)) = &asked {
        versions["serverVersion"] = version.clone();
    }
    match command.output {
        None => say(&lines(&versions))?,
        Some(Format::Json) => say(&output::json(&versions)?)?,
        Some(Format::Yaml) => say(&output::yaml(&versions)?)?,
    }
    asked.map(|_| ExitCode::SUCCESS)
}

fn lines(versions: &Value) -> String {
    let line = |title: &str, key: &str| {
        let version = versions[key]["gitVersion"].as_str();
        version.map(|version| format!("{title}: {version}\n")).unwrap_or_default()
    };
    line("Client Version", "clientVersion") + &line("Server Version", "serverVersion")
}

/// Runs `monopod cluster-info`.
///
/// # Errors
/// The node does not answer.
pub async fn cluster_info(command: &ClusterInfoCommand) -> Result<ExitCode, VerbError> {
    let client = command.place.client();
    client.json(Call::get("/version")).await?;
    say(&format!("Kubernetes control plane is running at unix:{}\n", client.socket().display()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_was_not_asked_has_no_version() {
        let own = json!({"clientVersion": {"gitVersion": "v1"}});
        assert_eq!(lines(&own), "Client Version: v1\n");
        let both = json!({"clientVersion": {"gitVersion": "v1"}, "serverVersion": {"gitVersion": "v2"}});
        assert_eq!(lines(&both), "Client Version: v1\nServer Version: v2\n");
    }
}

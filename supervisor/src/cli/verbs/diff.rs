//! `monopod diff`: what applying manifests would change.

use std::process::ExitCode;

use http::Method;
use serde_json::{Map, Value};
use similar::TextDiff;

use super::apply::place_of;
use super::client::discovery::{Kind, Kinds};
use super::client::error::VerbError;
use super::client::{APPLY_PATCH, Call, Client};
use super::files::{Files, Given};
use super::{Place, output, say};

/// What the exit code of a failure is: 1 says that something differs.
const FAILED: u8 = 2;
/// Lines around a change.
const CONTEXT: usize = 3;
/// What stands for a value of a Secret.
const MASK: &str = "***";
/// Where `kubectl apply` writes down whole manifests.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Shows what applying manifests would change
///
/// The exit code is 0 when nothing differs, 1 when something does, and 2 when it can't be said. Values of Secrets are
/// not shown.
#[derive(Debug, clap::Args)]
pub struct DiffCommand {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    files: Files,
    /// Refuses to change what another manager set
    #[arg(long)]
    server_side: bool,
    /// With --server-side: changes it all the same
    #[arg(long, requires = "server_side")]
    force_conflicts: bool,
    /// Who would apply
    #[arg(long, value_name = "NAME", default_value = super::apply::MANAGER)]
    field_manager: String,
    /// Shows who set which field
    #[arg(long)]
    show_managed_fields: bool,
}

/// An object as it is, and as it would be.
struct Change {
    /// `v1.Pod.default.NAME`
    name: String,
    live: Option<Value>,
    merged: Value,
}

/// Runs `monopod diff ...`.
///
/// # Errors
/// Standard output is gone; what else goes wrong has its own exit code.
pub async fn run(command: &DiffCommand) -> Result<ExitCode, VerbError> {
    match changes(command).await {
        Ok(mut changes) => {
            changes.sort_by(|a, b| a.name.cmp(&b.name));
            let texts: Result<Vec<String>, VerbError> = changes.into_iter().map(Change::show).collect();
            let text = texts?.concat();
            say(&text)?;
            Ok(if text.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) => {
            eprintln!("{error}");
            Ok(ExitCode::from(FAILED))
        }
    }
}

async fn changes(command: &DiffCommand) -> Result<Vec<Change>, VerbError> {
    let given = command.files.read()?;
    let (client, kinds) = command.place.ask().await?;
    let mut changes = Vec::new();
    for one in &given {
        changes.push(change(command, &client, &kinds, one).await?);
    }
    Ok(changes)
}

async fn change(command: &DiffCommand, client: &Client, kinds: &Kinds, given: &Given) -> Result<Change, VerbError> {
    let (kind, namespace) = place_of(kinds, &command.place, given)?;
    let name = given.text("/metadata/name");
    if name.is_empty() {
        return Err(VerbError::usage("resource name may not be empty"));
    }
    let path = kind.path(Some(&namespace), Some(name));
    let live = client.find(Call::get(path.as_str())).await?;
    let call = Call::new(Method::PATCH, path)
        .query("fieldManager", command.field_manager.as_str())
        .query("force", (command.force_conflicts || !command.server_side).to_string())
        .query("fieldValidation", "Strict")
        .query("dryRun", "All")
        .body(APPLY_PATCH, &given.value);
    let doing = |error: VerbError| error.doing(format!("error when patching {:?}", given.source));
    let merged = client.json(call).await.map_err(doing)?;
    let trim = |object| if command.show_managed_fields { object } else { output::without_managers(object) };
    Ok(Change { name: file_name(kind, &namespace, name), live: live.map(trim), merged: trim(merged) })
}

/// As kubectl calls the two files that it compares.
fn file_name(kind: &Kind, namespace: &str, name: &str) -> String {
    let group = if kind.group.is_empty() { String::new() } else { format!("{}.", kind.group) };
    let namespace = if kind.is_namespaced { namespace } else { "" };
    format!("{group}{}.{}.{namespace}.{name}", kind.version, kind.kind)
}

impl Change {
    /// Nothing when there is no difference.
    fn show(mut self) -> Result<String, VerbError> {
        if self.merged["kind"] == "Secret" {
            mask(self.live.as_mut(), &mut self.merged);
        }
        let before = self.live.as_ref().map(output::yaml).transpose()?.unwrap_or_default();
        let after = output::yaml(&self.merged)?;
        if before == after {
            return Ok(String::new());
        }
        let (live, merged) = (format!("LIVE/{}", self.name), format!("MERGED/{}", self.name));
        let lines = TextDiff::from_lines(&before, &after);
        let lines = lines.unified_diff().context_radius(CONTEXT).header(&live, &merged).to_string();
        Ok(format!("diff -u -N {live} {merged}\n{lines}"))
    }
}

/// Hides the values of a Secret, but not which of them change.
fn mask(live: Option<&mut Value>, merged: &mut Value) {
    let mut none = Value::Null;
    let live = live.unwrap_or(&mut none);
    let before = live["data"].as_object().cloned().unwrap_or_default();
    let after = merged["data"].as_object().cloned().unwrap_or_default();
    for (object, own, other, word) in [(live, &before, &after, "before"), (&mut *merged, &after, &before, "after")] {
        if let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) {
            data.iter_mut().for_each(|(key, value)| *value = masked(key, own, other, word).into());
        }
        if let Some(manifest) = object.pointer_mut("/metadata/annotations").and_then(|all| all.get_mut(LAST_APPLIED)) {
            *manifest = MASK.into();
        }
    }
}

fn masked(key: &str, own: &Map<String, Value>, other: &Map<String, Value>, word: &str) -> String {
    match other.get(key) {
        Some(value) if own.get(key) != Some(value) => format!("{MASK} ({word})"),
        Some(_) | None => MASK.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn shown(live: Option<Value>, merged: Value) -> String {
        Change { name: "v1.X.default.n".to_owned(), live, merged }.show().unwrap()
    }

    #[test]
    fn changes_are_shown_as_diff_shows_them() {
        let object = |colour: &str| json!({"data": {"a": "1", "colour": colour}, "kind": "ConfigMap"});
        assert_eq!(shown(Some(object("blue")), object("blue")), "");
        expect![[r#"
            diff -u -N LIVE/v1.X.default.n MERGED/v1.X.default.n
            --- LIVE/v1.X.default.n
            +++ MERGED/v1.X.default.n
            @@ -1,4 +1,4 @@
             data:
               a: "1"
            -  colour: blue
            +  colour: red
             kind: ConfigMap
        "#]]
        .assert_eq(&shown(Some(object("blue")), object("red")));
        let new = shown(None, json!({"kind": "ConfigMap"}));
        assert!(new.ends_with("@@ -0,0 +1 @@\n+kind: ConfigMap\n"), "{new}");
    }

    #[test]
    fn values_of_secrets_are_never_shown() {
        let secret = |data: Value, manifest: &str| json!({"kind": "Secret", "data": data, "metadata": {"annotations": {LAST_APPLIED: manifest}}});
        let live = secret(json!({"same": "hidden1", "changed": "hidden2", "gone": "hidden3"}), "hidden4");
        let merged = secret(json!({"same": "hidden1", "changed": "hidden5", "new": "hidden6"}), "hidden4");
        expect![[r#"
            diff -u -N LIVE/v1.X.default.n MERGED/v1.X.default.n
            --- LIVE/v1.X.default.n
            +++ MERGED/v1.X.default.n
            @@ -1,6 +1,6 @@
             data:
            -  changed: "*** (before)"
            -  gone: "***"
            +  changed: "*** (after)"
            +  new: "***"
               same: "***"
             kind: Secret
             metadata:
        "#]]
        .assert_eq(&shown(Some(live), merged));
        let new = shown(None, secret(json!({"a": "hidden"}), "hidden"));
        assert!(!new.contains("hidden") && new.contains("+  a: "), "{new}");
    }
}

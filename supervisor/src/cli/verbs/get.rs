//! `monopod get`

use std::process::ExitCode;

use serde_json::Value;

use super::client::discovery::Kind;
use super::client::error::VerbError;
use super::client::{Call, Client, TABLE};
use super::output::{self, Format};
use super::table::{Printer, Shape};
use super::targets::{Target, targets};
use super::watch::Watch;
use super::{Failures, Place, say};

/// Shows objects
///
/// `monopod get pods`, `get pod NAME -o yaml`, `get pods,services -A`, `get all`, `get nodes -o wide`
#[derive(Debug, clap::Args)]
pub struct GetCommand {
    #[command(flatten)]
    place: Place,
    /// Kinds, with names: pods; pod NAME; pod/NAME; pods,services; all
    #[arg(value_name = "KIND|KIND/NAME", required = true)]
    arguments: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// json, name, wide, yaml, jsonpath=TEMPLATE or custom-columns=NAME:PATH,...
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Format>,
    /// Leaves out the names of the columns
    #[arg(long)]
    no_headers: bool,
    /// Shows all labels in the last column
    #[arg(long)]
    show_labels: bool,
    /// Shows a label in a column of its own
    #[arg(short = 'L', long, value_name = "KEY", value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Also shows what changes, until interrupted
    #[arg(short, long)]
    watch: bool,
    /// An object that isn't there is no error
    #[arg(long)]
    ignore_not_found: bool,
    /// Shows who set which field
    #[arg(long)]
    show_managed_fields: bool,
}

/// Which objects of a kind.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Selection {
    /// Looks in all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only objects with these labels: a=b,c!=d,e in (f,g)
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Only objects with these fields: status.phase=Running
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
}

impl Selection {
    pub fn apply(&self, call: Call) -> Call {
        call.query_some("labelSelector", self.selector.clone()).query_some("fieldSelector", self.field_selector.clone())
    }

    pub fn is_empty(&self) -> bool {
        self.selector.is_none() && self.field_selector.is_none()
    }

    /// A request for a list.
    pub fn list(&self, kind: &Kind, place: &Place) -> Call {
        let namespace = (!self.all_namespaces).then(|| place.namespace());
        self.apply(Call::get(kind.path(namespace, None)))
    }
}

/// Runs `monopod get ...`.
///
/// # Errors
/// The server refuses, or there is no such kind.
pub async fn run(command: &GetCommand) -> Result<ExitCode, VerbError> {
    let (client, kinds) = command.place.ask().await?;
    let targets = targets(&kinds, &command.arguments)?;
    let names = targets.iter().any(|target| !target.names.is_empty());
    if names && (command.selection.all_namespaces || !command.selection.is_empty()) {
        return Err(VerbError::usage(
            "a resource cannot be retrieved by name with a selector or across all namespaces",
        ));
    }
    if command.watch {
        return watch(command, &client, &targets).await;
    }
    match command.output {
        None | Some(Format::Wide) => tables(command, &client, &targets).await,
        Some(Format::Json | Format::Yaml | Format::Name | Format::JsonPath(_) | Format::Columns(_)) => {
            objects(command, &client, &targets).await
        }
    }
}

/// What of a target came, request by request.
async fn fetch(
    command: &GetCommand,
    client: &Client,
    target: &Target<'_>,
    accept: &'static str,
    failures: &mut Failures,
) -> Result<Vec<Value>, VerbError> {
    if target.names.is_empty() {
        let call = command.selection.list(target.kind, &command.place).accept(accept);
        return Ok(failures.hold(client.json(call).await)?.into_iter().collect());
    }
    let mut found = Vec::new();
    for name in &target.names {
        let path = target.kind.path(Some(command.place.namespace()), Some(name));
        let answer = match client.json(Call::get(path).accept(accept)).await {
            Err(error) if error.is_not_found() && command.ignore_not_found => continue,
            answer => answer,
        };
        found.extend(failures.hold(answer)?);
    }
    Ok(found)
}

async fn tables(command: &GetCommand, client: &Client, targets: &[Target<'_>]) -> Result<ExitCode, VerbError> {
    let mut failures = Failures::default();
    let mut shown = 0;
    for target in targets {
        let tables = fetch(command, client, target, TABLE, &mut failures).await?;
        let text = Printer::new(command.shape(target.kind, targets.len())).print(&tables);
        if !text.is_empty() {
            say(&format!("{}{text}", if shown > 0 { "\n" } else { "" }))?;
            shown += 1;
        }
    }
    let has_names = targets.iter().any(|target| !target.names.is_empty());
    if shown == 0 && !failures.has_failed && !has_names {
        eprintln!("{}", nothing(command, targets));
    }
    Ok(failures.code())
}

fn nothing(command: &GetCommand, targets: &[Target<'_>]) -> String {
    let is_of_namespace = targets.iter().any(|target| target.kind.is_namespaced);
    if is_of_namespace && !command.selection.all_namespaces {
        return format!("No resources found in {} namespace.", command.place.namespace());
    }
    "No resources found".to_owned()
}

impl GetCommand {
    fn shape(&self, kind: &Kind, kinds: usize) -> Shape {
        Shape {
            is_wide: self.output == Some(Format::Wide),
            has_headers: !self.no_headers,
            shows_namespace: self.selection.all_namespaces && kind.is_namespaced,
            shows_labels: self.show_labels,
            label_columns: self.label_columns.clone(),
            prefix: (kinds > 1).then(|| format!("{}/", kind.label())),
        }
    }

    fn trim(&self, object: Value) -> Value {
        if self.show_managed_fields { object } else { output::without_managers(object) }
    }
}

async fn objects(command: &GetCommand, client: &Client, targets: &[Target<'_>]) -> Result<ExitCode, VerbError> {
    let mut failures = Failures::default();
    let mut found: Vec<(&Kind, Value)> = Vec::new();
    for target in targets {
        for answer in fetch(command, client, target, super::client::JSON, &mut failures).await? {
            let items = if target.names.is_empty() { items(target.kind, answer) } else { vec![answer] };
            found.extend(items.into_iter().map(|item| (target.kind, command.trim(item))));
        }
    }
    if command.output == Some(Format::Name) {
        let lines: String = found.iter().map(|(kind, object)| output::name_of(kind, object) + "\n").collect();
        say(&lines)?;
        return Ok(failures.code());
    }
    let is_one = targets.len() == 1 && targets.iter().all(|target| target.names.len() == 1);
    let mut values: Vec<Value> = found.into_iter().map(|(_, object)| object).collect();
    if let Some(Format::Columns(columns)) = &command.output {
        say(&columns.show(&values, !command.no_headers))?;
        return Ok(failures.code());
    }
    let whole = match (is_one, values.len()) {
        (true, 1) => values.remove(0),
        // It was said already that it isn't there.
        (true, _) => return Ok(failures.code()),
        (false, _) => output::list_of(values),
    };
    write(command.output.as_ref(), &whole)?;
    Ok(failures.code())
}

fn write(format: Option<&Format>, object: &Value) -> Result<(), VerbError> {
    match format {
        Some(Format::Json) => say(&output::json(object)?),
        Some(Format::JsonPath(template)) => say(&template.show(object)),
        Some(Format::Yaml | Format::Wide | Format::Name | Format::Columns(_)) | None => say(&output::yaml(object)?),
    }
}

/// The objects of a list; each says what it is.
pub fn items(kind: &Kind, mut list: Value) -> Vec<Value> {
    let items = list["items"].as_array_mut().map(std::mem::take).unwrap_or_default();
    items
        .into_iter()
        .map(|mut item| {
            item["apiVersion"] = kind.api_version().into();
            item["kind"] = kind.kind.clone().into();
            item
        })
        .collect()
}

async fn watch(command: &GetCommand, client: &Client, targets: &[Target<'_>]) -> Result<ExitCode, VerbError> {
    let [target] = targets else {
        return Err(VerbError::usage("you may only specify a single resource type with --watch"));
    };
    let list = match target.names.as_slice() {
        [] => command.selection.clone(),
        [name] => Selection { field_selector: Some(format!("metadata.name={name}")), ..Selection::default() },
        [_, _, ..] => return Err(VerbError::usage("you may only specify a single resource with --watch")),
    };
    let is_table = matches!(command.output, None | Some(Format::Wide));
    let accept = if is_table { TABLE } else { super::client::JSON };
    let first = client.json(list.list(target.kind, &command.place).accept(accept)).await?;
    if let ([name], true) = (target.names.as_slice(), is_empty(&first)) {
        // For its error.
        client.json(Call::get(target.kind.path(Some(command.place.namespace()), Some(name)))).await?;
    }
    let version = first["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let mut printer = Printer::new(command.shape(target.kind, 1));
    show(command, target.kind, &mut printer, first)?;
    let mut watch = Watch::start(client, list.list(target.kind, &command.place).accept(accept), &version).await?;
    while let Some((_, object)) = watch.next().await? {
        show(command, target.kind, &mut printer, object)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn is_empty(list: &Value) -> bool {
    ["rows", "items"].iter().all(|key| list[key].as_array().is_none_or(Vec::is_empty))
}

/// Shows one answer of a list or a watch.
fn show(command: &GetCommand, kind: &Kind, printer: &mut Printer, value: Value) -> Result<(), VerbError> {
    if matches!(command.output, None | Some(Format::Wide)) {
        return say(&printer.print(&[value]));
    }
    let objects = if value["items"].is_array() { items(kind, value) } else { vec![value] };
    for object in objects {
        match &command.output {
            Some(Format::JsonPath(template)) => say(&template.show(&object))?,
            Some(Format::Columns(columns)) => say(&columns.show(&[object], false))?,
            Some(Format::Name) => say(&(output::name_of(kind, &object) + "\n"))?,
            Some(Format::Yaml) => say(&format!("---\n{}", output::yaml(&command.trim(object))?))?,
            Some(Format::Json | Format::Wide) | None => say(&output::json(&command.trim(object))?)?,
        }
    }
    Ok(())
}

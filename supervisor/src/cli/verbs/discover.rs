//! `monopod api-resources`, `monopod api-versions`

use std::collections::BTreeSet;
use std::process::ExitCode;

use super::align::{TABLE, align};
use super::client::discovery::{Kind, Kinds};
use super::client::error::VerbError;
use super::{Place, say};

/// Lists the kinds that the node serves
#[derive(Debug, clap::Args)]
pub struct ResourcesCommand {
    #[command(flatten)]
    place: Place,
    /// Only those of a group; an empty one is the core's
    #[arg(long, value_name = "GROUP")]
    api_group: Option<String>,
    /// Only those in namespaces, or with =false those that aren't
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        action = clap::ArgAction::Set)]
    namespaced: Option<bool>,
    /// Only those with all of these verbs
    #[arg(long, value_name = "VERBS", value_delimiter = ',')]
    verbs: Vec<String>,
    /// Only those in all of these categories
    #[arg(long, value_name = "CATEGORIES", value_delimiter = ',')]
    categories: Vec<String>,
    /// By name or by kind, instead of by group
    #[arg(long, value_name = "COLUMN")]
    sort_by: Option<Order>,
    /// With verbs and categories (wide), or only names (name)
    #[arg(short, long, value_name = "FORMAT")]
    output: Option<Columns>,
    /// Leaves out the names of the columns
    #[arg(long)]
    no_headers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Order {
    Name,
    Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Columns {
    Wide,
    Name,
}

/// Lists the groups and versions that the node serves, as group/version
#[derive(Debug, clap::Args)]
pub struct VersionsCommand {
    #[command(flatten)]
    place: Place,
}

/// Runs `monopod api-resources ...`.
///
/// # Errors
/// The server does not answer.
pub async fn resources(command: &ResourcesCommand) -> Result<ExitCode, VerbError> {
    let (_, kinds) = command.place.ask().await?;
    say(&command.table(&kinds))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `monopod api-versions`.
///
/// # Errors
/// The server does not answer.
pub async fn versions(command: &VersionsCommand) -> Result<ExitCode, VerbError> {
    let (_, kinds) = command.place.ask().await?;
    let versions: BTreeSet<String> = kinds.iter().map(Kind::api_version).collect();
    say(&versions.iter().map(|version| format!("{version}\n")).collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

impl ResourcesCommand {
    fn table(&self, kinds: &Kinds) -> String {
        let mut chosen: Vec<&Kind> = kinds.preferred().into_iter().filter(|kind| self.wants(kind)).collect();
        chosen.sort_by_key(|kind| match self.sort_by {
            None => (kind.group.clone(), kind.plural.clone()),
            Some(Order::Name) => (kind.plural.clone(), kind.group.clone()),
            Some(Order::Kind) => (kind.kind.clone(), kind.group.clone()),
        });
        let names = match self.output {
            _ if self.no_headers => "",
            Some(Columns::Name) => "",
            None => "NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND\n",
            Some(Columns::Wide) => "NAME\tSHORTNAMES\tAPIVERSION\tNAMESPACED\tKIND\tVERBS\tCATEGORIES\n",
        };
        let rows: String = chosen.into_iter().map(|kind| self.row(kind)).collect();
        align(&format!("{names}{rows}"), TABLE)
    }

    fn wants(&self, kind: &Kind) -> bool {
        self.api_group.as_ref().is_none_or(|group| *group == kind.group)
            && self.namespaced.is_none_or(|namespaced| namespaced == kind.is_namespaced)
            && self.verbs.iter().all(|verb| kind.can(verb))
            && self.categories.iter().all(|category| kind.categories.contains(category))
            && !kind.verbs.is_empty()
    }

    fn row(&self, kind: &Kind) -> String {
        let Kind { plural, is_namespaced, .. } = kind;
        let columns =
            || format!("{plural}\t{}\t{}\t{is_namespaced}\t{}", kind.short.join(","), kind.api_version(), kind.kind);
        match self.output {
            Some(Columns::Name) => format!("{}\n", kind.qualified()),
            None => format!("{}\n", columns()),
            Some(Columns::Wide) => {
                let mut verbs = kind.verbs.clone();
                verbs.sort();
                format!("{}\t{}\t{}\n", columns(), verbs.join(","), kind.categories.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use expect_test::expect;

    use super::super::client::discovery::tests::some;
    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        command: ResourcesCommand,
    }

    fn table(arguments: &[&str]) -> String {
        Line::parse_from([&["x"], arguments].concat()).command.table(&some())
    }

    #[test]
    fn kinds_are_listed_by_group_and_name() {
        expect![[r#"
            NAME          SHORTNAMES   APIVERSION   NAMESPACED   KIND
            nodes         no           v1           false        Node
            pods          po           v1           true         Pod
            deployments                apps/v1      true         Deployment
        "#]]
        .assert_eq(&table(&[]));
        assert_eq!(table(&["-o", "name", "--sort-by", "name"]), "deployments.apps\nnodes\npods\n");
        assert_eq!(table(&["--namespaced=false", "--no-headers"]), "nodes   no    v1    false   Node\n");
        assert_eq!(table(&["--api-group", "apps", "-o", "name"]), "deployments.apps\n");
        assert_eq!(table(&["--categories", "all", "--verbs", "get,list", "-o", "name"]), "pods\ndeployments.apps\n");
        let wide = table(&["-o", "wide", "--no-headers", "--api-group="]);
        assert!(wide.starts_with("nodes   no    v1    false   Node   get,list   \n"), "{wide}");
    }
}

//! The columns, from `columns.txt`. Their descriptions are the API's own documentation.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde_json::{Value, json};

const TABLE: &str = include_str!("columns.txt");

/// One column of a Table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: &'static str,
    kind: &'static str,
    format: &'static str,
    /// 1 for columns that only `-o wide` shows.
    priority: u8,
    description: String,
}

impl Column {
    pub(super) fn definition(&self) -> Value {
        json!({
            "name": self.name, "type": self.kind, "format": self.format,
            "description": self.description, "priority": self.priority,
        })
    }
}

type Columns = BTreeMap<&'static str, Vec<Column>>;

/// The columns of a resource: its own, or name and time of creation.
pub(super) fn of(resource: &str) -> &'static [Column] {
    static COLUMNS: OnceLock<Columns> = OnceLock::new();
    let columns = COLUMNS.get_or_init(read);
    let resource = if resource == "events.events.k8s.io" { "events" } else { resource };
    columns.get(resource).or_else(|| columns.get("*")).map_or(&[], Vec::as_slice)
}

fn read() -> Columns {
    let (mut columns, mut shared, mut resource) = (Columns::new(), BTreeMap::new(), "");
    for line in TABLE.lines().filter(|line| !line.starts_with('#')) {
        if let Some((name, text)) = line.strip_prefix('=').and_then(|rest| rest.split_once('|')) {
            shared.insert(name, text);
        } else if let Some(name) = line.strip_prefix('@') {
            resource = name;
        } else {
            columns.entry(resource).or_default().extend(column(line, &shared));
        }
    }
    columns
}

fn column(line: &'static str, shared: &BTreeMap<&str, &str>) -> Option<Column> {
    let mut parts = line.splitn(5, '|');
    let (name, kind, format) = (parts.next()?, parts.next()?, parts.next()?);
    let priority = parts.next()?.parse().ok()?;
    let text = parts.next()?;
    let text = text.strip_prefix('=').and_then(|name| shared.get(name)).copied().unwrap_or(text);
    Some(Column { name, kind, format, priority, description: serde_json::from_str(text).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_column() {
        let lines = TABLE.lines().filter(|line| !line.starts_with(['#', '=', '@'])).count();
        assert_eq!(read().values().map(Vec::len).sum::<usize>(), lines);
        assert_eq!(of("whatever").iter().map(|c| c.name).collect::<Vec<_>>(), ["Name", "Created At"]);
    }
}

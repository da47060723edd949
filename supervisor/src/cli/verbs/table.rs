//! A Table as the server gives it, as text.

use serde_json::Value;

use super::align::{self, align_on};

/// What is shown of tables.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// Columns that are not for everybody.
    pub is_wide: bool,
    pub has_headers: bool,
    pub shows_namespace: bool,
    pub shows_labels: bool,
    /// Labels that have a column of their own.
    pub label_columns: Vec<String>,
    /// `pod/`, where several kinds are shown.
    pub prefix: Option<String>,
}

/// Prints tables of one kind below each other.
#[derive(Debug)]
pub struct Printer {
    shape: Shape,
    columns: Vec<Value>,
    widths: Vec<usize>,
    has_printed: bool,
}

impl Printer {
    pub fn new(shape: Shape) -> Self {
        Self { shape, columns: Vec::new(), widths: Vec::new(), has_printed: false }
    }

    /// The text of a table; the header goes before the first one.
    pub fn print(&mut self, tables: &[Value]) -> String {
        let mut lines = String::new();
        for table in tables {
            if let Some(columns) = table["columnDefinitions"].as_array().filter(|columns| !columns.is_empty()) {
                self.columns.clone_from(columns);
            }
            let rows = table["rows"].as_array().map_or(&[][..], Vec::as_slice);
            if !rows.is_empty() && !self.has_printed {
                self.has_printed = true;
                lines += &self.header();
            }
            rows.iter().for_each(|row| lines += &self.row(row));
        }
        align_on(&lines, align::TABLE, &mut self.widths)
    }

    fn is_shown(&self, column: &Value) -> bool {
        self.shape.is_wide || column["priority"].as_i64().unwrap_or_default() == 0
    }

    fn header(&self) -> String {
        if !self.shape.has_headers {
            return String::new();
        }
        let shown = self.columns.iter().filter(|column| self.is_shown(column));
        let mut names: Vec<String> =
            shown.map(|column| column["name"].as_str().unwrap_or_default().to_uppercase()).collect();
        if self.shape.shows_namespace {
            names.insert(0, "NAMESPACE".to_owned());
        }
        // Of a key with a domain, the name.
        let label = |key: &String| key.rsplit('/').next().unwrap_or_default().to_uppercase();
        names.extend(self.shape.label_columns.iter().map(label));
        if self.shape.shows_labels {
            names.push("LABELS".to_owned());
        }
        names.join("\t") + "\n"
    }

    fn row(&self, row: &Value) -> String {
        let metadata = &row["object"]["metadata"];
        let cells = row["cells"].as_array().map_or(&[][..], Vec::as_slice);
        let mut shown: Vec<String> = Vec::new();
        if self.shape.shows_namespace {
            shown.push(metadata["namespace"].as_str().unwrap_or_default().to_owned());
        }
        for (index, (column, cell)) in self.columns.iter().zip(cells).enumerate() {
            if !self.is_shown(column) {
                continue;
            }
            let prefix = self.shape.prefix.as_deref().filter(|_| index == 0).unwrap_or_default();
            shown.push(format!("{prefix}{}", cell_text(cell)));
        }
        let label = |key: &String| metadata["labels"][key].as_str().unwrap_or_default().to_owned();
        shown.extend(self.shape.label_columns.iter().map(label));
        if self.shape.shows_labels {
            shown.push(labels(&metadata["labels"]));
        }
        shown.join("\t") + "\n"
    }
}

/// A cell on one line.
fn cell_text(cell: &Value) -> String {
    let text = match cell {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => cell.to_string(),
    };
    match text.find(['\n', '\r']) {
        Some(end) => format!("{}...", &text[..end]),
        None => text.replace('\t', "\\t"),
    }
}

fn labels(labels: &Value) -> String {
    let pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if pairs.is_empty() { "<none>".to_owned() } else { pairs.join(",") }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn table() -> Value {
        json!({
            "columnDefinitions": [
                {"name": "Name", "priority": 0}, {"name": "Ready", "priority": 0}, {"name": "IP", "priority": 1}],
            "rows": [
                {"cells": ["one", "1/1", "10.1.1.1"], "object": {"metadata": {"namespace": "default", "labels": {"app": "x"}}}},
                {"cells": ["another", "0/1", "-"], "object": {"metadata": {"namespace": "kube-system"}}}]})
    }

    fn shown(shape: Shape) -> String {
        Printer::new(shape).print(&[table()])
    }

    #[test]
    fn wide_columns_are_for_those_who_ask() {
        let shape = Shape { has_headers: true, ..Shape::default() };
        expect![[r#"
            NAME      READY
            one       1/1
            another   0/1
        "#]]
        .assert_eq(&shown(shape.clone()));
        expect![[r#"
            NAME      READY   IP
            one       1/1     10.1.1.1
            another   0/1     -
        "#]]
        .assert_eq(&shown(Shape { is_wide: true, ..shape }));
    }

    #[test]
    fn namespaces_labels_and_kinds_are_added() {
        let all = Shape {
            has_headers: true,
            shows_namespace: true,
            shows_labels: true,
            label_columns: vec!["example.com/app".to_owned(), "app".to_owned()],
            prefix: Some("pod/".to_owned()),
            ..Shape::default()
        };
        let text = shown(all).replace(' ', ".");
        expect![[r#"
            NAMESPACE.....NAME..........READY...APP...APP...LABELS
            default.......pod/one.......1/1...........x.....app=x
            kube-system...pod/another...0/1.................<none>
        "#]]
        .assert_eq(&text);
    }

    #[test]
    fn headers_come_once_and_only_when_wanted() {
        assert_eq!(shown(Shape::default()), "one       1/1\nanother   0/1\n");
        let mut printer = Printer::new(Shape { has_headers: true, ..Shape::default() });
        assert_eq!(printer.print(&[json!({"columnDefinitions": [{"name": "Name"}], "rows": []})]), "");
        assert!(printer.print(&[table()]).starts_with("NAME"));
        assert!(!printer.print(&[table()]).contains("NAME"));
    }

    #[test]
    fn a_cell_stays_on_its_line() {
        assert_eq!(cell_text(&json!("a\nb")), "a...");
        assert_eq!(cell_text(&json!(5)), "5");
    }
}

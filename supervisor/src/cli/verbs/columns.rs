//! `-o custom-columns=NAME:.metadata.name,PHASE:.status.phase`

use std::str::FromStr;

use serde_json::Value;

use super::jsonpath::Template;

/// Columns with their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns(Vec<(String, Template)>);

impl FromStr for Columns {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let column = |part: &str| {
            let (name, path) = part
                .split_once(':')
                .ok_or_else(|| format!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>"))?;
            // As kubectl, which takes a path without its dot.
            let path = if path.starts_with(['.', '{', '[', '$', '@']) { path.to_owned() } else { format!(".{path}") };
            Ok((name.to_owned(), Template::path(&path)?))
        };
        let columns: Result<Vec<_>, String> = text.split(',').map(column).collect();
        columns.map(Self)
    }
}

impl Columns {
    /// A table of objects.
    pub fn show(&self, objects: &[Value], has_headers: bool) -> String {
        let names = || self.0.iter().map(|(name, _)| name.clone()).collect();
        let mut rows: Vec<Vec<String>> = if has_headers { vec![names()] } else { Vec::new() };
        rows.extend(objects.iter().map(|object| self.0.iter().map(|(_, path)| cell(path, object)).collect()));
        let widths: Vec<usize> = (0..self.0.len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let line = |row: &Vec<String>| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            cells.join("   ").trim_end().to_owned() + "\n"
        };
        rows.iter().map(line).collect()
    }
}

fn cell(path: &Template, object: &Value) -> String {
    if !path.finds(object) {
        return "<none>".to_owned();
    }
    // Several values are one cell.
    path.show(object).replace(' ', ",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let pods = [json!({"metadata": {"name": "long-name"}, "n": 1}), json!({"metadata": {"name": "b"}})];
        let columns: Columns = "NAME:.metadata.name,N:.n".parse().unwrap();
        assert_eq!(columns.show(&pods, true), "NAME        N\nlong-name   1\nb           <none>\n");
        assert_eq!(columns.show(&pods[1..], false), "b   <none>\n");
        assert!("NAME".parse::<Columns>().is_err());
    }
}

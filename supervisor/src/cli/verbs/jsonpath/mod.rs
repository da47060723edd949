//! JSONPath templates as kubectl reads them: `{.items[*].metadata.name}`, `{range .items[*]}{.kind}{"\n"}{end}`.

mod parse;

use std::str::FromStr;

use serde_json::Value;

/// A template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Path(Vec<Step>),
    /// What stands between `{range PATH}` and `{end}`.
    Range(Vec<Step>, Vec<Piece>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    /// `..name`: wherever it is.
    Deep(String),
    /// `[*]`, `.*`
    All,
    /// `[-1]` counts from the end.
    Index(i64),
    /// `[0:2]`
    Slice(Option<i64>, Option<i64>),
    /// `[?(@.type=="Ready")]`
    Filter(Vec<Step>, Option<(Operator, Value)>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse::template(text).map(Self)
    }
}

impl Template {
    /// A path alone, with or without its braces: `.metadata.name`, `{.metadata.name}`.
    ///
    /// # Errors
    /// It can't be read.
    pub fn path(text: &str) -> Result<Self, String> {
        if text.starts_with('{') { text.parse() } else { format!("{{{text}}}").parse() }
    }

    /// The template about an object. What isn't there is empty.
    pub fn show(&self, object: &Value) -> String {
        let mut out = String::new();
        pieces(&self.0, object, &mut out);
        out
    }

    /// Whether it finds something.
    pub fn finds(&self, object: &Value) -> bool {
        self.0.iter().any(|piece| match piece {
            Piece::Text(_) => false,
            Piece::Path(steps) | Piece::Range(steps, _) => !walk(steps, object).is_empty(),
        })
    }
}

fn pieces(all: &[Piece], here: &Value, out: &mut String) {
    for piece in all {
        match piece {
            Piece::Text(text) => out.push_str(text),
            Piece::Path(steps) => {
                let texts: Vec<String> = walk(steps, here).into_iter().map(text_of).collect();
                out.push_str(&texts.join(" "));
            }
            Piece::Range(steps, body) => walk(steps, here).into_iter().for_each(|item| pieces(body, item, out)),
        }
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

fn walk<'v>(steps: &[Step], from: &'v Value) -> Vec<&'v Value> {
    steps.iter().fold(vec![from], |found, step| found.into_iter().flat_map(|value| one(step, value)).collect())
}

fn one<'v>(step: &Step, value: &'v Value) -> Vec<&'v Value> {
    let children = || match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(entries) => entries.values().collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    let items = || value.as_array().map_or(&[][..], Vec::as_slice);
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::Deep(name) => {
            let own = value.get(name);
            own.into_iter().chain(children().into_iter().flat_map(|child| one(step, child))).collect()
        }
        Step::All => children(),
        Step::Index(index) => at(items(), *index).and_then(|index| items().get(index)).into_iter().collect(),
        Step::Slice(from, to) => {
            let edge = |index: Option<i64>, absent| index.map_or(absent, |index| at(items(), index).unwrap_or(absent));
            let (from, to) = (edge(*from, 0), edge(*to, items().len()));
            items().get(from..to.min(items().len())).unwrap_or_default().iter().collect()
        }
        Step::Filter(path, condition) => {
            items().iter().filter(|item| fits(&walk(path, item), condition.as_ref())).collect()
        }
    }
}

fn at(items: &[Value], index: i64) -> Option<usize> {
    let counted = if index < 0 { index.saturating_add_unsigned(items.len() as u64) } else { index };
    usize::try_from(counted).ok()
}

/// Without a condition, being there is enough.
fn fits(found: &[&Value], condition: Option<&(Operator, Value)>) -> bool {
    let Some((operator, wanted)) = condition else { return !found.is_empty() };
    let Some(found) = found.first() else { return false };
    let order = match (found, wanted) {
        (Value::Number(one), Value::Number(other)) => one.as_f64().partial_cmp(&other.as_f64()),
        (Value::String(one), Value::String(other)) => Some(one.cmp(other)),
        (Value::Bool(one), Value::Bool(other)) => Some(one.cmp(other)),
        (_, _) => None,
    };
    match operator {
        Operator::Equal => order.is_some_and(std::cmp::Ordering::is_eq),
        Operator::NotEqual => order.is_none_or(std::cmp::Ordering::is_ne),
        Operator::Less => order.is_some_and(std::cmp::Ordering::is_lt),
        Operator::LessOrEqual => order.is_some_and(std::cmp::Ordering::is_le),
        Operator::More => order.is_some_and(std::cmp::Ordering::is_gt),
        Operator::MoreOrEqual => order.is_some_and(std::cmp::Ordering::is_ge),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_show_what_kubectl_shows() {
        let list = json!({"kind": "List", "items": [
            {"metadata": {"name": "a", "labels": {"x.y/z": "l"}}, "status": {"phase": "Running", "n": 2}},
            {"metadata": {"name": "b"}, "status": {"phase": "Pending", "n": 1}},
        ]});
        for (template, expected) in [
            ("{.kind}", "List"),
            ("{$.kind}", "List"),
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0].metadata}", r#"{"name":"a","labels":{"x.y/z":"l"}}"#),
            ("{.items[-1].metadata.name}", "b"),
            ("{.items[0:1].metadata.name}", "a"),
            ("{.items[1:].metadata.name}", "b"),
            (r"{.items[0].metadata.labels.x\.y/z}", "l"),
            ("{.items[0].metadata.labels['x.y/z']}", "l"),
            (r#"{.items[?(@.status.phase=="Running")].metadata.name}"#, "a"),
            ("{.items[?(@.status.n<2)].metadata.name}", "b"),
            ("{.items[?(@.metadata.labels)].metadata.name}", "a"),
            (r#"{range .items[*]}{.metadata.name} {@.status.phase}{"\n"}{end}"#, "a Running\nb Pending\n"),
            ("{..phase}", "Running Pending"),
            ("phase: {.items[0].status.phase}{'\\n'}", "phase: Running\n"),
            ("{.nope.none}", ""),
        ] {
            let shown = template.parse::<Template>().unwrap().show(&list);
            // The order of keys is the parser's.
            if !expected.starts_with('{') {
                assert_eq!(shown, expected, "{template}");
            }
        }
        for template in ["{", "{.a", "{range .a}{.b}", "{.a[}", "{end}", "{.a[?(.b)]}", "{\"a}"] {
            assert!(template.parse::<Template>().is_err(), "{template}");
        }
    }
}

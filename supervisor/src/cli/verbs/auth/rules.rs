//! What a user may do, one line for each kind.

use serde_json::Value;

/// A rule about one kind, or one path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    verbs: Vec<String>,
    group: Option<String>,
    resource: Option<String>,
    names: Vec<String>,
    path: Option<String>,
}

impl Rule {
    /// By this they are sorted, verbs first.
    fn key(&self) -> String {
        let list = |text: &Option<String>| text.clone().unwrap_or_default();
        let names = self.names.join(" ");
        format!(
            "[{}],[{}],[{}],[{names}],[{}]",
            self.verbs.join(" "),
            list(&self.group),
            list(&self.resource),
            list(&self.path)
        )
    }

    fn is_about_the_same(&self, other: &Self) -> bool {
        (&self.group, &self.resource, &self.names, &self.path)
            == (&other.group, &other.resource, &other.names, &other.path)
    }

    fn line(&self) -> String {
        let resource = self.resource.clone().unwrap_or_default();
        let what = match self.group.as_deref() {
            None | Some("") => resource,
            Some(group) => format!("{resource}.{group}"),
        };
        let path = self.path.clone().unwrap_or_default();
        format!("{what}\t[{path}]\t[{}]\t[{}]\n", self.names.join(" "), self.verbs.join(" "))
    }
}

/// A table out of what the server lists.
pub(super) fn table(status: &Value, has_headers: bool) -> String {
    let mut rules: Vec<Rule> = Vec::new();
    for rule in simple(status) {
        match rules.iter_mut().find(|known| known.is_about_the_same(&rule)) {
            Some(known) => known.verbs.extend(rule.verbs.into_iter().filter(|verb| !verb.is_empty())),
            None => rules.push(rule),
        }
    }
    rules.sort_by_key(Rule::key);
    let names = if has_headers { "Resources\tNon-Resource URLs\tResource Names\tVerbs\n" } else { "" };
    names.to_owned() + &rules.iter().map(Rule::line).collect::<String>()
}

/// Rules taken apart.
fn simple(status: &Value) -> Vec<Rule> {
    let rules = |key: &str| status[key].as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for rule in rules("resourceRules") {
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                let (group, resource) = (Some(group.clone()), Some(resource));
                let (verbs, names) = (texts(&rule["verbs"]), texts(&rule["resourceNames"]));
                found.push(Rule { verbs, group, resource, names, path: None });
            }
        }
    }
    for rule in rules("nonResourceRules") {
        for path in texts(&rule["nonResourceURLs"]) {
            let verbs = texts(&rule["verbs"]);
            found.push(Rule { verbs, group: None, resource: None, names: Vec::new(), path: Some(path) });
        }
    }
    found
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::super::super::align::{TABLE, align};
    use super::*;

    #[test]
    fn rules_are_taken_apart_and_sorted_by_verb() {
        let status = json!({
            "resourceRules": [
                {"verbs": ["get", "list"], "apiGroups": ["*"], "resources": ["pods", "nodes"]},
                {"verbs": ["create"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"]},
                {"verbs": ["watch"], "apiGroups": ["*"], "resources": ["pods"]},
            ],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/api", "/version"]}],
        });
        expect![[r#"
            Resources   Non-Resource URLs   Resource Names   Verbs
            pods        []                  [x]              [create]
            pods.*      []                  []               [get list watch]
            nodes.*     []                  []               [get list]
                        [/api]              []               [get]
                        [/version]          []               [get]
        "#]]
        .assert_eq(&align(&table(&status, true), TABLE));
    }
}

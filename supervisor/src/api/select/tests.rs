use proptest::prelude::*;
use serde_json::json;

use super::*;

fn label_fault(text: &str) -> String {
    Labels::parse(text).unwrap_err().to_string()
}

fn field_fault(resource: &str, text: &str) -> String {
    Fields::parse(resource, text).unwrap_err().to_string()
}

#[test]
fn label_selectors_select() {
    let object = json!({"metadata": {"labels": {"app": "web", "tier": "front", "n": "7", "in": "x"}}});
    for (selector, expected) in [
        ("", true),
        ("app=web", true),
        ("app==web,tier!=back", true),
        ("app = db", false),
        ("app in (web, db)", true),
        ("app notin (web)", false),
        ("other notin (a,b)", true),
        ("other!=a", true),
        ("app", true),
        ("!app", false),
        ("!other", true),
        ("n>6,n<8", true),
        ("n>7", false),
        ("app>1", false),
        ("in", true),
        ("in in (x)", true),
        ("in=x", true),
        ("app=", false),
        ("app in (,web)", true),
    ] {
        assert_eq!(Labels::parse(selector).unwrap().matches(&object), expected, "{selector}");
    }
    assert!(!Labels::parse("app").unwrap().matches(&json!({"metadata": {}})));
}

#[test]
fn malformed_label_selectors_are_refused_as_upstream_does() {
    for (selector, expected) in [
        ("a,", "found '', expected: identifier after ','"),
        ("=a", "found '=', expected: !, identifier, or 'end of string'"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a=(", "unable to parse requirement: found '(', expected: identifier"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        (
            "a>b",
            "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ] {
        assert_eq!(label_fault(selector), expected);
    }
    let bad_value = label_fault("a=-b");
    assert!(bad_value.starts_with("unable to parse requirement: values[0][a]: Invalid value: \"-b\": a valid label"));
    let bad_key = label_fault("/a=b");
    assert!(bad_key.starts_with("unable to parse requirement: <nil>: Invalid value: \"/a\": prefix part must"));
    assert!(label_fault(&"a".repeat(SELECTOR_MAX + 1)).starts_with("a selector has at most"));
}

/// KC6
#[test]
fn field_selectors_select() {
    let pod = json!({
        "metadata": {"name": "a", "namespace": "default"},
        "spec": {"nodeName": "node1", "hostNetwork": true, "restartPolicy": "Always"},
        "status": {"phase": "Running", "podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}]},
    });
    for (selector, expected) in [
        ("", true),
        ("metadata.name=a,status.phase==Running", true),
        ("status.phase!=Running", false),
        ("status.nominatedNodeName=", true),
        ("spec.hostNetwork=true", true),
        ("spec.nodeName!=node2", true),
        ("status.podIP=10.0.0.2", true),
    ] {
        assert_eq!(Fields::parse("pods", selector).unwrap().matches(&pod), expected, "{selector}");
    }
    let event = json!({"involvedObject": {"name": "a"}, "reportingComponent": "kubelet", "type": "Normal"});
    for (resource, selector) in [
        ("events", "involvedObject.name=a,type!=Warning,source=kubelet"),
        ("events.events.k8s.io", "regarding.name=a,reportingController=kubelet"),
    ] {
        assert!(Fields::parse(resource, selector).unwrap().matches(&event), "{selector}");
    }
    assert_eq!(Fields::parse("pods", "metadata.name=x").unwrap().name(), Some("x"));
    assert!(Fields::parse("secrets", r"type=a\,b\=c").unwrap().matches(&json!({"type": "a,b=c"})));
}

#[test]
fn unknown_fields_are_refused_as_upstream_does() {
    assert_eq!(field_fault("pods", "spec.x=1"), "field label not supported: spec.x");
    assert_eq!(field_fault("events", "regarding.name=a"), "field label not supported: regarding.name");
    assert_eq!(
        field_fault("configmaps", "data=1"),
        r#""data" is not a known field selector: only "metadata.name", "metadata.namespace""#
    );
    assert_eq!(field_fault("pods", "a"), "invalid selector: 'a'; can't understand 'a'");
    assert_eq!(field_fault("pods", r"metadata.name=a\x"), r"invalid field selector: invalid escape sequence: \x");
    assert_eq!(field_fault("pods", "metadata.name=a=b"), "invalid field selector: unescaped character in value: 61");
}

proptest! {
    #[test]
    fn no_text_breaks_the_parsers(text in r"[a-c=!<>(),\\ ]{0,24}|\PC{0,24}") {
        let object = json!({"metadata": {"labels": {"a": "b"}}});
        if let Ok(labels) = Labels::parse(&text) {
            labels.matches(&object);
        }
        if let Ok(fields) = Fields::parse("pods", &text) {
            fields.matches(&object);
        }
    }
}

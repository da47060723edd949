use super::*;
use crate::manifest::yaml::{MAX_ALIAS_NODES, MAX_DEPTH, MAX_NODES};

fn faults(text: &str) -> Vec<String> {
    decode("f.yaml", text)
        .err()
        .map(|refused| refused.faults.iter().map(ToString::to_string).collect())
        .unwrap_or_default()
}

/// A Pod around the lines of one container.
fn pod(container: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: bad}}\nspec:\n  containers:\n  - name: c\n    image: busybox\n{container}"
    )
}

#[test]
fn malformed_manifests_are_refused_with_position_and_text() {
    let table: &[(&str, &[&str])] = &[
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    imagePullPolcy: Always\n",
            &[
                "f.yaml:7:5: spec.containers[0].imagePullPolcy: unknown field \"imagePullPolcy\", did you mean \"imagePullPolicy\"?",
            ],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers: []\n  hostNetwrk: true\n  restartpolicy: Never\n  zzz: 1\n",
            &[
                "f.yaml:6:3: spec.hostNetwrk: unknown field \"hostNetwrk\", did you mean \"hostNetwork\"?",
                "f.yaml:7:3: spec.restartpolicy: unknown field \"restartpolicy\", did you mean \"restartPolicy\"?",
                "f.yaml:8:3: spec.zzz: unknown field \"zzz\"",
            ],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    image: a\n    ports: [{containerPort: \"eighty\"}]\n    image: b\n",
            &["f.yaml:9:5: spec.containers[0].image: duplicate key \"image\""],
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - name: c\n    image: a\n    ports: [{containerPort: \"eighty\"}]\n    env: [{name: A, value: 5}, {name: B, value: yes}]\n",
            &[
                "f.yaml:8:29: spec.containers[0].ports[0].containerPort: got the string \"eighty\", expected an integer",
                "f.yaml:9:28: spec.containers[0].env[0].value: got the integer 5, expected a string",
                "f.yaml:9:49: spec.containers[0].env[1].value: got the boolean true, expected a string",
            ],
        ),
        (
            "apiVersion: v1\nkind: Pood\nmetadata: {name: a}\n",
            &["f.yaml:2:7: kind: no matches for kind \"Pood\" in version \"v1\", did you mean \"Pod\"?"],
        ),
        (
            "apiVersion: v7\nkind: Pod\nmetadata: {name: a}\n",
            &["f.yaml:1:13: apiVersion: no matches for kind \"Pod\" in version \"v7\", did you mean \"v1\"?"],
        ),
        (
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n",
            &[
                "f.yaml:2:7: kind: Monopod runs Pods, not Deployments: write the Pod of its spec.template as a manifest of its own (kind: Pod)",
            ],
        ),
        ("kind: Pod\n", &["f.yaml:1:1: apiVersion: Required value: must be a non-empty string"]),
        ("apiVersion: v1\n", &["f.yaml:1:1: kind: Required value: must be a non-empty string"]),
        ("apiVersion: v1\nkind: 5\n", &["f.yaml:2:7: kind: Required value: must be a non-empty string"]),
        (
            "apiVersion: v1\nkind: Pod\nmetadata:\n  labels: {}\nspec: {containers: []}\n",
            &["f.yaml:4:3: metadata.name: Required value: name or generateName is required"],
        ),
        ("just text\n", &["f.yaml:1:1: a manifest is an object with apiVersion, kind and metadata"]),
        ("- a\n- b\n", &["f.yaml:1:1: a manifest is an object with apiVersion, kind and metadata"]),
        ("a: !!binary aGk=\n", &["f.yaml:1:13: a: the tag !!binary is not allowed in a manifest"]),
        ("a: .inf\n", &["f.yaml:1:4: a: infinity and NaN are not values of a Kubernetes object"]),
        ("a: 1\na: 2\n? [x]\n: 1\n", &["f.yaml:2:1: a: duplicate key \"a\"", "f.yaml:3:3: only a string can be a key"]),
        ("<<: 5\n", &["f.yaml:1:1: [<<]: `<<` needs a mapping or a list of mappings"]),
        ("a: &x {b: *x}\n", &["f.yaml:1:11: a.b: an alias inside of what it names"]),
        ("a: \"x\\0y\"\n", &["f.yaml:1:4: a: NUL in a string"]),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {app.conf: 5}\n",
            &["f.yaml:4:18: data[app.conf]: got the integer 5, expected a string"],
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {a: \"!!\"}\n",
            &["f.yaml:4:11: data.a: Invalid symbol 33, offset 0."],
        ),
        (
            "---\n# only a comment\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspc: {}\n---\nkind: X\napiVersion: v1\n",
            &[
                "f.yaml:7:1: spc: unknown field \"spc\", did you mean \"spec\"?",
                "f.yaml:9:7: kind: no matches for kind \"X\" in version \"v1\", known are Pod, ConfigMap, Secret, Namespace, ServiceAccount, PriorityClass, PersistentVolumeClaim, PersistentVolume, Service, LimitRange",
            ],
        ),
        (
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a, nam: b}\n",
            &["f.yaml:6:23: items[0].metadata.nam: unknown field \"nam\", did you mean \"name\"?"],
        ),
        (
            "{\"apiVersion\": \"v1\", \"kind\": \"Pod\",\n \"metadata\": {\"name\": \"a\", \"name\": \"b\"}}",
            &["f.yaml:2:28: metadata.name: duplicate key \"name\""],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(faults(text), *expected, "{text}");
    }
}

#[test]
fn broken_yaml_is_refused_with_its_position() {
    for (text, position) in [
        ("a:\n\tb: 1\n", "f.yaml:2:"),
        ("apiVersion: v1\nkind: Pod\n  metadata: {name: bad\n", "f.yaml:3:"),
        ("a: [1, 2\n", "f.yaml:1:4"),
        ("a: \"x\n", "f.yaml:"),
        ("a: *nobody\n", "f.yaml:1:4"),
    ] {
        let faults = faults(text);
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
        assert!(faults[0].starts_with(position) && faults[0].len() > 20, "{text}: {faults:?}");
    }
}

#[test]
fn bombs_run_into_a_budget() {
    // D34, P33. The budgets are counted, so the time is bounded by the size of the text.
    let mut laughs = "a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for (previous, name) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        laughs.push_str(&format!("{name}: &{name} [{}]\n", vec![format!("*{previous}"); 10].join(", ")));
    }
    assert!(faults(&laughs)[0].ends_with(&format!("aliases expand to more than {MAX_ALIAS_NODES} values")));

    let deep = |open: &str, levels: usize| format!("a: {}", open.repeat(levels));
    assert!(faults(&deep("[", 200_000)).len() == 1);
    assert!(faults(&deep("{a: ", 200_000)).len() == 1);
    let within = format!("{}1{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
    assert_eq!(yaml::load(&within).unwrap().len(), 1);
    let beyond = format!("{}1{}", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
    assert!(faults(&beyond)[0].contains("nested deeper than 64 levels"));

    let wide = format!("a: [{}]", "1,".repeat(MAX_NODES));
    assert!(faults(&wide)[0].ends_with(&format!("more than {MAX_NODES} values")));

    let long_key = format!("{}: 1", "k".repeat(MAX_TEXT - 3));
    assert_eq!(faults(&long_key).len(), 1);
    assert!(faults(&"#".repeat(MAX_TEXT + 1))[0].contains("bytes of text, must be at most"));
    let duplicates = "a: 1\n".repeat(1000);
    assert_eq!(faults(&duplicates).len(), yaml::MAX_FAULTS);
}

#[test]
fn bombs_cost_less_than_a_fifth_of_a_second() {
    // P33; five times the bound, since this is an unoptimised build on a shared machine.
    let texts = [
        format!("a: {}", "[".repeat(200_000)),
        format!("a: {}", "{a: ".repeat(200_000)),
        format!("{}: 1", "k".repeat(MAX_TEXT - 3)),
        format!("? {}", "k".repeat(MAX_TEXT - 3)),
    ];
    for text in texts {
        let start = std::time::Instant::now();
        assert_eq!(faults(&text).len(), 1);
        assert!(start.elapsed().as_millis() < 1000, "{:?} for {}...", start.elapsed(), &text[..8]);
    }
}

#[test]
fn values_are_those_of_kubectls_converter() {
    let text = "base: &b {x: 1, y: 2}\nc:\n  <<: *b\n  z: 0644\ny: \"yes\"\n5: five\nmultiline: a\n  b\nkeep: |\n  x\n";
    let documents = yaml::load(text).unwrap();
    let expected = serde_json::json!({"base": {"x": 1, "true": 2}, "c": {"x": 1, "true": 2, "z": 420}, "true": "yes",
        "5": "five", "multiline": "a b", "keep": "x\n"});
    assert_eq!(documents[0].value, expected);
    let explicit_wins = yaml::load("a: &a {x: 1}\nb: {x: 2, <<: *a}\nc: {<<: [{x: 3}, {x: 4, z: 5}]}\n").unwrap();
    assert_eq!(explicit_wins[0].value, serde_json::json!({"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 3, "z": 5}}));
    let json = yaml::load("{\"a\": \"\\ud83d\\ude00 \\/ \\u0041\", \"b\": [1e3, null, true]}").unwrap();
    assert_eq!(json[0].value, serde_json::json!({"a": "😀 / A", "b": [1000, null, true]}));
}

#[test]
fn several_documents_and_lists_become_objects_in_order() {
    let text = "---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}}\n- {apiVersion: v1, kind: Secret, metadata: {name: b}}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: c}\n...\n";
    let names: Vec<String> = decode("f", text)
        .unwrap()
        .iter()
        .map(|m| format!("{} {} {}", m.object.kind(), m.object.name(), m.within))
        .collect();
    assert_eq!(names, ["ConfigMap a items[0]", "Secret b items[1]", "Namespace c "]);
    assert!(decode("f", "").unwrap().is_empty());
    assert!(decode("f", "apiVersion: v1\nkind: List\n").unwrap().is_empty());
}

#[test]
fn a_fault_of_validation_points_into_the_file() {
    let text = pod("    ports: [{containerPort: 70000}]\n");
    let manifest = &decode("f.yaml", &text).unwrap()[0];
    let fault = manifest.fault("spec.containers[0].ports[0].containerPort", "Invalid value".to_owned());
    assert_eq!(fault.to_string(), "f.yaml:8:29: spec.containers[0].ports[0].containerPort: Invalid value");
    assert_eq!(
        fault.snippet().unwrap(),
        "  8 |     ports: [{containerPort: 70000}]\n    |                             ^"
    );
    let absent = manifest.fault("spec.containers[0].volumeMounts[3].name", "Required value".to_owned());
    assert_eq!(absent.position, Some(Position { line: 6, column: 5 }));
}

#[test]
fn directories_are_read_in_order_and_every_fault_of_every_file_is_reported() {
    let directory = tempfile::tempdir().unwrap();
    let object = |name: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\n");
    for (file, text) in
        [("b.yml", object("b")), ("a.yaml", object("a")), ("c.json", object("c")), ("d.txt", "x".to_owned())]
    {
        fs::write(directory.path().join(file), text).unwrap();
    }
    let arguments = [directory.path().to_owned()];
    let names: Vec<String> = read(&arguments).unwrap().iter().map(|m| m.object.name().to_owned()).collect();
    assert_eq!(names, ["a", "b", "c"]);

    fs::write(directory.path().join("a.yaml"), "kind: Pod\n").unwrap();
    fs::write(directory.path().join("e.yaml"), [0xff, 0xfe]).unwrap();
    let arguments = [directory.path().to_owned(), PathBuf::from("/nonexistent/file.yaml")];
    let shown = read(&arguments).unwrap_err().to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(lines.len(), 3, "{shown}");
    assert!(lines[0].ends_with("a.yaml:1:1: apiVersion: Required value: must be a non-empty string"));
    assert!(lines[1].ends_with("e.yaml: not UTF-8 text"));
    assert_eq!(lines[2], "/nonexistent/file.yaml: No such file or directory (os error 2)");
}

//! Images without a registry, logins without a file, and what a pull says where nobody can see bars.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::registry::{HTPASSWD, Registry, monopod, with_own_configuration};
use crate::registry_pods::Node;
use crate::serve::end_everything;
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: a_bundle_brings_its_images_to_a_node_without_network, a_credential_helper_opens_a_registry,
        a_pull_without_a_terminal_says_it_in_lines]
}

fn image(arguments: &[&str]) -> Result<String> {
    let output = monopod()?.arg("image").args(arguments).output()?;
    ensure!(output.status.success(), "image {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Ids and names of what is there.
fn there() -> Result<Vec<(String, String)>> {
    let list: Value = serde_json::from_str(&image(&["ls", "-o", "json"])?)?;
    let mut all: Vec<_> = list
        .as_array()
        .into_iter()
        .flatten()
        .map(|image| (image["names"].to_string(), format!("{} {}", image["id"], image["manifest"])))
        .collect();
    all.sort();
    Ok(all)
}

/// Saved on one node, loaded on another, the same to the last byte; a pod that would pull finds what it wants.
fn a_bundle_brings_its_images_to_a_node_without_network() -> Result<()> {
    const NAMES: [&str; 2] = ["127.0.0.1:5000/team/busybox:1", "127.0.0.1:5000/nginx:latest"];
    with_own_configuration(|| {
        let registry = Registry::plain()?;
        for (name, as_name) in [("busybox", "team/busybox:1"), ("nginx", "nginx")] {
            registry.push(name, as_name, &[])?;
        }
        image(&["pull", NAMES[0], NAMES[1]])?;
        let before = there()?;
        ensure!(before.len() == 2, "{before:?}");
        image(&["save", NAMES[0], NAMES[1], "-o", "/run/bundle.tar"])?;
        image(&["rm", NAMES[0], NAMES[1]])?;
        drop(registry);
        ensure!(there()?.is_empty(), "{:?}", there()?);

        let said = image(&["load", "/run/bundle.tar"])?;
        ensure!(NAMES.iter().all(|name| said.contains(&format!("Loaded image: {name}"))), "{said}");
        ensure!(there()? == before, "{before:?} became {:?}", there()?);
        image(&["save", NAMES[0], NAMES[1], "-o", "/run/again.tar"])?;
        ensure!(std::fs::read("/run/bundle.tar")? == std::fs::read("/run/again.tar")?, "the second bundle is another");
        let result = pods_run_of(&NAMES);
        end_everything();
        result
    })
}

fn pods_run_of(names: &[&str; 2]) -> Result<()> {
    let node = Node::start()?;
    let pod = |name: &str, image: &str, policy: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n  \
             - {{name: app, image: '{image}', imagePullPolicy: {policy}}}\n"
        )
    };
    // Who loads an image by hand puts it in the registry's place, also for `Always` (decision 0060).
    for (name, policy) in [("present", "IfNotPresent"), ("always", "Always")] {
        node.apply(&pod(name, names[1], policy))?;
        node.ready(name)?;
        let events = node.sh(&format!("monopod describe pod {name}"))?;
        ensure!(events.contains("already present on machine") && !events.contains("Pulling image"), "{events}");
    }
    // What the bundle does not hold would have to come from a registry, and there is none.
    node.apply(&pod("missing", "127.0.0.1:5000/missing", "IfNotPresent"))?;
    node.prints_event("missing", "connection refused")?;
    node.sh("monopod delete pods --all").map(drop)
}

/// Docker's `config.json` names programs on PATH that know the login: for one registry, or for all.
fn a_credential_helper_opens_a_registry() -> Result<()> {
    const NAME: &str = "127.0.0.1:5002/busybox";
    with_own_configuration(|| {
        std::fs::write("/run/htpasswd", HTPASSWD)?;
        let basic = "http: {addr: \"ADDRESS\"}\nauth: {htpasswd: {realm: r, path: /run/htpasswd}}\n";
        let registry = Registry::start("127.0.0.1:5002", basic)?;
        registry.push("busybox", "busybox", &["--dest-creds", "user:secret"])?;
        for directory in ["/run/helpers", "/run/.docker"] {
            std::fs::create_dir(directory)?;
        }
        let login = |password: &str| format!("echo '{{\"Username\": \"user\", \"Secret\": \"{password}\"}}'");
        for (configuration, script, want) in [
            (r#"{"credHelpers": {"127.0.0.1:5002": "test"}}"#, login("secret"), "Pulled"),
            (r#"{"credsStore": "test"}"#, login("secret"), "Pulled"),
            (r#"{"credHelpers": {"elsewhere.test": "test"}}"#, login("secret"), "wants a login"),
            (r#"{"credsStore": "test"}"#, login("wrong"), "refuses the user name or password"),
            (r#"{"credsStore": "test"}"#, "echo credentials not found; exit 1".to_owned(), "wants a login"),
            (r#"{"credsStore": "absent"}"#, String::new(), "wants a login"),
        ] {
            let helper = "/run/helpers/docker-credential-test";
            std::fs::write(helper, format!("#!/bin/sh\necho \"$1 $(cat)\" > /run/asked\n{script}\n"))?;
            std::fs::set_permissions(helper, std::fs::Permissions::from_mode(0o755))?;
            std::fs::write("/run/.docker/config.json", configuration)?;
            let _absent = std::fs::remove_file("/run/asked");
            let said = pull_with_helpers(NAME)?;
            let all = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
            ensure!(all.contains(want), "{configuration}, {script}: want {want:?}, got {all}");
            if want == "Pulled" {
                let asked = std::fs::read_to_string("/run/asked").context("the helper was not asked")?;
                ensure!(asked.trim() == "get 127.0.0.1:5002", "{asked}");
                image(&["rm", NAME])?;
            }
        }
        Ok(())
    })
}

fn pull_with_helpers(name: &str) -> Result<Output> {
    let path = format!("/run/helpers:{}", std::env::var("PATH").unwrap_or_default());
    Ok(monopod()?.env("PATH", path).args(["image", "pull", name]).output()?)
}

/// One line when it starts, one when its size is known, one for each layer; the result alone on standard output.
fn a_pull_without_a_terminal_says_it_in_lines() -> Result<()> {
    with_own_configuration(|| {
        let registry = Registry::plain()?;
        registry.push("busybox", "busybox", &[])?;
        let name = "127.0.0.1:5000/busybox";
        for (missing, layers) in [(1, 1), (0, 0)] {
            let output = monopod()?.args(["image", "pull", name]).output()?;
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            let lines: Vec<&str> = err.lines().collect();
            ensure!(lines.len() == 2 + layers && lines[0] == format!("pulling {name}"), "{err}");
            ensure!(lines[1].starts_with(&format!("{name}: {missing} of 1 layers to pull, ")), "{err}");
            ensure!(lines.get(2).is_none_or(|line| *line == format!("{name}: layer 1 done")), "{err}");
            ensure!(!err.contains(['\r', '\x1b']), "{err:?}");
            let out: Vec<&str> = out.lines().collect();
            ensure!(out.len() == 2 && out[0].starts_with("Pulled 127.0.0.1:5000/busybox"), "{out:?}");
            ensure!(out[1].starts_with(&format!("{name}@sha256:")), "{out:?}");
        }
        Ok(())
    })
}

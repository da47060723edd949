//! Founding manifests 03 and 05, with what can be seen of them; 12 needs controllers and stands in [`crate::life_vm`].

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use crate::life_watch::{Shared, Watch, uid};
use crate::run::{manifest, with_images};
use crate::{Test, tests};

pub fn tests() -> Vec<Test> {
    tests![Host: a_sidecar_that_exits_is_restarted_and_its_words_are_kept, a_native_sidecar_outlives_the_app]
}

/// Founding manifest 03: NS1, KC1, CB5, LG2.
fn a_sidecar_that_exits_is_restarted_and_its_words_are_kept() -> Result<()> {
    with_images(&["busybox", "nginx"], || {
        let text = std::fs::read_to_string(manifest("03-network-demo.yaml"))?;
        let mut watch = Watch::start_text(&[], &text, ".yaml")?;
        let shown = watch.until("the back-off", |line| {
            line.waits_for("sidecar") == Some("CrashLoopBackOff") && line.is_running("app")
        })?;
        ensure!(shown.phase() == Some("Running") && shown.restarts("sidecar") == Some(1), "{shown:?}");
        ensure!(shown.container("app").context("app")?["ready"] == true, "{shown:?}");
        let expected = "False ContainersNotReady containers with unready status: [sidecar]";
        ensure!(shown.condition("Ready").as_deref() == Some(expected), "{:?}", shown.condition("Ready"));
        let logs = format!("/var/log/pods/default_network-demo_{}/sidecar", uid(&shown)?);
        let said = |nth: u64| std::fs::read_to_string(format!("{logs}/{nth}.log")).unwrap_or_default();
        let welcome = |nth: u64| said(nth).contains("<title>Welcome to nginx!</title>");
        // nginx may not have listened when the first instances asked.
        if !welcome(0) && !welcome(1) {
            watch.until("the page", |line| line.restarts("sidecar") >= Some(2) && welcome(2))?;
        }
        watch.delete()?;
        Ok(())
    })
}

/// Founding manifest 05: IN2, IN5, TR3, PH8. Each container writes its number: when it starts, the sidecar also when it
/// ends.
fn a_native_sidecar_outlives_the_app() -> Result<()> {
    with_images(&["busybox"], || {
        let shared = Shared::new()?;
        let text = std::fs::read_to_string(manifest("05-init-and-sidecars.yaml"))?;
        // So that the order can be read when the pod is gone.
        let volume = format!("{{name: config, hostPath: {{path: {}}}}}", shared.path("").display());
        let text = text.replace("{name: config, emptyDir: {}}", &volume);
        let mut watch = Watch::start_text(&[], &text, ".yaml")?;
        let status = watch.wait()?;
        println!("measured: order {:?}", shared.read("order")?);
        ensure!(status.success() && shared.read("order")? == "1\n2\n3\n4\n", "{status}: {:?}", shared.read("order")?);
        let last = watch.last("init-and-sidecars")?;
        ensure!(last.phase() == Some("Succeeded"), "{last:?}");
        let ended = |name: &str| last.container(name).map(|status| status["state"]["terminated"]["exitCode"].clone());
        for name in ["download-config", "envoy-proxy", "app", "log-collector"] {
            ensure!(ended(name) == Some(json!(0)), "{name}: {:?}", ended(name));
        }
        let app = watch.when("the app's end", |line| line.is_terminated("app"))?;
        let sidecar = watch.when("the sidecar's end", |line| line.is_terminated("envoy-proxy"))?;
        ensure!(app < sidecar, "the sidecar ended before the app");
        Ok(())
    })
}

//! From a container of a manifest to the plan that its first process obeys.

use k8s_openapi::api::core::v1::{Container, PodSpec};

use super::ConfigError;
use super::env::{Environment, Sources, manifest_environment, process_environment};
use super::expand::expand;
use super::mounts::{Volumes, mounts};
use super::security::{AppArmor, Security};
use super::slots::{MAX_DESCRIPTORS, Needed, Slots};
use crate::runtime::capabilities;
use crate::runtime::launch::{Capabilities, Devices, Launch, Process, Rlimit, Root, User};
use crate::runtime::standard;

/// What the image says about its process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageProcess {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub env: Vec<String>,
    pub user: String,
    pub working_dir: String,
    pub layer_count: usize,
}

/// A launch and the descriptors that it names, in the order of their slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchPlan {
    pub launch: Launch,
    pub needed: Vec<Needed>,
    pub host_cgroup_namespace: bool,
}

/// `RLIMIT_NOFILE` of `<sys/resource.h>`.
const RLIMIT_NOFILE: u32 = 7;

/// The plan for `container`; `oom_score_adj` comes from the pod's resources (section 5.7).
pub fn launch(
    sources: Sources<'_>,
    container: &Container,
    image: &ImageProcess,
    volumes: &Volumes,
    container_id: &str,
    oom_score_adj: Option<i32>,
) -> Result<LaunchPlan, ConfigError> {
    let spec = spec_of(sources)?;
    let security = Security::of(spec, container);
    let mut slots = Slots::default();
    let layers = (0..image.layer_count).map(|layer| slots.add(Needed::Layer(layer))).collect();
    let scratch = slots.add(Needed::Scratch);
    let environment = manifest_environment(sources, container)?;
    let mounts = mounts(spec, container, &environment, volumes, container_id, &mut slots)?;
    let process = process(sources, container, image, &environment, oom_score_adj, &mut slots)?;
    let (masked_paths, read_only_paths) = if security.unmasked() {
        (Vec::new(), Vec::new())
    } else {
        (standard::masked_paths(sources.node.cpus), standard::read_only_paths())
    };
    let launch = Launch {
        root: Root { layers, scratch, read_only: security.read_only_root() },
        mounts,
        devices: if security.privileged() { Devices::Host } else { Devices::Default },
        masked_paths,
        read_only_paths,
        process,
    };
    let needed = slots.into_needed();
    if needed.len() + RESERVED_DESCRIPTORS > MAX_DESCRIPTORS {
        return Err(ConfigError(format!(
            "image layers and volume mounts need {} descriptors, more than {}",
            needed.len(),
            MAX_DESCRIPTORS - RESERVED_DESCRIPTORS
        )));
    }
    Ok(LaunchPlan { launch, needed, host_cgroup_namespace: security.privileged() })
}

/// Descriptors that travel beside those of the launch: the launch itself, cgroup, log directory, record directory.
pub const RESERVED_DESCRIPTORS: usize = 4;

fn process(
    sources: Sources<'_>,
    container: &Container,
    image: &ImageProcess,
    environment: &Environment,
    oom_score_adj: Option<i32>,
    slots: &mut Slots,
) -> Result<Process, ConfigError> {
    let spec = spec_of(sources)?;
    let security = Security::of(spec, container);
    let terminal = container.tty.unwrap_or(false);
    let args = arguments(container, image, environment);
    if args.is_empty() {
        return Err(ConfigError("no command specified".to_owned()));
    }
    let nofile = sources.node.nofile;
    Ok(Process {
        args,
        env: process_environment(&image.env, environment, &sources.pod_facts.hostname, terminal),
        cwd: working_dir(container, image),
        terminal,
        user: security.user(&image.user, &container.name, &pod_description(sources))?,
        capabilities: capability_sets(security, sources.node.capabilities)?,
        no_new_privs: security.no_new_privs(),
        rlimits: vec![Rlimit { resource: RLIMIT_NOFILE, soft: nofile.0, hard: nofile.1 }],
        oom_score_adj,
        seccomp: security.seccomp().map(|profile| slots.add(Needed::Seccomp(profile))),
        apparmor: apparmor(security, sources.node.apparmor)?,
    })
}

/// PV7: a profile that nothing enforces is refused, as the kubelet does.
fn apparmor(security: Security<'_>, is_enabled: bool) -> Result<Option<String>, ConfigError> {
    match security.apparmor() {
        AppArmor::Unasked => Ok(None),
        AppArmor::RuntimeDefault | AppArmor::Localhost(_) if !is_enabled => {
            Err(ConfigError("Cannot enforce AppArmor: AppArmor is not enabled on the host".to_owned()))
        }
        AppArmor::RuntimeDefault => Ok(None),
        AppArmor::Localhost(profile) => Ok(Some(profile)),
    }
}

/// The process that an exec runs: the container's world, another command (rules EX5, XE5).
pub fn exec(container_process: &Process, command: Vec<String>, terminal: bool) -> Process {
    Process { args: command, terminal, ..container_process.clone() }
}

/// `command` replaces entrypoint and cmd, `args` alone replaces cmd; both are expanded (rule EN9).
fn arguments(container: &Container, image: &ImageProcess, environment: &Environment) -> Vec<String> {
    let expanded = |words: &[String]| -> Vec<String> {
        words.iter().map(|word| expand(word, |name| environment.get(name).cloned())).collect()
    };
    let command = container.command.as_deref().filter(|words| !words.is_empty());
    let args = container.args.as_deref().filter(|words| !words.is_empty());
    match (command, args) {
        (Some(command), args) => [expanded(command), expanded(args.unwrap_or_default())].concat(),
        (None, Some(args)) => [image.entrypoint.clone(), expanded(args)].concat(),
        (None, None) => [image.entrypoint.clone(), image.cmd.clone()].concat(),
    }
}

fn working_dir(container: &Container, image: &ImageProcess) -> String {
    let own = container.working_dir.as_deref().filter(|dir| !dir.is_empty());
    let dir = own.unwrap_or(if image.working_dir.is_empty() { "/" } else { &image.working_dir });
    if dir.starts_with('/') { dir.to_owned() } else { format!("/{dir}") }
}

/// Rules CP1-CP4: bounding, permitted and effective hold the set; nothing is inherited. `all` is what the kernel knows.
fn capability_sets(security: Security<'_>, all: u64) -> Result<Capabilities, ConfigError> {
    let (add, drop) = security.capabilities();
    let set = if security.privileged() {
        all
    } else {
        capabilities::change(add, drop, all).map_err(|error| ConfigError(error.to_string()))?
    };
    Ok(capabilities::for_process(set))
}

/// `<name>_<namespace>(<uid>)`
fn pod_description(sources: Sources<'_>) -> String {
    let meta = &sources.pod.metadata;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
}

fn spec_of(sources: Sources<'_>) -> Result<&PodSpec, ConfigError> {
    sources.pod.spec.as_ref().ok_or_else(|| ConfigError("pod has no spec".to_owned()))
}

/// The user that a container would run as, for those who need it before a launch exists.
pub fn user(sources: Sources<'_>, container: &Container, image: &ImageProcess) -> Result<User, ConfigError> {
    Security::of(spec_of(sources)?, container).user(&image.user, &container.name, &pod_description(sources))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    /// Section 11: command replaces both, args alone replaces cmd.
    #[test]
    fn command_and_args_replace_the_image_s() {
        let image = ImageProcess { entrypoint: words(&["/e"]), cmd: words(&["c"]), ..ImageProcess::default() };
        let environment = Environment::from([("A".to_owned(), "1".to_owned())]);
        for (container, expected) in [
            (r#"{"name":"c"}"#, words(&["/e", "c"])),
            (r#"{"name":"c","args":["$(A)"]}"#, words(&["/e", "1"])),
            (r#"{"name":"c","command":["x"]}"#, words(&["x"])),
            (r#"{"name":"c","command":["x","$(B)"],"args":["y"]}"#, words(&["x", "$(B)", "y"])),
            (r#"{"name":"c","command":[],"args":[]}"#, words(&["/e", "c"])),
        ] {
            let container: Container = serde_json::from_str(container).unwrap();
            assert_eq!(arguments(&container, &image, &environment), expected);
        }
    }

    #[test]
    fn the_working_directory_is_absolute() {
        let image = ImageProcess { working_dir: "srv".into(), ..ImageProcess::default() };
        assert_eq!(working_dir(&Container::default(), &image), "/srv");
        assert_eq!(working_dir(&Container::default(), &ImageProcess::default()), "/");
    }
}

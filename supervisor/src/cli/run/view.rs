//! `--output`: what a run writes to standard output.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use serde::Serialize;

use super::RunError;
use super::logs::{LogPrefix, Logs};
use crate::convert::event;
use crate::convert::facts::NodeFacts;
use crate::convert::status::{self, Surroundings};
use crate::pod::columns::columns;
use crate::pod::event::KubeEvent;
use crate::pod::spec::PodSpec;
use crate::pod::status::Status;

/// `--output`
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// What the containers write
    Logs,
    /// A line per change of a pod, as `kubectl get pods --watch` shows it
    Pods,
    /// A line of JSON per change of a pod and per event, as the Kubernetes API's watch sends them
    Json,
    /// Nothing
    None,
}

#[derive(Debug)]
pub(super) enum View {
    Logs(Box<Logs>),
    Pods(Watched),
    Json(Watched),
    None,
}

impl View {
    pub(super) fn new(output: Output, prefix: LogPrefix, log_dir: PathBuf, node: &NodeFacts) -> Result<Self, RunError> {
        let watched = || Watched { pods: BTreeMap::new(), ips: node.ips.clone(), node: node.name.clone(), events: 0 };
        Ok(match output {
            Output::Logs => Self::Logs(Box::new(Logs::new(prefix, log_dir)?)),
            Output::Pods => {
                write(&format!("{:<WIDTH$} {:<7} {:<24} RESTARTS", "NAME", "READY", "STATUS"));
                Self::Pods(watched())
            }
            Output::Json => Self::Json(watched()),
            Output::None => Self::None,
        })
    }

    /// A pod that is about to start; `several` when it is not alone.
    pub(super) fn add(&mut self, pod: &Pod, spec: &PodSpec, several: bool) -> Result<(), RunError> {
        match self {
            Self::Logs(logs) => logs.add(spec, several),
            Self::Pods(watched) => {
                watched.add(pod, spec);
                Ok(())
            }
            Self::Json(watched) => {
                watched.add(pod, spec);
                json("ADDED", pod);
                Ok(())
            }
            Self::None => Ok(()),
        }
    }

    pub(super) fn status(&mut self, uid: &str, status: &Status) {
        match self {
            Self::Logs(logs) => logs.status(uid, status),
            Self::Pods(watched) => watched.row(uid, status),
            Self::Json(watched) => watched.status(uid, status),
            Self::None => {}
        }
    }

    pub(super) fn event(&mut self, uid: &str, event: &KubeEvent) {
        match self {
            Self::Json(watched) => watched.event(uid, event),
            Self::Logs(_) | Self::Pods(_) | Self::None => {}
        }
    }

    pub(super) fn removed(&mut self, uid: &str) {
        match self {
            Self::Json(watched) => watched.removed(uid),
            Self::Pods(watched) => drop(watched.pods.remove(uid)),
            Self::Logs(_) | Self::None => {}
        }
    }

    /// Waits for something to print.
    pub(super) async fn changed(&self) {
        match self {
            Self::Logs(logs) => logs.changed().await,
            Self::Pods(_) | Self::Json(_) | Self::None => std::future::pending().await,
        }
    }

    /// Prints what has come; true when that was something.
    pub(super) fn print(&mut self) -> bool {
        match self {
            Self::Logs(logs) => logs.print(),
            Self::Pods(_) | Self::Json(_) | Self::None => false,
        }
    }
}

/// Columns of the table.
const WIDTH: usize = 24;

/// The pods as the API would show them.
#[derive(Debug)]
pub(super) struct Watched {
    pods: BTreeMap<String, Object>,
    ips: Vec<IpAddr>,
    node: String,
    events: u64,
}

#[derive(Debug)]
struct Object {
    pod: Pod,
    spec: PodSpec,
    around: Surroundings,
    /// What was shown last.
    row: String,
}

/// `metav1.WatchEvent`
#[derive(Serialize)]
struct WatchEvent<'a, T> {
    r#type: &'a str,
    object: &'a T,
}

impl Watched {
    fn add(&mut self, pod: &Pod, spec: &PodSpec) {
        let around = Surroundings::of(pod, self.ips.clone());
        let object = Object { pod: pod.clone(), spec: spec.clone(), around, row: String::new() };
        self.pods.insert(spec.uid.clone(), object);
    }

    fn status(&mut self, uid: &str, status: &Status) {
        if let Some(object) = self.pods.get_mut(uid) {
            object.pod = status::pod(&object.pod, status, &object.around);
            json("MODIFIED", &object.pod);
        }
    }

    fn event(&mut self, uid: &str, own: &KubeEvent) {
        self.events += 1;
        if let Some(object) = self.pods.get(uid) {
            json("ADDED", &event::event(&object.pod, &object.spec, own, &self.node, self.events));
        }
    }

    fn removed(&mut self, uid: &str) {
        if let Some(object) = self.pods.remove(uid) {
            json("DELETED", &object.pod);
        }
    }

    fn row(&mut self, uid: &str, status: &Status) {
        let Some(object) = self.pods.get_mut(uid) else { return };
        let cells = columns(status, crate::node::wall_clock());
        let row = format!("{:<WIDTH$} {:<7} {:<24} {}", object.spec.name, cells.ready, cells.status, cells.restarts);
        if object.row != row {
            write(&row);
            object.row = row;
        }
    }
}

fn json<T: Serialize>(kind: &str, object: &T) {
    match serde_json::to_string(&WatchEvent { r#type: kind, object }) {
        Ok(line) => write(&line),
        Err(error) => tracing::debug!("write JSON: {error}"),
    }
}

/// A reader that has gone does not end the pods.
fn write(line: &str) {
    if let Err(error) = writeln!(std::io::stdout().lock(), "{line}") {
        tracing::debug!("write output: {error}");
    }
}

//! `monopod cp`: files to a container and from it, with the container's own `tar`.

mod pack;
mod path;
mod unpack;

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use super::Place;
use super::client::error::VerbError;
use super::client::{Call, Client};
use super::exec::finish;
use super::logs::{default_container, pod_path};
use super::remote::{Output, exit_code, run_with};

/// Bytes of an archive at once.
const PART_BYTES: usize = 32 * 1024;
/// Parts that wait to be sent or written down.
const WAITING_PARTS: usize = 4;

/// Copies files and directories to a container, or from it
///
/// `monopod cp FILE POD:/PATH`, `cp POD:/PATH FILE`. The container's image must have `tar`. Links that come from a
/// container are left out.
#[derive(Debug, clap::Args)]
pub struct CpCommand {
    #[command(flatten)]
    place: Place,
    /// FILE, or [NAMESPACE/]POD:PATH
    #[arg(value_name = "FROM")]
    from: Side,
    /// FILE, or [NAMESPACE/]POD:PATH
    #[arg(value_name = "TO")]
    to: Side,
    /// Container; the first one by default
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// In the container, files belong to who copies them, with the usual permissions
    #[arg(long)]
    no_preserve: bool,
}

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Side {
    Here(PathBuf),
    There(Remote),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Remote {
    namespace: Option<String>,
    pod: String,
    path: String,
}

impl FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let format = || "filespec must match the canonical format: [[namespace/]pod:]file/path".to_owned();
        let Some((pod, path)) = text.split_once(':') else {
            return if text.is_empty() {
                Err("filepath can not be empty".to_owned())
            } else {
                Ok(Self::Here(text.into()))
            };
        };
        let (namespace, pod) = match pod.split_once('/') {
            Some((namespace, pod)) => (Some(namespace.to_owned()), pod),
            None => (None, pod),
        };
        if pod.is_empty() || pod.contains('/') {
            return Err(format());
        }
        if path.is_empty() {
            return Err("filepath can not be empty".to_owned());
        }
        Ok(Self::There(Remote { namespace, pod: pod.to_owned(), path: path.to_owned() }))
    }
}

/// Runs `monopod cp ...`.
///
/// # Errors
/// A file isn't there, or the container has no `tar`.
pub async fn run(command: &CpCommand) -> Result<ExitCode, VerbError> {
    let client = command.place.client();
    match (&command.from, &command.to) {
        (Side::Here(from), Side::There(to)) => {
            let container = Container::find(command, client, to).await?;
            Box::pin(upload(command, &container, from.clone(), &to.path)).await
        }
        (Side::There(from), Side::Here(to)) => {
            let container = Container::find(command, client, from).await?;
            Box::pin(download(&container, &from.path, to.clone())).await
        }
        (Side::Here(_), Side::Here(_)) => {
            Err(VerbError::usage("one of src or dest must be a remote file specification"))
        }
        (Side::There(_), Side::There(_)) => {
            Err(VerbError::usage("one of src or dest must be a local file specification"))
        }
    }
}

/// Where `tar` runs.
struct Container {
    client: Client,
    pod: String,
    name: String,
}

impl Container {
    async fn find(command: &CpCommand, client: Client, side: &Remote) -> Result<Self, VerbError> {
        let namespace = side.namespace.as_deref().unwrap_or(command.place.namespace());
        let pod = pod_path(namespace, &side.pod);
        let name = match &command.container {
            Some(name) => name.clone(),
            None => default_container(&client.json(Call::get(pod.as_str())).await?),
        };
        Ok(Self { client, pod, name })
    }

    fn call(&self, command: &[&str], has_stdin: bool) -> Call {
        let call = Call::get(format!("{}/exec", self.pod))
            .query("container", self.name.as_str())
            .query("stdin", has_stdin.to_string())
            .query("stdout", "true")
            .query("stderr", "true");
        command.iter().fold(call, |call, word| call.query("command", *word))
    }

    async fn is_directory(&self, path: &str) -> Result<bool, VerbError> {
        let status = run_with(&self.client, self.call(&["test", "-d", path], false), None, Output::Ours).await?;
        Ok(exit_code(&status) == Ok(0))
    }
}

async fn upload(command: &CpCommand, container: &Container, from: PathBuf, path: &str) -> Result<ExitCode, VerbError> {
    if std::fs::symlink_metadata(&from).is_err() {
        return Err(VerbError::usage(format!("{} doesn't exist in local filesystem", from.display())));
    }
    let mut to = path::clean(path);
    if container.is_directory(&to).await? {
        let base = from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        to = path::clean(&format!("{to}/{base}"));
    }
    let (dir, base) = path::split(&to);
    let mut words = vec!["tar"];
    if command.no_preserve {
        words.extend(["--no-same-permissions", "--no-same-owner"]);
    }
    words.extend(["-xmf", "-", "-C", dir]);
    let (parts, input) = mpsc::channel(WAITING_PARTS);
    let base = base.to_owned();
    let packing = tokio::task::spawn_blocking(move || {
        let mut to = io::BufWriter::with_capacity(PART_BYTES, Parts(parts));
        pack::pack(&from, &base, &mut to)?;
        to.flush()
    });
    let status = run_with(&container.client, container.call(&words, true), Some(input), Output::Ours).await?;
    match packing.await {
        // Whoever reads no more has said why.
        Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(VerbError::Stream(error)),
        Ok(Ok(()) | Err(_)) | Err(_) => finish(&status),
    }
}

async fn download(container: &Container, path: &str, to: PathBuf) -> Result<ExitCode, VerbError> {
    let (sender, parts) = mpsc::channel(WAITING_PARTS);
    let prefix = path::relative(path);
    let unpacking =
        tokio::task::spawn_blocking(move || unpack::unpack(Arriving { parts, part: Bytes::new() }, &prefix, &to));
    let call = container.call(&["tar", "cf", "-", path], false);
    let ran = run_with(&container.client, call, None, Output::Parts(sender)).await;
    let unpacked = unpacking.await;
    match (ran, unpacked) {
        // What came is worth nothing when the command failed, whatever it was.
        (Ok(status), unpacked) if exit_code(&status) != Ok(0) => {
            drop(unpacked);
            finish(&status)
        }
        (_, Ok(Err(error))) => Err(VerbError::Stream(error)),
        (Err(error), _) => Err(error),
        (Ok(_), Ok(Ok(()))) => Ok(ExitCode::SUCCESS),
        (Ok(_), Err(error)) => Err(VerbError::Stream(io::Error::other(error))),
    }
}

/// Hands an archive on in parts.
struct Parts(mpsc::Sender<Vec<u8>>);

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An archive that comes in parts.
struct Arriving {
    parts: mpsc::Receiver<Bytes>,
    part: Bytes,
}

impl Read for Arriving {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            match self.parts.blocking_recv() {
                Some(part) => self.part = part,
                None => return Ok(0),
            }
        }
        let count = self.part.len().min(into.len());
        self.part.split_to(count).copy_to_slice(into.get_mut(..count).unwrap_or_default());
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart_by_their_colon() {
        let there = |namespace: Option<&str>, pod: &str, path: &str| {
            let namespace = namespace.map(str::to_owned);
            Ok(Side::There(Remote { namespace, pod: pod.to_owned(), path: path.to_owned() }))
        };
        let format = "filespec must match the canonical format: [[namespace/]pod:]file/path";
        for (text, expected) in [
            ("a/b", Ok(Side::Here("a/b".into()))),
            ("p:/x", there(None, "p", "/x")),
            ("n/p:x:y", there(Some("n"), "p", "x:y")),
            (":x", Err(format.to_owned())),
            ("a/b/c:x", Err(format.to_owned())),
            ("p:", Err("filepath can not be empty".to_owned())),
        ] {
            assert_eq!(text.parse(), expected, "{text}");
        }
    }
}

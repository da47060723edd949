//! Docker's credential helpers: `docker-credential-NAME get`, the server on its standard input, a login on its output.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::Deserialize;

use crate::image::registry::{Login, Secret};

/// Helpers ask clouds and key rings, some of them people.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of an answer.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// Stands for the user when the secret is a token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// The helper's login for a server; none when it has none or fails, which it says on standard error.
pub(super) fn ask(helper: &str, server: &str) -> Option<Login> {
    let safe = helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if !safe {
        return None;
    }
    match run(&format!("docker-credential-{helper}"), server, TIMEOUT) {
        Ok(answer) => serde_json::from_slice(&answer).ok().map(login),
        Err(error) => {
            tracing::warn!("credential helper {helper}: {error}");
            None
        }
    }
}

fn login(answer: Answer) -> Login {
    let password = Secret::new(answer.secret);
    if answer.username == TOKEN_USER {
        return Login::IdentityToken(password);
    }
    Login::Password { user: answer.username, password }
}

#[expect(clippy::disallowed_methods, reason = "a helper is a program that the administrator named; the puller runs it")]
fn run(program: &str, server: &str, timeout: Duration) -> std::io::Result<Vec<u8>> {
    let mut command = std::process::Command::new(program);
    command.arg("get").process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(server.as_bytes())?;
    }
    let answer = read_answer(&mut child, timeout);
    let status = child.wait()?;
    let answer = answer?;
    if status.success() { Ok(answer) } else { Err(std::io::Error::other(format!("{program} get: {status}"))) }
}

/// Ends a helper that hangs, with all that it started: a script's child has the pipe, too.
fn read_answer(child: &mut Child, timeout: Duration) -> std::io::Result<Vec<u8>> {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("no output"))?;
    let reader = std::thread::spawn(move || {
        let mut answer = Vec::new();
        stdout.by_ref().take(MAX_ANSWER_BYTES).read_to_end(&mut answer).map(|_| answer)
    });
    let wait = Timespec { tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: 0 };
    let ended = poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&wait))?;
    if ended == 0 {
        kill_process_group(pid, Signal::KILL)?;
        return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {timeout:?}")));
    }
    reader.join().unwrap_or_else(|_| Err(std::io::Error::other("reader")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_helper_is_given_the_server_and_some_time() {
        let dir = tempfile::tempdir().unwrap();
        let answer = |script: &str, seconds| {
            let path = dir.path().join("helper");
            let new = dir.path().join("new");
            std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::rename(new, &path).unwrap();
            run(path.to_str().unwrap(), "registry.test", Duration::from_secs(seconds))
        };
        assert_eq!(answer("echo $1; cat", 20).unwrap(), b"get\nregistry.test");
        let failed = answer("cat; exit 3", 20).unwrap_err();
        assert!(failed.to_string().contains("exit status: 3"), "{failed}");
        // Its child outlives the script, and would hold the pipe for ever.
        let started = std::time::Instant::now();
        let late = answer("sleep 1000; true", 1).unwrap_err();
        assert_eq!(late.kind(), std::io::ErrorKind::TimedOut);
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}

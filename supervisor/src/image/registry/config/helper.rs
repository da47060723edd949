//! Docker's credential helpers: `docker-credential-NAME get`, the server on its standard input, a login on its output.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
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
    match run(&format!("docker-credential-{helper}"), server) {
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
fn run(program: &str, server: &str) -> std::io::Result<Vec<u8>> {
    let mut command = std::process::Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(server.as_bytes())?;
    }
    let answer = read_answer(&mut child);
    let status = child.wait()?;
    let answer = answer?;
    if status.success() { Ok(answer) } else { Err(std::io::Error::other(format!("{program} get: {status}"))) }
}

/// Ends a helper that hangs.
fn read_answer(child: &mut Child) -> std::io::Result<Vec<u8>> {
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let mut stdout = child.stdout.take().ok_or_else(|| std::io::Error::other("no output"))?;
    let reader = std::thread::spawn(move || {
        let mut answer = Vec::new();
        stdout.by_ref().take(MAX_ANSWER_BYTES).read_to_end(&mut answer).map(|_| answer)
    });
    let timeout = Timespec { tv_sec: TIMEOUT.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: 0 };
    let ended = poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&timeout))?;
    if ended == 0 {
        child.kill()?;
    }
    reader.join().unwrap_or_else(|_| Err(std::io::Error::other("reader")))
}

//! A container's own process: its output from now on, its input, its terminal.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::pipe::PipeFlags;

use super::exec::{io, not_running};
use super::{SessionError, Sessions};
use crate::stream::fd::Fd;
use crate::stream::remote_command::{End, Process, Wanted};

/// What the pipe between monitor and client holds: so far a client may be behind before it is cut off.
const PIPE_BYTES: usize = 1 << 20;
/// The end of the output and the news of the container's end come from one monitor, one shortly after the other.
const END_TOLD: Duration = Duration::from_secs(1);

/// Reader and writer.
fn output(wanted: bool) -> Result<(Option<OwnedFd>, Option<OwnedFd>), SessionError> {
    if !wanted {
        return Ok((None, None));
    }
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| io("pipe2")(errno.into()))?;
    // Refused when the user's pipes are many: a smaller one works, too.
    let _size = rustix::pipe::fcntl_setpipe_size(&reader, PIPE_BYTES);
    Ok((Some(reader), Some(writer)))
}

impl Sessions {
    /// Whether a container has a terminal; fails when it does not run.
    pub(super) fn has_terminal(&self, uid: &str, container: &str) -> Result<bool, SessionError> {
        let found = self.running(uid, container)?;
        Ok(found.known.process.as_ref().is_some_and(|process| process.terminal))
    }

    /// Attaches to a running container; `wanted.tty` says whether it has a terminal. Our ends, and how it ends.
    pub async fn attach(
        &self,
        uid: &str,
        container: &str,
        wanted: Wanted,
    ) -> Result<(Process, impl Future<Output = End> + use<>), SessionError> {
        let found = self.running(uid, container)?;
        let known = &found.known;
        let ((stdout, to_stdout), (stderr, to_stderr)) = (output(wanted.stdout)?, output(wanted.stderr)?);
        let outputs = (to_stdout, to_stderr);
        let attached = found.context.engine.attach_container(&known.sandbox, &known.id, wanted.stdin, outputs).await;
        let input = attached.map_err(|error| not_running(error, container))?;
        let terminal =
            if wanted.tty { input.as_ref().map(OwnedFd::try_clone).transpose().map_err(io("dup"))? } else { None };
        let stdin = input.filter(|_| wanted.stdin);
        let watched = stdout.as_ref().or(stderr.as_ref()).map(OwnedFd::try_clone).transpose().map_err(io("dup"))?;
        let watched = watched.map(Fd::new).transpose().map_err(io("epoll"))?;
        let (sessions, uid) = (self.clone(), uid.to_owned());
        let end = async move {
            let cut_off = async {
                match &watched {
                    Some(output) => output.hung_up().await,
                    None => std::future::pending().await,
                }
                tokio::time::sleep(END_TOLD).await;
            };
            tokio::select! {
                () = sessions.ended(&uid, &found) => End::Done,
                () = cut_off => End::Failed("its output was not read fast enough, or it has closed it".to_owned()),
            }
        };
        Ok((Process { stdin, stdout, stderr, terminal }, end))
    }
}

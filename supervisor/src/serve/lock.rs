//! One daemon per state directory.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;

use super::ServeError;

/// How long a daemon that was killed may take to be gone: the kernel frees its memory first.
const DYING: Duration = Duration::from_secs(1);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(10);
/// Name of the locked file.
const NAME: &str = "serve.lock";

/// Held as long as the daemon lives; the kernel gives it back when it dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// # Errors
    /// [`ServeError::Second`] when another daemon holds it.
    pub async fn take(dir: &Path) -> Result<Self, ServeError> {
        let path: PathBuf = dir.join(NAME);
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(ServeError::io("open", &path))?;
        let until = Instant::now() + DYING;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => tokio::time::sleep(AGAIN).await,
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(ServeError::Second(path)),
                Err(errno) => return Err(ServeError::io("flock", &path)(errno.into())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_second_one_is_refused_until_the_first_has_ended() {
        let dir = tempfile::tempdir().unwrap();
        let first = Lock::take(dir.path()).await.unwrap();
        let refused = Lock::take(dir.path()).await.unwrap_err();
        assert!(matches!(refused, ServeError::Second(_)), "{refused}");
        drop(first);
        Lock::take(dir.path()).await.unwrap();
    }
}

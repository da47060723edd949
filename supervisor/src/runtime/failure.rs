//! Turns failed calls into [`LaunchError`]s: the step, its object, and the call as it was made.

use rustix::io::Errno;

use super::launch::{LaunchError, Step};

pub(crate) type Result<T> = std::result::Result<T, LaunchError>;

/// A refusal of our own, without an error number.
pub(crate) fn refuse(step: Step, object: &str, cause: impl Into<String>) -> LaunchError {
    LaunchError { step, object: object.to_owned(), cause: cause.into(), errno: None }
}

/// Names the step, the object and the call of a failed system call.
pub(crate) trait At<T> {
    fn at(self, step: Step, object: &str, call: &str) -> Result<T>;
}

impl<T> At<T> for std::result::Result<T, Errno> {
    fn at(self, step: Step, object: &str, call: &str) -> Result<T> {
        self.map_err(|errno| failed(step, object, call, errno))
    }
}

impl<T> At<T> for std::io::Result<T> {
    fn at(self, step: Step, object: &str, call: &str) -> Result<T> {
        self.map_err(|error| LaunchError {
            step,
            object: object.to_owned(),
            cause: format!("{call}: {error}"),
            errno: error.raw_os_error(),
        })
    }
}

pub(crate) fn failed(step: Step, object: &str, call: &str, errno: Errno) -> LaunchError {
    LaunchError {
        step,
        object: object.to_owned(),
        cause: format!("{call}: {errno}"),
        errno: Some(errno.raw_os_error()),
    }
}

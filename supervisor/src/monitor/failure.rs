//! Errors with the call that failed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::protocol::MonitorError;
use crate::runtime::launch::FdSlot;

pub(super) type Result<T> = std::result::Result<T, MonitorError>;

/// Names the call of a failed result.
pub(super) trait Called<T> {
    fn called(self, call: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Called<T> for std::result::Result<T, E> {
    fn called(self, call: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| {
            let error = error.into();
            MonitorError::System { call: call(), cause: error.to_string(), errno: error.raw_os_error() }
        })
    }
}

pub(super) fn not_found(what: &str, id: &str) -> MonitorError {
    MonitorError::NotFound { what: what.to_owned(), id: id.to_owned() }
}

pub(super) fn exists(what: &str, id: &str) -> MonitorError {
    MonitorError::Exists { what: what.to_owned(), id: id.to_owned() }
}

pub(super) fn wrong_state(what: &str, id: &str, state: &str) -> MonitorError {
    MonitorError::WrongState { what: what.to_owned(), id: id.to_owned(), state: state.to_owned() }
}

/// The descriptor of a message that a slot names.
pub(super) fn slot(fds: &[OwnedFd], slot: FdSlot) -> Result<BorrowedFd<'_>> {
    fds.get(usize::from(slot.0))
        .map(AsFd::as_fd)
        .ok_or_else(|| MonitorError::Protocol(format!("no descriptor {}", slot.0)))
}

/// The same, to keep.
pub(super) fn own(fds: &[OwnedFd], wanted: FdSlot) -> Result<OwnedFd> {
    slot(fds, wanted)?.try_clone_to_owned().called(|| format!("dup(descriptor {})", wanted.0))
}

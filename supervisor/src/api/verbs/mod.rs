//! The verbs on stored objects.

mod change;
mod create;
mod delete;
mod list;
mod read;
mod watch;

pub(crate) use change::{Part, change, patch, update};
pub(crate) use create::{create, store_new};
pub(crate) use delete::{DeleteOptions, delete, delete_collection, remove};
pub(crate) use list::list;
pub(crate) use read::{get, show, show_text};
pub(crate) use watch::watch;

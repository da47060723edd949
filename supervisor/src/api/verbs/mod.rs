//! The verbs on stored objects.

mod change;
mod create;
mod delete;
mod list;
mod read;
mod watch;

pub(crate) use change::{Origin, Part, change, content, is_over, patch, update};
pub(crate) use create::{create, decoded, store_new};
pub(crate) use delete::{DeleteOptions, Plan, Policy, delete, delete_collection, ending, plan, remove};
pub(crate) use list::list;
pub(crate) use read::{get, is_stored, show};
pub(crate) use watch::watch;

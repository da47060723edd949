//! The verbs on stored objects.

mod change;
mod create;
mod delete;
mod list;
mod read;
mod watch;

pub use change::{Change, Part, change, patch, update};
pub use create::{create, store_new};
pub use delete::{DeleteOptions, delete, delete_collection, remove};
pub use list::list;
pub use read::{get, show, show_text};
pub use watch::watch;

//! Changes as they happen.

use serde_json::Value;

use super::client::error::VerbError;
use super::client::{Call, Client, Lines};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Changed,
    Deleted,
}

/// A watch that goes on.
#[derive(Debug)]
pub struct Watch(Lines);

impl Watch {
    /// Watches a list, or one object with a field selector, from a version on.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn start(client: &Client, list: Call, version: &str) -> Result<Self, VerbError> {
        client.lines(list.query("watch", "true").query("resourceVersion", version)).await.map(Self)
    }

    /// The next change with the object, or its table; none when the server ended the watch.
    ///
    /// # Errors
    /// The connection broke, or the server says why it ends.
    pub async fn next(&mut self) -> Result<Option<(Change, Value)>, VerbError> {
        while let Some(mut event) = self.0.next().await? {
            let object = event["object"].take();
            match event["type"].as_str().unwrap_or_default() {
                "ADDED" | "MODIFIED" => return Ok(Some((Change::Changed, object))),
                "DELETED" => return Ok(Some((Change::Deleted, object))),
                "ERROR" => return Err(VerbError::of_status(&object)),
                _bookmark => {}
            }
        }
        Ok(None)
    }
}

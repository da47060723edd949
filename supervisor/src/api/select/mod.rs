//! Which objects a request means: label selectors and field selectors, with the grammar and the error texts of the API
//! server.

mod fields;
mod labels;
mod lexer;

pub use fields::Fields;
pub use labels::Labels;

/// Bytes of a selector. Longer ones don't fit into the request line of any client.
pub const SELECTOR_MAX: usize = 64 * 1024;

/// A selector that can't be used; answered as `BadRequest` (400) with this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadSelector(String);

impl BadSelector {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

fn check_length(text: &str) -> Result<(), BadSelector> {
    if text.len() <= SELECTOR_MAX {
        return Ok(());
    }
    Err(BadSelector::new(format!("a selector has at most {SELECTOR_MAX} bytes")))
}

#[cfg(test)]
mod tests;

//! Pod Security Standards (semantics 9.5).

/// A version of the standards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// `v1.<n>`
    Minor(u32),
    /// `latest`
    Latest,
}

impl Version {
    /// Reads `latest` or `v1.<n>`.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        text.strip_prefix("v1.")?.parse().ok().map(Version::Minor)
    }
}

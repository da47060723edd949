//! Opaque, never reused names of sandboxes and containers.

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// 256 random bits in hexadecimal, as container runtimes name things.
            pub fn random() -> Self {
                Self(format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()))
            }

            /// One that was given out before; None unless it has the form of ours.
            pub fn parse(text: &str) -> Option<Self> {
                let valid = text.len() == LENGTH && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                valid.then(|| Self(text.to_owned()))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// Characters of an id.
const LENGTH: usize = 64;

id!(
    /// A pod's namespaces, network and monitor.
    SandboxId
);
id!(
    /// One instance of a container.
    ContainerId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_distinct_and_recognised() {
        let (one, two) = (ContainerId::random(), ContainerId::random());
        assert_ne!(one, two);
        assert_eq!(ContainerId::parse(one.as_str()), Some(one));
        for text in ["", "../x", &"g".repeat(64), &"a".repeat(63), &"A".repeat(64)] {
            assert_eq!(ContainerId::parse(text), None, "{text}");
        }
    }
}

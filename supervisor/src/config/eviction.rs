//! `evictionHard`: how much of the node stays free (EV5).

use cgroupd::Quantity;
use serde::{Deserialize, Deserializer};

/// The kubelet's signals. One that is left out keeps its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvictionHard {
    /// Memory that is not in use, the inactive page cache among it (EV8).
    #[serde(rename = "memory.available", deserialize_with = "threshold")]
    pub memory_available: Threshold,
    /// The file system of the images.
    #[serde(rename = "imagefs.available", deserialize_with = "threshold")]
    pub imagefs_available: Threshold,
    #[serde(rename = "imagefs.inodesFree", deserialize_with = "threshold")]
    pub imagefs_inodes_free: Threshold,
    /// The file system of everything else in `dataDir`.
    #[serde(rename = "nodefs.available", deserialize_with = "threshold")]
    pub nodefs_available: Threshold,
    #[serde(rename = "nodefs.inodesFree", deserialize_with = "threshold")]
    pub nodefs_inodes_free: Threshold,
    /// Processes and threads that may still be made. The kubelet does not ask for any.
    #[serde(rename = "pid.available", deserialize_with = "threshold")]
    pub pid_available: Threshold,
}

impl Default for EvictionHard {
    fn default() -> Self {
        Self {
            memory_available: Threshold::Amount(Quantity::from_bytes(100 << 20)),
            imagefs_available: Threshold::Percent(15),
            imagefs_inodes_free: Threshold::Percent(5),
            nodefs_available: Threshold::Percent(10),
            nodefs_inodes_free: Threshold::Percent(5),
            pid_available: Threshold::Percent(0),
        }
    }
}

/// What has to stay free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threshold {
    /// Of all that there is; nothing is never missed.
    Percent(u64),
    /// Bytes, inodes or processes.
    Amount(Quantity),
}

impl Threshold {
    /// As much, of so much.
    pub fn of(self, capacity: u64) -> Quantity {
        match self {
            Self::Percent(percent) => {
                let part = u128::from(capacity) * u128::from(percent) / 100;
                Quantity::from_bytes(u64::try_from(part).unwrap_or(u64::MAX))
            }
            Self::Amount(amount) => amount,
        }
    }
}

/// `15%` or a quantity. As with the kubelet, `0%` and `100%` switch it off.
fn threshold<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Threshold, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is neither a percentage nor a quantity")))
}

fn parse(text: &str) -> Option<Threshold> {
    match text.strip_suffix('%') {
        Some("100") => Some(Threshold::Percent(0)),
        Some(percent) => percent.parse().ok().filter(|percent| *percent < 100).map(Threshold::Percent),
        None => text.parse().ok().filter(|amount: &Quantity| !amount.is_negative()).map(Threshold::Amount),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_a_percentage_or_a_quantity() {
        let cases = [
            ("15%", Some(Threshold::Percent(15))),
            ("0%", Some(Threshold::Percent(0))),
            ("100%", Some(Threshold::Percent(0))),
            ("1Gi", Some(Threshold::Amount(Quantity::from_bytes(1 << 30)))),
            ("101%", None),
            ("-1%", None),
            ("-1Gi", None),
            ("much", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }

    #[test]
    fn a_percentage_is_of_what_there_is() {
        assert_eq!(Threshold::Percent(10).of(1 << 30).units(), (1 << 30) / 10);
        assert_eq!(EvictionHard::default().memory_available.of(1 << 34).to_string(), "100Mi");
    }
}

//! `evictionHard`: how much of the disk stays free (EV5).

use cgroupd::Quantity;
use serde::{Deserialize, Deserializer};

use crate::image::gc::{IMAGEFS_AVAILABLE, INODES_FREE, NODEFS_AVAILABLE, Threshold};

/// The kubelet's signals of the disk. One that is left out keeps its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvictionHard {
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
}

impl Default for EvictionHard {
    fn default() -> Self {
        Self {
            imagefs_available: IMAGEFS_AVAILABLE,
            imagefs_inodes_free: INODES_FREE,
            nodefs_available: NODEFS_AVAILABLE,
            nodefs_inodes_free: INODES_FREE,
        }
    }
}

/// `15%` or a quantity, as the kubelet has them.
fn threshold<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Threshold, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is neither a percentage nor a quantity")))
}

fn parse(text: &str) -> Option<Threshold> {
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().ok().filter(|percent| *percent <= 100).map(Threshold::Percent),
        None => text.parse::<Quantity>().ok().map(|amount| Threshold::Amount(amount.units())),
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
            ("1Gi", Some(Threshold::Amount(1 << 30))),
            ("101%", None),
            ("-1%", None),
            ("much", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}

//! The network of a Pod.
//!
//! The modules that decide are pure: [`ipam`], [`names`], [`plan`], [`nft`], [`resolv`], [`hosts`], [`hostname`]. Those that
//! act are thin: `netlink` and on top of it `link` and `load`; `lease` keeps the records; [`network`] is what callers use.

mod error;
pub mod hostname;
pub mod hosts;
pub mod ipam;
mod lease;
mod link;
mod load;
pub mod names;
mod netlink;
pub mod network;
pub mod nft;
pub mod plan;
pub mod resolv;
mod sysctl;

pub use error::{NetworkError, Several};
pub use lease::{Lease, QUARANTINE_MS};
pub use names::{BridgeName, PodId};
pub use network::{Attachment, Config, Network, RangeChoice, Swept, Teardown};
pub use nft::Protocol;
pub use nft::rules::{HostPort, Service};

//! The network of a pod: veth and bridge, addresses, nftables, `/etc/hosts` and `/etc/resolv.conf`.
//!
//! Knows nothing of Kubernetes objects, cgroups or HTTP. What decides is pure ([`ipam`], [`names`], [`nft`], [`hosts`],
//! [`resolv`]); what acts is in [`link`], [`lease`], [`network`] and `nft::transaction`.
//!
//! On the host there is one bridge, and one nftables table of our own per family; per pod there are a veth pair, whose one
//! end is `eth0` in the pod, and elements of sets in those tables. Everything of a pod has an owner record (a lease) that
//! was written before it, so a sweep finds what a crash left.

pub mod hosts;
pub mod ipam;
mod lease;
mod link;
pub mod names;
mod network;
pub mod nft;
pub mod resolv;

pub use network::{Attachment, Config, Error, HostPort, Network, PodId, Protocol, Ranges, Swept};

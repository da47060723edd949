//! Reading container logs in the CRI format (rules LF1, LF2, LG3). They are written by the monitor.

pub mod follow;
pub mod pack;
pub mod record;
pub mod serve;

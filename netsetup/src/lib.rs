//! The network of a Pod.

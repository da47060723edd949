//! From a finished plan to a running process: the part of the work that happens between clone and exec.

pub mod launch;

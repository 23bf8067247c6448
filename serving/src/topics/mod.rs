//! Topics: what a request for one must look like, and the transactions that create and delete them.

pub mod config;
pub mod name;
pub mod quorum;

//! Freeing what a deleted topic leaves behind (DESIGN 4, protocol 7.8). `deleted-topics/<id>` stays until all of it is gone,
//! so whoever is the coordinator then goes on where the last one stopped.
//!
//! * [`core`]: the steps and their order, as a state machine without I/O. [`turns`]: which topic is next. [`task`]: carries both out
//!   while this broker is the coordinator. [`tombstones`]: what becomes of deleted ledgers' metadata in the end.
//! * Every transaction is guarded by the creation of the election key and by the version of `deleted-topics/<id>`: a stale
//!   coordinator changes nothing, and nothing is changed after the end.

mod core;
mod task;
#[cfg(test)]
mod tests;
mod tombstones;
mod turns;

pub(crate) use task::{Parts, start};

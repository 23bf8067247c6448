//! The quorum-replicated ledger: segments written by one broker, copied to bookies, sealed and closed so that nothing
//! acknowledged is ever lost (`docs/` and protocol rule ids such as W3 or F2 name the rules).
//!
//! * [`core`]: the protocol as pure state machines.

pub mod core;

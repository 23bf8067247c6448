//! Bookies over real sockets and real files, one process's worth at a time.
//!
//! * [`wire`]: one bookie and its protocol. [`life`]: starting, stopping, starting again. [`loss`]: going on after a loss.
//! * [`quorum`]: three bookies and the real ledger client. [`tiering`]: the same and an object store. [`repairs`]: what bookies mend.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod life;
mod loss;
mod quorum;
mod repairs;
mod support;
mod tiering;
mod wire;

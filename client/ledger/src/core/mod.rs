//! The quorum protocol as pure state machines: `step(state, event) -> effects`, no clock, no I/O, no randomness. The
//! tasks around them, the model checker (`tests/model`) and the simulator run this same code.
//!
//! * [`quorum`]: the arithmetic of coverage (protocol 0).
//! * [`writer`]: one writer of one open ledger (protocol 2).
//! * [`commit`]: how a writer changes its ledger's metadata (protocol 1.4).
//! * [`recovery`]: one recoverer of one ledger (protocol 4).
//! * [`audit`]: all ledgers after a restore of the metadata (protocol 6.8).
//! * [`repair`]: one repair of one ledger (protocol 6.5).
//! * [`removal`]: the first step of a ledger's end (protocol 7.8).
//! * [`mutation`]: rules that a test breaks on purpose.

pub mod audit;
pub mod commit;
pub mod mutation;
pub mod quorum;
pub mod recovery;
pub mod removal;
pub mod repair;
pub mod writer;

//! The storage node: ledgers on one append-only log per disk.
//!
//! * [`Bookie`]: builds the parts and stops them in order.
//! * [`ledger`]: one owner per ledger, around a pure core.
//! * [`tiering`]: closed ledgers to the object store. [`gc`]: deleted ones, dropped. [`repair`]: copies that are short, and those that are too
//!   many.
//! * [`log`]: the log of a disk. [`io`]: the seam to the disk itself.

mod adds;
mod folded;
pub mod gc;
mod handle;
mod identity;
pub mod io;
pub mod ledger;
pub mod log;
mod metrics;
mod registration;
pub mod repair;
mod rpc;
#[cfg(test)]
mod scenario;
mod service;
#[cfg(test)]
mod testing;
pub mod tiering;
mod watched;
mod watermark;

pub use handle::BookieHandle;
#[cfg(feature = "simulation")]
pub use identity::decoders as identity_decoders;
pub use identity::{BootError, DirError, Refusal};
pub use ledger::Limits;
pub use registration::RegisterError;
pub use repair::RepairConfig;
pub use service::{Bookie, BookieParts, Config, StartError};
pub use tiering::{Config as TieringConfig, TieringParts};

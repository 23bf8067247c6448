//! The quorum-replicated ledger: segments written by one broker, copied to bookies, sealed and closed so that nothing
//! acknowledged is ever lost. Rule ids such as W3 or F2 name the rules of the replication protocol.
//!
//! * [`core`]: the protocol as pure state machines; everything else moves their messages.
//! * [`LedgerClient`]: creates, opens and recovers ledgers.
//! * [`Writer`]: appends to one open ledger. [`Reader`]: reads with fail-over between replicas.
//! * [`Bookies`], [`BookieConnection`]: the seam to the network; [`BookieDirectory`] is the production side of it.

mod append;
mod attempts;
mod audit;
mod client;
mod cold;
mod config;
mod connection;
pub mod core;
mod delete;
mod directory;
mod metrics;
mod placement;
mod quarantine;
mod read;
mod recover;
mod repair;
mod throttle;
mod tombstones;
mod transport;
mod under;

pub use append::{AppendRefused, CloseError, Health, Outcome, Writer};
pub use audit::{AdoptError, ask_again, ask_for_tombstones, take_inventory};
pub use client::{CreateError, CreateSpec, LedgerClient, Parts, RollError};
pub use cold::{ColdLedgers, Search, StoredObjects, Wanted};
pub use config::{Config, InvalidConfig};
pub use connection::{BookieConnection, Bookies, ConnectionLost};
pub use delete::DeleteError;
pub use directory::BookieDirectory;
pub use placement::{misplaced, takers, without_zone};
pub use read::{Distance, ReadError, Reader};
pub use recover::RecoverError;
pub use throttle::Throttle;
pub use under::{UnderSummary, mark_all, mark_under, summarize_under};

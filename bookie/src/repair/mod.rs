//! Storage that heals itself (protocol 6): every bookie looks for marked ledgers and repairs them, and one of them, elected, finds what
//! is to be marked.
//!
//! ```text
//!   writers, recoverers, scrubbers ─┐                       ┌─► worker of bookie 1 ─┐
//!   auditor: gone, lost, draining ──┴─► under/<ledger> ─────┼─► worker of bookie 2 ─┼─► copies, swaps, mark removed
//!                                       (most urgent first) └─► …                  ─┘
//! ```
//!
//! * [`office`]: what is held under a lease. Decides who tries, never who may: what is safe rests on swaps (H22).
//! * [`worker`], [`queue`]: repairs, a few at a time, the most urgent first, at a bounded pace.
//! * [`auditor`]: finds work, moves no data.
//! * [`object`]: where a copy comes from when no peer has it (T6). [`excess`]: copies that nobody names any more go; [`give_up`]: which of
//!   them, pure.

mod auditor;
mod excess;
pub mod give_up;
mod metrics;
mod named;
mod object;
pub(crate) mod office;
mod queue;
mod worker;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use geminga_ledger::{
    BookieConnection, BookieDirectory, Config as LedgerConfig, LedgerClient, Parts, Throttle,
};
use geminga_metastore::{Error, LedgerIds, MetaStore, cluster};
use geminga_proto::ids::ClusterUuid;
use geminga_runtime::{Random, Tasks, WallClock};
use geminga_tls::Dial;

use crate::folded::Folded;
use crate::handle::BookieHandle;
use auditor::Auditor;
use excess::{Excess, Unnamed};
use object::Objects;
use worker::Worker;

/// What an operator may tune about repairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairConfig {
    /// Bytes a second that this bookie's repairs copy; 0 = as many as there are. Default 50 MiB.
    pub rate: u64,
    /// Ledgers that are repaired at a time; one place is always kept for those with one copy left. Default 4, minimum 2.
    pub slots: usize,
    /// How long a bookie may be away before its copies are made anew elsewhere. Default 10 min.
    pub lost_bookie_delay: Duration,
    /// How long an open ledger with a member that is gone is left to its owner. Default 30 s.
    pub open_grace: Duration,
    /// How often all ledgers are looked through for members that are gone, for copies that could be spread better, and for copies here
    /// that nobody names any more. Default 1 h.
    pub audit_interval: Duration,
    /// How often members are asked whether they have everything. Default 24 h.
    pub tail_interval: Duration,
    /// How long a copy that no ledger names any more is kept, from when this process first saw that. Default 7 days, as long as backups of
    /// the metadata are of use.
    pub excess_grace: Duration,
}

impl Default for RepairConfig {
    fn default() -> Self {
        Self {
            rate: 50 << 20,
            slots: 4,
            lost_bookie_delay: Duration::from_secs(600),
            open_grace: Duration::from_secs(30),
            audit_interval: Duration::from_secs(3600),
            tail_interval: Duration::from_secs(24 * 3600),
            excess_grace: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// What repairs are made from.
#[derive(Debug)]
pub(crate) struct RepairParts {
    pub(crate) store: Arc<dyn MetaStore>,
    pub(crate) cluster: ClusterUuid,
    pub(crate) handle: BookieHandle,
    /// Knows where objects are, once this bookie was told.
    pub(crate) folded: Folded,
    pub(crate) dial: Dial,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) lease_ttl: Duration,
    pub(crate) config: RepairConfig,
}

/// Starts the worker and the auditor; they stop with `tasks`.
///
/// # Errors
/// When the metadata store does not answer.
pub(crate) async fn start(parts: RepairParts, tasks: &Tasks) -> Result<(), Error> {
    let RepairParts { store, cluster, handle, folded, dial, random, clock, lease_ttl, config } =
        parts;
    let own: Arc<dyn BookieConnection> = Arc::new(handle.clone());
    let local = HashMap::from([(handle.id().clone(), own)]);
    let ledgers = LedgerConfig::default();
    let bookies =
        BookieDirectory::start(&*store, tasks.clone(), local, ledgers.lane_bytes, dial).await?;
    let epoch = cluster::read(&*store).await?.map_or(0, |(found, _)| found.epoch);
    let client = LedgerClient::new(Parts {
        cluster,
        ids: Arc::new(LedgerIds::new(Arc::clone(&store), epoch)),
        store: Arc::clone(&store),
        bookies,
        clock: Arc::clone(&clock),
        random,
        tasks: tasks.clone(),
        config: ledgers,
        owner: format!("bookie-{}", handle.id()),
    })
    .with_objects(Arc::new(Objects::new(folded.clone())));
    let throttle = Arc::new(Throttle::new(config.rate));
    let slots = config.slots.max(2);
    let id = handle.id().clone();
    let worker = Worker::new(Arc::clone(&store), client.clone(), id.clone(), slots, throttle);
    tasks.spawn("repair worker", worker.run(lease_ttl, tasks.clone()));
    let excess = Excess {
        store: Arc::clone(&store),
        client: client.clone(),
        handle,
        cluster,
        clock: Arc::clone(&clock),
        interval: config.audit_interval,
        grace: config.excess_grace,
        unnamed: Unnamed::default(),
    };
    tasks.spawn("excess copies", excess.run(lease_ttl, tasks.clone()));
    let auditor = Auditor::new(store, cluster, client, id, folded, clock, config);
    tasks.spawn("auditor", auditor.run(lease_ttl, tasks.clone()));
    Ok(())
}

//! Tiering (protocol 7): closed ledgers of this bookie become objects, and local copies go once metadata says so.
//!
//! * [`core`]: decides about one ledger; pure. [`due`]: which are looked at now. [`work`]: carries that out, one ledger at a time. [`upload`]: reads
//!   a ledger's entries and sends them, in bounded memory and at a bounded pace. [`wanted`]: what a topic asks for. [`filling`]: disks that
//!   cannot wait for that.
//! * [`fold`]: takes what is known of old segments out of the metadata, into objects (protocol 7.9).
//! * [`garbage`]: which objects may go; pure. [`janitor`]: objects of deleted ledgers, and those that nothing refers to. It may be run by whoever is elected; running it
//!   twice does no harm. [`mark`]: whether the store is the cluster's, before any of it, and again and again.
//!
//! One task owns all of it but the janitor. Nothing that it does has to succeed: an object store that is down makes local disks fill,
//! and everything else goes on (7.7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use geminga_ledger::BookieDirectory;
use geminga_metastore::{Error, MetaStore};
use geminga_proto::ids::LedgerId;
use geminga_runtime::{Random, Tasks, WallClock};
use geminga_tier::{ClaimError, Store};
use geminga_tls::Dial;

use crate::folded::Folded;
use crate::handle::BookieHandle;
use fold::Folder;
use janitor::Janitor;
use mark::Mark;
pub use mutation::{Mutation, Mutations};
use work::Worker;

pub mod core;
mod due;
mod filling;
mod fold;
pub mod garbage;
mod janitor;
mod mark;
mod mutation;
mod upload;
mod wanted;
mod work;

/// What waits in the connection to another bookie, of which ranges are read that are missing here.
const LANE_BYTES: usize = 64 << 20;
/// What uploads make at least, bytes a second; slower ones may be taken over.
const LEAST_PACE: u64 = 4 << 20;

/// What an operator may tune.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How often it is looked for ledgers to upload, trim and drop. Default 30 s, minimum 100 ms.
    pub interval: Duration,
    /// How long copies stay at bookies after the upload, where the topic does not say. Default 1 h.
    pub local_retention: Duration,
    /// Bytes a second that this bookie uploads at most, but for one whose disk fills up; `None` = as fast as it goes. Default 50 MiB, as
    /// repairs have: beside more, those who keep up wait for disks and processors.
    pub upload_rate: Option<u64>,
    /// After how long an upload may be taken over by another bookie, beside the time that its bytes take. Default 5 min.
    pub take_over: Duration,
    /// How often it is looked for objects that nothing refers to. Default 1 day.
    pub sweep_interval: Duration,
    /// How old such an object must be to be removed. Default 7 days.
    pub sweep_age: Duration,
    /// How often it is looked for segments to fold. Default 10 min.
    pub fold_interval: Duration,
    /// The newest segments of a partition, so many, keep their keys in the metadata. Default 100, minimum 1.
    pub fold_keep: usize,
    /// Older ones are folded when there are so many of them. Default 200, minimum 1.
    pub fold_at: usize,
}

impl Default for Config {
    fn default() -> Self {
        const DAY: u64 = 24 * 3_600;
        Self {
            interval: Duration::from_secs(30),
            local_retention: Duration::from_secs(3_600),
            upload_rate: Some(50 << 20),
            take_over: Duration::from_secs(300),
            sweep_interval: Duration::from_secs(DAY),
            sweep_age: Duration::from_secs(7 * DAY),
            fold_interval: Duration::from_secs(600),
            fold_keep: 100,
            fold_at: 200,
        }
    }
}

impl Config {
    /// What an upload makes at least, bytes a second.
    fn pace(&self) -> u64 {
        self.upload_rate.map_or(LEAST_PACE, |rate| rate.min(LEAST_PACE))
    }

    /// How long the file of an upload must have rested to be of one that ended: as superfluous objects have, and longer than one that runs rests
    /// between two parts, unless it may be taken over.
    fn unfinished_age(&self) -> Duration {
        let part = (geminga_tier::PART_BYTES as u64).div_ceil(self.pace().max(1));
        self.sweep_age.max(self.take_over.saturating_add(Duration::from_secs(part)))
    }
}

/// What tiering is made from.
#[derive(Debug)]
pub struct TieringParts {
    /// Where metadata is.
    pub store: Arc<dyn MetaStore>,
    /// Where objects are.
    pub objects: Store,
    /// Names attempts.
    pub random: Arc<dyn Random>,
    /// Says how old things are.
    pub clock: Arc<dyn WallClock>,
    /// Limits and intervals.
    pub config: Config,
}

/// Why it does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TieringError {
    /// The object store is not the cluster's.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// The metadata store cannot be read.
    #[error(transparent)]
    Metadata(#[from] Error),
}

/// Starts it at a running bookie; it ends with `tasks`. Where the object store does not answer it begins when that does.
///
/// # Errors
/// [`TieringError`].
pub(crate) async fn start(
    parts: TieringParts,
    handle: BookieHandle,
    folded: Folded,
    dial: Dial,
    tasks: &Tasks,
) -> Result<(), TieringError> {
    let TieringParts { store, objects, random, clock, config } = parts;
    let mark = Mark::new(handle.cluster(), Arc::clone(&store), objects.clone(), &*random);
    mark.begin().await?;
    let local: Arc<dyn geminga_ledger::BookieConnection> = Arc::new(handle.clone());
    let own = std::collections::HashMap::from([(handle.id().clone(), local)]);
    let bookies =
        BookieDirectory::start(&*store, tasks.child("tiering peers"), own, LANE_BYTES, dial)
            .await?;
    let folder = Folder {
        cluster: handle.cluster(),
        store: Arc::clone(&store),
        objects: objects.clone(),
        random: Arc::clone(&random),
        clock: Arc::clone(&clock),
        config,
        mark: mark.clone(),
        mutations: Mutations::default(),
    };
    let janitor = Janitor {
        bookie: handle.id().clone(),
        cluster: handle.cluster(),
        store: Arc::clone(&store),
        objects: objects.clone(),
        clock: Arc::clone(&clock),
        config,
        folder,
        folded: folded.clone(),
        mark: mark.clone(),
        mutations: Mutations::default(),
    };
    tasks.spawn("tier janitor", janitor.run(tasks.clone()));
    let worker = Worker {
        handle,
        folded,
        store,
        bookies,
        objects,
        random,
        clock,
        config,
        mark: mark.clone(),
        usable: false,
        mutations: Mutations::default(),
        offloads: BTreeMap::<LedgerId, work::Followed>::new(),
        resume: None,
        let_go: filling::LetGo::default(),
    };
    let group = tasks.clone();
    tasks.spawn("tiering", async move {
        if mark.made(config.interval, &group).await {
            worker.run(group).await;
        }
    });
    Ok(())
}

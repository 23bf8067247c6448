//! Keeps a disk's log short to open: writes footers as segments fill up, and a snapshot of the disk's ledgers every minute
//! or GiB (protocol 5.5). What fails is tried again; a log that failed stops its owners, not this task.

use std::time::Duration;

use geminga_runtime::Tasks;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::table::Table;
use crate::log::{Image, Log};

/// How often it is looked what there is to do.
const LOOK: Duration = Duration::from_secs(1);
/// A snapshot is written so long after the last one, if anything was appended,
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);
/// or after so many bytes.
const SNAPSHOT_BYTES: u64 = 1 << 30;

/// The keeper of one disk's log.
#[derive(Debug)]
pub(super) struct Upkeep {
    log: Log,
    /// Of all shards.
    tables: Vec<Table>,
    /// When the last snapshot was written, and what had been appended then.
    last: (Instant, u64),
}

impl Upkeep {
    /// A keeper that has not begun.
    pub(super) fn new(log: Log, tables: Vec<Table>) -> Self {
        let last = (Instant::now(), log.durable_bytes());
        Self { log, tables, last }
    }

    /// Runs until `tasks` stops.
    pub(super) async fn run(mut self, tasks: Tasks) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancelled = tasks.cancelled();
        tokio::pin!(cancelled);
        loop {
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                _ = look.tick() => self.look().await,
            }
        }
    }

    async fn look(&mut self) {
        if let Err(error) = self.log.write_footers().await {
            tracing::warn!(%error, "the next start of this bookie will read more");
        }
        let (at, bytes) = self.last;
        let appended = self.log.durable_bytes() - bytes;
        if appended == 0 || (at.elapsed() < SNAPSHOT_EVERY && appended < SNAPSHOT_BYTES) {
            return;
        }
        self.last = (Instant::now(), bytes + appended);
        if let Err(error) = self.log.snapshot(|| image(&self.tables)).await {
            tracing::warn!(%error, "no snapshot was written; the next start of this bookie will read more");
        }
    }
}

/// All that is known about a disk's ledgers.
fn image(tables: &[Table]) -> Image {
    let mut image = Image::default();
    for table in tables {
        table.lock().copy_to(&mut image);
    }
    image
}

//! Keeps a disk's log in order: writes footers as segments fill up, a snapshot of the disk's ledgers every minute
//! or GiB (protocol 5.5), notices when the log's directory is gone, gives back the space of segments that nothing needs (K9), and empties those of which little lives (5.6), and looks for rot (6.3), at a bounded pace. What fails is tried again; a log that failed stops its owners, not this task.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use geminga_ledger::mark_under;
use geminga_metastore::MetaStore;
use geminga_metastore::record::UnderReason;
use geminga_proto::entry;
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId, Member};
use geminga_runtime::{Tasks, WallClock};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::fullness::{Fullness, Gauge};
use super::table::Table;
use crate::log::{Image, Log, UpkeepError};

/// How often it is looked what there is to do.
const LOOK: Duration = Duration::from_secs(1);
/// A snapshot is written so long after the last one, if anything was appended,
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);
/// or after so many bytes,
const SNAPSHOT_BYTES: u64 = 1 << 30;
/// or so soon if a segment waits for one to be given back.
const SNAPSHOT_TO_RECLAIM: Duration = Duration::from_secs(5);
/// Most bytes that are moved out of sparse segments at each look.
const RELOCATE_BYTES: usize = 16 << 20;

/// So many times that where space runs out.
const HURRY: usize = 4;

/// Tells the cluster what is damaged here.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    /// Where marks are.
    pub(crate) store: Arc<dyn MetaStore>,
    /// Whose copies are damaged.
    pub(crate) member: Member,
    /// Dates marks.
    pub(crate) clock: Arc<dyn WallClock>,
}

/// The keeper of one disk's log.
#[derive(Debug)]
pub(super) struct Upkeep {
    cluster: ClusterUuid,
    log: Log,
    /// Of all shards.
    tables: Vec<Table>,
    fullness: Gauge,
    reporter: Reporter,
    /// When the last snapshot was written, and what had been appended then.
    last: (Instant, u64),
    /// Bytes that were looked at for rot beyond the pace, and are made up for.
    scrubbed_ahead: u64,
}

impl Upkeep {
    /// A keeper that has not begun.
    pub(super) fn new(
        cluster: ClusterUuid,
        log: Log,
        tables: Vec<Table>,
        fullness: Gauge,
        reporter: Reporter,
    ) -> Self {
        let last = (Instant::now(), log.durable_bytes());
        Self { cluster, log, tables, fullness, reporter, last, scrubbed_ahead: 0 }
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

    /// None of this waits for another to succeed: a segment that cannot be read must not keep the disk from giving space back
    /// (K10).
    async fn look(&mut self) {
        let done = [
            self.log.look_for_directory().await,
            self.log.write_footers().await,
            self.relocate().await,
            self.scrub().await,
            self.reclaim().await,
        ];
        for error in done.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "the log of a disk was not put in order; trying again");
        }
        self.tell_damaged().await;
    }

    fn hurries(&self) -> bool {
        self.log.is_scarce() || self.fullness.get() >= Fullness::Warn
    }

    async fn relocate(&self) -> Result<(), UpkeepError> {
        let times = if self.hurries() { HURRY } else { 1 };
        self.log.relocate(RELOCATE_BYTES * times, sound(self.cluster)).await.map(|_| ())
    }

    async fn reclaim(&mut self) -> Result<(), UpkeepError> {
        let reclaimed = self.log.reclaim().await;
        let waiting = reclaimed.as_ref().map_or(0, |reclaimed| reclaimed.waiting);
        let (at, bytes) = self.last;
        let (age, appended) = (at.elapsed(), self.log.durable_bytes() - bytes);
        let due = appended > 0 && (age >= SNAPSHOT_EVERY || appended >= SNAPSHOT_BYTES);
        let reclaims = waiting > 0 && (age >= SNAPSHOT_TO_RECLAIM || self.hurries());
        if due || reclaims {
            self.last = (Instant::now(), bytes + appended);
            self.log.snapshot(|| image(&self.tables)).await?;
            self.log.reclaim().await?;
        }
        if self.hurries() {
            self.log.trim_spares().await?;
        }
        reclaimed.map(|_| ())
    }

    /// Marks ledgers with damaged entries, so that these are restored from other bookies (3.4).
    async fn tell_damaged(&self) {
        while let Some(ledger) = self.log.take_damaged() {
            let Reporter { store, member, clock } = &self.reporter;
            let members = std::slice::from_ref(member);
            let mark =
                mark_under(&**store, ledger, members, UnderReason::Damaged, clock.now_ms()).await;
            if let Err(error) = mark {
                tracing::warn!(%ledger, %error, "a damaged ledger could not be marked; trying again");
                return self.log.note_damaged(ledger);
            }
        }
    }

    /// Looks for rot, as many bytes as there may be from one look to the next.
    async fn scrub(&mut self) -> Result<(), UpkeepError> {
        let pace = self.log.scrub_bytes() * LOOK.as_secs();
        let bytes = pace.saturating_sub(self.scrubbed_ahead);
        self.scrubbed_ahead = self.scrubbed_ahead.saturating_sub(pace);
        if bytes > 0 {
            // The last frame may be larger than what was left.
            let scrubbed = self.log.scrub(bytes, sound(self.cluster)).await?;
            self.scrubbed_ahead += scrubbed.bytes.saturating_sub(bytes);
        }
        Ok(())
    }
}

/// Judges entries by their digest (D1).
fn sound(cluster: ClusterUuid) -> impl Fn(LedgerId, EntryId, &Bytes) -> bool + Send + 'static {
    move |ledger, id, entry| entry::decode_expecting(cluster, ledger, id, entry).is_ok()
}

/// All that is known about a disk's ledgers, if it can be believed.
fn image(tables: &[Table]) -> Option<Image> {
    let mut image = Image::default();
    for table in tables {
        table.lock().copy_to(&mut image)?;
    }
    Some(image)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::ErrorKind;

    use geminga_metastore::MemoryStore;
    use geminga_proto::ids::{DiskUuid, Incarnation};
    use geminga_runtime::ManualClock;

    use super::*;
    use crate::io::{Disk, FaultyDisk, MemoryDisk, Op};
    use crate::ledger::{LedgerState, Record, Tombstones};
    use crate::log::{Config, Identity};

    fn member() -> Member {
        Member { bookie: "b-1".parse().unwrap(), incarnation: Incarnation(7) }
    }

    fn open(disk: &FaultyDisk) -> Log {
        let cluster = ClusterUuid::from_random(1);
        let Member { bookie, incarnation } = member();
        let identity = Identity { cluster, bookie, incarnation, disk: DiskUuid::from_random(2) };
        let bytes = 16 << 10;
        let config = Config {
            segment_bytes: bytes,
            prefill_bytes: bytes,
            reserve_segments: 0,
            ..Config::default()
        };
        Log::open(Arc::new(disk.clone()), identity, config).unwrap().log
    }

    async fn append(log: &Log, ledger: u64, record: Record) {
        let room = log.reserve(Log::cost(&record)).await.unwrap();
        let lsn = log.append(LedgerId(ledger), record, room).unwrap();
        log.wait_durable(lsn).await.unwrap();
    }

    /// Segments and spare files.
    fn files(disk: &MemoryDisk, suffix: &str) -> usize {
        disk.list().unwrap().into_iter().filter(|name| name.ends_with(suffix)).count()
    }

    /// K10: a disk that cannot be read at one place gives the space of other segments back.
    #[tokio::test]
    async fn what_cannot_be_read_does_not_stop_reclaim() {
        let memory = MemoryDisk::new();
        let disk = FaultyDisk::new(memory.clone());
        let log = open(&disk);
        let mut kept = LedgerState::unknown(LedgerId(2));
        for id in 0..120 {
            let (first, lac) = (EntryId(id % 60), EntryId::NONE);
            let entries = vec![Bytes::from(vec![0; 700])];
            let record = Record::Entries { fragment_first: EntryId(0), first, entries, lac };
            if id >= 60 {
                kept.apply(&record);
            }
            append(&log, if id < 60 { 1 } else { 2 }, record).await;
        }
        append(&log, 1, Record::Tombstone).await;
        let mut tombstones = Tombstones::default();
        tombstones.insert(LedgerId(1));

        let (table, fullness) = (Table::default(), Gauge::default());
        table.load(BTreeMap::from([(LedgerId(2), kept)]), &tombstones);
        fullness.set(Fullness::Warn);
        let reporter = Reporter {
            store: Arc::new(MemoryStore::new()),
            member: member(),
            clock: Arc::new(ManualClock::at(0)),
        };
        let cluster = ClusterUuid::from_random(1);
        let mut upkeep = Upkeep::new(cluster, log, vec![table], fullness, reporter);
        let logs = files(&memory, ".log");
        for _ in 0..3 {
            disk.fail(Op::Read, 0, ErrorKind::Other);
            upkeep.look().await;
        }
        // The first scrub of each look was refused, and the dead segments gave their space back all the same: on a disk that
        // fills up, none of them is kept for the next.
        assert_eq!((files(&memory, ".spare"), files(&memory, ".snapshot")), (0, 2));
        assert!(files(&memory, ".log") < logs);
    }
}

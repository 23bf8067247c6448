//! Taking a partition's log over (DESIGN 4, 6): raise the term under guards, close every ledger that is not closed, find the
//! end, and prepare the replay. Safe at any time and any number of times; what an earlier owner had acknowledged is kept,
//! and nothing more is acknowledged to it.
//!
//! Metadata that was restored from a backup may name ledgers that were deleted since: bookies have their tombstones. What was deleted lay at
//! the beginning of the log, so that the log goes on behind all that this metadata knows.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use geminga_ledger::{ReadError, RecoverError};
use geminga_metastore::record::{
    Assign, CloseKind, LedgerMeta, LogStart, PartitionTerm, Segment as Record,
};
use geminga_metastore::{Error as MetaError, Guard, Txn, TxnOutcome, Version, keys};
use geminga_proto::caps;
use geminga_proto::entry::{Entry, Kind, NO_SNAPSHOT};
use geminga_proto::ids::{EntryId, LedgerId, Offset};

use super::core::Start;
use super::folded::Folded;
use super::opening::{Opening, Stored, list_segments};
use super::reader::Stores;
use super::replay::{self, From};
use super::segments::{Known, Segment, Segments};
use super::tail::Tail;
use super::writer::LogWriter;
use super::{Ends, LogHead, LogParts, LogReader, OpenError, OpenSpec, Opened, part};

/// Attempts at the term transaction; each fails only when somebody else changed the assignment or the term meanwhile.
const TERM_ATTEMPTS: usize = 5;

/// See [`super::open`].
pub(super) async fn open(parts: &LogParts, spec: OpenSpec) -> Result<Opened, OpenError> {
    let roll = spec.roll;
    let opening = Arc::new(raise_term(parts, spec).await?);
    let log_start = read_log_start(&opening).await?;
    let store = &*parts.store;
    let mut stored = list_segments(store, opening.topic.id, opening.partition, None)
        .await
        .map_err(unavailable)?;
    let folded = load_folded(&opening, &mut stored).await?;
    let closed = close_all(&opening, &stored).await?;
    let behind = behind(&stored, &folded);
    let end = find_end(&opening, &stored, &closed, behind).await?;
    if end.replay.is_none() && !end.deleted && folded.last_seq().is_some() {
        // What is folded lies before one that holds records and keeps its key.
        let why = "segments are folded, and none behind them holds a record".to_owned();
        return Err(OpenError::Damaged(why));
    }
    let begins_in = end.replay.as_ref().map(|from| from.meta.id);
    let anchor = stored.iter().find(|s| Some(s.segment.ledger) == begins_in).map(|s| s.seq);
    learn(&mut stored, &closed, anchor, end.running_max_timestamp);
    fill_ends(&opening, &stored, end.next_offset).await;

    let next_offset = end.next_offset.max(log_start);
    let start = Start { next_offset, running_max_timestamp: end.running_max_timestamp };
    let ends = Ends { log_start, high_watermark: next_offset };
    let tail = Tail::new(parts.config.tail_bytes, end.running_max_timestamp);
    let known = Known {
        ends,
        max_timestamp: end.running_max_timestamp,
        segments: stored.iter().map(|s| view(s, &closed)).collect(),
        anchor,
        term: opening.term,
    };
    let segments = Arc::new(Segments::new(known, tail, parts.tails.clone()));
    let head = LogHead::new(Arc::clone(&opening), Arc::clone(&segments));
    let stored_in = Stores { ledgers: parts.ledgers.clone(), folded: Arc::new(folded) };
    let reader = LogReader::new(stored_in, Arc::clone(&segments), parts.reads.clone());
    let newest = stored.last().map(|s| s.seq);
    let term = opening.term;
    tracing::info!(
        topic = opening.topic.name,
        partition = opening.partition.0,
        term = term.0,
        segments = stored.len(),
        next_offset = next_offset.0,
        "log opened"
    );
    Ok(Opened {
        term,
        log_start,
        next_offset,
        running_max_timestamp: end.running_max_timestamp,
        replay: replay::stream(parts.ledgers.clone(), end.replay),
        writer: LogWriter::new(opening, roll, start, newest, segments),
        reader,
        head,
    })
}

/// Where the log ends, and where its state begins.
struct End {
    next_offset: Offset,
    running_max_timestamp: i64,
    replay: Option<From>,
    /// Whether a ledger that may have held the end was deleted in a life that the metadata has lost, or given up.
    deleted: bool,
}

impl End {
    /// Behind everything that is known, without a state: the ledgers that held it are deleted, or none ever did.
    fn without_state(stored: &[Stored], behind: Offset) -> Self {
        let newest = stored.iter().filter_map(|s| s.segment.max_timestamp).max();
        Self {
            next_offset: behind,
            running_max_timestamp: newest.unwrap_or(-1),
            replay: None,
            deleted: true,
        }
    }
}

/// Behind every offset that the metadata names, of segments and of what is folded.
fn behind(stored: &[Stored], folded: &Folded) -> Offset {
    let ends = stored.iter().map(|s| s.segment.end_offset.unwrap_or(s.segment.base_offset));
    ends.chain(folded.now().end_offset()).max().unwrap_or(Offset(0))
}

type Closed = Vec<(u32, Arc<LedgerMeta>)>;

/// One transaction that holds only while the assignment names this broker and term; the term only rises. It is written
/// even where it stands already, so that whatever an earlier opening still has under way fails.
async fn raise_term(parts: &LogParts, spec: OpenSpec) -> Result<Opening, OpenError> {
    let OpenSpec { topic, partition, term, quorum, roll: _ } = spec;
    let assign_key = keys::assign(topic.id, partition.0 / caps::ASSIGN_CHUNK);
    let term_key = keys::term(topic.id, partition);
    let value = PartitionTerm { term, broker: Some(parts.me) }.encode();
    for _ in 0..TERM_ATTEMPTS {
        let found = parts.store.get(&assign_key).await.map_err(unavailable)?;
        let Some(assign) = found else { return Err(OpenError::NotOwner) };
        let owners = Assign::decode(&assign.value).map_err(|e| damaged(&assign_key, e))?;
        let index = (partition.0 % caps::ASSIGN_CHUNK) as usize;
        let named = owners.partitions.get(index);
        if !named.is_some_and(|o| o.broker == Some(parts.me) && o.term == term) {
            return Err(OpenError::NotOwner);
        }
        let stands = parts.store.get(&term_key).await.map_err(unavailable)?;
        let own = match &stands {
            None => Guard::Absent(term_key.clone()),
            Some(stands) => {
                let now =
                    PartitionTerm::decode(&stands.value).map_err(|e| damaged(&term_key, e))?;
                if now.term > term || (now.term == term && now.broker != Some(parts.me)) {
                    return Err(OpenError::NotOwner);
                }
                Guard::Version(term_key.clone(), stands.version)
            }
        };
        let assigned = Guard::Version(assign_key.clone(), assign.version);
        let txn = Txn::new().guard(assigned).guard(own).put(&term_key, value.clone());
        match parts.store.txn(txn).await {
            Ok(TxnOutcome::Committed(revision)) => {
                let term_version = Version(revision.0);
                let parts = parts.clone();
                return Ok(Opening { parts, topic, partition, term, term_version, quorum });
            }
            // Of an unknown outcome only a new attempt tells: it is guarded by whatever stands then (M9).
            Ok(TxnOutcome::GuardFailed) | Err(MetaError::Unknown(_)) => {}
            Err(error) => return Err(unavailable(error)),
        }
    }
    Err(OpenError::Unavailable("its term could not be raised: try again".to_owned()))
}

/// What was folded; of the segments that were listed only those stay that have keys now.
async fn load_folded(opening: &Opening, stored: &mut Vec<Stored>) -> Result<Folded, OpenError> {
    let LogParts { store, cold, .. } = &opening.parts;
    let of = (opening.topic.id, opening.partition);
    let folded = Folded::load(Arc::clone(store), cold.clone(), of).await.map_err(unavailable)?;
    stored.retain(|stored| folded.last_seq().is_none_or(|last| stored.seq > last));
    Ok(folded)
}

async fn read_log_start(opening: &Opening) -> Result<Offset, OpenError> {
    let key = keys::log_start(opening.topic.id, opening.partition);
    match opening.parts.store.get(&key).await.map_err(unavailable)? {
        None => Ok(Offset(0)),
        Some(found) => {
            LogStart::decode(&found.value).map(|record| record.offset).map_err(|e| damaged(&key, e))
        }
    }
}

/// Closes every ledger that is not known to be closed, not only the last (2.8 step 3, 4.1).
async fn close_all(opening: &Arc<Opening>, stored: &[Stored]) -> Result<Closed, OpenError> {
    let open: Vec<(u32, LedgerId)> = stored
        .iter()
        .filter(|s| s.segment.end_offset.is_none())
        .map(|s| (s.seq, s.segment.ledger))
        .collect();
    let recover = |(seq, ledger)| {
        let opening = Arc::clone(opening);
        async move {
            let meta = opening.parts.ledgers.recover(ledger).await.map_err(not_recovered)?;
            Ok((seq, Arc::new(meta)))
        }
    };
    futures::stream::iter(open)
        .map(recover)
        .buffer_unordered(opening.parts.config.recoveries.max(1))
        .try_collect()
        .await
}

fn view(stored: &Stored, closed: &Closed) -> Segment {
    let meta = closed.iter().find(|(seq, _)| *seq == stored.seq).map(|(_, meta)| Arc::clone(meta));
    Segment {
        seq: stored.seq,
        ledger: stored.segment.ledger,
        base_offset: stored.segment.base_offset,
        end_offset: None,
        term: stored.segment.term,
        max_timestamp: stored.segment.max_timestamp,
        bytes: stored.segment.bytes,
        readable: meta.as_ref().and_then(|meta| meta.last_entry),
        meta,
    }
}

/// From the newest ledger that holds a complete snapshot: those after it hold no records (P4), unless they did and were deleted since a
/// backup, or given up. So the log never goes on before what is known, `behind`: no offset that is known is given again.
async fn find_end(
    opening: &Opening,
    stored: &[Stored],
    closed: &Closed,
    behind: Offset,
) -> Result<End, OpenError> {
    let mut deleted = false;
    for segment in stored.iter().rev() {
        let meta = match closed.iter().find(|(seq, _)| *seq == segment.seq) {
            Some((_, meta)) => Arc::clone(meta),
            None => read_closed(opening, segment.segment.ledger).await?,
        };
        let last = meta.last_entry.unwrap_or(EntryId::NONE);
        if last == EntryId::NONE {
            deleted = deleted || ended_deleted(&meta);
            continue;
        }
        let entry = match read_last(opening, &meta, last).await {
            Ok(entry) => entry,
            Err(error) if was_deleted(opening, &meta, last, &error).await => {
                tracing::warn!(ledger = %meta.id, "the end of the log was deleted after the backup that the metadata was restored from; it goes on without its state");
                return Ok(End::without_state(stored, behind));
            }
            Err(error) => return Err(error),
        };
        let Some(snapshot) = newest_snapshot(&entry, last)? else { continue };
        let attributes = entry.attributes;
        let next_offset = Offset(attributes.first_offset + i64::from(attributes.offset_count));
        return Ok(End {
            next_offset: next_offset.max(behind),
            running_max_timestamp: attributes.running_max_timestamp,
            replay: Some(From { meta, snapshot, last }),
            deleted,
        });
    }
    // Nothing was ever written, or no owner lived long enough to write its first record; or what was written is deleted.
    Ok(End { deleted, ..End::without_state(stored, behind) })
}

/// Whether a ledger was closed as an empty one by force: it was deleted since a backup, or whatever it held was given up (4.8). Its bookies
/// need not say so: one that dropped it for an object has no tombstone, and others may be gone.
fn ended_deleted(meta: &LedgerMeta) -> bool {
    meta.last_entry == Some(EntryId::NONE)
        && matches!(meta.close_kind, Some(CloseKind::ForcedWithRisk { .. }))
}

/// Whether a ledger whose last entry could not be read was deleted: a bookie has its tombstone, which no ledger has that this metadata
/// deleted, since it would not name it. One that was folded has one, too: as long as an object may have its entries, that is for a human.
async fn was_deleted(
    opening: &Opening,
    meta: &LedgerMeta,
    last: EntryId,
    error: &OpenError,
) -> bool {
    let in_no_object = meta.tier.object().is_none() || matches!(error, OpenError::Damaged(_));
    in_no_object && !opening.parts.ledgers.tombstones(meta, last).await.is_empty()
}

async fn read_closed(opening: &Opening, ledger: LedgerId) -> Result<Arc<LedgerMeta>, OpenError> {
    let found = opening.parts.ledgers.metadata(ledger).await.map_err(unavailable)?;
    let Some((meta, _)) = found else {
        return Err(OpenError::Unavailable(format!("ledger {ledger} is being deleted")));
    };
    if meta.last_entry.is_none() {
        return Err(OpenError::Damaged(format!("ledger {ledger} of a closed segment is open")));
    }
    Ok(Arc::new(meta))
}

async fn read_last(
    opening: &Opening,
    meta: &Arc<LedgerMeta>,
    last: EntryId,
) -> Result<Entry, OpenError> {
    let prefix = u32::try_from(part::HEADER_BYTES).expect("a few bytes");
    let reader = opening.parts.ledgers.reader(Arc::clone(meta));
    let entries = reader.read(last, last, 0, Some(prefix)).await.map_err(not_read)?;
    entries.into_iter().next().ok_or_else(|| {
        OpenError::Unavailable(format!("no bookie delivers the end of ledger {}", meta.id))
    })
}

/// First part of the newest snapshot that is complete with `entry`, the ledger's last.
fn newest_snapshot(entry: &Entry, last: EntryId) -> Result<Option<EntryId>, OpenError> {
    if entry.attributes.kind == Kind::Snapshot {
        let (place, _) = part::decode(&entry.payload).map_err(|e| damaged("the last entry", e))?;
        if place.is_end() {
            return Ok(Some(EntryId(last.0 - i64::from(place.index))));
        }
    }
    match entry.attributes.last_snapshot_entry {
        NO_SNAPSHOT => Ok(None),
        first => match i64::try_from(first) {
            Ok(first) if first < last.0 => Ok(Some(EntryId(first))),
            _ => Err(OpenError::Damaged(format!("entry {last} names snapshot entry {first}"))),
        },
    }
}

/// What the takeover found out about segments that an earlier owner left open. The largest timestamp so far is one that no
/// record of the newest ledger is beyond.
fn learn(stored: &mut [Stored], closed: &Closed, anchor: Option<u32>, running_max_timestamp: i64) {
    for Stored { seq, segment, .. } in stored {
        if let Some((_, meta)) = closed.iter().find(|(closed, _)| closed == seq) {
            segment.bytes = segment.bytes.or(Some(meta.length));
            let newest = Some(running_max_timestamp).filter(|_| anchor == Some(*seq));
            segment.max_timestamp = segment.max_timestamp.or(newest.filter(|ms| *ms >= 0));
        }
    }
}

/// Best effort: remembers in each segment that is closed now where it ends, so that the next opening need not ask.
/// A segment ends where the next begins.
async fn fill_ends(opening: &Opening, stored: &[Stored], next_offset: Offset) {
    let nexts = stored.iter().skip(1).map(|s| s.segment.base_offset).chain([next_offset]);
    let mut txn = opening.guarded();
    for (stored, end) in stored.iter().zip(nexts).filter(|(s, _)| s.segment.end_offset.is_none()) {
        if txn.ops.len() + 2 > caps::MAX_METADATA_TXN_OPS / 2 {
            break;
        }
        let key = opening.segment_key(stored.seq);
        let record = Record { end_offset: Some(end), ..stored.segment };
        let own = Guard::Version(key.clone(), stored.version);
        txn = txn.guard(own).put(key, record.encode());
    }
    if !txn.ops.is_empty()
        && let Err(error) = opening.parts.store.txn(txn).await
    {
        tracing::debug!(%error, "ends of segments are not remembered");
    }
}

fn unavailable(error: MetaError) -> OpenError {
    match error {
        MetaError::Corrupt { .. } => OpenError::Damaged(error.to_string()),
        MetaError::Unknown(_)
        | MetaError::Unavailable(_)
        | MetaError::NoSpace
        | MetaError::LeaseGone(_)
        | MetaError::Invalid(_) => OpenError::Unavailable(error.to_string()),
    }
}

fn damaged(what: &str, why: impl std::fmt::Display) -> OpenError {
    OpenError::Damaged(format!("{what} holds {why}"))
}

fn not_recovered(error: RecoverError) -> OpenError {
    match error {
        RecoverError::Damaged { .. } | RecoverError::InObject(_) => {
            OpenError::Damaged(error.to_string())
        }
        RecoverError::Gone(_) | RecoverError::Missing { .. } => {
            OpenError::Unavailable(error.to_string())
        }
        RecoverError::Metadata(error) => unavailable(error),
    }
}

/// What a failed read of committed entries means for an opening.
pub(super) fn not_read(error: ReadError) -> OpenError {
    match error {
        ReadError::DataLoss { .. } | ReadError::ObjectLost { .. } => {
            OpenError::Damaged(error.to_string())
        }
        ReadError::Unavailable { .. } => OpenError::Unavailable(error.to_string()),
    }
}

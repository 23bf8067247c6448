//! The steps of an opening that take a while: creating, rolling, closing and settling ledgers. Each is one future that owns
//! what it works on and says how it went; what to do about it is the core's to decide.

use std::sync::Arc;
use std::time::Duration;

use geminga_ledger::{CreateError, RecoverError, RollError, Writer};
use geminga_metastore::record::{LedgerMeta, Segment as Record};
use geminga_metastore::{Error as MetaError, Guard, Txn, Version};
use geminga_proto::ids::{EntryId, LedgerId, Offset};

use super::Lost;
use super::opening::{Opening, Stored, list_segments};

/// How long the store may take to say that a partition whose ledger was sealed is still this opening's.
const SAYS_SO: Duration = Duration::from_secs(1);

/// How a step went.
#[derive(Debug)]
pub(super) enum Done {
    /// A ledger is open.
    Created(Box<Writer>),
    /// Certainly none was created.
    NotCreated(String),
    /// Whether the store answers, and if not, why.
    Checked(Result<(), String>),
    /// The old ledger is closed, the next one is open.
    Rolled { closed: LedgerMeta, writer: Box<Writer> },
    /// Nothing was changed.
    NotRolled { writer: Box<Writer>, why: String },
    /// Refused, or nobody knows.
    Doubt(String),
    /// Every ledger is closed; `found` are segments that this opening did not know that it had made. They hold nothing.
    Settled { closed: Option<LedgerMeta>, found: Vec<(Stored, LedgerMeta)> },
    /// Not now.
    NotSettled(String),
    /// The opening is over.
    Lost(Lost),
}

/// What a ledger ends at, depending on the entry that turns out to be its last.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    /// Before every entry of `rest`.
    pub(super) offset: Offset,
    /// Largest record timestamp in this ledger so far; -1 when there is none.
    pub(super) max_timestamp: i64,
    /// Entries in flight, with the offset after each and its largest timestamp.
    pub(super) rest: Vec<(EntryId, Offset, i64)>,
}

impl Ends {
    fn at(&self, last: EntryId) -> (Offset, i64) {
        let held = self.rest.iter().take_while(|(entry, ..)| *entry <= last);
        held.fold((self.offset, self.max_timestamp), |(_, max), &(_, end, timestamp)| {
            (end, max.max(timestamp))
        })
    }

    fn expected(&self) -> Offset {
        self.rest.last().map_or(self.offset, |&(_, end, _)| end)
    }
}

/// The ledger that is to be left.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) seq: u32,
    pub(super) base_offset: Offset,
    pub(super) writer: Box<Writer>,
    pub(super) ends: Ends,
}

/// 2.8 step 0, while the ledger goes on: does the store answer, and is the partition still this opening's?
pub(super) async fn check(opening: Arc<Opening>) -> Done {
    match opening.still_owns().await {
        Ok(true) => Done::Checked(Ok(())),
        Ok(false) => Done::Lost(Lost::Deposed),
        Err(error) => Done::Checked(Err(error.to_string())),
    }
}

/// Creates the ledger of segment `seq` (2.2).
pub(super) async fn create(opening: Arc<Opening>, seq: u32, base_offset: Offset) -> Done {
    let spec = opening.ledger_spec(base_offset);
    let created = opening
        .parts
        .ledgers
        .create(spec, |ledger| opening.with_segment(seq, ledger, base_offset))
        .await;
    match created {
        Ok(writer) => Done::Created(Box::new(writer)),
        Err(error @ CreateError::NotEnoughBookies { .. }) => Done::NotCreated(error.to_string()),
        // A store that went away after the request was sent says no more than one that timed out (M9).
        Err(error @ (CreateError::Deposed | CreateError::Metadata(_))) => {
            Done::Doubt(error.to_string())
        }
    }
}

/// Closes a ledger and opens the next in one transaction (2.8).
pub(super) async fn roll(opening: Arc<Opening>, leaving: Leaving, drain: Duration) -> Done {
    let Leaving { seq, base_offset, mut writer, ends } = leaving;
    let version = match may_leave(&opening, seq).await {
        Ok(Some(version)) => version,
        Ok(None) => return Done::Lost(Lost::Deposed),
        Err(error) => return Done::NotRolled { writer, why: error.to_string() },
    };
    let spec = opening.ledger_spec(ends.expected());
    let (by, old) = (Arc::clone(&opening), writer.id());
    let with = move |closed: &LedgerMeta, new: LedgerId| {
        let (end, max_timestamp) = ends.at(closed.last_entry.unwrap_or(EntryId::NONE));
        let old = Old { seq, ledger: old, base_offset, version };
        old.ended(&by, (end, max_timestamp), closed).and(by.with_segment(seq + 1, new, end))
    };
    match opening.parts.ledgers.roll(&mut writer, spec, drain, with).await {
        Ok((closed, next)) => Done::Rolled { closed, writer: Box::new(next) },
        Err(RollError::NotStarted(error)) => Done::NotRolled { writer, why: error.to_string() },
        Err(RollError::Close(error)) => Done::Doubt(error.to_string()),
    }
}

/// Closes a ledger that has no successor yet.
pub(super) async fn close(opening: Arc<Opening>, leaving: Leaving, drain: Duration) -> Done {
    let Leaving { seq, base_offset, mut writer, ends } = leaving;
    let version = match may_leave(&opening, seq).await {
        Ok(Some(version)) => version,
        Ok(None) => return Done::Lost(Lost::Deposed),
        Err(error) => return Done::NotRolled { writer, why: error.to_string() },
    };
    let (by, old) = (Arc::clone(&opening), writer.id());
    let with = move |closed: &LedgerMeta| {
        let (end, max_timestamp) = ends.at(closed.last_entry.unwrap_or(EntryId::NONE));
        let old = Old { seq, ledger: old, base_offset, version };
        old.ended(&by, (end, max_timestamp), closed)
    };
    match writer.close(drain, with).await {
        Ok(closed) => Done::Settled { closed: Some(closed), found: Vec::new() },
        Err(error) => Done::Doubt(error.to_string()),
    }
}

/// 2.8 step 0 once more, right before. `None` = this opening is deposed; otherwise the version of its segment's key.
async fn may_leave(opening: &Opening, seq: u32) -> Result<Option<Version>, MetaError> {
    if !opening.still_owns().await? {
        return Ok(None);
    }
    let found = opening.parts.store.get(&opening.segment_key(seq)).await?;
    Ok(found.map(|found| found.version))
}

/// A segment that is being left.
struct Old {
    seq: u32,
    ledger: LedgerId,
    base_offset: Offset,
    version: Version,
}

impl Old {
    /// Fills the cache of a closed segment's end.
    fn ended(
        &self,
        opening: &Opening,
        (end, max_timestamp): (Offset, i64),
        closed: &LedgerMeta,
    ) -> Txn {
        let key = opening.segment_key(self.seq);
        let record = Record {
            end_offset: Some(end),
            max_timestamp: (max_timestamp >= 0).then_some(max_timestamp),
            bytes: Some(closed.length),
            ..opening.new_segment(self.ledger, self.base_offset)
        };
        opening.guarded().guard(Guard::Version(key.clone(), self.version)).put(key, record.encode())
    }
}

/// Closes whatever this opening left open: the current ledger, and one that it may have made without knowing (W9, M9).
/// `after`: the newest segment it knows.
/// `sealed`: a bookie says that somebody else has sealed the current one. Then only the store's word that the partition is
/// still this opening's lets it go on (DESIGN 6).
pub(super) async fn settle(
    opening: Arc<Opening>,
    current: Option<LedgerId>,
    after: Option<u32>,
    sealed: bool,
) -> Done {
    let owns = opening.still_owns();
    let owns = if sealed {
        tokio::time::timeout(SAYS_SO, owns).await.unwrap_or_else(|_| {
            Err(MetaError::Unavailable(format!("no answer within {SAYS_SO:?}")))
        })
    } else {
        owns.await
    };
    match owns {
        Ok(true) => {}
        Ok(false) => return Done::Lost(Lost::Deposed),
        Err(_) if sealed => return Done::Lost(Lost::Deposed),
        Err(error) => return not_settled(error),
    }
    let store = &*opening.parts.store;
    let listed = list_segments(store, opening.topic.id, opening.partition, after).await;
    let listed = match listed {
        Ok(listed) => listed,
        Err(error) => return not_settled(error),
    };
    let mut closed = None;
    if let Some(ledger) = current {
        match recover(&opening, ledger).await {
            Ok(meta) => closed = Some(meta),
            Err(done) => return done,
        }
    }
    let mut found = Vec::new();
    for stored in listed {
        let meta = match recover(&opening, stored.segment.ledger).await {
            Ok(meta) => meta,
            Err(done) => return done,
        };
        if meta.last_entry > Some(EntryId::NONE) {
            // This opening wrote nothing there, so somebody else has: its offsets are not ours to continue.
            return Done::Lost(Lost::Deposed);
        }
        found.push((stored, meta));
    }
    Done::Settled { closed, found }
}

async fn recover(opening: &Opening, ledger: LedgerId) -> Result<LedgerMeta, Done> {
    opening.parts.ledgers.recover(ledger).await.map_err(|error| match error {
        RecoverError::Gone(_) => Done::Lost(Lost::Deposed),
        RecoverError::Damaged { .. } | RecoverError::InObject(_) => {
            Done::Lost(Lost::Failed(error.to_string()))
        }
        RecoverError::Missing { .. } => Done::NotSettled(error.to_string()),
        RecoverError::Metadata(error) => not_settled(error),
    })
}

fn not_settled(error: MetaError) -> Done {
    match error {
        MetaError::Corrupt { .. } => Done::Lost(Lost::Failed(error.to_string())),
        MetaError::Unknown(_)
        | MetaError::Unavailable(_)
        | MetaError::NoSpace
        | MetaError::LeaseGone(_)
        | MetaError::Invalid(_) => Done::NotSettled(error.to_string()),
    }
}

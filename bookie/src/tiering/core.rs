//! What a bookie does about one closed ledger and the object store, as a pure state machine (protocol 7.4): no clock, no I/O,
//! no randomness of its own. The task around it carries out one effect at a time and comes back with its event.
//!
//! ```text
//!   read ─ LOCAL, wanted, my turn, or a disk fills up ─► CAS UPLOADING ─► stream ─► complete ─► read back ─► CAS OFFLOADED
//!   read ─ OFFLOADED, kept for long enough, my turn, or a disk fills up ─► HEAD ─► CAS TRIMMED, or LOCAL where the object is gone (T7)
//!   read ─ OFFLOADED, with one copy, at a bookie that is to leave ─► HEAD ─► CAS LOCAL where the object is gone (T7)
//!   read ─ TRIMMED, held here ─► HEAD ─► drop the local copy
//! ```
//!
//! Invariants: every decision follows a linearizable read, and every change is guarded by its version (M8). An attempt's id is used
//! for one upload (T1). An object is published only after its entries were held against metadata and it was read back (T3);
//! whatever a swap's outcome, no object is deleted here (T2). A copy is dropped only for an object that metadata calls `TRIMMED` and
//! that is there, bytes and etag (T5).

use geminga_ledger::core::commit::CasResult;
use geminga_metastore::Version;
use geminga_metastore::record::{LedgerMeta, LedgerState, Tier, TierObject};
use geminga_proto::ids::{ClusterUuid, EntryId, Member};
use geminga_tier::{Names, Summary};

use super::mutation::{Mutation, Mutations};

/// What the ledger's topic and the operator ask for, in milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// When it may be uploaded; `None` = not at all, or not yet.
    pub upload_from_ms: Option<i64>,
    /// How long bookies keep their copies after the upload.
    pub keep_local: KeepLocal,
    /// A disk that holds it fills up (5.8): it is done at once, whosever turn it is, but for copies that are kept always.
    pub hurries: bool,
    /// The bookie is to leave (6.6): nobody copies from it for its own place, so of a ledger's only copy the object must be there.
    pub leaves: bool,
}

/// How long copies are kept beside the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepLocal {
    /// As long as the ledger is there.
    #[default]
    Always,
    /// For so many milliseconds after the upload.
    Ms(i64),
    /// No longer: newer segments fill what is kept.
    No,
}

/// Now, as the task says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the Unix epoch. Only says who tries when (H22).
    pub ms: i64,
    /// A fresh random number.
    pub fresh: u128,
}

/// What came of an effect.
#[expect(clippy::large_enum_variant, reason = "one at a time, and never kept")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A linearizable read; `None` when there is no such ledger.
    Read(Option<(LedgerMeta, Version)>, Wanted),
    /// Metadata cannot be read now.
    Unreadable,
    /// A swap ended.
    Cas(CasResult),
    /// All entries were sent, and nothing is published yet; `None` when some could not be read or sent.
    Streamed(Option<Summary>),
    /// The object was published, or nobody knows. False: certainly not.
    Completed(bool),
    /// What is there, read back: bytes and etag, once a block and the footer were what was sent; `None` when they were not, or
    /// could not be read.
    ReadBack(Option<Seen>),
    /// What is there of an object that metadata names.
    Head(Head),
    /// The local copy was dropped, durably.
    Dropped,
    /// What was sent was given up, or the copy was not dropped.
    Failed,
}

/// An object as the store sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Bytes.
    pub size: u64,
    /// What the store calls this version of it.
    pub etag: String,
}

/// The answer to a HEAD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// It is there.
    There(Seen),
    /// Certainly not there.
    Gone,
    /// Nobody knows.
    Unknown,
}

/// What the task does next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Read the metadata linearizably (M8).
    Read,
    /// Replace it, if its version is as expected.
    Cas {
        /// The version read.
        expected: Version,
        /// The new value.
        meta: Box<LedgerMeta>,
    },
    /// Send all entries to the key of this attempt, without publishing.
    Stream {
        /// The claim.
        attempt: u128,
        /// What it is of.
        meta: Box<LedgerMeta>,
    },
    /// Publish what was sent.
    Complete,
    /// Give up what was sent.
    Abort,
    /// Read back what was published.
    ReadBack {
        /// Where it is.
        object: TierObject,
        /// What was sent.
        summary: Summary,
    },
    /// Ask for an object.
    Head(TierObject),
    /// Drop the local copy; the object has it.
    Drop {
        /// The ledger's last entry.
        last: EntryId,
        /// The object's upload.
        attempt: u128,
    },
    /// Nothing for now: look again at this time, in milliseconds since the Unix epoch.
    LookAt(i64),
    /// Nothing ever again, but for a new look when the process starts anew.
    Done,
    /// An operator must act: the object of a trimmed ledger is not there. Look again at this time.
    Alarm(i64),
}

/// How an operator tunes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Timing {
    /// Between two looks at a ledger that there is nothing to do about yet.
    pub look_ms: i64,
    /// An upload that takes longer than this, and than twice what is expected of its bytes, is taken over.
    pub take_over_ms: i64,
    /// Bytes a second that an upload makes at least.
    pub pace: u64,
}

/// Longest pause before a copy beside an object is looked at again, in milliseconds: another bookie, whose disk fills up, may have
/// ended the time that it is kept for (5.8), and this one has the bytes as well.
const LONGEST_KEPT_MS: i64 = 600_000;

/// Longest pause after uploads that failed, in milliseconds.
const LONGEST_PAUSE_MS: i64 = 3_600_000;

impl Timing {
    fn take_over(&self, meta: &LedgerMeta) -> i64 {
        let expected = meta.length.saturating_mul(2_000) / self.pace.max(1);
        self.take_over_ms.saturating_add(i64::try_from(expected).unwrap_or(i64::MAX))
    }
}

/// Where one upload stands; each survives a swap of unknown outcome, and none a restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Between effects that leave nothing behind.
    Reading,
    Claiming {
        attempt: u128,
    },
    Streaming {
        attempt: u128,
        meta: Box<LedgerMeta>,
    },
    Completing {
        draft: TierObject,
        summary: Summary,
    },
    ReadingBack {
        draft: TierObject,
    },
    /// Verified: to be published (7.4 step 6).
    Publishing {
        object: TierObject,
    },
    /// Whether the object is there, before bookies may drop their copies (step 7).
    Judging {
        meta: Box<LedgerMeta>,
        version: Version,
        object: TierObject,
    },
    /// The object was not there: the ledger becomes local again, and is looked at later.
    Missing,
    /// Whether it is there, while it is kept at bookies as well.
    Asking {
        meta: Box<LedgerMeta>,
        version: Version,
        object: TierObject,
    },
    /// The same, before this bookie drops its own (step 8).
    Confirming {
        object: TierObject,
        last: EntryId,
    },
    Dropping,
}

/// One ledger at one bookie.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Offload {
    me: Member,
    cluster: ClusterUuid,
    names: Names,
    timing: Timing,
    /// Since when something is due here that is another bookie's to do first.
    due_since: Option<i64>,
    /// Uploads that came to nothing since one did not.
    failures: u32,
    phase: Phase,
    mutations: Mutations,
}

impl Offload {
    /// One that has not looked yet.
    pub fn new(
        me: Member,
        cluster: ClusterUuid,
        names: Names,
        timing: Timing,
        mutations: Mutations,
    ) -> Self {
        let (due_since, phase) = (None, Phase::Reading);
        Self { me, cluster, names, timing, due_since, failures: 0, phase, mutations }
    }

    /// Whether uploads of it came to nothing: the next one is paced.
    pub fn fails(&self) -> bool {
        self.failures > 0
    }

    /// Begins another look.
    pub fn look(&mut self) -> Effect {
        self.phase = Phase::Reading;
        Effect::Read
    }

    /// One event.
    pub fn step(&mut self, now: Now, event: Event) -> Effect {
        let phase = std::mem::replace(&mut self.phase, Phase::Reading);
        match (phase, event) {
            (phase, Event::Read(found, wanted)) => self.read(now, phase, found, wanted),
            (Phase::Publishing { .. }, Event::Cas(CasResult::Unknown))
                if self.mutations.is(Mutation::AbortUnknown) =>
            {
                Effect::Abort
            }
            // T2: whatever came of a swap, the next read tells, and nothing is deleted.
            (phase @ (Phase::Claiming { .. } | Phase::Publishing { .. }), Event::Cas(_)) => {
                self.phase = phase;
                Effect::Read
            }
            (Phase::Judging { .. }, Event::Cas(_)) => Effect::Read,
            // Not at once: a store that takes objects and has none would be sent them without end.
            (Phase::Missing, Event::Cas(_)) => self.later(now),
            (Phase::Streaming { attempt, meta }, Event::Streamed(Some(summary))) => {
                self.streamed(attempt, &meta, summary)
            }
            // T3: not all could be read, or sent. What was sent is garbage, and a later claim starts anew.
            (Phase::Streaming { .. }, Event::Streamed(None)) => self.give_up(),
            (Phase::Completing { draft, summary }, Event::Completed(true)) => {
                let effect = Effect::ReadBack { object: draft.clone(), summary };
                self.phase = Phase::ReadingBack { draft };
                effect
            }
            (Phase::ReadingBack { draft }, Event::ReadBack(Some(seen)))
                if seen.size == draft.size || self.mutations.is(Mutation::SkipReadBack) =>
            {
                let object = TierObject { etag: seen.etag, at_ms: now.ms, ..draft };
                self.phase = Phase::Publishing { object };
                Effect::Read
            }
            // Nothing refers to it, and nothing will: its claim is followed by another attempt's only.
            (Phase::Completing { .. }, Event::Completed(_)) => self.give_up(),
            (Phase::ReadingBack { .. }, Event::ReadBack(_)) => {
                self.failures = self.failures.saturating_add(1);
                self.later(now)
            }
            (Phase::Judging { meta, version, object }, Event::Head(head)) => {
                self.judged(now, meta, version, object, &head)
            }
            (Phase::Asking { meta, version, object }, Event::Head(head)) => match &head {
                Head::There(seen) if is_of(seen, &object) => self.later(now),
                head => self.judged(now, meta, version, object, head),
            },
            (Phase::Confirming { object, last }, Event::Head(head)) => {
                self.confirmed(now, &object, last, &head)
            }
            (Phase::Dropping, Event::Dropped) => Effect::Done,
            (_, _) => self.later(now),
        }
    }

    /// Twice as late after each upload that failed, so that what they cost, and leave behind, is bounded.
    fn later(&self, now: Now) -> Effect {
        let doubled = self.timing.look_ms.saturating_mul(1 << self.failures.min(20));
        let longest = LONGEST_PAUSE_MS.max(self.timing.look_ms);
        Effect::LookAt(now.ms.saturating_add(doubled.min(longest)))
    }

    fn give_up(&mut self) -> Effect {
        self.failures = self.failures.saturating_add(1);
        Effect::Abort
    }

    /// The only place that decides by metadata.
    fn read(
        &mut self,
        now: Now,
        phase: Phase,
        found: Option<(LedgerMeta, Version)>,
        wanted: Wanted,
    ) -> Effect {
        let Some((meta, version)) = found else { return Effect::Done };
        match meta.state {
            LedgerState::Deleting
                if self.mutations.is(Mutation::PublishDeleted)
                    && matches!(phase, Phase::Publishing { .. }) => {}
            LedgerState::Deleting => return Effect::Done,
            LedgerState::Open | LedgerState::InRecovery => return self.later(now),
            LedgerState::Closed => {}
        }
        let Some(last) = meta.last_entry.filter(|last| *last >= EntryId(0)) else {
            return Effect::Done;
        };
        match (phase, &meta.tier) {
            (Phase::Claiming { attempt }, Tier::Uploading { attempt: claimed, .. })
                if attempt == *claimed =>
            {
                let meta = Box::new(meta);
                self.phase = Phase::Streaming { attempt, meta: meta.clone() };
                return Effect::Stream { attempt, meta };
            }
            (Phase::Publishing { object }, Tier::Uploading { attempt, .. })
                if *attempt == object.attempt || self.mutations.is(Mutation::PublishUnclaimed) =>
            {
                self.phase = Phase::Publishing { object: object.clone() };
                return swap(now, meta, version, Tier::Offloaded(object));
            }
            _ => {}
        }
        if meta.tier.object().is_some() {
            self.failures = 0;
        }
        match meta.tier.clone() {
            Tier::Local => self.local(now, meta, version, wanted),
            Tier::Uploading { by, started_ms, .. } => {
                self.claimed(now, meta, version, wanted, &by, started_ms)
            }
            Tier::Offloaded(object) if self.mutations.is(Mutation::DropBeforeTrimmed) => {
                self.phase = Phase::Confirming { object: object.clone(), last };
                Effect::Head(object)
            }
            Tier::Offloaded(object) => self.offloaded(now, meta, version, wanted, object),
            Tier::Trimmed(object) => {
                self.phase = Phase::Confirming { object: object.clone(), last };
                Effect::Head(object)
            }
        }
    }

    fn local(&mut self, now: Now, meta: LedgerMeta, version: Version, wanted: Wanted) -> Effect {
        let Some(from) = wanted.upload_from_ms else { return self.later(now) };
        if now.ms < from {
            return Effect::LookAt(from);
        }
        // Whose turn it is may hold nothing of it, having been full when it was written. Whoever else comes at the same time loses a swap.
        let at_once = wanted.hurries && wanted.keep_local != KeepLocal::Always;
        let turn = if at_once { Some(now.ms) } else { self.my_turn(now, &meta) };
        match turn {
            Some(at) if now.ms >= at => self.claim(now, now.ms, meta, version),
            Some(at) => Effect::LookAt(at),
            None => self.later(now),
        }
    }

    /// 7.1: the members of the last fragment in turn, from one that the ledger's id names, each some time after the one before.
    fn my_turn(&mut self, now: Now, meta: &LedgerMeta) -> Option<i64> {
        let ensemble = &meta.last_fragment().ensemble;
        let me = ensemble.iter().position(|member| member.bookie == self.me.bookie)?;
        let first = usize::try_from(meta.id.0 % ensemble.len() as u64).ok()?;
        let turn = (me + ensemble.len() - first) % ensemble.len();
        // A clock that was set back must not make it wait for what is not to come.
        let since = self.due_since.filter(|since| *since <= now.ms).unwrap_or(now.ms);
        self.due_since = Some(since);
        let wait = self.timing.take_over(meta).saturating_mul(i64::try_from(turn).ok()?);
        Some(since.saturating_add(wait))
    }

    /// Somebody's claim: one of an earlier life of this bookie is over, another's when it is too old.
    fn claimed(
        &mut self,
        now: Now,
        meta: LedgerMeta,
        version: Version,
        wanted: Wanted,
        by: &Member,
        started_ms: i64,
    ) -> Effect {
        if wanted.upload_from_ms.is_none() {
            return self.later(now);
        }
        let ensemble = &meta.last_fragment().ensemble;
        let place = |bookie| ensemble.iter().position(|member| member.bookie == bookie);
        if by.bookie == self.me.bookie {
            // Since when it was tried here: who fails again and again does not keep the others from it.
            return self.claim(now, started_ms.min(now.ms), meta, version);
        }
        let behind = match (place(self.me.bookie.clone()), place(by.bookie.clone())) {
            (Some(me), Some(claimer)) => (me + ensemble.len() - claimer) % ensemble.len(),
            (Some(me), None) => me + 1,
            // Whoever claims out of turn also takes over, after all others.
            (None, _) if wanted.hurries => ensemble.len() + 1,
            (None, _) => return self.later(now),
        };
        let wait = self.timing.take_over(&meta).saturating_mul(behind as i64);
        // A date in the future is a wrong clock's: the claim counts from when it was seen here.
        let since = match started_ms <= now.ms {
            true => started_ms,
            false => *self.due_since.get_or_insert(now.ms),
        };
        let at = since.saturating_add(wait);
        if now.ms >= at { self.claim(now, now.ms, meta, version) } else { Effect::LookAt(at) }
    }

    fn claim(&mut self, now: Now, started_ms: i64, meta: LedgerMeta, version: Version) -> Effect {
        self.due_since = None;
        self.phase = Phase::Claiming { attempt: now.fresh };
        let (attempt, by) = (now.fresh, self.me.clone());
        swap(now, meta, version, Tier::Uploading { attempt, by, started_ms })
    }

    /// Step 4: what was sent is the ledger, or it is not published.
    fn streamed(&mut self, attempt: u128, meta: &LedgerMeta, summary: Summary) -> Effect {
        let entries = meta.last_entry.map_or(0, |last| last.next().0.unsigned_abs());
        let whole = summary.entries == entries
            && summary.length == meta.length
            && meta.entries_crc.is_none_or(|crc| crc == summary.entries_crc);
        if !whole && !self.mutations.is(Mutation::SkipVerify) {
            let id = meta.id;
            tracing::error!(ledger = %id, ?summary, length = meta.length, entries, "what was read of a ledger is not what its metadata describes; it is not uploaded");
            return self.give_up();
        }
        let draft = TierObject {
            attempt,
            bucket: self.names.bucket().to_owned(),
            key: self.names.key(self.cluster, &meta.custom, meta.id, attempt),
            size: summary.size,
            entries: summary.entries,
            object_crc: summary.object_crc,
            etag: String::new(),
            index_place: summary.index_place,
            at_ms: 0,
        };
        self.phase = Phase::Completing { draft, summary };
        Effect::Complete
    }

    fn offloaded(
        &mut self,
        now: Now,
        meta: LedgerMeta,
        version: Version,
        wanted: Wanted,
        object: TierObject,
    ) -> Effect {
        let due = match wanted.keep_local {
            KeepLocal::Always => i64::MAX,
            KeepLocal::Ms(_) if wanted.hurries => now.ms,
            KeepLocal::No => now.ms,
            KeepLocal::Ms(ms) => object.at_ms.saturating_add(ms),
        };
        if now.ms < due && wanted.leaves && meta.qw == 1 {
            self.phase = Phase::Asking { meta: Box::new(meta), version, object: object.clone() };
            return Effect::Head(object);
        }
        if wanted.keep_local == KeepLocal::Always {
            return self.later(now);
        }
        let soon = now.ms.saturating_add(LONGEST_KEPT_MS.max(self.timing.look_ms));
        if now.ms < due {
            return Effect::LookAt(due.min(soon));
        }
        let turn = if wanted.hurries { Some(now.ms) } else { self.my_turn(now, &meta) };
        match turn {
            Some(at) if now.ms >= at => {
                self.phase =
                    Phase::Judging { meta: Box::new(meta), version, object: object.clone() };
                Effect::Head(object)
            }
            Some(at) => Effect::LookAt(at.min(soon)),
            None => self.later(now),
        }
    }

    fn judged(
        &mut self,
        now: Now,
        meta: Box<LedgerMeta>,
        version: Version,
        object: TierObject,
        head: &Head,
    ) -> Effect {
        let is_there = match head {
            Head::There(seen) if is_of(seen, &object) => true,
            _ if self.mutations.is(Mutation::TrimUnseen) => true,
            Head::Unknown => return self.later(now),
            Head::There(_) | Head::Gone => false,
        };
        self.due_since = None;
        if is_there {
            let effect = swap(now, (*meta).clone(), version, Tier::Trimmed(object.clone()));
            self.phase = Phase::Judging { meta, version, object };
            return effect;
        }
        let (ledger, key) = (meta.id, &object.key);
        tracing::error!(%ledger, key, "the object of a ledger is not there any more, or was replaced; the ledger's copies at bookies are uploaded again");
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Missing;
        swap(now, *meta, version, Tier::Local)
    }

    fn confirmed(&mut self, now: Now, object: &TierObject, last: EntryId, head: &Head) -> Effect {
        match head {
            Head::There(seen) if is_of(seen, object) => {}
            _ if self.mutations.is(Mutation::DropUnseen) => {}
            Head::Unknown => return self.later(now),
            Head::There(_) | Head::Gone => {
                return Effect::Alarm(now.ms.saturating_add(self.timing.look_ms));
            }
        }
        self.phase = Phase::Dropping;
        Effect::Drop { last, attempt: object.attempt }
    }
}

/// Bytes and etag; a store that names no versions is believed by the size.
fn is_of(seen: &Seen, object: &TierObject) -> bool {
    seen.size == object.size && seen.etag == object.etag
}

fn swap(now: Now, mut meta: LedgerMeta, expected: Version, tier: Tier) -> Effect {
    meta.tier = tier;
    meta.last_op = now.fresh;
    Effect::Cas { expected, meta: Box::new(meta) }
}

#[cfg(test)]
pub(super) mod tests;

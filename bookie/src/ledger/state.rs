//! One ledger at one bookie: fencing and contiguity as a pure state machine (protocol 4.2). No clock, no I/O: the
//! production service, the model checker and the simulator run this same code.
//!
//! The owner of a ledger feeds it requests one at a time (F1) and carries out the effects in order:
//!
//! * [`Effect::Append`]: put the record at the end of the disk's log.
//! * [`Effect::ReplyWhenDurable`]: answer once everything appended so far is on stable storage (K3, F2). Because the
//!   log is prefix-durable, the tail in such a reply is final.
//! * [`Effect::ReplyNow`]: answer at once; only refusals and hints.
//! * [`Effect::CheckMetadata`]: read the ledger's metadata linearizably, [`judge`] it, and come back with
//!   [`Event::Checked`] (K2, F5).
//! * [`Effect::Compare`]: entries that are held already; equal content is answered when durable, other content
//!   is a `Conflict` (D3).
//!
//! Invariant: `held`, `sealed_epoch`, `closed` and `deleted` are exactly what replaying the appended records gives.

use bytes::Bytes;
use geminga_metastore::record::{LedgerMeta, LedgerState as MetaState, Under};
use geminga_proto::bookie::{Code, WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{ClusterUuid, EntryId, Incarnation, LedgerId, Member, SealEpoch};

use super::mutation::{Mutation, Mutations};
use super::ranges::Ranges;
use super::record::Record;

/// Who answers: fixed for one life of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster that the disk belongs to.
    pub cluster: ClusterUuid,
    /// This bookie under the disk's incarnation.
    pub member: Member,
    /// Whether the disk never lost data: only then does it vouch for what it does not have (K1).
    pub authoritative: bool,
    /// Whether the disk takes new entries.
    pub writable: bool,
    /// Rules broken on purpose.
    pub mutations: Mutations,
}

impl Identity {
    fn incarnation(&self) -> Incarnation {
        self.member.incarnation
    }
}

/// What the metadata says about a first contact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Finding {
    /// `OPEN`, and this disk-life is a member of the last fragment.
    Writable,
    /// `IN_RECOVERY` at this epoch.
    Recovering(SealEpoch),
    /// Sealed or closed: the writer that asks is deposed.
    Ended(SealEpoch),
    /// `OPEN`, but this disk-life is no member.
    NotMember,
    /// The fragment that a repair names does not change any more, ends here, and is short of copies, or this disk-life's own
    /// copy is.
    Repairable(EntryId),
    /// A repair names no such fragment, one that may still change, or one that needs nobody here.
    NotRepairable,
    /// Deleted or being deleted.
    Gone,
    /// Metadata could not be read: nothing is known.
    Unavailable,
}

/// Judges a linearizable read of the metadata for a first contact (K2, F5).
pub fn judge(meta: Option<&LedgerMeta>, member: &Member) -> Finding {
    let Some(meta) = meta else { return Finding::Gone };
    match meta.state {
        MetaState::Open if meta.last_fragment().ensemble.contains(member) => Finding::Writable,
        MetaState::Open => Finding::NotMember,
        MetaState::InRecovery => Finding::Recovering(meta.seal_epoch),
        MetaState::Closed => Finding::Ended(meta.seal_epoch),
        MetaState::Deleting => Finding::Gone,
    }
}

/// Judges linearizable reads of the mark and then of the metadata for a repair's copies (K2 in its repair form, 6.5): only an immutable
/// fragment is repaired (H17), and only here if this disk-life is a member already, or may become one in a marked place.
pub fn judge_repair(
    meta: Option<&LedgerMeta>,
    mark: Option<&Under>,
    member: &Member,
    first: EntryId,
) -> Finding {
    let Some(meta) = meta.filter(|meta| meta.state != MetaState::Deleting) else {
        return Finding::Gone;
    };
    let index = meta.fragments.iter().position(|fragment| fragment.first_entry == first);
    let end = index.and_then(|index| meta.fragment_end(index));
    let (Some(index), Some(end)) = (index, end) else { return Finding::NotRepairable };
    let ensemble = &meta.fragments[index].ensemble;
    let marked = |named: &Member| {
        mark.is_some_and(|mark| mark.replace.contains(named) || mark.misplaced.contains(named))
    };
    let place = ensemble.iter().any(marked);
    match ensemble.contains(member) || place {
        true => Finding::Repairable(end),
        false => Finding::NotRepairable,
    }
}

/// What happens to a ledger. `T` identifies who gets the reply.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event<T> {
    /// A request arrived.
    Request {
        /// Who asks.
        to: T,
        /// What.
        request: WriteRequest,
    },
    /// A metadata check came back.
    Checked {
        /// Who asked.
        to: T,
        /// What.
        request: WriteRequest,
        /// What the metadata says.
        finding: Finding,
    },
}

/// What the owner must do, in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect<T> {
    /// Append to the log.
    Append(Record),
    /// Answer when all that was appended is durable.
    ReplyWhenDurable(T, WriteReply),
    /// Answer now.
    ReplyNow(T, WriteReply),
    /// Check the metadata, then [`Event::Checked`].
    CheckMetadata(T, WriteRequest),
    /// Compare with what is stored; equal: answer when durable, otherwise `Conflict`.
    Compare {
        /// Who gets the reply.
        to: T,
        /// Id of the first entry.
        first: EntryId,
        /// What was sent.
        entries: Vec<Bytes>,
        /// The reply when all are equal.
        equal: WriteReply,
    },
}

/// One ledger at one bookie.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LedgerState {
    id: LedgerId,
    /// Whether a `RunStart` or a seal is in the log: later contacts need no metadata.
    known: bool,
    sealed_epoch: SealEpoch,
    deleted: bool,
    closed: Option<EntryId>,
    /// The upload whose object has its entries instead of this bookie.
    trimmed: Option<u128>,
    /// Whether it gave its copy up since others had all places (5.6): what it does not hold it may have had, so that it vouches for nothing
    /// (K1). It stays so when a repair brings something back.
    given_up: bool,
    max_lac: EntryId,
    held: Ranges,
    /// Whether it may be given up: somebody reads what the metadata says, and nobody has sent anything since. Not in the log.
    leaving: bool,
    /// The fragment that a repair was let into, from its first entry to its last. Not in the log: an immutable fragment stays
    /// so, and a bookie that starts again looks again.
    repaired: Option<(EntryId, EntryId)>,
}

impl LedgerState {
    /// A ledger that this bookie has never seen.
    pub fn unknown(id: LedgerId) -> Self {
        Self {
            id,
            known: false,
            sealed_epoch: SealEpoch(0),
            deleted: false,
            closed: None,
            trimmed: None,
            given_up: false,
            max_lac: EntryId::NONE,
            held: Ranges::default(),
            leaving: false,
            repaired: None,
        }
    }

    /// A ledger that a tombstone stands for.
    pub(crate) fn deleted(id: LedgerId) -> Self {
        Self { known: true, deleted: true, ..Self::unknown(id) }
    }

    /// One that a snapshot holds.
    pub(super) fn restored(
        id: LedgerId,
        known: bool,
        sealed_epoch: SealEpoch,
        closed: Option<EntryId>,
        trimmed: Option<u128>,
        max_lac: EntryId,
        held: Ranges,
    ) -> Self {
        Self { known, sealed_epoch, closed, trimmed, max_lac, held, ..Self::unknown(id) }
    }

    /// The same, which was given up before that.
    pub(super) fn given_up_before(self) -> Self {
        Self { given_up: true, ..self }
    }

    /// Applies `count` entries from `first` on, new or replayed.
    pub(crate) fn hold(&mut self, first: EntryId, count: usize, lac: EntryId) {
        self.known = true;
        if self.trimmed.is_some() {
            return;
        }
        let count = i64::try_from(count).expect("a request holds fewer entries than 2^63");
        if count > 0 {
            self.held.insert(first, EntryId(first.0 + count - 1));
        }
        self.max_lac = self.max_lac.max(lac);
    }

    /// Applies a record, new or replayed. Applying it again changes nothing.
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::RunStart { .. } => self.known = true,
            Record::Entries { first, entries, lac, .. } => self.hold(*first, entries.len(), *lac),
            Record::Seal { epoch } => {
                self.known = true;
                self.sealed_epoch = self.sealed_epoch.max(*epoch);
            }
            Record::Closed { last } => self.closed = Some(*last),
            Record::Trimmed { attempt } => {
                self.known = true;
                self.trimmed = Some(*attempt);
                self.held = Ranges::default();
            }
            Record::GivenUp => {
                self.known = true;
                self.given_up = true;
                self.held = Ranges::default();
            }
            Record::Tombstone => {
                self.known = true;
                self.deleted = true;
                self.held = Ranges::default();
            }
        }
    }

    /// Its metadata says that it was deleted; the record to append, unless it has its tombstone already (F4).
    pub fn delete(&mut self) -> Option<Record> {
        if self.deleted {
            return None;
        }
        self.apply(&Record::Tombstone);
        Some(Record::Tombstone)
    }

    /// Its metadata says that the object of this upload has its entries up to `last`; the records to append, unless that was done
    /// before. It keeps its end and its seal (7.4 step 8).
    pub fn trim(&mut self, last: EntryId, attempt: u128) -> Vec<Record> {
        if self.deleted || !self.known || self.trimmed == Some(attempt) {
            return Vec::new();
        }
        let mut records = Vec::new();
        if self.closed.is_none() {
            records.push(Record::Closed { last });
        }
        records.push(Record::Trimmed { attempt });
        records.iter().for_each(|record| self.apply(record));
        records
    }

    /// Begins to give its copy up; false where there is none. Nothing is promised from here on that [`LedgerState::give_up`] would break: a
    /// repair that was let in has to ask again, and whatever it sends ends this.
    pub fn begin_to_give_up(&mut self) -> bool {
        let holds = self.known && !self.deleted && self.trimmed.is_none();
        self.leaving = holds && !self.held.runs().is_empty();
        self.repaired = None;
        self.leaving
    }

    /// Gives its copy up, which the metadata named nowhere when it was read since [`LedgerState::begin_to_give_up`], while others had all of
    /// it; the record to append, unless somebody sent something meanwhile. It keeps its end and its seal (F4).
    pub fn give_up(&mut self, mutations: Mutations) -> Option<Record> {
        let stays = self.deleted || self.trimmed.is_some();
        if stays || !(std::mem::take(&mut self.leaving) || mutations.is(Mutation::GiveUpPromised)) {
            return None;
        }
        self.apply(&Record::GivenUp);
        Some(Record::GivenUp)
    }

    /// Whether it gave its copy up once.
    pub fn is_given_up(&self) -> bool {
        self.given_up
    }

    /// The upload whose object has its entries instead of this bookie.
    pub fn trimmed(&self) -> Option<u128> {
        self.trimmed
    }

    /// Which ledger.
    pub fn id(&self) -> LedgerId {
        self.id
    }

    /// Whether this bookie has a record of it.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// 0 = not sealed.
    pub fn sealed_epoch(&self) -> SealEpoch {
        self.sealed_epoch
    }

    /// Whether a tombstone stands for it.
    pub fn is_deleted(&self) -> bool {
        self.deleted
    }

    /// The end, once its closer told.
    pub fn closed(&self) -> Option<EntryId> {
        self.closed
    }

    /// The largest LAC it was told (a statement of the writer: W5).
    pub fn max_lac(&self) -> EntryId {
        self.max_lac
    }

    /// The entries it holds, staged ones included.
    pub fn held(&self) -> &Ranges {
        &self.held
    }

    /// Handles one event. Effects must be carried out in order before the next event of this ledger.
    pub fn step<T>(&mut self, me: &Identity, event: Event<T>) -> Vec<Effect<T>> {
        let (Event::Request { request, .. } | Event::Checked { request, .. }) = &event;
        // Whoever sends entries, or wants to, may be promised that they are here.
        self.leaving &= matches!(
            request.op,
            WriteOp::Tail | WriteOp::Seal | WriteOp::AdvanceLac(_) | WriteOp::Closed(_)
        );
        match event {
            Event::Request { to, request } => match self.refuse(me, &request) {
                Some(reply) => vec![Effect::ReplyNow(to, reply)],
                None if !me.writable && self.is_new_to(&request) => {
                    let reply =
                        WriteReply::refusal(Code::ReadOnly, "the disk takes no new ledgers");
                    vec![Effect::ReplyNow(to, reply)]
                }
                None if self.needs_check(&request) => vec![Effect::CheckMetadata(to, request)],
                None => self.accept(me, to, request),
            },
            Event::Checked { to, request, finding } => self.checked(me, to, request, finding),
        }
    }

    /// Rows 1 to 3 of the order of checks.
    fn refuse(&self, me: &Identity, request: &WriteRequest) -> Option<WriteReply> {
        let scope = &request.scope;
        debug_assert_eq!(scope.ledger, self.id, "routed by ledger id");
        if scope.cluster != me.cluster {
            return Some(WriteReply::refusal(Code::Unauthorised, "another cluster's request"));
        }
        let meant = scope.incarnation == me.incarnation();
        if !meant && !me.mutations.is(Mutation::IgnoreIncarnation) {
            let detail = format!("this disk lives as {}", me.member);
            return Some(WriteReply::refusal(Code::WrongIncarnation, detail));
        }
        if self.deleted && !me.mutations.is(Mutation::IgnoreTombstone) {
            return Some(WriteReply::refusal(Code::Deleted, "the ledger was deleted"));
        }
        // T4: never a negative. Notices change nothing.
        if let Some(attempt) = self.trimmed
            && !matches!(request.op, WriteOp::AdvanceLac(_) | WriteOp::Closed(_))
        {
            return Some(WriteReply::refusal(Code::Trimmed, pointer(attempt)));
        }
        let adds = matches!(
            request.op,
            WriteOp::Hello | WriteOp::Add { .. } | WriteOp::RecoveryAdd { .. }
        );
        (adds && self.given_up).then(|| WriteReply::refusal(Code::Limbo, GIVEN_UP))
    }

    /// Whether a writer, or a repair, brings this ledger here (5.8).
    fn is_new_to(&self, request: &WriteRequest) -> bool {
        let brings = |op: &WriteOp| {
            matches!(op, WriteOp::Hello | WriteOp::Add { .. } | WriteOp::RepairAdd { .. })
        };
        !self.known && brings(&request.op)
    }

    /// Row 4: a writer's first contact (K2), a recoverer's copy from a later epoch than the seal here (F5), or a repair's first
    /// copy of a fragment (6.5).
    fn needs_check(&self, request: &WriteRequest) -> bool {
        match request.op {
            WriteOp::Hello | WriteOp::Add { .. } => !self.known,
            WriteOp::RecoveryAdd { .. } => request.scope.epoch > self.sealed_epoch,
            WriteOp::RepairAdd { .. } => {
                let first = request.scope.fragment_first;
                self.repaired.is_none_or(|(repaired, _)| repaired != first)
            }
            WriteOp::Seal | WriteOp::AdvanceLac(_) | WriteOp::Closed(_) | WriteOp::Tail => false,
        }
    }

    fn checked<T>(
        &mut self,
        me: &Identity,
        to: T,
        request: WriteRequest,
        finding: Finding,
    ) -> Vec<Effect<T>> {
        if me.mutations.is(Mutation::TrustCheck) && finding == Finding::Writable {
            (self.sealed_epoch, self.deleted) = (SealEpoch(0), false);
        }
        // The ledger may have changed while the metadata was read: a seal needs no check and may have come first.
        if let Some(reply) = self.refuse(me, &request) {
            return vec![Effect::ReplyNow(to, reply)];
        }
        if !self.needs_check(&request) {
            return self.accept(me, to, request);
        }
        let scope = request.scope;
        if let (WriteOp::RepairAdd { .. }, Finding::Repairable(last)) = (&request.op, finding) {
            self.repaired = Some((scope.fragment_first, last));
            if self.known {
                return self.accept(me, to, request);
            }
        }
        let admitted = match (&request.op, finding) {
            (WriteOp::RepairAdd { .. }, Finding::Repairable(_)) => {
                Record::RunStart { fragment_first: scope.fragment_first }
            }
            (WriteOp::RecoveryAdd { .. }, Finding::Recovering(epoch)) if epoch == scope.epoch => {
                Record::Seal { epoch }
            }
            (WriteOp::Hello | WriteOp::Add { .. }, Finding::Writable) => {
                Record::RunStart { fragment_first: scope.fragment_first }
            }
            (_, finding) => return vec![Effect::ReplyNow(to, not_admitted(&request, finding))],
        };
        self.apply(&admitted);
        let mut effects = vec![Effect::Append(admitted)];
        effects.extend(self.accept(me, to, request));
        effects
    }

    /// Rows 5 to 8.
    fn accept<T>(&mut self, me: &Identity, to: T, request: WriteRequest) -> Vec<Effect<T>> {
        let scope = request.scope;
        let first = scope.fragment_first;
        match request.op {
            WriteOp::Hello => match self.refuse_writer(me, scope.epoch, first) {
                Some(reply) => vec![Effect::ReplyNow(to, reply)],
                None => vec![Effect::ReplyWhenDurable(to, self.reply(me, first))],
            },
            WriteOp::Add { first: entry, entries, lac } => {
                if let Some(reply) = self.refuse_writer(me, scope.epoch, first) {
                    return vec![Effect::ReplyNow(to, reply)];
                }
                if !me.writable {
                    let reply = WriteReply::refusal(Code::ReadOnly, "the disk takes no new data");
                    return vec![Effect::ReplyNow(to, reply)];
                }
                self.add(me, to, first, entry, entries, lac)
            }
            WriteOp::RecoveryAdd { first: entry, entries } => {
                let stale = scope.epoch != self.sealed_epoch
                    && !me.mutations.is(Mutation::AcceptStaleEpoch);
                if stale || scope.epoch == SealEpoch(0) {
                    return vec![Effect::ReplyNow(to, self.stale_epoch())];
                }
                let lac = match me.mutations.is(Mutation::RecoveryRaisesLac) {
                    true => EntryId(entry.0 + entries.len() as i64 - 1),
                    false => EntryId::NONE,
                };
                self.add(me, to, first, entry, entries, lac)
            }
            WriteOp::RepairAdd { first: entry, entries } => {
                if !me.writable {
                    let reply = WriteReply::refusal(Code::ReadOnly, "the disk takes no new data");
                    return vec![Effect::ReplyNow(to, reply)];
                }
                let end = self.repaired.map_or(EntryId::NONE, |(_, end)| end);
                let last = entry.0.saturating_add(entries.len() as i64 - 1);
                if last > end.0 && !me.mutations.is(Mutation::RepairBeyondEnd) {
                    let reply = WriteReply::refusal(Code::Invalid, "beyond the fragment's end");
                    return vec![Effect::ReplyNow(to, reply)];
                }
                // No seal concerns it: nobody ever adds to this fragment again.
                self.add(me, to, first, entry, entries, EntryId::NONE)
            }
            // What it holds now, whatever it held before: nobody takes this for what was acknowledged.
            WriteOp::Tail => {
                let reply = WriteReply { authoritative: me.authoritative, ..self.reply(me, first) };
                vec![Effect::ReplyWhenDurable(to, reply)]
            }
            WriteOp::Seal => self.seal(me, to, scope.epoch, first),
            WriteOp::AdvanceLac(lac) => {
                // Not even clamped to what is held: a writer acknowledged it, so less here means a lost copy (4.3 S4).
                if self.known {
                    self.max_lac = self.max_lac.max(lac);
                }
                vec![Effect::ReplyNow(to, self.notice(me))]
            }
            WriteOp::Closed(last) => {
                assert!(!me.mutations.is(Mutation::PanicOnClosed), "a defect, for a test");
                let mut effects = Vec::new();
                if self.known && self.closed.is_none() {
                    let record = Record::Closed { last };
                    self.apply(&record);
                    effects.push(Effect::Append(record));
                }
                effects.push(Effect::ReplyNow(to, self.notice(me)));
                effects
            }
        }
    }

    /// Row 5 for the writer: its epoch is 0, and one seal ends its role for good.
    fn refuse_writer(&self, me: &Identity, epoch: SealEpoch, first: EntryId) -> Option<WriteReply> {
        if epoch != SealEpoch(0) {
            return Some(WriteReply::refusal(Code::Invalid, "a writer's epoch is 0"));
        }
        if self.sealed_epoch == SealEpoch(0) || me.mutations.is(Mutation::AcceptAfterSeal) {
            return None;
        }
        let mut reply = WriteReply::refusal(Code::Sealed, "the ledger is sealed");
        reply.sealed_epoch = self.sealed_epoch;
        reply.staged_tail = first.prev();
        reply.durable_tail = first.prev();
        Some(reply)
    }

    /// Rows 7 and 8: contiguous entries, relative to the fragment. A batch that overlaps the tail in part is out of
    /// order: its sender starts again behind the tail.
    fn add<T>(
        &mut self,
        me: &Identity,
        to: T,
        fragment_first: EntryId,
        first: EntryId,
        entries: Vec<Bytes>,
        lac: EntryId,
    ) -> Vec<Effect<T>> {
        let tail = self.held.tail(fragment_first);
        let count = i64::try_from(entries.len()).expect("a request holds fewer entries than 2^63");
        // The log knows no entry at the very end of the numbers: what it cannot read back is never accepted.
        let end = first.0.checked_add(count).filter(|end| *end < i64::MAX);
        if count == 0 || first < fragment_first || end.is_none() {
            return vec![Effect::ReplyNow(to, WriteReply::refusal(Code::Invalid, "entry range"))];
        }
        let last = EntryId(first.0 + count - 1);
        if last <= tail {
            // All of it is held: acknowledged only once it is durable, and only if it is the same (K3, D3).
            let equal = self.reply_with_tail(me, last);
            if me.mutations.is(Mutation::AckDuplicateAtOnce) {
                return vec![Effect::ReplyNow(to, equal)];
            }
            if me.mutations.is(Mutation::SkipCompare) {
                return vec![Effect::ReplyWhenDurable(to, equal)];
            }
            return vec![Effect::Compare { to, first, entries, equal }];
        }
        if first != tail.next() {
            let mut reply =
                WriteReply::refusal(Code::OutOfOrder, format!("next is {}", tail.next()));
            reply.staged_tail = tail;
            return vec![Effect::ReplyNow(to, reply)];
        }
        let record = Record::Entries { fragment_first, first, entries, lac };
        self.apply(&record);
        let reply = self.reply_with_tail(me, last);
        vec![Effect::Append(record), Effect::ReplyWhenDurable(to, reply)]
    }

    /// F1-F3: sealing and reporting the tail are one step; the reply waits for the seal's durability, which
    /// makes every earlier add durable as well.
    fn seal<T>(
        &mut self,
        me: &Identity,
        to: T,
        epoch: SealEpoch,
        first: EntryId,
    ) -> Vec<Effect<T>> {
        if epoch == SealEpoch(0) {
            return vec![Effect::ReplyNow(
                to,
                WriteReply::refusal(Code::Invalid, "a seal's epoch is above 0"),
            )];
        }
        if epoch < self.sealed_epoch {
            return vec![Effect::ReplyNow(to, self.stale_epoch())];
        }
        if !me.writable && me.mutations.is(Mutation::SealNeedsRoom) {
            return vec![Effect::ReplyNow(to, WriteReply::refusal(Code::ReadOnly, "no room"))];
        }
        let mut effects = Vec::new();
        if epoch > self.sealed_epoch {
            let record = Record::Seal { epoch };
            self.apply(&record);
            if !me.mutations.is(Mutation::ForgetSeal) {
                effects.push(Effect::Append(record));
            }
        }
        let reply = self.reply(me, first);
        let empty = reply.durable_tail < first;
        let early = me.mutations.is(Mutation::ReplyBeforeSealIsDurable)
            || (empty && me.mutations.is(Mutation::ReplyBeforeEmptySealIsDurable));
        effects.push(if early {
            Effect::ReplyNow(to, reply)
        } else {
            Effect::ReplyWhenDurable(to, reply)
        });
        effects
    }

    /// A positive reply about the fragment that starts at `first`; true once all that was appended is durable.
    fn reply(&self, me: &Identity, first: EntryId) -> WriteReply {
        self.reply_with_tail(me, self.held.tail(first))
    }

    fn reply_with_tail(&self, me: &Identity, tail: EntryId) -> WriteReply {
        WriteReply { durable_tail: tail, staged_tail: tail, ..self.notice(me) }
    }

    /// A positive reply that acknowledges nothing: sent at once, so it must not name a tail.
    fn notice(&self, me: &Identity) -> WriteReply {
        WriteReply {
            sealed_epoch: self.sealed_epoch,
            max_lac: self.max_lac,
            authoritative: me.authoritative
                && (!self.given_up || me.mutations.is(Mutation::VouchAfterGivingUp)),
            ..WriteReply::refusal(Code::Ok, "")
        }
    }

    fn stale_epoch(&self) -> WriteReply {
        let mut reply =
            WriteReply::refusal(Code::StaleEpoch, "a newer recoverer sealed the ledger");
        reply.sealed_epoch = self.sealed_epoch;
        reply
    }
}

/// What is said of a ledger that was given up.
pub(super) const GIVEN_UP: &str = "this bookie gave its copy up, for others had all of them";

/// What is said of a trimmed ledger: which object of it metadata names (T4).
pub(super) fn pointer(attempt: u128) -> String {
    format!("its entries are in the object store: attempt {attempt:032x}")
}

/// The refusal of a first contact.
fn not_admitted(request: &WriteRequest, finding: Finding) -> WriteReply {
    let recoverer = matches!(request.op, WriteOp::RecoveryAdd { .. });
    let repair = matches!(request.op, WriteOp::RepairAdd { .. });
    let (code, detail, epoch) = match finding {
        Finding::Gone => (Code::Deleted, "no such ledger in the metadata", SealEpoch(0)),
        Finding::Unavailable => (Code::Busy, "metadata cannot be read now", SealEpoch(0)),
        Finding::NotRepairable => {
            (Code::Unauthorised, "no fragment that is short of a copy here", SealEpoch(0))
        }
        // Judged for somebody else: nobody asks so.
        _ if repair => (Code::Unauthorised, "not judged as a repair", SealEpoch(0)),
        Finding::NotMember => {
            (Code::Unauthorised, "not a member of the last fragment", SealEpoch(0))
        }
        Finding::Recovering(epoch) | Finding::Ended(epoch) if recoverer => {
            (Code::StaleEpoch, "the recovery of that epoch is over", epoch)
        }
        Finding::Recovering(epoch) | Finding::Ended(epoch) => {
            (Code::Sealed, "the ledger is not open", epoch)
        }
        Finding::Writable | Finding::Repairable(_) => {
            (Code::Unauthorised, "the ledger is not in recovery", SealEpoch(0))
        }
    };
    let mut reply = WriteReply::refusal(code, detail);
    reply.sealed_epoch = epoch;
    reply
}

#[cfg(test)]
mod tests;

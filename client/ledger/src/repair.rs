//! The task around the repair core ([`crate::core::repair`]): asks members, chooses successors by placement, copies verbatim, swaps.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{OptionFuture, join, join_all};
use geminga_metastore::record::{LedgerMeta, Under};
use geminga_metastore::{Error as MetaError, Guard, Txn, TxnOutcome, Version, keys};
use geminga_proto::bookie::{Code, QueryOp, Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{EntryId, LedgerId, Member, SealEpoch};

use crate::attempts::Attempts;
use crate::client::LedgerClient;
use crate::core::commit::CasResult;
use crate::core::mutation::Mutations;
use crate::core::repair::{Copy, Effect, Event, Finish, Repair, Tail};
use crate::metrics;
use crate::placement;
use crate::read::{Answer, Reader};
use crate::recover::held;
use crate::throttle::Throttle;

/// How often a chunk is tried before its target or its sources are given up.
const ATTEMPTS: u32 = 4;

/// Repairs one ledger until nothing is left to do, or something else must happen first. The caller holds its lock. Cancel-safe: the
/// next repair goes on from what was copied.
pub(crate) async fn repair(
    client: &LedgerClient,
    ledger: LedgerId,
    lock: Version,
    throttle: &Throttle,
) -> Result<Finish, MetaError> {
    let op = client.parts.random.next_u128();
    let (core, mut effects) = Repair::new(op, Mutations::default());
    let mut attempt = Attempt { client, ledger, lock, throttle, core };
    loop {
        let Some(effect) = effects.pop() else {
            let why = "a repair that waits for nothing".to_owned();
            return Err(MetaError::Invalid(why));
        };
        let event = match effect {
            Effect::Finish(finish) => return Ok(finish),
            effect => attempt.carry_out(effect).await?,
        };
        effects = attempt.core.step(event);
    }
}

/// For the tail pass of the audit (6.3).
pub(crate) async fn durable_tail(
    client: &LedgerClient,
    ledger: LedgerId,
    member: &Member,
    first: EntryId,
) -> Option<EntryId> {
    let throttle = Throttle::new(0);
    let (core, _) = Repair::new(0, Mutations::default());
    let attempt = Attempt { client, ledger, lock: Version(0), throttle: &throttle, core };
    match attempt.tail(member, first).await {
        Tail::Holds { tail, authoritative: true } => Some(tail),
        Tail::Holds { .. } | Tail::Unknown => None,
    }
}

struct Attempt<'a> {
    client: &'a LedgerClient,
    ledger: LedgerId,
    /// The version of the ledger's lock, as long as it is this repair's.
    lock: Version,
    throttle: &'a Throttle,
    core: Repair,
}

impl Attempt<'_> {
    async fn carry_out(&mut self, effect: Effect) -> Result<Event, MetaError> {
        let parts = &self.client.parts;
        Ok(match effect {
            Effect::Read => {
                let mark = self.mark().await?;
                let meta = self.client.metadata(self.ledger).await?;
                Event::Read { mark, meta: meta.map(|(meta, version)| (Box::new(meta), version)) }
            }
            Effect::AskTails { first, members } => {
                Event::Tails(join_all(members.iter().map(|member| self.tail(member, first))).await)
            }
            Effect::ChooseTarget { ensemble, position, shunned, spreads } => {
                let live = parts.bookies.live();
                let by = self.client.choice();
                if spreads {
                    let better = placement::relocate(&live, &ensemble, position, &shunned, by);
                    return Ok(Event::Target(better));
                }
                let lost = [position];
                let found = placement::replace(&live, &ensemble, &lost, &shunned, by);
                Event::Target(found.into_iter().next().map(|(_, new)| new))
            }
            Effect::Copy(copy) => {
                let meta = self.core.meta().cloned();
                match meta {
                    Some(meta) => self.copy(copy, meta).await,
                    None => Event::TargetFailed,
                }
            }
            Effect::Swap { expected, meta } => Event::Swapped(self.swap(expected, &meta).await?),
            Effect::RemoveMark(version) => Event::MarkRemoved(self.remove_mark(version).await?),
            Effect::Finish(_) => unreachable!("handled by the caller"),
        })
    }

    async fn mark(&self) -> Result<Option<(Under, Version)>, MetaError> {
        let key = keys::under(self.ledger);
        let Some(found) = self.client.parts.store.get(&key).await? else { return Ok(None) };
        match Under::decode(self.ledger, &found.value) {
            Ok(mark) => Ok(Some((mark, found.version))),
            Err(invalid) => Err(MetaError::Corrupt { key, why: invalid.to_string() }),
        }
    }

    /// Guarded by the lock as well: a bookie gives up a copy that no place names while it holds the lock, and whoever was promised that
    /// copy before must not name it after that (5.6).
    async fn swap(&self, expected: Version, meta: &LedgerMeta) -> Result<CasResult, MetaError> {
        let (key, lock) = (keys::ledger(self.ledger), keys::under_lock(self.ledger));
        let txn = Txn::new()
            .guard(Guard::Version(key.clone(), expected))
            .guard(Guard::Version(lock.clone(), self.lock))
            .put(key, meta.encode());
        match self.client.parts.store.txn(txn).await {
            Ok(TxnOutcome::Committed(revision)) => {
                metrics::place_given();
                Ok(CasResult::Applied(Version(revision.0)))
            }
            Ok(TxnOutcome::GuardFailed) => {
                let held = self.client.parts.store.get(&lock).await?;
                match held.is_some_and(|held| held.version == self.lock) {
                    true => Ok(CasResult::Lost),
                    // Whatever was copied is there for the next repair, which compares it.
                    false => {
                        Err(MetaError::Unavailable("the lock of the ledger was lost".to_owned()))
                    }
                }
            }
            Err(MetaError::Unknown(_)) => Ok(CasResult::Unknown),
            Err(error) => Err(error),
        }
    }

    async fn remove_mark(&self, version: Version) -> Result<bool, MetaError> {
        let key = keys::under(self.ledger);
        let txn = Txn::new().guard(Guard::Version(key.clone(), version)).delete(key);
        match self.client.parts.store.txn(txn).await {
            Ok(TxnOutcome::Committed(_)) => Ok(true),
            // Read again: if it went after all, there is none.
            Ok(TxnOutcome::GuardFailed) | Err(MetaError::Unknown(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, member: &Member, first: EntryId, op: WriteOp) -> Option<WriteReply> {
        let parts = &self.client.parts;
        let scope = Scope {
            cluster: parts.cluster,
            ledger: self.ledger,
            fragment_first: first,
            epoch: SealEpoch(0),
            incarnation: member.incarnation,
        };
        let reply =
            parts.bookies.connection(&member.bookie).ok()?.write(WriteRequest { scope, op });
        tokio::time::timeout(parts.config.add_timeout, reply).await.ok()?.ok()
    }

    async fn tail(&self, member: &Member, first: EntryId) -> Tail {
        match self.write(member, first, WriteOp::Tail).await {
            Some(WriteReply { code: Code::Ok, durable_tail, authoritative, .. }) => {
                Tail::Holds { tail: durable_tail, authoritative }
            }
            _ => Tail::Unknown,
        }
    }

    /// Chunk by chunk, the next one being read while one is written. All of it, whatever the target says that it holds: a tail does not tell
    /// whether what is below it can still be read, and what the target has is compared by it, not stored again.
    async fn copy(&self, copy: Copy, meta: LedgerMeta) -> Event {
        let reader = self.client.reader(Arc::new(meta));
        let mut next = copy.first;
        let mut chunk = match self.read(&reader, &copy, next).await {
            Ok(chunk) => chunk,
            Err(failed) => return failed,
        };
        loop {
            let bytes: usize = chunk.iter().map(Bytes::len).sum();
            let count = i64::try_from(chunk.len()).expect("fewer entries than 2^63");
            let following = EntryId(next.0 + count);
            self.throttle.take(bytes).await;
            let more = (following <= copy.last).then(|| self.read(&reader, &copy, following));
            let (added, read) = join(self.add(&copy, next, chunk), OptionFuture::from(more)).await;
            let Some(tail) = added else { return Event::TargetFailed };
            metrics::repaired(bytes);
            match read {
                None => return Event::Copied { tail },
                Some(Ok(read)) => (chunk, next) = (read, following),
                Some(Err(failed)) => return failed,
            }
        }
    }

    /// The target's tail behind a chunk.
    async fn add(&self, copy: &Copy, first: EntryId, entries: Vec<Bytes>) -> Option<EntryId> {
        let (mut first, mut left, mut tail) = (first, entries, None);
        let mut count = left.len();
        while !left.is_empty() {
            let rest = left.split_off(count.min(left.len()));
            match self.add_some(copy, first, left.clone()).await? {
                Added::All(reached) => {
                    first = EntryId(first.0 + i64::try_from(left.len()).ok()?);
                    tail = Some(reached);
                    (left, count) = (rest, usize::MAX);
                }
                Added::Holds(held) => {
                    left.extend(rest);
                    count = held;
                }
            }
        }
        tail
    }

    async fn add_some(&self, copy: &Copy, first: EntryId, entries: Vec<Bytes>) -> Option<Added> {
        let mut attempts = Attempts::of(&self.client.parts.config, ATTEMPTS);
        loop {
            let op = WriteOp::RepairAdd { first, entries: entries.clone() };
            let reply = self.write(&copy.to, copy.fragment_first, op).await;
            if let Some(reply) = &reply {
                if let Some(held) = held(first, entries.len(), reply) {
                    return Some(Added::Holds(held));
                }
                match reply.code {
                    Code::Ok => return Some(Added::All(reply.durable_tail)),
                    // It would say the same again.
                    Code::ReadOnly
                    | Code::Deleted
                    | Code::WrongIncarnation
                    | Code::Conflict
                    | Code::Invalid
                    | Code::Unauthorised => {
                        tracing::warn!(ledger = %self.ledger, to = %copy.to, code = ?reply.code, detail = reply.detail, "a copy was not taken");
                        return None;
                    }
                    _ => {}
                }
            }
            tracing::debug!(ledger = %self.ledger, to = %copy.to, ?reply, "a copy got no answer yet");
            if !attempts.again().await {
                return None;
            }
        }
    }

    /// Verified bytes from the first source that delivers them; from the ledger's object when none does (T6).
    async fn read(&self, reader: &Reader, copy: &Copy, from: EntryId) -> Result<Vec<Bytes>, Event> {
        let config = &self.client.parts.config;
        let op =
            QueryOp::Read { from, to: copy.last, max_bytes: config.read_bytes, prefix_bytes: None };
        let mut attempts = Attempts::of(config, ATTEMPTS);
        loop {
            let mut certain = true;
            for source in &copy.sources {
                match reader.ask(source, copy.fragment_first, op.clone()).await {
                    Answer::Entries(raw, _) => return Ok(raw),
                    Answer::Corrupt(said) => {
                        tracing::warn!(ledger = %self.ledger, entry = from.0, %source, said, "a copy is rotten");
                    }
                    Answer::Absent => {}
                    Answer::Unknown(_) => certain = false,
                }
            }
            if copy.object {
                match reader.ask_object(op.clone()).await {
                    Answer::Entries(raw, _) => return Ok(raw),
                    Answer::Corrupt(said) | Answer::Unknown(said) => {
                        tracing::warn!(ledger = %self.ledger, entry = from.0, said, "the object of a ledger did not deliver");
                    }
                    Answer::Absent => {}
                }
                // It is in there, whatever came of this look.
                certain = false;
            }
            if certain || !attempts.again().await {
                return Err(Event::SourcesFailed { entry: from, lost: certain });
            }
        }
    }
}

/// What an add came to.
enum Added {
    /// Durable up to here.
    All(EntryId),
    /// The target holds so many of the chunk's first entries: these on their own, to be compared (D3), and then the rest.
    Holds(usize),
}

#[cfg(test)]
mod tests;

//! The task around the recovery core ([`crate::core::recovery`]): makes its calls, repeats what got no answer, and follows a newer
//! recoverer until the ledger is closed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use geminga_metastore::record::{LedgerMeta, LedgerState};
use geminga_metastore::{Error as MetaError, Version, keys};
use geminga_proto::bookie::{QueryOp, Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{EntryId, LedgerId, Member, SealEpoch};
use tokio::time::Instant;

use crate::client::LedgerClient;
use crate::core::mutation::Mutations;
use crate::core::recovery::{CasResult, Effect, Event, Finish, Recovery, Stop};
use crate::metrics;
use crate::read::{Answer, ReadError, Reader};

/// How often a part of a copy is tried before its source or target is given up.
const COPY_ATTEMPTS: u32 = 4;

/// Why a ledger is not closed yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// The ledger is deleted or being deleted.
    #[error("ledger {0} is deleted")]
    Gone(LedgerId),
    /// Members must come back first (4.8).
    #[error("ledger {ledger} cannot be recovered until these bookies answer: {}", names(.missing))]
    Missing {
        /// The ledger.
        ledger: LedgerId,
        /// Who is needed.
        missing: Vec<Member>,
    },
    /// Acknowledged entries that no reachable member holds, or can deliver: an operator must act (4.8).
    #[error("ledger {ledger} is damaged: {why}")]
    Damaged {
        /// The ledger.
        ledger: LedgerId,
        /// What is wrong.
        why: String,
    },
    /// The metadata store did not answer.
    #[error(transparent)]
    Metadata(#[from] MetaError),
}

fn names(members: &[Member]) -> String {
    members.iter().map(Member::to_string).collect::<Vec<_>>().join(", ")
}

/// Runs attempts until the ledger is closed or an attempt stops.
pub(crate) async fn recover(
    client: &LedgerClient,
    ledger: LedgerId,
) -> Result<LedgerMeta, RecoverError> {
    let started = Instant::now();
    loop {
        let finish = Attempt::new(client, ledger).run().await?;
        let (outcome, result) = match finish {
            Finish::Closed(meta) => ("closed", Ok(*meta)),
            Finish::Gone => ("gone", Err(RecoverError::Gone(ledger))),
            Finish::Follow => match follow(client, ledger).await? {
                Some(meta) => ("closed", Ok(meta)),
                None => continue,
            },
            Finish::Stopped(stop) => ("stopped", Err(stopped(ledger, stop))),
        };
        metrics::recovered(outcome, started.elapsed().as_secs_f64());
        return result;
    }
}

fn stopped(ledger: LedgerId, stop: Stop) -> RecoverError {
    match stop {
        Stop::Missing(missing) => RecoverError::Missing { ledger, missing },
        Stop::AcknowledgedLost { acknowledged, tail } => RecoverError::Damaged {
            ledger,
            why: format!(
                "entries up to {acknowledged} were acknowledged, but the longest copy ends at {tail}"
            ),
        },
        Stop::Unreadable(entry) => RecoverError::Damaged {
            ledger,
            why: format!("entry {entry} is held, but no copy can be read"),
        },
    }
}

/// Waits for another recoverer to close the ledger; `None` when it did not within twice the deadline.
async fn follow(
    client: &LedgerClient,
    ledger: LedgerId,
) -> Result<Option<LedgerMeta>, RecoverError> {
    let config = &client.parts.config;
    let give_up = Instant::now() + 2 * config.recovery_deadline;
    while Instant::now() < give_up {
        match client.metadata(ledger).await? {
            None => return Err(RecoverError::Gone(ledger)),
            Some((meta, _)) if meta.state == LedgerState::Deleting => {
                return Err(RecoverError::Gone(ledger));
            }
            Some((meta, _)) if meta.state == LedgerState::Closed => return Ok(Some(meta)),
            Some(_) => {
                // Jitter, so that two followers do not take over in the same moment.
                let half = config.retry_max / 2;
                let jitter = client.parts.random.below(half.as_millis() as u64 + 1);
                tokio::time::sleep(half + Duration::from_millis(jitter)).await;
            }
        }
    }
    Ok(None)
}

/// One attempt: the core, and every call that has not come back.
struct Attempt<'a> {
    client: &'a LedgerClient,
    ledger: LedgerId,
    core: Recovery,
    calls: FuturesUnordered<BoxFuture<'a, Result<Event, MetaError>>>,
    finish: Option<Finish>,
    pending: Vec<Effect>,
}

impl<'a> Attempt<'a> {
    fn new(client: &'a LedgerClient, ledger: LedgerId) -> Self {
        let parts = &client.parts;
        let (core, pending) =
            Recovery::new(parts.owner.clone(), parts.random.next_u128(), Mutations::default());
        Self { client, ledger, core, calls: FuturesUnordered::new(), finish: None, pending }
    }

    async fn run(mut self) -> Result<Finish, MetaError> {
        loop {
            for effect in std::mem::take(&mut self.pending) {
                self.carry_out(effect);
            }
            if let Some(finish) = self.finish {
                return Ok(finish);
            }
            let event = self
                .calls
                .next()
                .await
                .expect("an attempt that is not over waits for something")?;
            self.pending = self.core.step(event);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        let config = &self.client.parts.config;
        match effect {
            Effect::ReadMeta => self.calls.push(read_meta(self.client, self.ledger).boxed()),
            Effect::Cas { expected, meta } => {
                self.calls.push(cas(self.client, expected, *meta).boxed())
            }
            Effect::Seal { position, member, epoch, fragment_first } => {
                let scope = self.scope(&member, epoch, fragment_first);
                let call = Call { client: self.client, member, scope };
                self.calls.push(async move { Ok(call.seal(position).await) }.boxed());
            }
            Effect::StartDeadline => self.after(config.recovery_deadline, Event::DeadlineOver),
            Effect::StartGrace => self.after(config.recovery_grace, Event::GraceOver),
            Effect::Copy { source, target, first, last } => self.copy(source, target, first, last),
            Effect::ReadLength(last) => {
                let reader = self.reader();
                let pause = config.retry_max;
                self.calls.push(
                    async move { Ok(Event::LengthRead(length(&reader, last, pause).await)) }
                        .boxed(),
                );
            }
            Effect::Finish(finish) => self.finish = Some(finish),
        }
    }

    fn after(&self, pause: Duration, event: Event) {
        let timer = async move {
            tokio::time::sleep(pause).await;
            Ok(event)
        };
        self.calls.push(timer.boxed());
    }

    fn scope(&self, member: &Member, epoch: SealEpoch, fragment_first: EntryId) -> Scope {
        Scope {
            cluster: self.client.parts.cluster,
            ledger: self.ledger,
            fragment_first,
            epoch,
            incarnation: member.incarnation,
        }
    }

    fn meta(&self) -> &LedgerMeta {
        self.core.meta().expect("sealing and copying follow the mark")
    }

    fn reader(&self) -> Reader {
        self.client.reader(Arc::new(self.meta().clone()))
    }

    fn copy(&self, source: usize, target: usize, first: EntryId, last: EntryId) {
        let meta = self.meta();
        let fragment = meta.last_fragment();
        let (from, to) = (fragment.ensemble[source].clone(), fragment.ensemble[target].clone());
        let scope = self.scope(&to, meta.seal_epoch, fragment.first_entry);
        let copy = Copy {
            reader: self.reader(),
            call: Call { client: self.client, member: to, scope },
            from,
            source,
            target,
        };
        self.calls.push(async move { Ok(copy.run(first, last).await) }.boxed());
    }
}

async fn read_meta(client: &LedgerClient, ledger: LedgerId) -> Result<Event, MetaError> {
    Ok(Event::meta_read(client.metadata(ledger).await?))
}

async fn cas(
    client: &LedgerClient,
    expected: Version,
    meta: LedgerMeta,
) -> Result<Event, MetaError> {
    let key = keys::ledger(meta.id);
    let result = match client.parts.store.put_if(&key, Some(expected), meta.encode()).await {
        Ok(Some(version)) => CasResult::Applied(version),
        Ok(None) => CasResult::Lost,
        Err(MetaError::Unknown(_)) => CasResult::Unknown,
        Err(error) => return Err(error),
    };
    Ok(Event::CasDone(result))
}

/// The payload length up to `last`, repeated until somebody delivers the entry or the attempt ends.
async fn length(reader: &Reader, last: EntryId, pause: Duration) -> u64 {
    loop {
        match reader.read(last, last, 0, Some(0)).await {
            Ok(entries) => match entries.first() {
                Some(entry) => return entry.position.cumulative_length,
                None => unreachable!("a read gives at least one entry"),
            },
            Err(error @ (ReadError::Unavailable { .. } | ReadError::DataLoss { .. })) => {
                tracing::debug!(%error, "waiting for the last entry");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Calls to one member.
struct Call<'a> {
    client: &'a LedgerClient,
    member: Member,
    scope: Scope,
}

impl Call<'_> {
    async fn write(&self, op: WriteOp) -> Option<WriteReply> {
        let config = &self.client.parts.config;
        let request = WriteRequest { scope: self.scope, op };
        let reply = self.client.parts.bookies.connection(&self.member.bookie).ok()?.write(request);
        tokio::time::timeout(config.add_timeout, reply).await.ok()?.ok()
    }

    /// Repeats unknown answers with growing pauses; the attempt's end drops it.
    async fn seal(&self, position: usize) -> Event {
        let config = &self.client.parts.config;
        let mut pause = config.retry_min;
        loop {
            let reply = self.write(WriteOp::Seal).await;
            if let Some(event) = reply.as_ref().and_then(|reply| Event::from_seal(position, reply))
            {
                return event;
            }
            tracing::debug!(ledger = %self.scope.ledger, member = %self.member, ?reply, "seal got no answer yet");
            tokio::time::sleep(pause).await;
            pause = config.retry_max.min(pause * 2);
        }
    }
}

/// A copy from one member to another, in chunks, verbatim (D2).
struct Copy<'a> {
    reader: Reader,
    call: Call<'a>,
    from: Member,
    source: usize,
    target: usize,
}

impl Copy<'_> {
    async fn run(&self, first: EntryId, last: EntryId) -> Event {
        let mut next = first;
        let mut tail = first.prev();
        while next <= last {
            let entries = match self.read(next, last).await {
                Ok(entries) => entries,
                Err(corrupt) => {
                    let (source, target) = (self.source, self.target);
                    return Event::SourceFailed { source, target, entry: next, corrupt };
                }
            };
            let count =
                i64::try_from(entries.len()).expect("a reply holds fewer entries than 2^63");
            match self.add(next, entries).await {
                Event::Copied { tail: reached, .. } => tail = reached,
                other => return other,
            }
            next = EntryId(next.0 + count);
        }
        Event::Copied { target: self.target, tail }
    }

    /// One chunk. What got no answer is sent again a few times: an add that took place is recognised (D3), and one that
    /// is given up costs the whole attempt where no other target is left.
    async fn add(&self, first: EntryId, entries: Vec<Bytes>) -> Event {
        let mut left = COPY_ATTEMPTS;
        loop {
            let op = WriteOp::RecoveryAdd { first, entries: entries.clone() };
            let event = match self.call.write(op).await {
                Some(reply) => Event::from_recovery_add(self.target, &reply),
                None => Event::TargetFailed { target: self.target },
            };
            left -= 1;
            if left == 0 || !matches!(event, Event::TargetFailed { .. }) {
                return event;
            }
            tokio::time::sleep(self.pause(left)).await;
        }
    }

    /// Verified bytes; an error says whether they are there but bad.
    async fn read(&self, from: EntryId, to: EntryId) -> Result<Vec<Bytes>, bool> {
        let max_bytes = self.call.client.parts.config.read_bytes;
        let op = QueryOp::Read { from, to, max_bytes, prefix_bytes: None };
        let mut left = COPY_ATTEMPTS;
        loop {
            match self.reader.ask(&self.from, self.call.scope.fragment_first, op.clone()).await {
                Answer::Entries(raw, _) => return Ok(raw),
                Answer::Corrupt(_) => return Err(true),
                Answer::Absent | Answer::Unknown(_) => {}
            }
            left -= 1;
            if left == 0 {
                return Err(false);
            }
            tokio::time::sleep(self.pause(left)).await;
        }
    }

    /// Before the next attempt of those that are left.
    fn pause(&self, left: u32) -> Duration {
        let config = &self.call.client.parts.config;
        config.retry_max.min(config.retry_min * 2u32.pow(COPY_ATTEMPTS - 1 - left))
    }
}

//! The task around the recovery core ([`crate::core::recovery`]): makes its calls, repeats what got no answer, and follows a newer
//! recoverer until the ledger is closed.

mod copy;
mod end;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use geminga_metastore::record::{LedgerMeta, LedgerState, UnderReason};
use geminga_metastore::{Error as MetaError, Version, keys};
use geminga_proto::bookie::{Scope, WriteOp, WriteRequest};
use geminga_proto::ids::{EntryId, LedgerId, Member, SealEpoch};
use tokio::time::Instant;

pub(crate) use self::copy::held;
use self::copy::{Call, Copy};
use crate::client::LedgerClient;
use crate::core::mutation::Mutations;
use crate::core::recovery::{CasResult, Effect, Event, Finish, Recovery, Stop};
use crate::metrics;
use crate::placement;
use crate::read::{ReadError, Reader};
use crate::under::mark_under;

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
    /// Bookies have dropped its entries for an object, so that it ends where that does, and not where bookies say.
    #[error(
        "entries of ledger {0} are in an object store, which its metadata does not say: run `geminga cluster audit` with --object-store"
    )]
    InObject(LedgerId),
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

/// What to do when a quorum is lost (4.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuorumLoss {
    /// Stop and say who is missing.
    Stop,
    /// Close at the best tail that is known: an operator's decision only.
    Force,
}

/// Runs attempts until the ledger is closed or an attempt stops.
pub(crate) async fn recover(
    client: &LedgerClient,
    ledger: LedgerId,
    loss: QuorumLoss,
) -> Result<LedgerMeta, RecoverError> {
    let started = Instant::now();
    loop {
        let finish = Attempt::new(client, ledger, loss).run().await?;
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
    /// Who lacks entries of the ledger that was closed.
    under: Vec<Member>,
}

impl<'a> Attempt<'a> {
    fn new(client: &'a LedgerClient, ledger: LedgerId, loss: QuorumLoss) -> Self {
        let parts = &client.parts;
        let (core, pending) =
            Recovery::new(parts.owner.clone(), parts.random.next_u128(), Mutations::default());
        let core = match loss {
            QuorumLoss::Stop => core,
            QuorumLoss::Force => core.forced(),
        };
        Self {
            client,
            ledger,
            core,
            calls: FuturesUnordered::new(),
            finish: None,
            pending,
            under: Vec::new(),
        }
    }

    async fn run(mut self) -> Result<Finish, MetaError> {
        loop {
            for effect in std::mem::take(&mut self.pending) {
                self.carry_out(effect);
            }
            if let Some(finish) = self.finish.take() {
                if !self.under.is_empty() {
                    mark(self.client, self.ledger, &self.under).await;
                }
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
            Effect::StartCopyGrace => {
                self.after(config.recovery_copy_grace, Event::CopyGraceOver);
            }
            Effect::StartPause => self.after(config.retry_max, Event::PauseOver),
            Effect::Copy { from, target, to, fragment_first, first, last } => {
                let scope = self.scope(&to, self.meta().seal_epoch, fragment_first);
                let call = Call { client: self.client, member: to, scope };
                let copy = Copy { reader: self.reader(), call, from, target };
                self.calls.push(async move { Ok(copy.run(first, last).await) }.boxed());
            }
            Effect::Search { lost, shunned } => {
                let ensemble = self.meta().last_fragment().ensemble.clone();
                self.calls.push(search(self.client, ensemble, lost, shunned).boxed());
            }
            Effect::TellClosed { members, last } => self.tell_closed(&members, last),
            Effect::MarkUnder(members) => self.under = members,
            Effect::ReadLength(last) => {
                let meta = self.core.final_meta().expect("copying is over");
                let reader = self.client.reader(Arc::new(meta));
                let pause = config.retry_max;
                self.calls.push(
                    async move { Ok(Event::LengthRead(length(&reader, last, pause).await)) }
                        .boxed(),
                );
            }
            Effect::FindEnd(last) => {
                let meta = self.core.final_meta().expect("copying is over");
                let client = self.client;
                self.calls.push(async move { Ok(end::find(client, meta, last).await) }.boxed());
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

    /// Best effort (S7): nobody waits for an answer.
    fn tell_closed(&self, members: &[Member], last: EntryId) {
        let meta = self.meta();
        let first = meta.last_fragment().first_entry;
        for member in members {
            if let Ok(connection) = self.client.parts.bookies.connection(&member.bookie) {
                let scope = self.scope(member, meta.seal_epoch, first);
                drop(connection.write(WriteRequest { scope, op: WriteOp::Closed(last) }));
            }
        }
    }
}

/// S7: what the audit would find later, and slower; the ledger is closed all the same.
async fn mark(client: &LedgerClient, ledger: LedgerId, members: &[Member]) {
    let parts = &client.parts;
    let now_ms = parts.clock.now_ms();
    let mark = mark_under(&*parts.store, ledger, members, UnderReason::Recovered, now_ms);
    match tokio::time::timeout(parts.config.metadata_fresh, mark).await {
        Ok(Ok(())) => metrics::marked_under(),
        Ok(Err(error)) => {
            tracing::warn!(%ledger, %error, "recovered ledger could not be marked for repair");
        }
        Err(_) => tracing::warn!(%ledger, "recovered ledger was not marked for repair in time"),
    }
}

/// Who receives copies in the places of lost members; asked until there is somebody.
async fn search(
    client: &LedgerClient,
    ensemble: Vec<Member>,
    lost: Vec<usize>,
    shunned: Vec<Member>,
) -> Result<Event, MetaError> {
    let parts = &client.parts;
    loop {
        let live = parts.bookies.live();
        let found = placement::replace(&live, &ensemble, &lost, &shunned, client.choice());
        if !found.is_empty() {
            return Ok(Event::Found(found));
        }
        tokio::time::sleep(parts.config.retry_max).await;
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
            Err(
                error @ (ReadError::Unavailable { .. }
                | ReadError::DataLoss { .. }
                | ReadError::ObjectLost { .. }),
            ) => {
                tracing::debug!(%error, "waiting for the last entry");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;

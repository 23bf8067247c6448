//! Carries out removals while this broker is the coordinator, as the view shows it: a wrong view costs a failed guard. A few
//! topics at a time, since the ledgers of one may wait for bookies that are away.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use geminga_ledger::{DeleteError, LedgerClient, RecoverError};
use geminga_metastore::{
    Change, Error, MetaStore, Revision, TxnOutcome, WatchEvent, WatchStream, keys,
};
use geminga_proto::ids::{LedgerId, TopicId};
use geminga_runtime::{Tasks, WallClock};
use tokio::sync::watch;
use tokio::time::Instant;

use super::core::{Effect, Ending, Found, Input, Over, Removal, Standing};
use crate::ownership::registration::Registration;
use crate::ownership::topology::Topology;
use crate::topics::metrics;

/// Keys listed at a time.
const PAGE: usize = 100;
/// Topics removed at a time.
const PARALLEL: usize = 4;
/// Ledgers of one topic closed at a time.
const PARALLEL_LEDGERS: usize = 8;
/// How often it is looked for tombstones that have stood for long enough.
const BURY_EVERY: Duration = Duration::from_secs(3_600);
/// Before what could not be removed is tried again; doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What the task is made of.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// The metadata store.
    pub(crate) store: Arc<dyn MetaStore>,
    /// Ends the ledgers.
    pub(crate) ledgers: LedgerClient,
    /// Who is the coordinator.
    pub(crate) topology: Topology,
    /// This broker.
    pub(crate) registration: Registration,
    /// Says how old tombstones are.
    pub(crate) clock: Arc<dyn WallClock>,
}

/// Starts the task.
///
/// # Errors
/// When deleted topics cannot be watched.
pub(crate) async fn start(parts: Parts, tasks: &Tasks) -> Result<(), Error> {
    // A watch without a revision begins with everything there is.
    let deleted = parts.store.watch(keys::DELETED_TOPICS, None).await?;
    let Parts { store, ledgers, topology, registration, clock } = parts;
    let worker = Worker { store, ledgers };
    let remover = Remover {
        worker,
        topology,
        registration,
        clock,
        deleted,
        left: BTreeSet::new(),
        bury_at: Instant::now() + BURY_EVERY,
        again: None,
        pause: FIRST_PAUSE,
    };
    let cancelled = tasks.cancelled();
    tasks.spawn("topic removal", async move {
        tokio::select! {
            () = cancelled => {}
            () = remover.run() => {}
        }
    });
    Ok(())
}

struct Remover {
    worker: Worker,
    topology: Topology,
    registration: Registration,
    clock: Arc<dyn WallClock>,
    deleted: WatchStream,
    /// Topics of which something may be left.
    left: BTreeSet<TopicId>,
    /// Not tried again before.
    again: Option<Instant>,
    pause: Duration,
    bury_at: Instant,
}

impl Remover {
    async fn run(mut self) {
        let mut changed = self.topology.changed();
        loop {
            changed.mark_unchanged();
            metrics::observe_deleted(self.left.len());
            let due = self.again.is_none_or(|at| at <= Instant::now());
            if due && let Some(office) = self.office() {
                self.round(office).await;
            }
            if self.bury_at <= Instant::now() {
                self.bury().await;
            }
            self.wait(&mut changed).await;
        }
    }

    /// The election that this broker won, as far as it knows.
    fn office(&self) -> Option<Revision> {
        let elected = self.topology.coordinator()?;
        let ours = elected.broker == self.registration.id() && self.registration.is_registered();
        ours.then_some(elected.created)
    }

    async fn wait(&mut self, changed: &mut watch::Receiver<u64>) {
        let next = self.again.map_or(self.bury_at, |at| at.min(self.bury_at));
        tokio::select! {
            biased;
            event = self.deleted.next() => {
                if let Some(event) = event {
                    self.on_deleted(event);
                }
            }
            // Whose turn it is may have changed.
            _ = changed.changed() => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }

    async fn bury(&mut self) {
        self.bury_at = Instant::now() + BURY_EVERY;
        let Some(office) = self.office() else { return };
        match self.worker.bury(office, self.clock.now_ms()).await {
            Ok(0) => {}
            Ok(ledgers) => tracing::info!(ledgers, "metadata of deleted ledgers removed"),
            Err(error) => tracing::warn!(%error, "metadata of deleted ledgers is not removed yet"),
        }
    }

    fn on_deleted(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Snapshot(range) => {
                let items = range.items.iter();
                self.left = items.filter_map(|item| keys::parse_deleted_topic(&item.key)).collect();
            }
            WatchEvent::Changes { changes, .. } => {
                for change in changes {
                    let (key, put) = match &change {
                        Change::Put(item) => (&item.key, true),
                        Change::Delete { key } => (key, false),
                    };
                    let Some(topic) = keys::parse_deleted_topic(key) else { continue };
                    if put {
                        self.left.insert(topic);
                        self.again = None;
                    } else {
                        self.left.remove(&topic);
                    }
                }
            }
        }
    }

    /// Removes what it can, and sets when to try the rest again.
    async fn round(&mut self, office: Revision) {
        let worker = &self.worker;
        let removed = futures::stream::iter(self.left.iter().copied())
            .map(|topic| async move { (topic, worker.remove(topic, office).await) })
            .buffer_unordered(PARALLEL)
            .collect::<Vec<_>>()
            .await;
        let mut put_off = false;
        for (topic, over) in removed {
            match over {
                Over::Done => {
                    self.left.remove(&topic);
                    metrics::count_removed();
                    tracing::info!(%topic, "nothing is left of a deleted topic");
                }
                Over::Deposed => {
                    tracing::info!(%topic, "another broker goes on with a deleted topic");
                }
                Over::Later(why) => {
                    put_off = true;
                    tracing::warn!(%topic, why, "a deleted topic is not removed yet; trying on");
                }
            }
        }
        if put_off {
            self.again = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        } else {
            (self.again, self.pause) = (None, FIRST_PAUSE);
        }
    }
}

/// What one removal needs.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) ledgers: LedgerClient,
}

impl Worker {
    /// One attempt at one topic. Cancel-safe: the next attempt goes on.
    pub(super) async fn remove(&self, topic: TopicId, office: Revision) -> Over {
        match self.try_remove(topic, office).await {
            Ok(over) => over,
            Err(error) => Over::Later(error.to_string()),
        }
    }

    async fn try_remove(&self, topic: TopicId, office: Revision) -> Result<Over, Error> {
        let found = self.store.get(&keys::deleted_topic(topic)).await?;
        let Some(found) = found else { return Ok(Over::Done) };
        let (mut removal, mut effect) = Removal::begin(topic, office, found.version);
        loop {
            let input = match effect {
                Effect::List { prefix, after } => {
                    let range = self.store.range(&prefix, after.as_deref(), PAGE).await?;
                    Input::Listed(range)
                }
                Effect::End(found) => Input::Ended(self.end(found).await?),
                Effect::Commit(txn) => match self.store.txn(txn).await {
                    Ok(TxnOutcome::Committed(_)) => Input::Committed,
                    Ok(TxnOutcome::GuardFailed) | Err(Error::Unknown(_)) => Input::Doubt,
                    Err(error) => return Err(error),
                },
                Effect::Check => Input::Checked(self.check(topic, office).await?),
                Effect::Over(over) => return Ok(over),
            };
            effect = removal.step(input);
        }
    }

    async fn check(&self, topic: TopicId, office: Revision) -> Result<Standing, Error> {
        if self.store.get(&keys::deleted_topic(topic)).await?.is_none() {
            return Ok(Standing::Done);
        }
        let elected = self.store.get(keys::COORDINATOR).await?;
        let ours = elected.is_some_and(|elected| elected.created == office);
        Ok(if ours { Standing::Ours } else { Standing::Deposed })
    }

    async fn end(&self, found: Vec<Found>) -> Result<Vec<(Found, Ending)>, Error> {
        let one = |found: Found| async move {
            let ending = self.ending(found.ledger).await?;
            Ok::<_, Error>((found, ending))
        };
        let mut endings = futures::stream::iter(found).map(one).buffered(PARALLEL_LEDGERS);
        let mut all = Vec::new();
        while let Some(ending) = endings.next().await {
            all.push(ending?);
        }
        Ok(all)
    }

    /// Closes a ledger that its last owner left open, since only what has an end can be deleted (1.3).
    async fn ending(&self, ledger: LedgerId) -> Result<Ending, Error> {
        loop {
            match self.ledgers.deletion(ledger).await {
                Ok(Some(part)) => return Ok(Ending::Part(part)),
                Ok(None) => return Ok(Ending::Gone),
                Err(DeleteError::Metadata(error)) => return Err(error),
                Err(DeleteError::NotClosed(_)) => match self.ledgers.recover(ledger).await {
                    Ok(_) | Err(RecoverError::Gone(_)) => {}
                    Err(RecoverError::Metadata(error)) => return Err(error),
                    Err(error @ (RecoverError::Damaged { .. } | RecoverError::Missing { .. })) => {
                        tracing::warn!(%ledger, %error, "a ledger of a deleted topic cannot be closed: bring its bookies back, or force-close it");
                        return Ok(Ending::NotYet);
                    }
                },
            }
        }
    }
}

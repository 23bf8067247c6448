//! Carries out removals while this broker is the coordinator, as the view shows it: a wrong view costs a failed guard. A few
//! topics at a time, since the ledgers of one may wait for bookies that are away; and no attempt lasts for ever.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use geminga_ledger::{DeleteError, LedgerClient, RecoverError};
use geminga_metastore::{
    Change, Error, MetaStore, Revision, TxnOutcome, WatchEvent, WatchStream, keys,
};
use geminga_proto::ids::{LedgerId, TopicId};
use geminga_runtime::{Tasks, WallClock};
use tokio::sync::watch;
use tokio::time::Instant;

use super::core::{Effect, Ending, Found, Input, Over, Removal, Standing};
use super::tombstones::Looks;
use super::turns::Turns;
use crate::ownership::registration::Registration;
use crate::ownership::topology::Topology;
use crate::topics::metrics;

/// Keys listed at a time.
const PAGE: usize = 100;
/// Ledgers of one topic closed at a time.
const PARALLEL_LEDGERS: usize = 8;
/// How often it is looked for tombstones that have stood for long enough.
const BURY_EVERY: Duration = Duration::from_secs(3_600);
/// How long one attempt at a topic may take: what it removed until then is removed.
const ATTEMPT: Duration = Duration::from_secs(600);

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
        turns: Turns::default(),
        running: FuturesUnordered::new(),
        bury_at: Instant::now() + BURY_EVERY,
        looks: Some(Looks::default()),
        burying: None,
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
    turns: Turns,
    /// Attempts, as many as `turns` began.
    running: FuturesUnordered<BoxFuture<'static, (TopicId, Over, Option<String>)>>,
    bury_at: Instant,
    /// Away while tombstones are looked after, which goes on beside all else.
    looks: Option<Looks>,
    burying: Option<BoxFuture<'static, (Looks, Buried)>>,
}

/// How many ledgers' metadata, and marks, were removed.
type Buried = Result<(usize, usize), Error>;

impl Remover {
    async fn run(mut self) {
        let mut changed = self.topology.changed();
        loop {
            changed.mark_unchanged();
            metrics::observe_deleted(self.turns.len());
            if let Some(office) = self.office() {
                self.begin(office);
            }
            if self.bury_at <= Instant::now()
                && let Some(looks) = self.looks.take()
            {
                self.bury(looks);
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

    /// Begins with those topics whose turn it is.
    fn begin(&mut self, office: Revision) {
        while let Some(topic) = self.turns.begin(Instant::now()) {
            let (worker, from) = (self.worker.clone(), self.turns.place(topic));
            self.running.push(Box::pin(async move {
                let (over, place) = worker.attempt(topic, office, from, ATTEMPT).await;
                (topic, over, place)
            }));
        }
    }

    async fn wait(&mut self, changed: &mut watch::Receiver<u64>) {
        // Whoever is not the coordinator begins nothing, however long it is due.
        let due = self.turns.next().filter(|_| self.office().is_some());
        let bury_at = self.looks.is_some().then_some(self.bury_at);
        let next = due.into_iter().chain(bury_at).min();
        tokio::select! {
            biased;
            event = self.deleted.next() => {
                if let Some(event) = event {
                    self.on_deleted(event);
                }
            }
            Some((topic, over, place)) = self.running.next() => {
                self.turns.ended_at(topic, place);
                self.on_over(topic, over);
            }
            (looks, buried) = done(&mut self.burying) => self.on_buried(looks, buried),
            // Whose turn it is may have changed.
            _ = changed.changed() => {}
            () = until(next) => {}
        }
    }

    /// Begins to look after tombstones; [`Self::on_buried`] is to follow.
    fn bury(&mut self, mut looks: Looks) {
        self.bury_at = Instant::now() + BURY_EVERY;
        let (worker, office, now_ms) = (self.worker.clone(), self.office(), self.clock.now_ms());
        self.burying = Some(Box::pin(async move {
            let buried = worker.look_after_tombstones(&mut looks, office, now_ms).await;
            (looks, buried)
        }));
    }

    fn on_buried(&mut self, looks: Looks, buried: Buried) {
        (self.looks, self.burying) = (Some(looks), None);
        match buried {
            Ok((0, 0)) => {}
            Ok((ledgers, marks)) => {
                tracing::info!(ledgers, marks, "metadata of deleted ledgers removed");
            }
            Err(error) => tracing::warn!(%error, "metadata of deleted ledgers is not removed yet"),
        }
    }

    fn on_deleted(&mut self, event: WatchEvent) {
        let now = Instant::now();
        match event {
            WatchEvent::Snapshot(range) => {
                let items = range.items.iter();
                let all = items.filter_map(|item| keys::parse_deleted_topic(&item.key));
                self.turns.set(&all.collect::<Vec<_>>(), now);
            }
            WatchEvent::Changes { changes, .. } => {
                for change in changes {
                    let (key, put) = match &change {
                        Change::Put(item) => (&item.key, true),
                        Change::Delete { key } => (key, false),
                    };
                    let Some(topic) = keys::parse_deleted_topic(key) else { continue };
                    if put {
                        self.turns.add(topic, now);
                    } else {
                        self.turns.remove(topic);
                    }
                }
            }
        }
    }

    fn on_over(&mut self, topic: TopicId, over: Over) {
        self.turns.over(topic, over == Over::Done, Instant::now());
        match over {
            Over::Done => {
                metrics::count_removed();
                tracing::info!(%topic, "nothing is left of a deleted topic");
            }
            Over::Deposed => {
                tracing::info!(%topic, "another broker goes on with a deleted topic");
            }
            Over::Later(why) => {
                tracing::warn!(%topic, why, "a deleted topic is not removed yet; trying on");
            }
        }
    }
}

/// Resolves when it is done; never, without it. Cancel-safe.
async fn done<T>(running: &mut Option<BoxFuture<'static, T>>) -> T {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What is behind a ledger whose record is damaged is removed all the same.
fn unreadable(ledger: LedgerId, error: Error) -> Result<Ending, Error> {
    if !matches!(error, Error::Corrupt { .. }) {
        return Err(error);
    }
    tracing::warn!(%ledger, %error, "a ledger of a deleted topic cannot be read; it is passed over");
    Ok(Ending::NotYet)
}

/// What one removal needs.
#[derive(Debug, Clone)]
pub(super) struct Worker {
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) ledgers: LedgerClient,
}

impl Worker {
    /// One attempt at one topic, from where the last one ended, which takes no longer than this: others wait for its turn. Says
    /// where it ended. Cancel-safe: the next one goes on.
    pub(super) async fn attempt(
        &self,
        topic: TopicId,
        office: Revision,
        mut place: Option<String>,
        most: Duration,
    ) -> (Over, Option<String>) {
        let attempt = tokio::time::timeout(most, self.try_remove(topic, office, &mut place)).await;
        let over = match attempt {
            Ok(Ok(over)) => over,
            Ok(Err(error)) => Over::Later(error.to_string()),
            Err(_) => Over::Later("it took too long".to_owned()),
        };
        (over, place)
    }

    async fn try_remove(
        &self,
        topic: TopicId,
        office: Revision,
        place: &mut Option<String>,
    ) -> Result<Over, Error> {
        let found = self.store.get(&keys::deleted_topic(topic)).await?;
        let Some(found) = found else { return Ok(Over::Done) };
        let (mut removal, mut effect) = Removal::begin(topic, office, found.version, place.take());
        loop {
            *place = removal.place();
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
            let ending = match found.ledger {
                Some(ledger) => self.ending(ledger).await?,
                None => Ending::NotYet,
            };
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
                Err(DeleteError::Metadata(error)) => return unreadable(ledger, error),
                Err(DeleteError::NotClosed(_)) => match self.ledgers.recover(ledger).await {
                    Ok(_) | Err(RecoverError::Gone(_)) => {}
                    Err(RecoverError::Metadata(error)) => return unreadable(ledger, error),
                    Err(
                        error @ (RecoverError::Damaged { .. }
                        | RecoverError::InObject(_)
                        | RecoverError::Missing { .. }),
                    ) => {
                        tracing::warn!(%ledger, %error, "a ledger of a deleted topic cannot be closed: bring its bookies back, or force-close it");
                        return Ok(Ending::NotYet);
                    }
                },
            }
        }
    }
}

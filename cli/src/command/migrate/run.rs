//! The run: makes what is missing at the target, finds where each partition goes on, and keeps a lane for the partitions of each
//! leader at the source until all are where they are to stop, or somebody stops it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use geminga_client::{Client, NewTopic, OffsetAt, TopicChanges};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::back::{IN_DOUBT, read_back};
use super::checkpoint::{Checkpoint, Origin, Resume, resume};
use super::copying::{Copying, Trouble};
use super::keeper::Keeper;
use super::lane::{Lane, Shared};
use super::meter::{Meter, Pace, Totals};
use super::plan::{self, Fate, Plan, TopicPlan};
use super::source::{Bounds, Metadata, Source};
use crate::exit::{Exit, Failure};
use crate::server::Signals;

/// How often it says how it is doing.
const TELL: Duration = Duration::from_secs(10);
/// How often the source is asked for new partitions.
const LOOK: Duration = Duration::from_secs(60);
/// Before a leader is looked for again.
const PAUSE: Duration = Duration::from_secs(1);

/// How to copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// End where the source ended when this began.
    pub(super) until_caught_up: bool,
    /// Bytes a second.
    pub(super) rate: Option<u64>,
    /// Go on where nobody knows whether the last records are there.
    pub(super) accept_repeats: bool,
}

/// What is copied, and what is in the way of the rest.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) partitions: Vec<Copying>,
    pub(super) stopped: bool,
}

impl Outcome {
    /// How many partitions are not where they are to stop, though nothing is in their way.
    pub(super) fn unfinished(&self) -> usize {
        self.partitions.iter().filter(|copying| !copying.is_over()).count()
    }

    /// How many partitions go no further.
    pub(super) fn failed(&self) -> usize {
        self.partitions.iter().filter(|copying| copying.failed().is_some()).count()
    }
}

/// Copies what was planned. Stops in good order when interrupted, at once when interrupted again.
pub(super) async fn run(
    source: &Source,
    client: &Client,
    keeper: Keeper,
    plan: Plan,
    how: How,
) -> Result<Outcome, Failure> {
    for topic in &plan.topics {
        if let Fate::Refused(why) = &topic.fate {
            return Err(Failure::new(format!("topic `{}` cannot be copied: {why}", topic.topic))
                .because("NOT_COPIED"));
        }
    }
    keeper.prepare().await?;
    for topic in &plan.topics {
        make(client, topic).await?;
    }
    let mut partitions = begin(client, &keeper, &plan, how).await?;
    keeper.save(&mut partitions).await?;
    let (stop, stopping) = watch::channel(false);
    let shared = Shared {
        client: client.clone(),
        keeper,
        meter: Meter::default(),
        pace: Pace::new(how.rate),
        accept_repeats: how.accept_repeats,
        stop: stopping,
    };
    shared.meter.note(&partitions);
    let run = Run { source, shared: &shared, how, stop };
    run.until_the_end(partitions, origins(&plan)).await
}

/// Topics, and how many partitions of each are known.
type Origins = BTreeMap<String, (Origin, u32)>;

fn origins(plan: &Plan) -> Origins {
    let of = |topic: &TopicPlan| (topic.topic.clone(), (topic.origin.clone(), topic.partitions));
    plan.topics.iter().map(of).collect()
}

async fn make(client: &Client, topic: &TopicPlan) -> Result<(), Failure> {
    let admin = client.admin();
    match topic.fate {
        Fate::Create => {
            let configs = topic.configs.clone().into_iter().collect();
            let (name, partitions) = (topic.topic.clone(), topic.partitions);
            admin
                .create_topic(NewTopic { name, partitions, configs, ..NewTopic::default() })
                .await?;
        }
        Fate::Resume => {
            let partitions = Some(topic.partitions);
            let changes = TopicChanges { partitions, ..TopicChanges::default() };
            admin.alter_topic(&topic.topic, changes).await?;
        }
        Fate::Fill | Fate::Refused(_) => {}
    }
    Ok(())
}

/// Where each partition goes on.
async fn begin(
    client: &Client,
    keeper: &Keeper,
    plan: &Plan,
    how: How,
) -> Result<Vec<Copying>, Failure> {
    let producer = client.admin().new_producer_id().await?;
    let mut partitions = Vec::new();
    for topic in &plan.topics {
        let ends = client.admin().list_offsets(&topic.topic, &[], OffsetAt::Latest).await?;
        let ends: BTreeMap<u32, i64> = ends.into_iter().collect();
        let name: Arc<str> = topic.topic.as_str().into();
        for partition in 0..topic.partitions {
            let key = (topic.topic.clone(), partition);
            let (bounds, end) = (plan.bounds.get(&key), ends.get(&partition).copied().unwrap_or(0));
            let mut copying = match plan.kept.get(&key) {
                None => fresh(&name, partition, producer, &topic.origin, bounds),
                Some((checkpoint, age)) => {
                    let mut copying =
                        Copying::new(Arc::clone(&name), partition, checkpoint.clone());
                    let resume = resume(checkpoint, *age, end);
                    go_on(&mut copying, resume, producer, end, how, keeper.name());
                    copying
                }
            };
            if !plan.kept.contains_key(&key) && end > 0 {
                copying.fail("it has records here that this migration did not copy");
            }
            if let Some(bounds) = bounds {
                if bounds.end < copying.checkpoint.source {
                    copying.fail(format!(
                        "the source ends at {}, before what was copied: the topic was made anew, or lost records",
                        bounds.end
                    ));
                }
                copying.end = bounds.end;
                copying.goal = how.until_caught_up.then_some(bounds.end);
            }
            partitions.push(copying);
        }
    }
    Ok(partitions)
}

/// A partition that nothing was copied of.
fn fresh(
    topic: &Arc<str>,
    partition: u32,
    producer: i64,
    origin: &Origin,
    bounds: Option<&Bounds>,
) -> Copying {
    let source = bounds.map_or(0, |bounds| bounds.start);
    let checkpoint =
        Checkpoint { source, target: 0, producer, sequence: 0, origin: origin.clone() };
    let mut copying = Copying::begun(Arc::clone(topic), partition, checkpoint);
    if bounds.is_none() {
        copying.fail("it has no leader at the source: run this again when it has one");
    }
    copying
}

fn go_on(copying: &mut Copying, resume: Resume, producer: i64, end: i64, how: How, group: &str) {
    match resume {
        // Whatever is there is not recognised then: so it is copied behind what is there.
        Resume::InDoubt(_) if how.accept_repeats => {
            copying.renumber(producer);
            copying.checkpoint.target = end;
        }
        Resume::SameNumbers => copying.unproven = end > copying.checkpoint.target,
        Resume::NewProducer => copying.renumber(producer),
        Resume::InDoubt(records) => copying.fail(format!(
            "{records} records were written here after the last checkpoint, so long ago that those of the migration are not recognised \
             any more: --accept-repeats goes on behind them, and copies what of them it copied before once more"
        )),
        Resume::OtherTarget => copying.fail(format!(
            "it ends here at {end}, before the migration's checkpoint: it is not the topic that was copied to. Delete it and the group \
             `{group}` to begin anew"
        )),
    }
}

/// A run that has begun.
struct Run<'a> {
    source: &'a Source,
    shared: &'a Shared,
    how: How,
    stop: watch::Sender<bool>,
}

impl Run<'_> {
    async fn until_the_end(
        &self,
        partitions: Vec<Copying>,
        mut origins: Origins,
    ) -> Result<Outcome, Failure> {
        let (mut over, mut idle): (Vec<_>, Vec<_>) =
            partitions.into_iter().partition(Copying::is_over);
        let mut lanes = FuturesUnordered::new();
        let (mut tell, mut look) = (interval(TELL), interval(LOOK));
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tell.reset();
        look.reset();
        let mut signals = Signals::new().map_err(Failure::new)?;
        let mut interrupts = 0;
        let mut last = (Totals::default(), Instant::now());
        loop {
            let stopping = *self.stop.borrow();
            if !stopping {
                for (address, some) in self.by_leader(&mut idle, &mut over).await {
                    lanes.push(self.lane(address, some));
                }
            }
            if lanes.is_empty() && (stopping || idle.is_empty()) {
                break;
            }
            tokio::select! {
                biased;
                _ = signals.next() => {
                    interrupts += 1;
                    if interrupts > 1 {
                        return Err(Failure::with(Exit::Interrupted, "stopped at once: the next run finds out what is copied"));
                    }
                    self.stop.send_replace(true);
                }
                Some(partitions) = lanes.next() => {
                    let (done, more): (Vec<_>, Vec<_>) = partitions.into_iter().partition(Copying::is_over);
                    for copying in &done {
                        if let Some(why) = copying.failed() {
                            let what = format!("{}/{} goes no further: {why}", copying.topic, copying.partition);
                            self.shared.meter.say(&what);
                        }
                    }
                    over.extend(done);
                    idle.extend(more);
                }
                _ = tell.tick() => last = self.tell(last),
                _ = look.tick(), if !self.how.until_caught_up => {
                    match self.grown(&mut origins).await {
                        Ok(more) => idle.extend(more),
                        Err(failure) => self.shared.meter.say(&failure.line().unwrap_or_default()),
                    }
                }
                () = sleep(PAUSE), if !idle.is_empty() => {}
            }
        }
        let stopped = *self.stop.borrow();
        over.extend(idle);
        over.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(Outcome { partitions: over, stopped })
    }

    /// Takes those partitions that have a leader; those that go no further are over.
    async fn by_leader(
        &self,
        idle: &mut Vec<Copying>,
        over: &mut Vec<Copying>,
    ) -> Vec<(String, Vec<Copying>)> {
        if idle.is_empty() {
            return Vec::new();
        }
        let metadata = match self.source.metadata(None).await {
            Ok(metadata) => metadata,
            Err(error) => {
                self.shared.meter.say(&error.to_string());
                return Vec::new();
            }
        };
        let mut led: BTreeMap<String, Vec<Copying>> = BTreeMap::new();
        for mut copying in std::mem::take(idle) {
            match leader(&metadata, &mut copying) {
                Some(address) => led.entry(address).or_default().push(copying),
                None if copying.is_over() => over.push(copying),
                None => idle.push(copying),
            }
        }
        led.into_iter().collect()
    }

    /// One lane from its begin to its end. Partitions come back as they may go on.
    async fn lane(&self, address: String, mut partitions: Vec<Copying>) -> Vec<Copying> {
        if let Err(failure) = self.prove(&mut partitions).await {
            self.shared.meter.say(&failure.line().unwrap_or_default());
            sleep(PAUSE).await;
            return partitions;
        }
        match self.source.leader(&address).await {
            Err(error) => {
                self.shared.meter.say(&error.to_string());
                sleep(PAUSE).await;
            }
            Ok(leader) => {
                let (left, ended) = Lane::new(self.shared, leader, partitions).run().await;
                partitions = left;
                if let Some(error) = ended {
                    self.shared.meter.say(&error.to_string());
                    sleep(PAUSE).await;
                }
            }
        }
        let mut moved = false;
        for copying in &mut partitions {
            match copying.trouble {
                Some(Trouble::Moved) => (copying.trouble, moved) = (None, true),
                Some(Trouble::OutOfRange) => self.find(copying).await,
                Some(Trouble::Failed(_)) | None => {}
            }
        }
        if moved {
            // Their leaders are being elected, of all at once.
            sleep(PAUSE).await;
        }
        partitions
    }

    /// Reads back what earlier tries may have written, unless the run is to stop.
    async fn prove(&self, partitions: &mut [Copying]) -> Result<(), Failure> {
        let mut stop = self.shared.stop.clone();
        for copying in partitions.iter_mut().filter(|copying| copying.unproven) {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                back = read_back(&self.shared.client, copying) => copying.proven(back?),
            }
        }
        Ok(())
    }

    /// Numbers begin anew, which is kept.
    async fn renumber(&self, copying: &mut Copying) -> Result<(), Failure> {
        let producer = self.shared.client.admin().new_producer_id().await?;
        copying.renumber(producer);
        self.shared.keeper.save(std::slice::from_mut(copying)).await?;
        Ok(())
    }

    /// The source has nothing at the offset that comes next: finds out why.
    async fn find(&self, copying: &mut Copying) {
        let names = [copying.topic.to_string()];
        let bounds = match self.source.metadata(Some(&names)).await {
            Ok(metadata) => self.source.bounds(&metadata, &names).await,
            Err(error) => Err(error),
        };
        let bounds = bounds.map(|all| all.get(&(names[0].clone(), copying.partition)).copied());
        match bounds {
            // What was written and not noted has numbers that what comes next must not have.
            Ok(Some(Bounds { start, .. })) if start > copying.next && copying.is_behind() => {
                copying.trouble = None;
                if !self.how.accept_repeats {
                    copying.fail(IN_DOUBT);
                } else if let Err(failure) = self.renumber(copying).await {
                    self.shared.meter.say(&failure.line().unwrap_or_default());
                    sleep(PAUSE).await;
                }
            }
            Ok(Some(Bounds { start, .. })) if start > copying.next => {
                let gone = start - copying.next;
                copying.skip_to(start);
                self.shared.meter.say(&format!(
                    "{}/{}: the source deleted {gone} offsets before they were copied",
                    copying.topic, copying.partition
                ));
            }
            Ok(Some(Bounds { end, .. })) if end < copying.next => copying.fail(format!(
                "the source ends at {end}, before what was copied: the topic was made anew, or lost records"
            )),
            // It is there after all, or its leader is being elected.
            Ok(_) => {
                copying.trouble = None;
                sleep(PAUSE).await;
            }
            Err(error) => {
                self.shared.meter.say(&error.to_string());
                copying.trouble = None;
                sleep(PAUSE).await;
            }
        }
    }

    /// Partitions that topics have got at the source since.
    async fn grown(&self, origins: &mut Origins) -> Result<Vec<Copying>, Failure> {
        let metadata = self.source.metadata(None).await?;
        let mut more = Vec::new();
        for (name, (origin, known)) in origins {
            let Some(topic) = metadata.topics.get(name) else { continue };
            let now = plan::count(topic);
            if now <= *known || topic.id != origin.topic {
                continue;
            }
            let names = [name.clone()];
            let bounds = self.source.bounds(&metadata, &names).await?;
            let all: Option<Vec<_>> =
                (*known..now).map(|p| Some((p, bounds.get(&(name.clone(), p))?))).collect();
            // All of them, or none yet.
            let Some(all) = all else { continue };
            let changes = TopicChanges { partitions: Some(now), ..TopicChanges::default() };
            self.shared.client.admin().alter_topic(name, changes).await?;
            let producer = self.shared.client.admin().new_producer_id().await?;
            let shared_name: Arc<str> = name.as_str().into();
            let begun = |(p, bounds)| fresh(&shared_name, p, producer, origin, Some(bounds));
            let mut begun: Vec<_> = all.into_iter().map(begun).collect();
            self.shared.keeper.save(&mut begun).await?;
            more.extend(begun);
            *known = now;
        }
        Ok(more)
    }

    /// Says how it is doing; returns that, for the next time.
    fn tell(&self, (before, at): (Totals, Instant)) -> (Totals, Instant) {
        let now = self.shared.meter.totals();
        let seconds = at.elapsed().as_secs_f64().max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let rate = (now.bytes - before.bytes) as f64 / seconds / 1e6;
        self.shared.meter.tell(&format!(
            "{} records copied, {rate:.1} MB/s, {} offsets behind",
            now.records, now.lag
        ));
        (now, Instant::now())
    }
}

/// Who leads a partition, where anybody does. One whose topic is gone goes no further.
fn leader(metadata: &Metadata, copying: &mut Copying) -> Option<String> {
    let Some(topic) = metadata.topics.get(&*copying.topic) else {
        copying.fail("the topic does not exist at the source any more");
        return None;
    };
    if topic.id != copying.checkpoint.origin.topic {
        copying.fail("the topic was made anew at the source");
        return None;
    }
    let leader = *topic.leaders.get(usize::try_from(copying.partition).ok()?)?;
    metadata.brokers.get(&leader).cloned()
}

//! One run: start, load under faults, heal, let everybody catch up, read the log, judge.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use geminga_check::Report;
use geminga_client::{Admin, NewTopic};
use geminga_runtime::Tasks;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::cluster::Cluster;
use crate::driver::Driver;
use crate::ending::{catch_up, judge, read_log};
use crate::fault::{Fault, Sizes};
use crate::history::{History, settle};
use crate::layout::Layout;
use crate::schedule::{Means, Schedule};
use crate::tally::Tally;
use crate::workload::{Context, Kafka, Load, Phase, TOPIC, python};

/// How long anything may take after all is healed: longer than any timeout of a client.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long the clients of a run that was given up may take to end.
const GOODBYE: Duration = Duration::from_secs(10);
/// A run that is as long meets every kind of fault, and each is to be felt.
const WHOLE: Duration = Duration::from_secs(60);
/// Small segments, so that ledgers change all the time.
const CONFIGS: [(&str, &str); 2] = [("segment.bytes", "131072"), ("segment.ms", "5000")];

/// What a run is to be.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Decides everything that is ours to decide.
    pub seed: u64,
    /// How long things go wrong.
    pub duration: Duration,
    /// How many servers.
    pub sizes: Sizes,
    /// Partitions of the topic.
    pub partitions: u32,
    /// Producers at a time, each on a host of its own.
    pub producers: usize,
    /// Whether producers are idempotent. Without it, the checker is to find records twice.
    pub idempotence: bool,
    /// Where logs and the history go; must be there.
    pub dir: PathBuf,
}

impl Settings {
    /// The usual size with this seed: three producers and two groups, and a third group of Kafka's static members.
    pub fn new(seed: u64, duration: Duration, dir: &Path) -> Self {
        let sizes = Sizes { bookies: 4, brokers: 3, etcds: 3, clients: 6 };
        let dir = dir.to_owned();
        Self { seed, duration, sizes, partitions: 4, producers: 3, idempotence: true, dir }
    }

    /// What its history says of it.
    fn about(&self, means: Means) -> String {
        let Self { seed, sizes, .. } = self;
        format!(
            "geminga, seed {seed}, {} s, {} bookies, {} brokers, {} etcds{}",
            self.duration.as_secs(),
            sizes.bookies,
            sizes.brokers,
            sizes.etcds,
            if means.packets { ", in namespaces" } else { "" },
        )
    }

    /// What lets things go wrong. In a run that is long enough, every kind is to be felt.
    fn driver(
        &self,
        means: Means,
        context: &Context,
    ) -> Driver<impl Fn(&str) -> Vec<(Fault, Duration)> + Send + 'static> {
        let (seed, sizes) = (self.seed, self.sizes);
        let whole = self.duration >= WHOLE;
        Driver {
            schedule: Schedule::new(seed, self.duration, sizes, means),
            to_feel: if whole { Schedule::kinds(sizes, means) } else { BTreeSet::new() },
            again: move |kind: &str| Schedule::all_of(kind, seed, sizes, means),
            history: context.history.clone(),
            duration: self.duration,
            tally: context.tally.clone(),
            tasks: context.tasks.clone(),
        }
    }

    /// What is to go wrong. Blocks.
    ///
    /// # Errors
    /// When there is to be a network of the run's own, and it cannot be made.
    pub fn plan(&self) -> Result<Schedule> {
        let means = Layout::new(self.sizes)?.means();
        Ok(Schedule::new(self.seed, self.duration, self.sizes, means))
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The checker's.
    pub report: Report,
    /// Its findings, with the lines that show them.
    pub findings: String,
    /// What went wrong, and what was felt of it.
    pub tally: Tally,
    /// What was to be felt in a run that is long enough, and was not: the run has not tested it.
    pub unfelt: Vec<String>,
    /// How often a process ended that nobody had stopped, and was started again.
    pub ended: u64,
    /// From the end of the faults until everybody had caught up.
    pub settled_after: Duration,
}

impl Outcome {
    /// Whether every promise was kept, and everything tried.
    pub fn is_good(&self) -> bool {
        self.report.is_clean() && self.unfelt.is_empty()
    }
}

/// Runs it.
///
/// # Errors
/// When something does not get going, or not catch up, after all was healed.
pub async fn run(settings: &Settings) -> Result<Outcome> {
    let tasks = Tasks::new("chaos");
    let outcome = run_among(settings, &tasks).await;
    tasks.finish(GOODBYE).await;
    outcome
}

async fn run_among(settings: &Settings, tasks: &Tasks) -> Result<Outcome> {
    let Settings { seed, sizes, dir, .. } = settings.clone();
    let layout = tokio::task::spawn_blocking(move || Layout::new(sizes)).await??;
    let (means, mut hosts) = (layout.means(), layout.clients.clone());
    let cluster = Cluster::start(layout, seed, &dir, tasks).await?;
    let (servers, kafka_servers) = (cluster.servers(), cluster.kafka_servers());
    let cluster = blocking(cluster, get_ready).await?;

    let history = History::create(&dir.join("history.raw"), &settings.about(means))?;
    let (phases, phase) = watch::channel(Phase::Load);
    let context = Context {
        servers,
        history: history.clone(),
        seed,
        partitions: settings.partitions,
        idempotence: settings.idempotence,
        tasks: tasks.clone(),
        tally: Tally::default(),
        dir: dir.clone(),
        phase,
    };
    let client = context.client("chaos")?;
    let admin = client.admin();
    create_topic(&admin, settings.partitions).await?;

    let readers = hosts.split_off(settings.producers.min(hosts.len()));
    let (host, readers) = readers.split_last().context("no host for members of groups")?;
    let kafka = python().map(|python| Kafka { python, servers: kafka_servers, host: host.clone() });
    let mut load = Load::start(&context, hosts, readers.to_vec(), kafka);
    let driver = settings.driver(means, &context);
    let mut kinds = driver.to_feel.clone();
    let cluster = blocking(cluster, move |cluster| driver.drive(cluster)).await?;

    let healed = Instant::now();
    phases.send_replace(Phase::Settle);
    load.sent(PATIENCE).await?;
    let cluster = blocking(cluster, get_ready).await?;
    catch_up(&context, &admin, &load.names, PATIENCE).await?;
    let settled_after = healed.elapsed();
    phases.send_replace(Phase::Over);
    if !kinds.is_empty() {
        kinds.extend(load.kinds());
    }
    load.left(PATIENCE).await?;
    timeout(PATIENCE, read_log(&client, &history)).await.context("the log cannot be read")??;
    client.close().await;
    history.check()?;

    let path = dir.join("history.jsonl");
    let judging = tokio::task::spawn_blocking(move || {
        settle(history.path(), &path)?;
        judge(&path)
    });
    let (report, findings) = judging.await??;
    let (tally, ended) = (context.tally, cluster.ended);
    let mut unfelt = tally.unfelt(&kinds);
    if !kinds.is_empty() && report.open_at_death == 0 {
        unfelt.push("a record on its way when its producer is killed".to_owned());
    }
    Ok(Outcome { report, findings, tally, unfelt, ended, settled_after })
}

/// Does something with the cluster on a thread that may block.
async fn blocking(
    mut cluster: Cluster,
    act: impl FnOnce(&mut Cluster) -> Result<()> + Send + 'static,
) -> Result<Cluster> {
    tokio::task::spawn_blocking(move || act(&mut cluster).map(|()| cluster)).await?
}

fn get_ready(cluster: &mut Cluster) -> Result<()> {
    cluster.wait_ready();
    Ok(())
}

async fn create_topic(admin: &Admin, partitions: u32) -> Result<()> {
    let configs = CONFIGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let topic = NewTopic {
        name: TOPIC.to_owned(),
        partitions,
        configs: HashMap::from(configs),
        ..NewTopic::default()
    };
    admin.create_topic(topic).await?;
    Ok(())
}

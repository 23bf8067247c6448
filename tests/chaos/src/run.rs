//! One run: start, load under faults, heal, let everybody catch up, read the log, judge.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use geminga_check::{Checker, Event, Evidence, Report};
use geminga_client::{Admin, NewTopic, OffsetAt, ReaderConfig};
use geminga_runtime::Tasks;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::cluster::Cluster;
use crate::driver::Driver;
use crate::fault::Sizes;
use crate::history::{History, content, place, settle};
use crate::layout::Layout;
use crate::schedule::Schedule;
use crate::tally::Tally;
use crate::workload::{
    Context, GROUP, KINDS, Phase, STATIC_KINDS, TOPIC, group_names, groups, look, producers,
    python, statics,
};

/// How long anything may take after all is healed: longer than any timeout of a client.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long the clients of a run that was given up may take to end.
const GOODBYE: Duration = Duration::from_secs(10);
/// How often it is looked whether a group caught up.
const GLANCE: Duration = Duration::from_millis(200);
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
    let (means, hosts) = (layout.means(), layout.clients.clone());
    let cluster = Cluster::start(layout, seed, &dir, tasks).await?;
    let (servers, kafka) = (cluster.servers(), cluster.kafka_servers());
    let cluster = blocking(cluster, Cluster::wait_ready).await?;

    let about = format!(
        "geminga, seed {seed}, {} s, {} bookies, {} brokers, {} etcds{}",
        settings.duration.as_secs(),
        sizes.bookies,
        sizes.brokers,
        sizes.etcds,
        if means.packets { ", in namespaces" } else { "" },
    );
    let history = History::create(&dir.join("history.raw"), &about)?;
    let (phases, phase) = watch::channel(Phase::Load);
    let context = Context {
        servers,
        history: history.clone(),
        seed,
        partitions: settings.partitions,
        idempotence: settings.idempotence,
        tasks: tasks.clone(),
        tally: Tally::default(),
        hosts: hosts[..settings.producers].to_vec(),
        dir: dir.clone(),
        phase,
    };
    let client = context.client("chaos")?;
    let admin = client.admin();
    create_topic(&admin, settings.partitions).await?;

    let sending = tasks.spawn("load", producers(context.clone(), settings.producers));
    let (kafka_host, members) = hosts[settings.producers..].split_last().context("no host")?;
    let (mut names, members) = (group_names(members.len()), members.to_vec());
    let reading = tasks.spawn("groups", groups(context.clone(), members));
    let python = python();
    names.extend(python.is_some().then(|| GROUP.to_owned()));
    let of_kafka = python.clone().map(|python| {
        let statics = statics(context.clone(), kafka_host.clone(), python, kafka);
        tasks.spawn("static members", statics)
    });
    let whole = settings.duration >= WHOLE;
    let kinds = if whole { Schedule::kinds(sizes, means) } else { BTreeSet::new() };
    let to_feel = kinds.clone();
    let driver = Driver {
        schedule: Schedule::new(seed, settings.duration, sizes, means),
        again: move |kind: &str| Schedule::all_of(kind, seed, sizes, means),
        to_feel,
        history: history.clone(),
        duration: settings.duration,
        tally: context.tally.clone(),
        tasks: tasks.clone(),
    };
    let cluster = blocking(cluster, move |cluster| driver.drive(cluster)).await?;

    let healed = Instant::now();
    phases.send_replace(Phase::Settle);
    let sent = timeout(PATIENCE, sending).await;
    sent.context("producers do not end")??.context("producers panicked")??;
    let cluster = blocking(cluster, |cluster| {
        cluster.revive();
        cluster.wait_ready()
    });
    let cluster = cluster.await?;
    catch_up(&context, &admin, &names).await?;
    let settled_after = healed.elapsed();
    phases.send_replace(Phase::Over);
    let read = timeout(PATIENCE, reading).await;
    read.context("members do not leave")??.context("groups panicked")??;
    if let Some(of_kafka) = of_kafka {
        let read = timeout(PATIENCE, of_kafka).await;
        read.context("static members do not end")??.context("static members panicked")??;
    }
    timeout(PATIENCE, read_log(&client, &history)).await.context("the log cannot be read")??;
    client.close().await;
    history.check()?;

    let path = dir.join("history.jsonl");
    let (report, findings) = tokio::task::spawn_blocking(move || {
        settle(history.path(), &path)?;
        judge(&path)
    })
    .await??;
    let (tally, ended) = (context.tally, cluster.ended);
    let mut unfelt = Vec::new();
    if whole {
        let of_kafka = python.iter().flat_map(|_| STATIC_KINDS);
        let of_clients = KINDS.into_iter().chain(of_kafka).map(str::to_owned);
        unfelt = tally.unfelt(&kinds.into_iter().chain(of_clients).collect());
        if report.open_at_death == 0 {
            unfelt.push("a record on its way when its producer is killed".to_owned());
        }
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

/// Waits until every group has committed all that there is.
async fn catch_up(context: &Context, admin: &Admin, groups: &[String]) -> Result<()> {
    let ends = offsets(admin, OffsetAt::Latest).await?;
    for group in groups {
        let done = async {
            loop {
                let committed = look(context, admin, "chaos", group).await.unwrap_or_default();
                let behind = |(partition, end): (&u32, &u64)| {
                    committed.get(partition).copied().unwrap_or(0) < *end
                };
                if !ends.iter().any(behind) {
                    return;
                }
                tokio::time::sleep(GLANCE).await;
            }
        };
        if timeout(PATIENCE, done).await.is_err() {
            let committed = look(context, admin, "chaos", group).await;
            bail!("group {group} does not catch up: it has committed {committed:?} of {ends:?}");
        }
    }
    Ok(())
}

async fn offsets(admin: &Admin, at: OffsetAt) -> Result<BTreeMap<u32, u64>> {
    let known = admin.list_offsets(TOPIC, &[], at).await?;
    known.into_iter().map(|(partition, offset)| Ok((partition, u64::try_from(offset)?))).collect()
}

/// Reads the whole log, after its bounds were told.
async fn read_log(client: &geminga_client::Client, history: &History) -> Result<()> {
    let admin = client.admin();
    let starts = offsets(&admin, OffsetAt::Earliest).await?;
    let ends = offsets(&admin, OffsetAt::Latest).await?;
    ensure!(starts.len() == ends.len(), "bounds of some partitions are missing");
    let mut left = BTreeMap::new();
    for (partition, end) in ends {
        let start = starts.get(&partition).copied().unwrap_or(0);
        history.write("reader", Event::Log { place: place(TOPIC, partition), start, end });
        if start < end {
            left.insert(partition, end);
        }
    }
    let from = left.keys().map(|p| (*p, i64::try_from(starts[p]).unwrap_or(i64::MAX)));
    let mut reader = client.reader(TOPIC, from.collect::<Vec<_>>(), ReaderConfig::default());
    while !left.is_empty() {
        let records = reader.next().await?;
        let partition = records.from.partition;
        for record in records.records {
            let offset = u64::try_from(record.offset)?;
            let content = content(record.value.as_deref().unwrap_or_default());
            history
                .write("reader", Event::Read { place: place(TOPIC, partition), offset, content });
        }
        let next = u64::try_from(records.next_offset)?;
        left.retain(|other, end| *other != partition || next < *end);
    }
    Ok(())
}

fn judge(path: &Path) -> Result<(Report, String)> {
    let lines = || Ok::<_, std::io::Error>(BufReader::new(File::open(path)?).lines());
    let mut checker = Checker::new();
    for line in lines()? {
        checker.line(&line?)?;
    }
    let report = checker.finish()?;
    let cited = report.cited();
    let mut evidence = Evidence::new();
    if !cited.is_empty() {
        for (number, line) in (1..).zip(lines()?) {
            if cited.contains(&number) {
                evidence.insert(number, line?);
            }
        }
    }
    let findings = report.findings(&evidence);
    Ok((report, findings))
}

//! `geminga cluster audit`: the full audit of protocol 6.8, after metadata came from a backup. What is compared is decided by
//! [`geminga_ledger::core::audit`]; here it is collected, carried out and told.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, stream};
use geminga_ledger::core::audit::{self, Dropped, Incomplete, Report, Stranger, Unclosed};
use geminga_ledger::{Config, LedgerClient, take_inventory};
use geminga_metastore::record::{Cluster, Cookie, LedgerMeta};
use geminga_metastore::{MetaStore, cluster, keys, restored};
use geminga_proto::ids::{BookieId, EntryId, LedgerId, Member};
use geminga_runtime::{SystemRandom, Tasks};
use geminga_tier::Store;
use serde::Serialize;

use crate::args::PrintArgs;
use crate::command::ledger::{self, Place};
use crate::config::ObjectStoreOptions;
use crate::exit::{Exit, Failure};
use crate::metadata;
use crate::view::View;

mod relink;

/// Ledgers that are recovered at a time.
const AT_ONCE: usize = 8;

/// Arguments of `geminga cluster audit`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    objects: ObjectStoreOptions,
    /// Bookies that do not come back: what only they held is told as lost. Comma-separated.
    #[arg(long, value_name = "ID,...", value_delimiter = ',')]
    without: Vec<BookieId>,
    /// Compare and tell, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// How long the recovery of a ledger waits for bookies that do not answer.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    wait: Duration,
    #[command(flatten)]
    print: PrintArgs,
}

/// Audits.
pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let objects = args.objects.open(false)?;
    let tasks = Tasks::new("audit");
    let config = Config { recovery_deadline: args.wait, ..Config::default() };
    let client = ledger::connect(&args.place, &tasks, config).await?;
    let store = metadata::connect(&args.place.metastore, args.place.tls.load()?.as_ref()).await?;
    let Some((cluster, _)) = cluster::read(&*store).await? else {
        return Err(cluster::ClusterError::Missing.into());
    };
    let (mut view, ledgers_unread) = view(&*store, &client, &cluster).await?;
    let without: BTreeSet<_> = args.without.iter().collect();
    view.unanswered.retain(|member| !without.contains(&member.bookie));
    let report = audit::compare(&view);
    let mut told = Told::new(&cluster, &report, args.dry_run);
    told.unreadable = ledgers_unread;
    told.unanswered = view.unanswered.iter().map(Member::to_string).collect();
    told.name(&report, &view);
    if !args.dry_run && report.reused.is_empty() {
        told.recover(&client, &report.unclosed).await;
        told.relink(&*store, objects.as_ref(), &cluster, &report.dropped).await;
        told.audited = told.is_whole() && restored::note_audited(&*store, cluster.epoch).await?;
    }
    told.finish(args.print)
}

/// Everything that is compared, and ledgers whose metadata cannot be read.
async fn view(
    store: &dyn MetaStore,
    client: &LedgerClient,
    cluster: &Cluster,
) -> Result<(audit::View, Vec<String>), Failure> {
    // Local ledgers first: one that is made while this runs is no stranger then (G1).
    let mut view = audit::View { epoch: cluster.epoch, ..audit::View::default() };
    let cookies = store.range(keys::BOOKIE_COOKIES, None, usize::MAX).await?;
    let cookies: Vec<Cookie> = cookies
        .items
        .iter()
        .map(|item| Cookie::decode(&item.value.value))
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::new(format!("a bookie's cookie holds {error}")))?;
    take_inventory(client, &cookies, &mut view).await;
    let mut unread = Vec::new();
    for item in store.range(keys::LEDGERS, None, usize::MAX).await?.items {
        let Some(ledger) = keys::parse_ledger(&item.key) else { continue };
        match LedgerMeta::decode(ledger, &item.value.value) {
            Ok(meta) => drop(view.ledgers.insert(ledger, meta)),
            Err(_) => {
                view.held.remove(&ledger);
                unread.push(ledger.to_string());
            }
        }
    }
    Ok((view, unread))
}

/// What is printed.
#[derive(Debug, Default, Serialize)]
struct Told {
    cluster: String,
    cluster_epoch: u16,
    dry_run: bool,
    /// Whether brokers may start.
    audited: bool,
    ledgers_compared: u64,
    /// Disks that did not answer.
    unanswered: Vec<String>,
    recovered: Vec<Done>,
    /// Read from the object store from now on.
    relinked: Vec<Done>,
    failed: Vec<Failed>,
    quarantined: Vec<Quarantined>,
    lost: Vec<Lost>,
    unverified: Vec<String>,
    /// Ledgers whose metadata cannot be read.
    unreadable: Vec<String>,
    /// Ids of this epoch that the metadata does not know.
    reused: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Done {
    ledger_id: String,
    topic: String,
    partition: u32,
    last_entry: i64,
}

#[derive(Debug, Serialize)]
struct Failed {
    ledger_id: String,
    why: String,
}

#[derive(Debug, Serialize)]
struct Quarantined {
    ledger_id: String,
    bookies: Vec<String>,
    last_entry: i64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Lost {
    ledger_id: String,
    topic: String,
    partition: u32,
    first_offset: i64,
    /// The first entry that none of its bookies has.
    entry: i64,
    /// Bookies that the metadata does not name, and that have something of it.
    elsewhere: Vec<String>,
}

fn done(meta: &LedgerMeta) -> Done {
    Done {
        ledger_id: meta.id.to_string(),
        topic: meta.custom.name.clone(),
        partition: meta.custom.partition,
        last_entry: meta.last_entry.unwrap_or(EntryId::NONE).0,
    }
}

fn names(members: &[Member]) -> Vec<String> {
    members.iter().map(|member| member.bookie.to_string()).collect()
}

impl Told {
    fn new(cluster: &Cluster, report: &Report, dry_run: bool) -> Self {
        let ids = |ledgers: &[LedgerId]| ledgers.iter().map(LedgerId::to_string).collect();
        let stranger = |stranger: &Stranger| Quarantined {
            ledger_id: stranger.ledger.to_string(),
            bookies: names(&stranger.holders),
            last_entry: stranger.last.0,
            bytes: stranger.bytes,
        };
        Self {
            cluster: cluster.uuid.to_string(),
            cluster_epoch: cluster.epoch,
            dry_run,
            ledgers_compared: report.compared,
            quarantined: report.strangers.iter().map(stranger).collect(),
            unverified: ids(&report.unverified),
            reused: ids(&report.reused),
            ..Self::default()
        }
    }

    /// What is missing, by topic and place; with a dry run also what would be recovered.
    fn name(&mut self, report: &Report, view: &audit::View) {
        for Incomplete { ledger, entry, elsewhere } in &report.lost {
            let Some(meta) = view.ledgers.get(ledger) else { continue };
            self.lost.push(Lost {
                ledger_id: ledger.to_string(),
                topic: meta.custom.name.clone(),
                partition: meta.custom.partition,
                first_offset: meta.custom.first_offset,
                entry: entry.0,
                elsewhere: names(elsewhere),
            });
        }
        if self.dry_run {
            let of = |ledger: &LedgerId| view.ledgers.get(ledger).map(done);
            self.recovered.extend(report.unclosed.iter().filter_map(|one| of(&one.ledger)));
            self.relinked.extend(report.dropped.iter().filter_map(|one| of(&one.ledger)));
        }
    }

    async fn recover(&mut self, client: &LedgerClient, unclosed: &[Unclosed]) {
        let mut results = stream::iter(unclosed.iter().copied())
            .map(|Unclosed { ledger, sealed_epoch }| async move {
                let recover = async {
                    client.raise_seal_epoch(ledger, sealed_epoch).await?;
                    client.recover(ledger).await
                };
                (ledger, recover.await)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((ledger, result)) = results.next().await {
            match result {
                Ok(meta) => self.recovered.push(done(&meta)),
                Err(error) => {
                    let (ledger_id, why) = (ledger.to_string(), error.to_string());
                    self.failed.push(Failed { ledger_id, why });
                }
            }
        }
    }

    async fn relink(
        &mut self,
        store: &dyn MetaStore,
        objects: Option<&Store>,
        cluster: &Cluster,
        dropped: &[Dropped],
    ) {
        for one in dropped {
            let result = match objects {
                Some(objects) => {
                    relink::relink(store, objects, cluster.uuid, *one, &SystemRandom).await
                }
                None => Err(relink::Error::NoStore),
            };
            match result {
                Ok(meta) => self.relinked.push(done(&meta)),
                Err(error) => {
                    let (ledger_id, why) = (one.ledger.to_string(), error.to_string());
                    self.failed.push(Failed { ledger_id, why });
                }
            }
        }
    }

    /// Whether everybody was heard who may know better.
    fn is_whole(&self) -> bool {
        self.unanswered.is_empty() && self.reused.is_empty()
    }

    fn finish(self, print: PrintArgs) -> Result<(), Failure> {
        self.print(print)?;
        if !self.reused.is_empty() {
            let (count, epoch) = (self.reused.len(), self.cluster_epoch);
            return Err(Failure::new(format!(
                "{count} ledgers of this epoch are not in the metadata: the backup was restored before, and their ids would be given again: stop all servers and run `geminga cluster epoch-bump --above {epoch}`"
            ))
            .because("EPOCH_REUSED"));
        }
        if !self.unanswered.is_empty() {
            let who = self.unanswered.join(", ");
            return Err(Failure::with(
                Exit::Incomplete,
                format!(
                    "{who} did not answer: start them and run this again, or name those that do not come back with --without"
                ),
            )
            .because("BOOKIES_MISSING"));
        }
        if !self.failed.is_empty() {
            let count = self.failed.len();
            return Err(Failure::with(
                Exit::Incomplete,
                format!("{count} ledgers could not be recovered: see above, and run this again"),
            )
            .because("NOT_RECOVERED"));
        }
        Ok(())
    }
}

impl View for Told {
    fn text(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let mut line = |what: std::fmt::Arguments<'_>| {
            text.write_fmt(what).expect("memory takes it");
            text.push('\n');
        };
        let would = if self.dry_run { " (nothing was changed)" } else { "" };
        line(format_args!("Cluster {}, epoch {}{would}", self.cluster, self.cluster_epoch));
        line(format_args!("{} ledgers compared", self.ledgers_compared));
        for (what, all) in [("recovered", &self.recovered), ("in the object store", &self.relinked)]
        {
            line(format_args!("{} {what}", all.len()));
            for Done { ledger_id, topic, partition, last_entry } in all {
                line(format_args!("  {ledger_id}  {topic}/{partition}  ends at {last_entry}"));
            }
        }
        line(format_args!(
            "{} quarantined: only bookies know them; kept for seven days",
            self.quarantined.len()
        ));
        for Quarantined { ledger_id, bookies, last_entry, bytes } in &self.quarantined {
            let bookies = bookies.join(", ");
            line(format_args!("  {ledger_id}  up to {last_entry}, {bytes} bytes, on {bookies}"));
        }
        line(format_args!("{} lost, or deleted since the backup", self.lost.len()));
        for Lost { ledger_id, topic, partition, first_offset, entry, elsewhere } in &self.lost {
            line(format_args!(
                "  {ledger_id}  {topic}/{partition}  from offset {first_offset}, entry {entry} {}",
                elsewhere.join(", ")
            ));
        }
        for (what, ids) in [
            ("not verified", &self.unverified),
            ("with metadata that cannot be read", &self.unreadable),
            ("unknown, of this epoch", &self.reused),
        ] {
            if !ids.is_empty() {
                line(format_args!("{} {what}: {}", ids.len(), ids.join(", ")));
            }
        }
        for Failed { ledger_id, why } in &self.failed {
            line(format_args!("{ledger_id} FAILED: {why}"));
        }
        if self.audited {
            line(format_args!("Brokers may start."));
        }
        text
    }
}

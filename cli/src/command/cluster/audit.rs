//! `geminga cluster audit`: the full audit of protocol 6.8, after metadata came from a backup. What is compared is decided by
//! [`geminga_ledger::core::audit`]; here it is collected, carried out and told.
//!
//! * [`objects`]: what is in the object store. [`places`]: where segments are in their logs.
//! * [`relink`]: refers to an object again. [`told`]: what is printed, and what the command ends with.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, stream};
use geminga_ledger::core::audit::{self, Report};
use geminga_ledger::{
    Config, LedgerClient, RecoverError, ask_again, ask_for_tombstones, take_inventory,
};
use geminga_metastore::record::{Cluster, Cookie, LedgerMeta};
use geminga_metastore::{Horizon, MetaStore, cluster, keys, restored};
use geminga_proto::ids::{BookieId, LedgerId, Member};
use geminga_runtime::{SystemRandom, Tasks};

use self::objects::Objects;
use self::places::Places;
use self::told::{Told, done};
use crate::args::PrintArgs;
use crate::command::ledger::{self, Place};
use crate::config::ObjectStoreOptions;
use crate::exit::{Exit, Failure};
use crate::metadata;

mod objects;
mod places;
mod relink;
mod told;

/// Ledgers that are recovered, and objects that are asked for, at a time.
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
    /// Segments never were in another object store than the one that is given, or in none where none is given: what is not there was
    /// deleted.
    #[arg(long)]
    no_other_object_store: bool,
    /// The object store that is given is the cluster's, however much of what the metadata names is not in it: that was deleted. Its marker
    /// is looked at all the same.
    #[arg(long, requires = "object_store")]
    trust_object_store: bool,
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
    let tasks = Tasks::new("audit");
    let config = Config { recovery_deadline: args.wait, ..Config::default() };
    let client = ledger::connect(&args.place, &tasks, config).await?;
    let store = metadata::connect(&args.place.metastore, args.place.of_etcd()?.as_ref()).await?;
    let Some((cluster, _)) = cluster::read(&*store).await? else {
        return Err(cluster::ClusterError::Missing.into());
    };
    let (objects, uploads) = match args.objects.open(false)? {
        Some(objects) => {
            is_marked(&*store, &objects, &cluster).await?;
            Some(Objects::list(objects, cluster.uuid).await?).unzip()
        }
        None => (None, None),
    };
    let cookies = cookies(&*store).await?;
    let (mut view, unreadable) =
        view(&*store, &client, &cluster, (&cookies, &args.without)).await?;
    view.uploads = uploads;
    view.all_listed = args.no_other_object_store;
    if let Some(objects) = &objects {
        believe(objects, &mut view, args.trust_object_store).await?;
        if !view.all_listed {
            view.all_listed = !objects.are_some_elsewhere(&*store, &view).await?;
        }
        objects.find_unlisted(&mut view).await?;
    }
    let report = compare(&client, &cookies, &mut view).await?;
    let mut places = Places::default();
    let looked = objects.as_ref().zip(view.uploads.as_ref());
    let folded = objects::folded(&*store, looked, &mut places).await?;
    let mut told = Told::new(&cluster, &view, &report, args.dry_run);
    told.unreadable = unreadable;
    told.add_folded(folded);
    // Whoever was not heard may have more than the others: nothing is closed below that.
    if !args.dry_run && told.is_whole() {
        let act = Act { store: &*store, client: &client, objects: objects.as_ref(), view: &view };
        act.carry_out(&report, &mut told).await;
        told.audited =
            told.failed.is_empty() && restored::note_audited(&*store, cluster.epoch).await?;
    }
    places.add_segments(&*store, &deleted(&report)).await?;
    // While something is not known, what seems to be gone may be there.
    if told.audited {
        told.follow = places.follow(&*store).await?;
    }
    told.finish(args.print)
}

/// Refuses a store whose marker says that it is not the cluster's.
async fn is_marked(
    metadata: &dyn MetaStore,
    objects: &geminga_tier::Store,
    cluster: &Cluster,
) -> Result<(), Failure> {
    geminga_tier::check(metadata, objects, cluster.uuid).await.map_err(|error| {
        match error.is_refusal() {
            true => Failure::new(error).because("OTHER_OBJECT_STORE"),
            false => Failure::with(Exit::Unreachable, error).because("OBJECT_STORE_UNAVAILABLE"),
        }
    })
}

/// Refuses the listing of what is not the cluster's object store. That it is, is taken on trust where much is missing; where all is, the
/// marker must say so as well.
async fn believe(objects: &Objects, view: &mut audit::View, trust: bool) -> Result<(), Failure> {
    if matches!(audit::doubt(view), Some(audit::Doubt::Lacks { .. })) {
        objects.find_begins(view).await?;
    }
    let Some(doubt) = audit::doubt(view) else { return Ok(()) };
    if trust && (doubt != audit::Doubt::Empty || objects.is_marked().await?) {
        return Ok(());
    }
    if trust {
        return Err(Failure::new(format!(
            "{doubt}, and no marker says that it is the cluster's, so that it cannot be trusted, and nothing was changed: correct --object-store, or mount the directory; where segments never were in any object store, say --no-other-object-store and leave --object-store out"
        ))
        .because("OTHER_OBJECT_STORE"));
    }
    Err(Failure::new(format!(
        "{doubt}: it may be another object store than the cluster's, and nothing was changed: correct --object-store, or, when bucket and prefix are right, say so with --trust-object-store: what is not there is given up then"
    ))
    .because("OTHER_OBJECT_STORE"))
}

/// Compares. What seems to be lost is asked for once more first.
async fn compare(
    client: &LedgerClient,
    cookies: &[Cookie],
    view: &mut audit::View,
) -> Result<Report, Failure> {
    let report = audit::compare(view);
    let lost: BTreeSet<LedgerId> = report.lost.iter().map(|lost| lost.ledger).collect();
    if lost.is_empty() {
        return Ok(report);
    }
    ask_again(client, cookies, &lost, view).await?;
    Ok(audit::compare(view))
}

/// Ledgers that were deleted since. What is lost is none of them: a bookie may come back with it.
fn deleted(report: &Report) -> BTreeSet<LedgerId> {
    let lost = report.lost.iter().filter(|lost| lost.deleted).map(|lost| lost.ledger);
    lost.chain(report.gone.iter().copied()).chain(report.ended.iter().copied()).collect()
}

/// All bookies that the metadata knows.
async fn cookies(store: &dyn MetaStore) -> Result<Vec<Cookie>, Failure> {
    let cookies = store.range(keys::BOOKIE_COOKIES, None, usize::MAX).await?;
    cookies
        .items
        .iter()
        .map(|item| Cookie::decode(&item.value.value))
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::new(format!("a bookie's cookie holds {error}")))
}

/// Everything that is compared, and ledgers whose metadata cannot be read.
async fn view(
    store: &dyn MetaStore,
    client: &LedgerClient,
    cluster: &Cluster,
    (cookies, without): (&[Cookie], &[BookieId]),
) -> Result<(audit::View, Vec<String>), Failure> {
    // Local ledgers first, and the counter of ids last: one that is made while this runs is no stranger then (G1).
    let mut view = audit::View::new(Horizon::new(cluster.clone(), 0));
    take_inventory(client, cookies, &mut view).await;
    view.unanswered.retain(|member| !without.contains(&member.bookie));
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
    view.horizon = Horizon::read(store).await?.ok_or(cluster::ClusterError::Missing)?;
    ask_for_tombstones(client, &mut view).await;
    Ok((view, unread))
}

/// What it takes to carry a report out.
struct Act<'a> {
    store: &'a dyn MetaStore,
    client: &'a LedgerClient,
    objects: Option<&'a Objects>,
    view: &'a audit::View,
}

impl Act<'_> {
    /// Each ledger on its own: what fails is told, and stops nothing else.
    async fn carry_out(&self, report: &Report, told: &mut Told) {
        let mut results = stream::iter(&report.unclosed)
            .map(|ledger| async move { (*ledger, self.recover(*ledger).await) })
            .buffer_unordered(AT_ONCE);
        while let Some((ledger, result)) = results.next().await {
            match result {
                Ok(meta) => told.recovered.push(done(&meta)),
                Err(error) => told.fail(ledger, error),
            }
        }
        drop(results);
        for ledger in &report.ended {
            match self.client.close_deleted(*ledger).await {
                Ok(_) => {}
                Err(error) => told.fail(*ledger, error),
            }
        }
        for ledger in &report.moved {
            match self.client.adopt_moved(*ledger, self.view.holders(*ledger)).await {
                Ok(meta) => told.moved.extend(meta.as_ref().map(done)),
                Err(error) => told.fail(*ledger, error),
            }
        }
        for dropped in &report.dropped {
            match self.relink(dropped).await {
                Ok(meta) => told.relinked.push(done(&meta)),
                // Its end stands for ever (M2), so that nothing can be done about it.
                Err(relink::Error::OtherEnd) => told.other_end.push(dropped.ledger.to_string()),
                Err(error) => told.fail(dropped.ledger, error),
            }
        }
        let held = |ledger: &LedgerId| {
            self.view.holders(*ledger).iter().any(|holder| !holder.local.runs.is_empty())
        };
        for ledger in report.gone.iter().filter(|ledger| !held(ledger)) {
            if let Err(error) = self.client.note_gone(*ledger).await {
                told.fail(*ledger, error);
            }
        }
    }

    /// Where too many members have its tombstone, what is left of it ends where that does: an owner had given all of it up.
    async fn recover(&self, ledger: LedgerId) -> Result<LedgerMeta, RecoverError> {
        self.client.prepare_recovery(ledger, self.view.holders(ledger)).await?;
        let deleted = self.view.tombstones.get(&ledger);
        match (self.client.recover(ledger).await, deleted) {
            (Err(RecoverError::Missing { missing, .. }), Some(deleted))
                if missing.iter().all(|member: &Member| deleted.contains(member)) =>
            {
                self.client.force_close(ledger).await
            }
            (result, _) => result,
        }
    }

    async fn relink(&self, dropped: &audit::Dropped) -> Result<LedgerMeta, relink::Error> {
        let objects = self.objects.ok_or(relink::Error::NoStore)?;
        let cluster = self.view.horizon.cluster.uuid;
        relink::relink(self.store, objects.store(), cluster, dropped, &SystemRandom).await
    }
}

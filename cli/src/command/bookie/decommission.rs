//! `geminga bookie decommission`: says in the metadata that bookies are to leave, where the others can do without them, and
//! watches until they have. The auditor and the workers of the bookies do the rest, also when nobody watches.

mod check;
mod watch;

use std::sync::Arc;

use geminga_metastore::record::{Cookie, DrainingBookie, LedgerMeta, LiveBookie, Topic};
use geminga_metastore::{Guard, MetaStore, Txn, keys};
use geminga_proto::ids::{BookieId, InvalidBookieId};
use geminga_runtime::{SystemClock, WallClock};

use super::list::ledgers;
use crate::args::PrintArgs;
use crate::command::topic::done;
use crate::config::{EtcdTlsArgs, MetastoreUrl};
use crate::exit::Failure;
use crate::metadata;
use check::{Facts, Refusal};

/// Arguments of `geminga bookie decommission`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The bookie's name.
    #[arg(value_name = "ID", required_unless_present = "ordinal_from", conflicts_with = "ordinal_from", value_parser = bookie_id)]
    bookie: Option<BookieId>,
    /// All bookies whose name ends with a dash and a number that is not below this: those that a Kubernetes StatefulSet of so
    /// many replicas has too many.
    #[arg(long, value_name = "N")]
    ordinal_from: Option<u64>,
    /// With --ordinal-from, only those whose name is this before the dash: the StatefulSet's own name.
    #[arg(long, value_name = "NAME", requires = "ordinal_from")]
    set: Option<String>,
    /// Wait until they have left, and say on standard error how much is left.
    #[arg(long)]
    wait: bool,
    /// Take it back: they stay. What was copied meanwhile stays where it is.
    #[arg(long, conflicts_with = "wait")]
    cancel: bool,
    /// Where: etcd://HOST:PORT[,HOST:PORT...][/CLUSTER].
    #[arg(long, value_name = "URL", env = "GEMINGA_METASTORE")]
    metastore: MetastoreUrl,
    #[command(flatten)]
    tls: EtcdTlsArgs,
    #[command(flatten)]
    print: PrintArgs,
}

fn bookie_id(text: &str) -> Result<BookieId, String> {
    text.parse().map_err(|error: InvalidBookieId| error.to_string())
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let store =
        metadata::connect(&args.metastore, args.tls.load(&args.metastore)?.as_ref()).await?;
    let cluster = Cluster::read(&*store, &args.metastore, &args.tls).await?;
    let asked = cluster.choose(args.bookie.as_ref(), args.ordinal_from, args.set.as_deref())?;
    let names = asked.iter().map(BookieId::as_str).collect::<Vec<_>>().join(", ");
    if asked.is_empty() {
        return done("there is no such bookie: nothing to do", args.print.output);
    }
    if args.cancel {
        for bookie in &asked {
            store.txn(Txn::new().delete(keys::bookie_draining(bookie))).await?;
        }
        return done(&format!("{names} stays"), args.print.output);
    }
    // Those that leave already were judged when they began.
    if asked.iter().any(|bookie| !cluster.draining.contains(bookie)) {
        cluster.check(&asked)?;
    }
    for bookie in &asked {
        begin(&store, bookie).await?;
    }
    if !args.wait {
        let text = format!(
            "{names} is being decommissioned: watch it with `geminga bookie decommission … --wait`"
        );
        return done(&text, args.print.output);
    }
    watch::until_left(&*store, asked, &mut |line: &str| eprintln!("{line}")).await?;
    done(&format!("{names} is decommissioned"), args.print.output)
}

/// Puts the key, unless it is there; the bookie must be known still.
async fn begin(store: &Arc<dyn MetaStore>, bookie: &BookieId) -> Result<(), Failure> {
    let (key, cookie) = (keys::bookie_draining(bookie), keys::bookie_cookie(bookie));
    let Some(known) = store.get(&cookie).await? else { return Ok(()) };
    let value = DrainingBookie { since_ms: SystemClock.now_ms() }.encode();
    let txn = Txn::new()
        .guard(Guard::Absent(key.clone()))
        .guard(Guard::Created(cookie, known.created))
        .put(key, value);
    // A guard that fails: it leaves already, or has left.
    store.txn(txn).await?;
    Ok(())
}

/// What is there.
struct Cluster {
    known: Vec<BookieId>,
    draining: Vec<BookieId>,
    live: Vec<LiveBookie>,
    ledgers: Vec<LedgerMeta>,
    topics: Vec<(String, Topic)>,
}

impl Cluster {
    async fn read(
        store: &dyn MetaStore,
        metastore: &MetastoreUrl,
        tls: &EtcdTlsArgs,
    ) -> Result<Self, Failure> {
        let bookies = store.range(keys::BOOKIES, None, usize::MAX).await?.items;
        let of = |prefix: &'static str| {
            bookies
                .iter()
                .filter(move |item| item.key.starts_with(prefix))
                .map(|item| &item.value.value)
        };
        let topics = store.range(keys::TOPICS, None, usize::MAX).await?.items;
        let topic = |item: &geminga_metastore::KeyValue| {
            let (_, name) = keys::parse_topic(&item.key)?;
            Some((name.to_owned(), Topic::decode(&item.value.value).ok()?))
        };
        Ok(Self {
            known: of(keys::BOOKIE_COOKIES)
                .filter_map(|value| Some(Cookie::decode(value).ok()?.bookie))
                .collect(),
            draining: bookies.iter().filter_map(|i| keys::parse_bookie_draining(&i.key)).collect(),
            live: of(keys::BOOKIES_LIVE).filter_map(|v| LiveBookie::decode(v).ok()).collect(),
            ledgers: ledgers(metastore, tls).await?,
            topics: topics.iter().filter_map(topic).collect(),
        })
    }

    fn choose(
        &self,
        one: Option<&BookieId>,
        from: Option<u64>,
        set: Option<&str>,
    ) -> Result<Vec<BookieId>, Failure> {
        let Some(from) = from else {
            let asked: Vec<BookieId> =
                self.known.iter().filter(|k| Some(*k) == one).cloned().collect();
            return match (asked.is_empty(), one) {
                (true, Some(one)) => Err(Failure::new(format!(
                    "bookie {one} is not known: correct the name, see `geminga bookie list`, or it has been decommissioned already"
                ))
                .because("UNKNOWN_BOOKIE")),
                _ => Ok(asked),
            };
        };
        let ordinal = |bookie: &BookieId| {
            let (name, number) = bookie.as_str().rsplit_once('-')?;
            if set.is_some_and(|set| set != name) {
                return None;
            }
            number.parse::<u64>().ok()
        };
        let asked = self.known.iter().filter(|known| ordinal(known).is_some_and(|n| n >= from));
        Ok(asked.cloned().collect())
    }

    /// Whether the others could hold the data and the quorums.
    fn check(&self, asked: &[BookieId]) -> Result<(), Refusal> {
        let copies = self.topics.iter().map(|(name, topic)| (topic.write_quorum, name.as_str()));
        let Self { draining, live, ledgers, .. } = self;
        Facts { asked, draining, live, ledgers, copies: copies.collect() }.check()
    }
}

#[cfg(test)]
mod tests;

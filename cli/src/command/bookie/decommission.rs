//! `geminga bookie decommission`: says in the metadata that bookies are to leave, where the others can do without them, and
//! watches until they have. The auditor and the workers of the bookies do the rest, also when nobody watches.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::record::{Cookie, DrainingBookie, LedgerMeta, LiveBookie, Topic};
use geminga_metastore::{Guard, MetaStore, Txn, keys};
use geminga_proto::ids::{BookieId, InvalidBookieId};
use geminga_runtime::{SystemClock, WallClock};

use super::list::{ledgers, named};
use crate::args::PrintArgs;
use crate::command::topic::done;
use crate::config::{EtcdTlsArgs, MetastoreUrl};
use crate::exit::Failure;
use crate::metadata;

/// Between two looks at what is left.
const POLL: Duration = Duration::from_secs(1);
/// So much of a disk is never filled by repairs.
const KEPT_FREE_PERCENT: u64 = 10;

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
    wait(&*store, &args.metastore, &args.tls, asked).await?;
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

/// Until none of them is known any more.
async fn wait(
    store: &dyn MetaStore,
    metastore: &MetastoreUrl,
    tls: &EtcdTlsArgs,
    mut left: Vec<BookieId>,
) -> Result<(), Failure> {
    let mut said = BTreeMap::new();
    loop {
        let mut still = Vec::new();
        for bookie in left {
            if store.get(&keys::bookie_cookie(&bookie)).await?.is_none() {
                eprintln!("{bookie}: has left");
            } else if store.get(&keys::bookie_draining(&bookie)).await?.is_none() {
                return Err(Failure::new(format!(
                    "the decommission of {bookie} was taken back meanwhile"
                ))
                .because("DECOMMISSION_CANCELLED"));
            } else {
                still.push(bookie);
            }
        }
        left = still;
        if left.is_empty() {
            return Ok(());
        }
        let all = ledgers(metastore, tls).await?;
        for bookie in &left {
            let count = all.iter().filter(|meta| named(meta).contains(bookie)).count();
            if said.insert(bookie.clone(), count) != Some(count) {
                eprintln!("{bookie}: {count} ledgers left");
            }
        }
        tokio::time::sleep(POLL).await;
    }
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
    fn check(&self, asked: &[BookieId]) -> Result<(), Failure> {
        let leaves = |bookie: &BookieId| asked.contains(bookie) || self.draining.contains(bookie);
        let writable =
            |live: &&LiveBookie| !leaves(&live.id) && live.disks.iter().any(|disk| disk.writable);
        let left: Vec<&LiveBookie> = self.live.iter().filter(writable).collect();
        let held: Vec<&LedgerMeta> =
            self.ledgers.iter().filter(|meta| named(meta).iter().any(leaves)).collect();
        let of_ledgers = held.iter().map(|meta| (meta.qw, meta.custom.name.as_str()));
        let of_topics = self.topics.iter().map(|(name, topic)| (topic.write_quorum, name.as_str()));
        let most = of_ledgers.chain(of_topics).max_by_key(|(copies, _)| *copies);
        if let Some((copies, topic)) = most
            && left.len() < usize::from(copies)
        {
            return Err(Failure::new(format!(
                "{} bookies would be left that take data, and topic {topic} keeps {copies} copies: add bookies first",
                left.len()
            ))
            .because("TOO_FEW_BOOKIES"));
        }
        if let Some(single) = held.iter().find(|meta| meta.qw == 1) {
            return Err(Failure::new(format!(
                "the only copy of ledger {} of topic {} is there, and an only copy is never moved: delete the topic, or wait for its retention",
                single.id, single.custom.name
            ))
            .because("ONLY_COPY"));
        }
        let needed: u64 = held.iter().map(|meta| moved(meta, &leaves)).sum();
        let room: u64 = left
            .iter()
            .flat_map(|live| &live.disks)
            .map(|disk| disk.free_bytes.saturating_sub(disk.total_bytes / 100 * KEPT_FREE_PERCENT))
            .sum();
        if needed > room {
            return Err(Failure::new(format!(
                "{needed} bytes are to be copied, and the others have room for {room}: add bookies, or free space first"
            ))
            .because("NO_ROOM"));
        }
        Ok(())
    }
}

/// Payload bytes that have to find another place, at most.
fn moved(meta: &LedgerMeta, leaves: &impl Fn(&BookieId) -> bool) -> u64 {
    meta.length * named(meta).iter().filter(|bookie| leaves(bookie)).count() as u64
}

#[cfg(test)]
mod tests;

//! What is known of a cluster: its metadata, and what each of its processes, etcd and the object store say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use geminga_metastore::record::{
    AbsentBookie, Assign, Broker, Cluster, Cookie, Drain, DrainingBookie, LedgerMeta, LedgerState,
    LiveBookie, Topic, Under,
};
use geminga_metastore::{EtcdHealth, MetaStore, Range, keys};
use geminga_proto::ids::{BookieId, BrokerId, ClusterUuid};
use geminga_runtime::{SystemClock, WallClock};
use geminga_tier::Store;
use geminga_tls::Dial;
use tokio::time::timeout;

use super::Args;
use super::page::{self, Page};
use crate::command::bookie;
use crate::exit::Failure;
use crate::metadata::Way;

/// How many processes are asked at a time.
const AT_A_TIME: usize = 16;
/// How long the object store may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// By this etcd says what its database may take.
const QUOTA: &str = "etcd_server_quota_backend_bytes";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// When it was looked, milliseconds since the Unix epoch, by the clock here.
    pub(super) now_ms: i64,
    /// `None`: there is no cluster.
    pub(super) cluster: Option<Cluster>,
    /// Whether a broker is the coordinator.
    pub(super) coordinated: bool,
    /// Whether a bookie is the auditor.
    pub(super) auditing: bool,
    /// Those that are registered.
    pub(super) brokers: Vec<Broker>,
    /// Brokers that are to own nothing, and since when.
    pub(super) drains: BTreeMap<BrokerId, i64>,
    /// All that are known.
    pub(super) bookies: BTreeMap<BookieId, Known>,
    /// The largest quorums that topics ask for: copies, and durable ones.
    pub(super) quorums: (u8, u8),
    /// Partitions that nobody who is registered owns, by topic.
    pub(super) unowned: BTreeMap<String, usize>,
    /// The ledgers that are short of copies.
    pub(super) marks: Vec<Under>,
    /// Keys whose values cannot be read.
    pub(super) unreadable: Vec<String>,
    /// What processes say: their name, and a page or why there is none.
    pub(super) pages: Vec<(String, Result<Page, String>)>,
    /// A bookie that is away for longer, in milliseconds, is not being restarted.
    pub(super) restart_ms: i64,
    /// A disk with less than so many percent free is to be watched.
    pub(super) low_disk: u8,
    /// What the members of etcd say.
    pub(super) etcd: EtcdHealth,
    /// Why the object store cannot be used, if it was asked.
    pub(super) no_objects: Option<String>,
}

/// A bookie that the metadata knows.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What it registered.
    pub(super) live: Option<LiveBookie>,
    /// Since when it is away, as the auditor saw it.
    pub(super) absent_ms: Option<i64>,
    /// Since when it is decommissioned.
    pub(super) draining_ms: Option<i64>,
    /// How many ledgers name it.
    pub(super) ledgers: usize,
}

/// Reads the metadata and, unless that is to be all, asks all processes.
///
/// # Errors
/// When the metadata cannot be read.
pub(super) async fn gather(args: &Args) -> Result<Facts, Failure> {
    let restart_ms = i64::try_from(args.gone_after.as_millis()).unwrap_or(i64::MAX);
    let low_disk = args.low_disk;
    let mut facts =
        Facts { now_ms: SystemClock.now_ms(), restart_ms, low_disk, ..Facts::default() };
    let objects = args.objects.open(false)?;
    let way = Way::to(&args.place.metastore, args.place.of_etcd()?.as_ref())?;
    let store = way.connect().await?;
    let read = |prefix: &'static str| store.range(prefix, None, usize::MAX);
    facts.cluster(&read(keys::CLUSTER).await?);
    facts.coordinated = !read(keys::COORDINATOR).await?.items.is_empty();
    facts.auditing = !read(keys::AUDITOR).await?.items.is_empty();
    facts.brokers(&read(keys::BROKERS).await?, &read(keys::DRAINS).await?);
    facts.bookies(&read(keys::BOOKIES).await?);
    facts.ledgers(&read(keys::LEDGERS).await?);
    facts.topics(&read(keys::TOPICS).await?, &read(keys::ASSIGN).await?);
    facts.marks(&read(keys::UNDER).await?);
    if let (Some(objects), Some(cluster)) = (objects, &facts.cluster) {
        facts.no_objects = unusable(&*store, &objects, cluster.uuid).await;
    }
    if !args.metadata_only {
        facts.etcd = etcd(&way).await;
        let dial = args.place.tls.load()?.map_or(Dial::Plain, Dial::Tls);
        facts.pages = pages(&facts, dial).await;
    }
    Ok(facts)
}

/// What its members say. Versions that do not say their quota there have it among their metrics.
async fn etcd(way: &Way) -> EtcdHealth {
    let (mut health, dial) = way.health().await;
    for (endpoint, answer) in &mut health.members {
        let Ok(member) = answer else { continue };
        if member.quota_bytes.is_none()
            && let Ok(samples) = page::metrics(dial, endpoint).await
            && let Some(quota) = samples.iter().find(|sample| sample.name == QUOTA)
        {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes")]
            let bytes = quota.value as u64;
            member.quota_bytes = Some(bytes);
        }
    }
    health
}

/// Why it does not hold what is the cluster's, or does not say.
async fn unusable(
    metadata: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
) -> Option<String> {
    match timeout(PATIENCE, geminga_tier::check(metadata, objects, cluster)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) if error.is_refusal() => Some(error.to_string()),
        Ok(Err(error)) => {
            Some(format!("the object store {} does not answer: {error}", objects.place()))
        }
        Err(_) => {
            let place = objects.place();
            Some(format!("the object store {place} does not answer within {PATIENCE:?}"))
        }
    }
}

/// Asks all that said where they serve HTTP.
async fn pages(facts: &Facts, dial: Dial) -> Vec<(String, Result<Page, String>)> {
    let brokers = facts.brokers.iter().map(|b| (format!("broker {}", b.id), &b.http_address));
    let bookies = facts.bookies.values().filter_map(|known| known.live.as_ref());
    let bookies = bookies.map(|live| (live.id.to_string(), &live.http_address));
    let all = brokers.chain(bookies).filter(|(_, address)| !address.is_empty());
    let asked: Vec<_> = all
        .map(|(name, address)| {
            let (dial, address) = (dial.clone(), address.clone());
            async move {
                let page = page::read(&dial, &address).await;
                (name, page.map_err(|why| format!("{address}: {why}")))
            }
        })
        .collect();
    stream::iter(asked).buffered(AT_A_TIME).collect().await
}

impl Facts {
    /// Bookies that are registered.
    pub(super) fn live(&self) -> Vec<LiveBookie> {
        self.bookies.values().filter_map(|known| known.live.clone()).collect()
    }

    /// Whether it is not being decommissioned.
    pub(super) fn stays(&self, live: &LiveBookie) -> bool {
        self.bookies.get(&live.id).is_none_or(|known| known.draining_ms.is_none())
    }

    fn cluster(&mut self, range: &Range) {
        for item in range.items.iter().filter(|item| item.key == keys::CLUSTER) {
            self.cluster = self.readable(&item.key, Cluster::decode(&item.value.value));
        }
    }

    fn brokers(&mut self, brokers: &Range, drains: &Range) {
        for item in &brokers.items {
            let broker = self.readable(&item.key, Broker::decode(&item.value.value));
            self.brokers.extend(broker);
        }
        for item in &drains.items {
            let Some(id) = keys::parse_drain(&item.key) else { continue };
            if let Some(drain) = self.readable(&item.key, Drain::decode(&item.value.value)) {
                self.drains.insert(id, drain.since_ms);
            }
        }
    }

    fn bookies(&mut self, range: &Range) {
        for item in &range.items {
            let value = &item.value.value;
            if item.key.starts_with(keys::BOOKIE_COOKIES) {
                if let Some(cookie) = self.readable(&item.key, Cookie::decode(value)) {
                    self.bookies.entry(cookie.bookie).or_default();
                }
            } else if let Some(id) = keys::parse_bookie_live(&item.key) {
                let live = self.readable(&item.key, LiveBookie::decode(value));
                self.bookies.entry(id).or_default().live = live;
            } else if let Some(id) = keys::parse_bookie_absent(&item.key) {
                if let Some(absent) = self.readable(&item.key, AbsentBookie::decode(value)) {
                    self.bookies.entry(id).or_default().absent_ms = Some(absent.since_ms);
                }
            } else if let Some(id) = keys::parse_bookie_draining(&item.key)
                && let Some(draining) = self.readable(&item.key, DrainingBookie::decode(value))
            {
                self.bookies.entry(id).or_default().draining_ms = Some(draining.since_ms);
            }
        }
    }

    fn ledgers(&mut self, range: &Range) {
        for item in &range.items {
            let Some(ledger) = keys::parse_ledger(&item.key) else { continue };
            let meta = self.readable(&item.key, LedgerMeta::decode(ledger, &item.value.value));
            let lives = |meta: &LedgerMeta| meta.state != LedgerState::Deleting;
            let Some(meta) = meta.filter(lives) else { continue };
            for bookie in bookie::holders(&meta) {
                if let Some(known) = self.bookies.get_mut(&bookie) {
                    known.ledgers += 1;
                }
            }
        }
    }

    fn topics(&mut self, topics: &Range, assign: &Range) {
        let there: BTreeSet<BrokerId> = self.brokers.iter().map(|broker| broker.id).collect();
        let mut owned: BTreeMap<_, BTreeSet<u32>> = BTreeMap::new();
        for item in &assign.items {
            let Some((topic, chunk)) = keys::parse_assign(&item.key) else { continue };
            let Some(part) = self.readable(&item.key, Assign::decode(&item.value.value)) else {
                continue;
            };
            let Some(first) = chunk.checked_mul(geminga_proto::caps::ASSIGN_CHUNK) else {
                self.unreadable.push(item.key.clone());
                continue;
            };
            let with_owner = part.partitions.iter().zip(first..);
            // One that is gone serves nothing until the coordinator gives its partitions away.
            let with_owner = with_owner
                .filter(|(one, _)| one.broker.is_some_and(|owner| there.contains(&owner)));
            owned.entry(topic).or_default().extend(with_owner.map(|(_, partition)| partition));
        }
        for item in &topics.items {
            let Some((namespace, name)) = keys::parse_topic(&item.key) else { continue };
            let Some(topic) = self.readable(&item.key, Topic::decode(&item.value.value)) else {
                continue;
            };
            let (copies, durable) = self.quorums;
            self.quorums = (copies.max(topic.write_quorum), durable.max(topic.ack_quorum));
            let partitions = topic.partitions as usize;
            let missing =
                partitions - owned.get(&topic.id).map_or(0, BTreeSet::len).min(partitions);
            if missing > 0 {
                self.unowned.insert(format!("{namespace}/{name}"), missing);
            }
        }
    }

    fn marks(&mut self, range: &Range) {
        for item in &range.items {
            let Some(ledger) = keys::parse_under(&item.key) else { continue };
            let mark = self.readable(&item.key, Under::decode(ledger, &item.value.value));
            self.marks.extend(mark);
        }
    }

    /// A value, or a note that it is none.
    fn readable<T, E>(&mut self, key: &str, decoded: Result<T, E>) -> Option<T> {
        if decoded.is_err() {
            self.unreadable.push(key.to_owned());
        }
        decoded.ok()
    }
}

#[cfg(test)]
mod tests {
    use geminga_metastore::record::{Assignment, Features};
    use geminga_metastore::{KeyValue, LeaseId, Revision, Version, Versioned};
    use geminga_proto::ids::{Term, TopicId};

    use super::*;

    fn range(key: String, value: bytes::Bytes) -> Range {
        let value = Versioned { value, version: Version(1), created: Revision(1) };
        Range { items: vec![KeyValue { key, value }], revision: Revision(1), more: false }
    }

    /// What a broker has that is gone nobody serves.
    #[test]
    fn only_who_is_registered_owns() {
        let id = TopicId::from_random(1);
        let configs = BTreeMap::new();
        let topic = Topic {
            id,
            partitions: 4,
            write_quorum: 3,
            ack_quorum: 2,
            replication_factor: None,
            configs,
            created_ms: 0,
        };
        let owners = [Some(BrokerId(1)), Some(BrokerId(2)), Some(BrokerId(1)), None];
        let partitions = owners.map(|broker| Assignment { broker, term: Term(1) }).into();
        let there = Broker {
            id: BrokerId(1),
            grpc_address: "a:1".to_owned(),
            http_address: String::new(),
            zone: String::new(),
            lease: LeaseId(2),
            started_ms: 0,
            load: None,
            kafka: Vec::new(),
            features: Features::ALL,
        };
        let mut facts = Facts { brokers: vec![there], ..Facts::default() };
        facts.topics(
            &range(keys::topic("default", "t"), topic.encode()),
            &range(keys::assign(id, 0), Assign { partitions }.encode()),
        );
        assert_eq!(facts.unowned, BTreeMap::from([("default/t".to_owned(), 2)]));
        assert_eq!(facts.unreadable, Vec::<String>::new());
    }
}

//! Bookies that tier: a closed ledger becomes an object, every copy goes, and what a bookie then says is where to look.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use geminga_bookie::{TieringConfig, TieringParts};
use geminga_ledger::Outcome;
use geminga_metastore::record::{Custom, LedgerMeta, LedgerState, Tier, TierObject, Topic};
use geminga_metastore::{MetaStore, keys};
use geminga_proto::bookie::{Code, QueryOp, QueryRequest, Scope, WriteOp, WriteRequest};
use geminga_proto::ids::{EntryId, LedgerId, SealEpoch, TopicId};
use geminga_runtime::{SystemClock, SystemRandom};
use geminga_tier::faulty::{Call, Fault, Faulty};
use geminga_tier::{Object, Store};

use crate::quorum::Cluster;
use crate::support::{LONG, Node, attributes};

pub(crate) const SOON: TieringConfig = TieringConfig {
    interval: Duration::from_millis(50),
    local_retention: Duration::from_millis(1),
    upload_rate: None,
    take_over: Duration::from_millis(300),
    sweep_interval: Duration::from_millis(100),
    sweep_age: Duration::ZERO,
    fold_interval: Duration::from_millis(100),
    fold_keep: 2,
    fold_at: 3,
};

pub(crate) async fn tier(
    node: &Node,
    store: &Arc<dyn MetaStore>,
    objects: &Store,
    config: TieringConfig,
) {
    let (random, clock) = (Arc::new(SystemRandom), Arc::new(SystemClock));
    let (store, objects) = (Arc::clone(store), objects.clone());
    node.bookie.tier(TieringParts { store, objects, random, clock, config }).await.unwrap();
}

/// A topic that asks for it.
pub(crate) async fn topic(store: &dyn MetaStore) -> Custom {
    let id = TopicId::from_random(77);
    let topic = Topic {
        id,
        partitions: 1,
        write_quorum: 3,
        ack_quorum: 2,
        replication_factor: None,
        configs: [("remote.storage.enable".to_owned(), "true".to_owned())].into(),
        created_ms: 0,
    };
    let key = keys::topic("default", "flights");
    store.put_if(&key, None, topic.encode()).await.unwrap().unwrap();
    let (namespace, name) = ("default".to_owned(), "flights".to_owned());
    Custom { topic: id, namespace, name, ..Custom::default() }
}

/// A closed ledger of so many entries of 100 KB, and their payloads.
pub(crate) async fn closed(
    cluster: &Cluster,
    custom: Custom,
    entries: i64,
) -> (LedgerId, Vec<Bytes>) {
    let mut writer = cluster.create_of(custom).await;
    let payloads: Vec<Bytes> = (0..entries).map(|n| Bytes::from(vec![n as u8; 100_000])).collect();
    for (at, payload) in payloads.iter().enumerate() {
        let appended = writer.append(attributes(at as i64), &payload.clone().into());
        let outcome = appended.unwrap().2.await;
        assert_eq!(outcome, Outcome::Acked);
    }
    let meta = writer.close(LONG, |_| geminga_metastore::Txn::new()).await.unwrap();
    (meta.id, payloads)
}

/// Waits, by the store's own news, until a ledger's metadata is so.
pub(crate) async fn until(
    store: &dyn MetaStore,
    ledger: LedgerId,
    test: impl Fn(&LedgerMeta) -> bool,
) -> LedgerMeta {
    let key = keys::ledger(ledger);
    let waiting = async {
        let mut news = store.watch(&key, None).await.unwrap();
        loop {
            let found = store.get(&key).await.unwrap().expect("the ledger is there");
            let meta = LedgerMeta::decode(ledger, &found.value).unwrap();
            if test(&meta) {
                return meta;
            }
            news.next().await.expect("the store goes on");
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("in time")
}

fn trimmed(meta: &LedgerMeta) -> Option<TierObject> {
    match &meta.tier {
        Tier::Trimmed(object) => Some(object.clone()),
        _ => None,
    }
}

/// What a bookie says of an entry, and of a seal.
async fn asked(node: &Node, ledger: LedgerId) -> (Code, Code) {
    let scope = Scope {
        cluster: node.bookie.cluster(),
        ledger,
        fragment_first: EntryId(0),
        epoch: SealEpoch(0),
        incarnation: node.bookie.incarnations()[0],
    };
    let (from, to) = (EntryId(0), EntryId(0));
    let op = QueryOp::Read { from, to, max_bytes: 1, prefix_bytes: None };
    let handle = node.bookie.handle();
    let read = handle.query(QueryRequest { scope, op }).await;
    let scope = Scope { epoch: SealEpoch(9), ..scope };
    let sealed = handle.write(WriteRequest { scope, op: WriteOp::Seal }).await;
    (read.code, sealed.code)
}

/// Until a bookie has dropped a ledger.
async fn dropped(node: &Node, ledger: LedgerId) {
    let waiting = async {
        while node.bookie.handle().holds_bytes(ledger) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("dropped in time");
    // T4: it never says that it does not have the entry, nor that it is done with the ledger.
    assert_eq!(asked(node, ledger).await, (Code::Trimmed, Code::Trimmed));
}

async fn check(
    cluster: &Cluster,
    objects: &Store,
    ledger: LedgerId,
    at: TierObject,
    payloads: &[Bytes],
) {
    let object = Object::open(objects, ledger, Arc::new(at)).await.unwrap();
    assert_eq!(object.header(objects).await.unwrap().custom.name, "flights");
    let mut read = Vec::new();
    for number in 0..object.index().blocks().len() {
        let block = object.block(objects, number).await.unwrap();
        for id in (block.first().0..=block.last().0).map(EntryId) {
            read.push(block.entry(cluster.uuid(), ledger, id, None).unwrap().payload);
        }
    }
    assert_eq!(read, payloads);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_ledger_becomes_an_object_and_every_copy_goes() {
    let mut cluster = Cluster::start().await;
    let store = cluster.store();
    let (faulty, custom) = (Faulty::default(), topic(&*store).await);
    let objects = faulty.store();
    // Larger than a part.
    let (ledger, payloads) = closed(&cluster, custom.clone(), 200).await;
    let (other, _) = closed(&cluster, Custom::default(), 2).await;
    for node in cluster.nodes() {
        tier(node, &store, &objects, SOON).await;
    }
    let meta = until(&*store, ledger, |meta| trimmed(meta).is_some()).await;
    check(&cluster, &objects, ledger, trimmed(&meta).unwrap(), &payloads).await;
    let mut kept = 0;
    for node in cluster.nodes() {
        dropped(node, ledger).await;
        match asked(node, other).await.0 {
            Code::Ok => kept += 1,
            // A writer that ends waits for an ack quorum, not for all.
            code => assert_eq!(code, Code::NoSuchEntry, "nobody asked for that"),
        }
    }
    assert!(kept >= 2, "nobody asked for that");
    // It knows after a crash, or a restart, that it was dropped and where it is.
    cluster.stop(0).await;
    cluster.start_again(0).await;
    dropped(cluster.nodes().next().unwrap(), ledger).await;
    cluster.end().await;
}

/// Longer than anything here takes that is not slow, and than another bookie waits for its turn with a small ledger.
const SLOW: Duration = Duration::from_millis(500);

/// What the store refuses, loses or cuts off is tried again, and only a whole object is ever named.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_trouble_delays_uploads_and_no_more() {
    for (call, fault, times) in [
        (Call::Put, Fault::Refuse, 3),
        (Call::Put, Fault::LoseReply, 2),
        (Call::Put, Fault::Slow(SLOW), 1),
        (Call::Begin, Fault::Refuse, 2),
        (Call::Begin, Fault::LoseReply, 1),
        (Call::Part, Fault::Refuse, 1),
        (Call::Part, Fault::LoseReply, 1),
        (Call::Part, Fault::Slow(SLOW), 2),
        (Call::Complete, Fault::Refuse, 2),
        (Call::Complete, Fault::LoseReply, 2),
        (Call::Get, Fault::Refuse, 3),
        (Call::Get, Fault::Truncate, 3),
        (Call::Get, Fault::Slow(SLOW), 3),
    ] {
        let cluster = Cluster::start().await;
        let store = cluster.store();
        let (faulty, custom) = (Faulty::default(), topic(&*store).await);
        faulty.fail(call, fault, times);
        let objects = faulty.store();
        let small = call == Call::Put;
        let entries = if small { 3 } else { 180 };
        let (ledger, payloads) = closed(&cluster, custom, entries).await;
        for node in cluster.nodes() {
            tier(node, &store, &objects, SOON).await;
        }
        let meta = until(&*store, ledger, |meta| trimmed(meta).is_some()).await;
        assert!(!faulty.is_to_fail(call), "{call:?} {fault:?}: nothing has met it");
        check(&cluster, &objects, ledger, trimmed(&meta).unwrap(), &payloads).await;
        cluster.end().await;
    }
}

/// T1, T2: one whose store does not tell that its object is there, or never answers, is followed by another bookie with an object of its own.
#[tokio::test(flavor = "multi_thread")]
async fn another_bookie_takes_over_from_one_that_hears_nothing() {
    for (call, fault) in [(Call::Complete, Fault::LoseReply), (Call::Part, Fault::Hang)] {
        let cluster = Cluster::start().await;
        let store = cluster.store();
        let (faulty, custom) = (Faulty::default(), topic(&*store).await);
        let (ledger, payloads) = closed(&cluster, custom, 180).await;
        let meta = until(&*store, ledger, |_| true).await;
        let ensemble = &meta.last_fragment().ensemble;
        let first = &ensemble[(ledger.0 % ensemble.len() as u64) as usize].bookie;
        let deaf = faulty.beside();
        deaf.fail(call, fault, 1_000);
        let (its, others): (Vec<_>, Vec<_>) =
            cluster.nodes().partition(|node| node.bookie.id() == first);
        tier(its[0], &store, &deaf.store(), SOON).await;
        let waiting = async {
            while deaf.calls(call) == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LONG, waiting).await.expect("its turn in time");
        for node in others {
            tier(node, &store, &faulty.store(), SOON).await;
        }
        let meta = until(&*store, ledger, |meta| meta.tier.object().is_some()).await;
        let object = meta.tier.object().unwrap().clone();
        assert_eq!(faulty.calls(Call::Complete), 1, "{call:?}: by another");
        check(&cluster, &faulty.store(), ledger, object, &payloads).await;
        cluster.end().await;
    }
}

/// 7.8 (3), 7.5: the object of a deleted ledger goes, and so does what an upload that was given up left.
#[tokio::test(flavor = "multi_thread")]
async fn deletion_and_the_janitor_leave_no_object() {
    let cluster = Cluster::start().await;
    let store = cluster.store();
    let custom = topic(&*store).await;
    let objects = Faulty::default().store();
    let mut ledgers = Vec::new();
    for _ in 0..3 {
        ledgers.push(closed(&cluster, custom.clone(), 2).await.0);
    }
    // Of another upload of a ledger that is there.
    let left = objects.key(cluster.uuid(), &custom, ledgers[0], 5);
    objects.upload(&left).complete(Bytes::from_static(b"left over")).await.unwrap();
    for node in cluster.nodes() {
        tier(node, &store, &objects, SOON).await;
    }
    for ledger in &ledgers {
        until(&*store, *ledger, |meta| trimmed(meta).is_some()).await;
    }
    cluster.client().delete(ledgers[1]).await.unwrap();
    let gone = |meta: &LedgerMeta| meta.state == LedgerState::Deleting && meta.tier == Tier::Local;
    until(&*store, ledgers[1], gone).await;
    let waiting = async {
        while objects.head(&left).await.unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("removed in time");
    let listed: Vec<_> = objects.list(cluster.uuid()).try_collect().await.unwrap();
    assert_eq!(listed.len(), 2, "those of the two ledgers that are there: {listed:?}");
    cluster.end().await;
}

/// Until the janitor has listed everything, and gone on to the next listing, since now.
async fn swept(faulty: &Faulty) {
    let enough = faulty.calls(Call::List) + 2;
    let waiting = async {
        while faulty.calls(Call::List) < enough {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("swept in time");
}

/// What a store takes for the end of an upload: long enough for a topic to be deleted meanwhile.
const LATE: Duration = Duration::from_secs(3);

/// 7.8, 7.5: a topic is deleted while its upload ends. The object comes after all, and nobody names it; the janitor removes it once the
/// ledger's metadata is gone, and nothing comes back.
#[tokio::test(flavor = "multi_thread")]
async fn scenario_58_no_object_is_left_after_the_janitor() {
    let cluster = Cluster::start().await;
    let (store, custom) = (cluster.store(), topic(&*cluster.store()).await);
    let faulty = Faulty::default();
    // What is looked at by the test counts for nobody.
    let (objects, looked_at) = (faulty.store(), faulty.beside().store());
    // Enough that one without metadata among them looks like no loss (G2).
    let mut others = Vec::new();
    for _ in 0..10 {
        others.push(closed(&cluster, custom.clone(), 1).await.0);
    }
    for node in cluster.nodes() {
        tier(node, &store, &objects, SOON).await;
    }
    for other in &others {
        until(&*store, *other, |meta| trimmed(meta).is_some()).await;
    }
    faulty.fail(Call::Complete, Fault::Slow(LATE), 1);
    let (ledger, _) = closed(&cluster, custom.clone(), 180).await;
    eventually("the upload to end", || async { faulty.calls(Call::Complete) == 1 }).await;

    cluster.client().delete(ledger).await.unwrap();
    let key = keys::ledger(ledger);
    let deleted = LedgerMeta::decode(ledger, &store.get(&key).await.unwrap().unwrap().value);
    let deleted = deleted.unwrap();
    let Tier::Uploading { attempt, .. } = deleted.tier else { panic!("{:?}", deleted.tier) };
    let object = objects.key(cluster.uuid(), &custom, ledger, attempt);
    assert!(looked_at.head(&object).await.unwrap().is_none(), "it was there before the deletion");
    let gets = faulty.calls(Call::Get);
    eventually("the object to be there, and to be read back", || async {
        looked_at.head(&object).await.unwrap().is_some() && faulty.calls(Call::Get) > gets + 1
    })
    .await;
    swept(&faulty).await;
    let kept = LedgerMeta::decode(ledger, &store.get(&key).await.unwrap().unwrap().value).unwrap();
    assert_eq!(kept, deleted, "what was deleted is changed, or names an object");

    // As the coordinator does when every member has its tombstone.
    let gone = geminga_metastore::Txn::new().delete(&key).delete(keys::deleting(ledger));
    store.txn(gone).await.unwrap();
    eventually("the object to be removed", || async {
        looked_at.head(&object).await.unwrap().is_none()
    })
    .await;
    swept(&faulty).await;
    let listed: Vec<_> = objects.list(cluster.uuid()).try_collect().await.unwrap();
    let names = |key: &str| objects.parse_key(cluster.uuid(), key).unwrap().ledger;
    let mut left: Vec<LedgerId> = listed.iter().map(|object| names(&object.key)).collect();
    left.sort();
    assert_eq!(left, others, "those of ledgers that are there, and no other");
    assert!(store.get(&key).await.unwrap().is_none(), "it came back");
    cluster.end().await;
}

/// Until this holds.
async fn eventually<F: Future<Output = bool>>(what: &str, test: impl Fn() -> F) {
    let waiting = async {
        while !test().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(LONG, waiting).await;
    in_time.unwrap_or_else(|_| panic!("waiting for {what} took too long"));
}

/// G2: objects of ledgers that the metadata does not know at all are kept when there are many of them, and so is everything else.
#[tokio::test(flavor = "multi_thread")]
async fn objects_are_kept_where_metadata_looks_lost() {
    let cluster = Cluster::start().await;
    let store = cluster.store();
    let custom = topic(&*store).await;
    let faulty = Faulty::default();
    let objects = faulty.store();
    let lost = |n: u64| objects.key(cluster.uuid(), &custom, LedgerId(900 + n), 1);
    for n in 0..4 {
        objects.upload(&lost(n)).complete(Bytes::from_static(b"x")).await.unwrap();
    }
    let (ledger, _) = closed(&cluster, custom.clone(), 2).await;
    let left = objects.key(cluster.uuid(), &custom, ledger, 5);
    objects.upload(&left).complete(Bytes::from_static(b"left over")).await.unwrap();
    for node in cluster.nodes() {
        tier(node, &store, &objects, SOON).await;
    }
    until(&*store, ledger, |meta| trimmed(meta).is_some()).await;
    swept(&faulty).await;
    for n in 0..4 {
        assert!(objects.head(&lost(n)).await.unwrap().is_some());
    }
    assert!(objects.head(&left).await.unwrap().is_some(), "nothing goes by such metadata");
    cluster.end().await;
}

/// A backup of the metadata from before an upload is restored: no bookie has a copy, and the object is the only one.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_outlives_the_restore_of_older_metadata() {
    let cluster = Cluster::start().await;
    let store = cluster.store();
    let custom = topic(&*store).await;
    let faulty = Faulty::default();
    let objects = faulty.store();
    let (ledger, _) = closed(&cluster, custom, 2).await;
    for node in cluster.nodes() {
        tier(node, &store, &objects, SOON).await;
    }
    let mut meta = until(&*store, ledger, |meta| trimmed(meta).is_some()).await;
    let object = trimmed(&meta).unwrap();
    for node in cluster.nodes() {
        dropped(node, ledger).await;
    }
    let key = keys::ledger(ledger);
    let now = store.get(&key).await.unwrap().unwrap().version;
    meta.tier = Tier::Local;
    store.put_if(&key, Some(now), meta.encode()).await.unwrap().unwrap();
    swept(&faulty).await;
    assert!(objects.head(&object.key).await.unwrap().is_some(), "the only copy");
    cluster.end().await;
}

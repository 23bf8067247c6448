//! Repairs by real bookies: what only an object has, and copies that nobody names any more.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use geminga_bookie::{Config, RepairConfig, TieringConfig};
use geminga_metastore::record::{Broker, Feature, Features, LedgerMeta, Tier, Under, UnderReason};
use geminga_metastore::{LeaseId, MetaStore, Txn, cluster, keys};
use geminga_proto::bookie::{Code, QueryOp, QueryRequest, Scope};
use geminga_proto::entry;
use geminga_proto::ids::{BrokerId, EntryId, LedgerId, SealEpoch};
use geminga_tier::Store;

use crate::quorum::{Cluster, append, expected};
use crate::support::{LONG, Node, config};
use crate::tiering::{SOON, closed, tier, topic, until};

/// Delays of moments in the place of minutes.
fn repairs() -> RepairConfig {
    RepairConfig {
        rate: 0,
        open_grace: Duration::from_millis(200),
        audit_interval: Duration::from_millis(500),
        excess_grace: Duration::from_millis(500),
        ..RepairConfig::default()
    }
}

fn healing() -> Config {
    Config { auto_heal: true, repair: Some(repairs()), ..config() }
}

/// Whether a bookie has the first entry of a ledger.
async fn has(node: &Node, meta: &LedgerMeta) -> bool {
    let scope = Scope {
        cluster: node.bookie.cluster(),
        ledger: meta.id,
        fragment_first: EntryId(0),
        epoch: SealEpoch(0),
        incarnation: node.bookie.incarnations()[0],
    };
    let (from, to) = (EntryId(0), EntryId(0));
    let op = QueryOp::Read { from, to, max_bytes: 1 << 20, prefix_bytes: None };
    node.bookie.handle().query(QueryRequest { scope, op }).await.code == Code::Ok
}

/// All entries of a ledger of one fragment, as one bookie has them, verified (D1).
async fn payloads(node: &Node, meta: &LedgerMeta) -> Vec<Bytes> {
    let (last, handle) = (meta.last_entry.unwrap(), node.bookie.handle());
    let cluster = node.bookie.cluster();
    let (mut found, mut next) = (Vec::new(), EntryId(0));
    while next <= last {
        let scope = Scope {
            cluster,
            ledger: meta.id,
            fragment_first: EntryId(0),
            epoch: SealEpoch(0),
            incarnation: node.bookie.incarnations()[0],
        };
        let op = QueryOp::Read { from: next, to: last, max_bytes: 1 << 20, prefix_bytes: None };
        let reply = handle.query(QueryRequest { scope, op }).await;
        assert_eq!(reply.code, Code::Ok, "{}", reply.detail);
        for stored in &reply.entries {
            found.push(entry::decode_expecting(cluster, meta.id, next, stored).unwrap().payload);
            next = next.next();
        }
    }
    found
}

/// T6: two of three disks are lost at once and the third is away. An uploaded ledger is copied from its object all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scenario_67_what_only_an_object_has_is_copied_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let objects = Store::open(&url, &geminga_tier::Options::default(), []).unwrap();
    let keep = TieringConfig { local_retention: Duration::from_secs(3_600), ..SOON };
    let mut cluster = Cluster::start_with(healing()).await;
    let store = cluster.store();
    let (ledger, written) = closed(&cluster, topic(&*store).await, 40).await;
    for node in cluster.nodes() {
        tier(node, &store, &objects, keep).await;
    }
    until(&*store, ledger, |meta| matches!(meta.tier, Tier::Offloaded(_))).await;
    for n in 0..3 {
        cluster.stop(n).await;
    }
    for n in 0..2 {
        cluster.wipe(n);
        cluster.start_again(n).await;
    }
    for node in cluster.nodes() {
        tier(node, &store, &objects, keep).await;
    }
    let reborn: Vec<_> = cluster.nodes().map(Node::member).collect();
    let meta = until(&*store, ledger, |meta| {
        reborn.iter().all(|member| meta.last_fragment().ensemble.contains(member))
    })
    .await;
    for node in cluster.nodes() {
        assert!(payloads(node, &meta).await == written, "{}", node.bookie.id());
    }
    drop(Arc::clone(&store));
    cluster.end().await;
}

/// That a copy was given up is written into the log, and versions before open no such log: no copy is given up before the cluster's record
/// keeps these away, and it does not while one is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_copy_is_given_up_before_all_versions_read_such_logs() {
    let cluster = Cluster::start_with(healing()).await;
    let store = cluster.store();
    let old = Broker {
        id: BrokerId(7),
        grpc_address: "127.0.0.1:1".to_owned(),
        http_address: String::new(),
        zone: String::new(),
        lease: LeaseId(0),
        started_ms: 0,
        load: None,
        kafka: Vec::new(),
        features: Features::ALL.without(Feature::GivenUp),
    };
    let old_key = keys::broker(old.id);
    store.txn(Txn::new().put(old_key.clone(), old.encode())).await.unwrap();
    let (ledger, _) = closed(&cluster, topic(&*store).await, 3).await;
    // As if its place had been given to somebody who needs no copy: the other two have everything.
    let found = store.get(&keys::ledger(ledger)).await.unwrap().unwrap();
    let mut meta = LedgerMeta::decode(ledger, &found.value).unwrap();
    meta.qw = 2;
    let without = meta.fragments[0].ensemble.pop().unwrap();
    let txn = Txn::new().put(keys::ledger(ledger), meta.encode());
    store.txn(txn).await.unwrap();
    let node = cluster.nodes().find(|node| node.member() == without).unwrap();
    let used = async || {
        let (found, _) = cluster::read(&*store).await.unwrap().unwrap();
        found.features.contains(Feature::GivenUp)
    };
    assert!(has(node, &meta).await && !used().await);
    store.txn(Txn::new().delete(old_key)).await.unwrap();
    let gone = async {
        while has(node, &meta).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("it is given up");
    assert!(used().await, "a copy was given up, and versions before may start");
    for other in cluster.nodes().filter(|node| node.member() != without) {
        assert!(has(other, &meta).await, "{}", other.bookie.id());
    }
    drop(store);
    cluster.end().await;
}

/// The mark of a ledger, or none, as soon as it is so.
async fn mark_when(
    store: &dyn MetaStore,
    ledger: LedgerId,
    test: impl Fn(Option<&Under>) -> bool,
) -> Option<Under> {
    let key = keys::under(ledger);
    let waiting = async {
        let mut news = store.watch(&key, None).await.unwrap();
        loop {
            let found = store.get(&key).await.unwrap();
            let mark = found.map(|found| Under::decode(ledger, &found.value).unwrap());
            if test(mark.as_ref()) {
                return mark;
            }
            news.next().await.expect("the store goes on");
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("the mark is so in time")
}

/// 6.3, H9: a member is away while the last entries are written, and the mark that their writer made is lost. It is asked how far it is, marked,
/// and gets the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_never_made_whole_is_found_by_asking_and_made() {
    let repair = RepairConfig { tail_interval: Duration::from_millis(300), ..repairs() };
    let mut cluster = Cluster::start_with(Config { repair: Some(repair), ..healing() }).await;
    let store = cluster.store();
    let mut writer = cluster.create_patient().await;
    append(&mut writer, 10).await;
    let last = cluster.nodes().last().unwrap();
    let (short, ledger) = (last.member(), writer.meta());
    let began = async {
        while !has(last, &ledger).await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, began).await.expect("it has a part");
    cluster.stop(2).await;
    append(&mut writer, 10).await;
    let meta = writer.close(LONG, |_| Txn::new()).await.unwrap();
    drop(writer);
    mark_when(&*store, meta.id, |mark| mark.is_some()).await;
    store.txn(Txn::new().delete(keys::under(meta.id))).await.unwrap();
    let marked = mark_when(&*store, meta.id, |mark| mark.is_some());
    let (mark, ()) = tokio::join!(marked, cluster.start_again(2));
    let mark = mark.expect("it is marked");
    assert_eq!((mark.reason, mark.members), (UnderReason::Behind, vec![short.clone()]));
    mark_when(&*store, meta.id, |mark| mark.is_none()).await;
    let filled = cluster.nodes().find(|node| node.member() == short).expect("the same life");
    assert!(payloads(filled, &meta).await == expected(20));
    drop(store);
    cluster.end().await;
}

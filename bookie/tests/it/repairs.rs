//! Repairs by real bookies: what only an object has, and copies that nobody names any more.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use geminga_bookie::{Config, RepairConfig, TieringConfig};
use geminga_metastore::record::{LedgerMeta, Tier};
use geminga_proto::bookie::{Code, QueryOp, QueryRequest, Scope};
use geminga_proto::entry;
use geminga_proto::ids::{EntryId, SealEpoch};
use geminga_tier::Store;

use crate::quorum::Cluster;
use crate::support::{Node, config};
use crate::tiering::{SOON, closed, tier, topic, until};

/// Delays of moments in the place of minutes.
fn healing() -> Config {
    let repair = RepairConfig {
        rate: 0,
        open_grace: Duration::from_millis(200),
        audit_interval: Duration::from_millis(500),
        excess_grace: Duration::from_millis(500),
        ..RepairConfig::default()
    };
    Config { auto_heal: true, repair: Some(repair), ..config() }
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

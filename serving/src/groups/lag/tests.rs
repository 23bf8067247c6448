//! Looks over shards in memory and partitions made up.

use super::table::MAX_NAMED;
use super::*;
use crate::groups::types::{Committed, TopicPartition};
use crate::rpc::fakes::FakeCluster;

fn rows(table: &Table) -> Vec<(String, String, u64)> {
    table.named().map(|(group, topic, n)| (group.to_owned(), topic.to_owned(), n)).collect()
}

async fn commit(cluster: &FakeCluster, group: &str, offsets: &[(u32, i64)]) {
    let committed = |&(partition, offset): &(u32, i64)| {
        let committed = Committed {
            offset,
            leader_epoch: None,
            metadata: String::new(),
            committed_ms: 0,
            topic_id: None,
            expires_ms: None,
        };
        (TopicPartition { topic: "t".into(), partition }, committed)
    };
    let offsets = offsets.iter().map(committed).collect();
    cluster.groups.commit_offsets(&group.into(), offsets).await.unwrap();
}

fn looker(cluster: &FakeCluster) -> Looker {
    let parts = Parts {
        shards: cluster.shards().clone(),
        topology: cluster.topology.clone(),
        source: cluster.source.clone(),
    };
    Looker { parts, ends: Ends::default() }
}

#[tokio::test(start_paused = true)]
async fn lag_is_what_is_between_a_commit_and_the_end() {
    let cluster = FakeCluster::start().await;
    cluster.source.set(0, 0, 100);
    cluster.source.set(1, 0, 50);
    commit(&cluster, "fast", &[(0, 100), (1, 50)]).await;
    commit(&cluster, "slow", &[(0, 90), (1, 20)]).await;
    let mut looker = looker(&cluster);
    let row = |group: &str, n| (group.to_owned(), "t".to_owned(), n);
    let seen = looker.look().await;
    assert_eq!(rows(&seen), [row("fast", 0), row("slow", 40)]);
    assert_eq!((seen.rest(), seen.unknown()), (None, 0));

    // It moves with both ends, and a group that is gone is not told any more.
    cluster.source.set(1, 0, 60);
    commit(&cluster, "slow", &[(0, 95)]).await;
    cluster.groups.delete(&"fast".into()).await.unwrap();
    assert_eq!(rows(&looker.look().await), [row("slow", 45)]);
}

/// A partition that is open nowhere has no end to be read.
#[tokio::test(start_paused = true)]
async fn an_end_that_was_seen_counts_on_and_one_that_never_was_is_unknown() {
    let cluster = FakeCluster::start().await;
    cluster.source.set(0, 0, 10);
    cluster.source.set(1, 0, 10);
    cluster.source.set_broken(1, true);
    commit(&cluster, "g", &[(0, 4), (1, 4)]).await;
    let mut looker = looker(&cluster);
    let seen = looker.look().await;
    assert_eq!((rows(&seen)[0].2, seen.unknown()), (6, 1));
    cluster.source.set_broken(0, true);
    let seen = looker.look().await;
    assert_eq!((rows(&seen)[0].2, seen.unknown()), (6, 1));
    // What no group has offsets of is forgotten.
    cluster.groups.delete(&"g".into()).await.unwrap();
    assert_eq!(looker.look().await.unknown(), 0);
    assert!(looker.ends.0.is_empty());
}

/// Its owner does not answer, and the group goes on: to say that it keeps up would hide all that comes.
#[tokio::test(start_paused = true)]
async fn an_end_of_before_the_commit_is_unknown() {
    let cluster = FakeCluster::start().await;
    cluster.source.set(0, 0, 10);
    commit(&cluster, "g", &[(0, 4)]).await;
    let mut looker = looker(&cluster);
    assert_eq!(looker.look().await.unknown(), 0);
    cluster.source.set_broken(0, true);
    commit(&cluster, "g", &[(0, 11)]).await;
    let seen = looker.look().await;
    assert_eq!((rows(&seen), seen.unknown()), (vec![], 1));
    cluster.source.set_broken(0, false);
    cluster.source.set(0, 0, 15);
    let seen = looker.look().await;
    assert_eq!((rows(&seen)[0].2, seen.unknown()), (4, 0));
}

#[test]
fn the_largest_have_names_and_the_rest_is_summed_up() {
    let mut table = Table::default();
    let topic: Arc<str> = "t".into();
    for n in 0..MAX_NAMED as u64 + 3 {
        table.add(&format!("g{n}").into(), &topic, n);
    }
    assert_eq!(table.named().count(), MAX_NAMED);
    assert_eq!((table.named().map(|row| row.2).min(), table.rest()), (Some(3), Some(1 + 2)));
    // A group that is called like the rest is part of it.
    table.add(&table::OTHER.into(), &table::OTHER.into(), 10);
    assert_eq!((table.named().count(), table.rest()), (MAX_NAMED, Some(13)));
}

/// Of equal lags always the same have names: else series would come and go at every look.
#[test]
fn who_has_a_name_does_not_depend_on_the_order() {
    let topic: Arc<str> = "t".into();
    let (mut forth, mut back) = (Table::default(), Table::default());
    for n in 0..1_000 {
        forth.add(&format!("g{n:03}").into(), &topic, 0);
        back.add(&format!("g{:03}", 999 - n).into(), &topic, 0);
    }
    assert_eq!(rows(&forth), rows(&back));
}

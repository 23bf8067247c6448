//! Backups: what was saved comes back, damage is told, and a restore goes into an empty place, as often as it is run.

use std::time::Duration;

use geminga_runtime::ManualClock;

use super::*;
use crate::MemoryStore;
use crate::record::tests::samples;

/// A store with a key of each kind.
async fn full() -> MemoryStore {
    let store = MemoryStore::new();
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for sample in samples() {
        if !seen.insert(sample.key.clone()) {
            continue;
        }
        let txn = match keys::is_leased(&sample.key) {
            true => Txn::new().put_leased(sample.key, sample.value, lease),
            false => Txn::new().put(sample.key, sample.value),
        };
        store.txn(txn).await.unwrap();
    }
    store
}

async fn all(store: &MemoryStore) -> Range {
    store.range("", None, usize::MAX).await.unwrap()
}

fn small() -> Backup {
    let cluster = ClusterUuid::from_slice(&[7; 16]).unwrap();
    let items = [("a/1", "one"), ("b", "")];
    let items = items.map(|(key, value)| (key.to_owned(), Bytes::from_static(value.as_bytes())));
    Backup { cluster, revision: Revision(9), taken_ms: 1_700_000_000_000, items: items.into() }
}

/// Files like this one are what operators have: a format may only grow.
#[test]
fn the_file_never_changes() {
    let golden = "47454d494e47414d00010000000000000707070707070707070707070707070700000000000000090000018bcfe56800\
                  00000000000000020000000300000003612f316f6e65000000010000000062";
    let file = small().encode();
    let shown: String = file[..file.len() - 4].iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(shown, golden);
    assert_eq!(Backup::decode(&file), Ok(small()));
}

#[test]
fn damage_is_told() {
    let file = small().encode();
    for at in 0..file.len() {
        let mut bad = file.to_vec();
        bad[at] ^= 0x10;
        assert!(Backup::decode(&bad.into()).is_err(), "byte {at}");
        assert!(Backup::decode(&file.slice(..at)).is_err(), "cut at {at}");
    }
    let mut newer = file.to_vec();
    newer[9] = 2;
    assert_eq!(Backup::decode(&newer.into()), Err(InvalidBackup::Version(2)));
}

#[tokio::test]
async fn what_is_bound_to_nobody_comes_back() {
    let store = full().await;
    let backup = Backup::of(all(&store).await, 5).unwrap();
    let backup = Backup::decode(&backup.encode()).unwrap();
    assert!(!backup.items.keys().any(|key| keys::is_leased(key)));
    let other = MemoryStore::new();
    let cluster = backup.restore(&other, &ManualClock::at(77), 0).await.unwrap();
    assert_eq!((cluster.epoch, cluster.restored.map(|r| r.at_ms)), (2, Some(77)));
    let there = all(&other).await.items;
    let (absent, kept): (Vec<_>, Vec<_>) =
        backup.items.iter().partition(|(key, _)| key.starts_with(keys::BOOKIES_ABSENT));
    assert!(!absent.is_empty(), "the backup holds one");
    assert!(!there.iter().any(|item| item.key.starts_with(keys::BOOKIES_ABSENT)), "nobody is away");
    for (key, value) in kept {
        let found = there.iter().find(|item| item.key == *key).unwrap();
        let raised = *key == keys::CLUSTER || key.starts_with(keys::ASSIGN);
        assert!(raised || found.value.value == *value, "{key}");
    }
    // There is a cluster now.
    let refused = backup.restore(&other, &ManualClock::at(78), 0).await;
    assert!(matches!(refused, Err(RestoreError::NotEmpty(_))), "{refused:?}");
}

#[tokio::test]
async fn a_restore_that_was_cut_off_is_run_again() {
    let backup = Backup::of(all(&full().await).await, 5).unwrap();
    let other = MemoryStore::new();
    for (key, value) in backup.items.iter().take(5).filter(|(key, _)| *key != keys::CLUSTER) {
        other.txn(Txn::new().put(key, value.clone())).await.unwrap();
    }
    backup.restore(&other, &ManualClock::at(1), 0).await.unwrap();
    let stranger = MemoryStore::new();
    stranger.txn(Txn::new().put("ledgers/x", "y")).await.unwrap();
    let refused = backup.restore(&stranger, &ManualClock::at(1), 0).await;
    assert_eq!(refused, Err(RestoreError::NotEmpty("ledgers/x".to_owned())));
    assert_eq!(all(&stranger).await.items.len(), 1, "nothing was put");
}

#[test]
fn a_listing_without_a_cluster_is_no_backup() {
    let nothing = Range { items: Vec::new(), revision: Revision(1), more: false };
    assert!(matches!(Backup::of(nothing, 0), Err(RestoreError::NoCluster(_))));
}

//! What keeps a cluster whole whose metadata went back in time, to a backup (protocol M1, 6.8). Everything that was counted since
//! is counted again, so every counter gets a new beginning that nothing reached before:
//!
//! * ledger ids and producer ids begin with the cluster epoch, which is raised: what stands in `alloc/` and `producer-ids` may be old;
//! * terms of all partitions rise by [`TERM_STEP`]: the lost metadata may have known later ones;
//! * numbers of brokers rise by [`BROKER_STEP`];
//! * the numbers of segments count within the metadata alone: those that were lost name nothing any more.
//!
//! The cluster's record is written last, so that a run that was cut off is run again: it raises terms once more, and does no harm.

use std::collections::BTreeMap;

use geminga_proto::caps;
use geminga_proto::ids::{BrokerId, Term, TopicId};
use geminga_runtime::WallClock;

use crate::cluster::{self, ClusterError};
use crate::record::{Assign, Assignment, Cluster, Restored, Topic};
use crate::{Error, Guard, MetaStore, Txn, Version, keys};

/// More changes of owner than a partition sees between a backup and its restore, and few enough for all epochs.
pub const TERM_STEP: i32 = 1 << 16;
/// The same of starts of brokers.
pub const BROKER_STEP: i32 = 1 << 16;
/// The last epoch that fits into the ids.
pub const MAX_EPOCH: u16 = (1 << 12) - 1;
/// Keys of one page.
const PAGE: usize = 500;

/// Raises the cluster's epoch, above `above` as well, and every term and number that may be old. Bookies compare themselves with the
/// metadata next: until then no broker starts.
///
/// # Errors
/// [`ClusterError`]: `InUse` while brokers or bookies are registered.
pub async fn raise_epoch(
    store: &dyn MetaStore,
    clock: &dyn WallClock,
    above: u16,
) -> Result<Cluster, ClusterError> {
    let Some((cluster, version)) = cluster::read(store).await? else {
        return Err(ClusterError::Missing);
    };
    nobody_registered(store).await?;
    let raised = raised(&cluster, clock.now_ms(), above)?;
    forget_absences(store).await?;
    raise_terms(store, cluster.groups_topic, cluster.group_shards).await?;
    match store.put_if(keys::CLUSTER, Some(version), raised.encode()).await {
        Ok(Some(_)) => Ok(raised),
        // Another one did it meanwhile, or this one after all (M9): whoever asks again gets an epoch above both.
        Ok(None) | Err(Error::Unknown(_)) => match cluster::read(store).await? {
            Some((found, _)) if found == raised => Ok(raised),
            _ => Err(Error::Unknown("raising the epoch: run it again".to_owned()).into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// The record of the same cluster in its next epoch.
///
/// # Errors
/// [`ClusterError::NoEpochs`], [`ClusterError::NoBrokerIds`].
pub fn raised(cluster: &Cluster, now_ms: i64, above: u16) -> Result<Cluster, ClusterError> {
    let epoch = cluster.epoch.max(above);
    if epoch >= MAX_EPOCH {
        return Err(ClusterError::NoEpochs);
    }
    let next = cluster.next_broker.0.checked_add(BROKER_STEP).ok_or(ClusterError::NoBrokerIds)?;
    Ok(Cluster {
        epoch: epoch + 1,
        next_broker: BrokerId(next),
        restored: Some(Restored { at_ms: now_ms, audited: false }),
        ..cluster.clone()
    })
}

/// Notes that bookies were compared with the metadata in this epoch. False when it is another epoch by now.
///
/// # Errors
/// [`ClusterError`].
pub async fn note_audited(store: &dyn MetaStore, epoch: u16) -> Result<bool, ClusterError> {
    loop {
        let Some((cluster, version)) = cluster::read(store).await? else {
            return Err(ClusterError::Missing);
        };
        let Some(restored) = cluster.restored.filter(|_| cluster.epoch == epoch) else {
            return Ok(cluster.epoch == epoch);
        };
        if restored.audited {
            return Ok(true);
        }
        let restored = Some(Restored { audited: true, ..restored });
        let noted = Cluster { restored, ..cluster };
        match store.put_if(keys::CLUSTER, Some(version), noted.encode()).await {
            Ok(Some(_)) => return Ok(true),
            // What is there now tells (M9).
            Ok(None) | Err(Error::Unknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Since when a bookie was away, as the past knew it, would have its copies made anew before it had time to come back.
async fn forget_absences(store: &dyn MetaStore) -> Result<(), Error> {
    for item in store.range(keys::BOOKIES_ABSENT, None, usize::MAX).await?.items {
        let guard = Guard::Version(item.key.clone(), item.value.version);
        match store.txn(Txn::new().guard(guard).delete(item.key)).await {
            // Whoever changed it did so after the restore. What an unknown outcome left is seen, and waited for, anew.
            Ok(_) | Err(Error::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whoever is registered began before this, and would go on with the old epoch.
async fn nobody_registered(store: &dyn MetaStore) -> Result<(), ClusterError> {
    let mut found = Vec::new();
    for prefix in [keys::BROKERS, keys::BOOKIES_LIVE] {
        let page = store.range(prefix, None, 3).await?;
        found.extend(page.items.into_iter().map(|item| item.key));
    }
    if found.is_empty() { Ok(()) } else { Err(ClusterError::InUse(found)) }
}

/// Raises the terms of every partition of every topic, and of those that nobody ever owned as far as this metadata knows.
///
/// # Errors
/// [`Error`].
pub async fn raise_terms(
    store: &dyn MetaStore,
    groups_topic: TopicId,
    group_shards: u32,
) -> Result<(), Error> {
    let mut topics = BTreeMap::from([(groups_topic, group_shards)]);
    let mut after: Option<String> = None;
    loop {
        let page = store.range(keys::TOPICS, after.as_deref(), PAGE).await?;
        for item in &page.items {
            let topic = Topic::decode(&item.value.value)
                .map_err(|e| Error::Corrupt { key: item.key.clone(), why: e.to_string() })?;
            topics.insert(topic.id, topic.partitions);
        }
        after = page.items.last().map(|item| item.key.clone()).or(after);
        if !page.more {
            break;
        }
    }
    for (topic, partitions) in topics {
        for chunk in 0..partitions.div_ceil(caps::ASSIGN_CHUNK) {
            let count = (partitions - chunk * caps::ASSIGN_CHUNK).min(caps::ASSIGN_CHUNK);
            raise_chunk(store, &keys::assign(topic, chunk), count as usize).await?;
        }
    }
    Ok(())
}

/// Nobody owns them then, so that the next owner opens them in the term behind the raised one.
async fn raise_chunk(store: &dyn MetaStore, key: &str, partitions: usize) -> Result<(), Error> {
    loop {
        let found = store.get(key).await?;
        let mut assign = match &found {
            None => Assign { partitions: Vec::new() },
            Some(found) => Assign::decode(&found.value)
                .map_err(|e| Error::Corrupt { key: key.to_owned(), why: e.to_string() })?,
        };
        let never = Assignment { broker: None, term: Term(0) };
        let length = assign.partitions.len().max(partitions);
        assign.partitions.resize(length, never);
        for one in &mut assign.partitions {
            let why = "a term that cannot rise any more".to_owned();
            let term = one.term.0.checked_add(TERM_STEP);
            let term = term.ok_or_else(|| Error::Corrupt { key: key.to_owned(), why })?;
            *one = Assignment { broker: None, term: Term(term) };
        }
        let version: Option<Version> = found.map(|found| found.version);
        match store.put_if(key, version, assign.encode()).await {
            Ok(Some(_)) => return Ok(()),
            Ok(None) | Err(Error::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use geminga_proto::ids::ClusterUuid;
    use geminga_runtime::{ManualClock, SeededRandom};

    use super::*;
    use crate::MemoryStore;
    use crate::record::{AbsentBookie, Features};

    async fn cluster_with_a_topic(store: &MemoryStore) -> (Cluster, TopicId) {
        let clock = ManualClock::at(1_000);
        let cluster = cluster::init(store, &SeededRandom::new(1), &clock).await.unwrap();
        let topic = Topic {
            id: TopicId::from_random(7),
            partitions: 66,
            write_quorum: 3,
            ack_quorum: 2,
            replication_factor: None,
            configs: BTreeMap::new(),
            created_ms: 0,
        };
        let owned = Assignment { broker: Some(BrokerId(3)), term: Term(5) };
        let assign = Assign { partitions: vec![owned; 10] };
        let txn = Txn::new()
            .put(keys::topic("default", "t"), topic.encode())
            .put(keys::assign(topic.id, 0), assign.encode());
        store.txn(txn).await.unwrap();
        (cluster, topic.id)
    }

    async fn terms(store: &MemoryStore, topic: TopicId, chunk: u32) -> Vec<Assignment> {
        let found = store.get(&keys::assign(topic, chunk)).await.unwrap().unwrap();
        Assign::decode(&found.value).unwrap().partitions
    }

    /// M1: whatever was counted between the backup and its restore is not counted again.
    #[tokio::test]
    async fn scenario_43_every_counter_gets_a_new_beginning() {
        let store = MemoryStore::new();
        let (before, topic) = cluster_with_a_topic(&store).await;
        let raised = raise_epoch(&store, &ManualClock::at(9_000), 4).await.unwrap();
        assert_eq!(raised.epoch, 5, "above what was asked for");
        assert_eq!(raised.uuid, before.uuid);
        assert_eq!(raised.next_broker, BrokerId(before.next_broker.0 + BROKER_STEP));
        assert_eq!(raised.restored, Some(Restored { at_ms: 9_000, audited: false }));
        let at = |term| Assignment { broker: None, term: Term(term) };
        let first = terms(&store, topic, 0).await;
        assert_eq!((first.len(), first[0], first[63]), (64, at(TERM_STEP + 5), at(TERM_STEP)));
        assert_eq!(terms(&store, topic, 1).await, [at(TERM_STEP); 2]);
        let groups = terms(&store, raised.groups_topic, 0).await;
        assert_eq!(groups.len(), raised.group_shards as usize);

        // No broker before the audit, and none that was there before.
        let refused = cluster::next_broker_id(&store).await;
        assert_eq!(refused, Err(ClusterError::NotAudited));
        assert!(!note_audited(&store, 4).await.unwrap(), "another epoch's");
        assert!(note_audited(&store, 5).await.unwrap());
        assert_eq!(cluster::next_broker_id(&store).await, Ok(raised.next_broker));
        let again = raise_epoch(&store, &ManualClock::at(9_000), 0).await.unwrap();
        assert_eq!(again.epoch, 6);
    }

    /// Who was away when a snapshot was made has the whole delay to come back.
    #[tokio::test]
    async fn absences_of_the_past_are_forgotten() {
        let store = MemoryStore::new();
        cluster_with_a_topic(&store).await;
        let key = keys::bookie_absent(&"b-1".parse().unwrap());
        let away = AbsentBookie { since_ms: 1, zone: String::new() };
        store.put_if(&key, None, away.encode()).await.unwrap();
        raise_epoch(&store, &ManualClock::at(9_000), 0).await.unwrap();
        assert_eq!(store.get(&key).await, Ok(None));
    }

    #[tokio::test]
    async fn nothing_is_raised_under_those_who_are_there() {
        let store = MemoryStore::new();
        let (before, _) = cluster_with_a_topic(&store).await;
        let lease = store.grant_lease(Duration::from_secs(9)).await.unwrap();
        let key = keys::broker(BrokerId(1));
        store.txn(Txn::new().put_leased(&key, "x", lease)).await.unwrap();
        let refused = raise_epoch(&store, &ManualClock::at(0), 0).await;
        assert_eq!(refused, Err(ClusterError::InUse(vec![key])));
        assert_eq!(cluster::read(&store).await.unwrap().unwrap().0, before);
    }

    #[test]
    fn epochs_end() {
        let cluster = Cluster {
            uuid: ClusterUuid::from_random(1),
            epoch: MAX_EPOCH - 1,
            group_shards: 8,
            next_broker: BrokerId(1),
            groups_topic: TopicId::from_random(2),
            created_ms: 0,
            restored: None,
            features: Features::NONE,
        };
        let last = raised(&cluster, 0, 0).unwrap();
        assert_eq!(last.epoch, MAX_EPOCH);
        assert_eq!(raised(&last, 0, 0), Err(ClusterError::NoEpochs));
        // Terms and numbers have room for all epochs.
        let steps = i64::from(MAX_EPOCH) * i64::from(TERM_STEP.max(BROKER_STEP));
        assert!(steps < i64::from(i32::MAX) / 4);
    }
}

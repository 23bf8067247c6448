//! Imports into stores in memory: what is put, what is refused, and that a run that was cut off is run again.

use geminga_metastore::MemoryStore;

use super::super::plan::tests::segment;
use super::*;

fn all(after_gaps: bool) -> Wanted {
    Wanted { topics: Vec::new(), after_gaps }
}

async fn import(store: &MemoryStore, objects: &[Surveyed]) -> Result<ImportedTopic, Failure> {
    let topics = plan::topics(objects);
    let chosen = choose(&topics, &all(false))?;
    let uuid = one_cluster(&chosen)?;
    let cluster = cluster_for(store, uuid, Some(id(3, 7))).await?;
    topic_in(store, chosen[0], cluster.epoch, false).await
}

fn id(epoch: u16, number: u64) -> LedgerId {
    LedgerId::from_parts(epoch, number).unwrap()
}

fn reason(failure: Failure) -> &'static str {
    failure.reason.unwrap_or("none")
}

#[tokio::test]
async fn objects_become_a_topic_in_a_cluster_of_the_old_identity() {
    let store = MemoryStore::new();
    let objects = [segment(7, 1, (20, 30), 4), segment(2, 1, (10, 20), 1)];
    import(&store, &objects).await.unwrap();
    let (cluster, _) = cluster::read(&store).await.unwrap().unwrap();
    assert_eq!((cluster.uuid, cluster.epoch), (objects[0].header.cluster, 4));
    cluster::next_broker_id(&store).await.expect("brokers may start");
    let found = store.get(&keys::topic("default", "flights")).await.unwrap().unwrap();
    let topic = Topic::decode(&found.value).unwrap();
    assert_eq!((topic.partitions, topic.write_quorum, topic.ack_quorum), (1, 3, 2));
    assert_eq!(topic.configs["retention.ms"], "-1");
    let found = store.get(&keys::assign(topic.id, 0)).await.unwrap().unwrap();
    let assign = Assign::decode(&found.value).unwrap();
    assert!(assign.partitions[0].term > Term(4) && assign.partitions[0].broker.is_none());
    let key = keys::segment(topic.id, PartitionIndex(0), 1);
    let last = Segment::decode(&store.get(&key).await.unwrap().unwrap().value).unwrap();
    assert_eq!(
        (last.ledger.0, last.base_offset, last.end_offset),
        (7, Offset(20), Some(Offset(30)))
    );
    let key = keys::log_start(topic.id, PartitionIndex(0));
    let start = LogStart::decode(&store.get(&key).await.unwrap().unwrap().value).unwrap();
    assert_eq!(start.offset, Offset(10));
    let found = store.get(&keys::ledger(last.ledger)).await.unwrap().unwrap();
    let meta = LedgerMeta::decode(last.ledger, &found.value).unwrap();
    assert_eq!(meta.tier, Tier::Trimmed(objects[0].at.clone()));
}

/// Cut off behind any number of keys, it is run again and comes to the same.
#[tokio::test]
async fn an_import_that_was_cut_off_is_run_again() {
    let objects = [segment(2, 1, (0, 20), 1), segment(7, 1, (20, 30), 4)];
    let whole = MemoryStore::new();
    import(&whole, &objects).await.unwrap();
    let items = whole.range("", None, usize::MAX).await.unwrap().items;
    let is_last = |key: &str| key.starts_with(keys::TOPICS);
    let order: Vec<_> = items.iter().filter(|item| !is_last(&item.key)).collect();
    for cut in 1..=order.len() {
        let store = MemoryStore::new();
        let cluster = items.iter().find(|item| item.key == keys::CLUSTER).unwrap();
        for item in order[..cut].iter().copied().chain([cluster]) {
            store.put_if(&item.key, None, item.value.value.clone()).await.unwrap();
        }
        import(&store, &objects).await.unwrap();
        // And once more.
        import(&store, &objects).await.unwrap();
        let again = store.range("", None, usize::MAX).await.unwrap().items;
        let without_dates = |items: &[geminga_metastore::KeyValue]| {
            let kept = items.iter().filter(|item| !is_last(&item.key));
            kept.map(|item| (item.key.clone(), item.value.value.clone())).collect::<Vec<_>>()
        };
        assert_eq!(without_dates(&again), without_dates(&items), "cut behind {cut}");
    }
}

/// A janitor of a cluster that lives may have removed what was surveyed before it was named. A second run, whose survey lacks it, says so too,
/// and neither takes what the topic does not name for lost.
#[tokio::test]
async fn what_was_removed_meanwhile_is_told_each_time() {
    let store = Store::open("memory:///", &geminga_tier::Options::default(), []).unwrap();
    let mut objects = [segment(2, 1, (0, 20), 1), segment(7, 1, (20, 30), 4)];
    for Surveyed { at, header, .. } in &mut objects {
        at.bucket = store.bucket().to_owned();
        at.key = store.key(header.cluster, &header.custom, header.ledger, at.attempt);
    }
    let metadata = MemoryStore::new();
    import(&metadata, &objects).await.unwrap();
    store.upload(&objects[0].at.key).complete("entries".into()).await.unwrap();
    let (cluster, topic) = (objects[0].header.cluster, objects[0].header.custom.topic);
    for surveyed in [&objects[..], &objects[..1]] {
        import(&metadata, surveyed).await.unwrap();
        let gone = gone::find(&metadata, &store, cluster, topic).await.unwrap();
        assert_eq!(gone, [objects[1].at.key.clone()]);
        assert_eq!(reason(gone::refuse(&gone).unwrap_err()), "OBJECTS_GONE");
    }
    // Retention took the segment, and its object.
    let key = keys::segment(topic, PartitionIndex(0), 1);
    metadata.txn(Txn::new().delete(key)).await.unwrap();
    import(&metadata, &objects).await.unwrap();
    let gone = gone::find(&metadata, &store, cluster, topic).await.unwrap();
    gone::refuse(&gone).unwrap();
}

#[tokio::test]
async fn what_is_there_is_not_touched() {
    let objects = [segment(2, 1, (0, 20), 1)];
    let store = MemoryStore::new();
    store.put_if("ledgers/x", None, "y".into()).await.unwrap();
    assert_eq!(reason(import(&store, &objects).await.unwrap_err()), "METADATA_NOT_EMPTY");
    let store = MemoryStore::new();
    cluster::init(&store, &SystemRandom, &SystemClock).await.unwrap();
    assert_eq!(reason(import(&store, &objects).await.unwrap_err()), "OTHER_CLUSTER");
    let store = MemoryStore::new();
    import(&store, &objects).await.unwrap();
    let key = keys::topic("default", "flights");
    let found = store.get(&key).await.unwrap().unwrap();
    let mut topic = Topic::decode(&found.value).unwrap();
    topic.id = TopicId::from_random(99);
    store.put_if(&key, Some(found.version), topic.encode()).await.unwrap();
    assert_eq!(reason(import(&store, &objects).await.unwrap_err()), "TOPIC_EXISTS");
}

/// M1: only an id that was never handed out would be given again.
#[tokio::test]
async fn ids_that_the_metadata_never_handed_out_are_refused() {
    let store = std::sync::Arc::new(MemoryStore::new());
    let objects = [segment(2, 1, (0, 20), 1)];
    import(&store, &objects).await.unwrap();
    let uuid = objects[0].header.cluster;
    for beyond in [id(4, 1), id(5, 0)] {
        let refused = cluster_for(&*store, uuid, Some(beyond)).await.unwrap_err();
        assert_eq!(reason(refused), "EPOCH_REUSED");
    }
    // Made in this epoch by the cluster itself: folded, or deleted and not removed yet.
    geminga_metastore::LedgerIds::new(store.clone(), 4).next().await.unwrap();
    let cluster = cluster_for(&*store, uuid, Some(id(4, 1))).await.unwrap();
    assert_eq!(cluster.epoch, 4);
}

/// Ids and terms begin above those of objects that cannot be read, whose names say what they are of.
#[tokio::test]
async fn what_cannot_be_read_counts_all_the_same() {
    let readable = segment(2, 1, (0, 20), 9);
    let uuid = readable.header.cluster;
    let broken = super::super::plan::tests::broken(id(3, 7));
    let survey =
        Survey { objects: vec![readable.clone()], broken: vec![broken], ..Survey::default() };
    assert_eq!(survey.ledgers(uuid).max(), Some(id(3, 7)));
    assert_eq!(survey.ledgers(ClusterUuid::from_random(77)).max(), None);
    let store = MemoryStore::new();
    let cluster = cluster_for(&store, uuid, survey.ledgers(uuid).max()).await.unwrap();
    assert_eq!(cluster.epoch, 4);
    // Three restores later, as the one that cannot be read was, and one more.
    let unreadable = 9 + 3 * restored::TERM_STEP;
    assert!(term_above(&[&readable], cluster.epoch) > Term(unreadable));
    assert_eq!(term_above(&[&readable], 0), Term(9 + restored::TERM_STEP));
}

#[test]
fn what_is_not_whole_is_refused() {
    let gap = [segment(2, 1, (0, 10), 1), segment(3, 1, (15, 20), 1)];
    let topics = plan::topics(&gap);
    assert_eq!(reason(choose(&topics, &all(false)).unwrap_err()), "MISSING_SEGMENTS");
    assert_eq!(choose(&topics, &all(true)).unwrap().len(), 1);
    let fork = [segment(2, 1, (0, 10), 1), segment(3, 1, (5, 20), 1)];
    let topics = plan::topics(&fork);
    assert_eq!(reason(choose(&topics, &all(true)).unwrap_err()), "OVERLAPPING_SEGMENTS");
    let mut twice = vec![segment(2, 1, (0, 10), 1), segment(2, 2, (0, 8), 1)];
    twice[1].footer.last_entry = EntryId(5);
    let topics = plan::topics(&twice);
    assert_eq!(reason(choose(&topics, &all(true)).unwrap_err()), "CONFLICTING_UPLOADS");
    let topics = plan::topics(&fork);
    let wanted = Wanted { topics: vec!["nothing".to_owned()], after_gaps: false };
    assert_eq!(reason(choose(&topics, &wanted).unwrap_err()), "UNKNOWN_TOPIC");
    let mut twice = vec![segment(2, 1, (0, 10), 1), segment(3, 1, (0, 10), 1)];
    twice[1].header.custom.topic = TopicId::from_random(5);
    let topics = plan::topics(&twice);
    assert_eq!(reason(choose(&topics, &all(false)).unwrap_err()), "AMBIGUOUS_TOPIC");
    let id = TopicId::from_random(5).to_string();
    let wanted = Wanted { topics: vec![id], after_gaps: false };
    assert_eq!(choose(&topics, &wanted).unwrap().len(), 1);
}

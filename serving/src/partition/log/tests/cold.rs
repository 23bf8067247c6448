//! Reading what bookies have dropped: the same bytes, wherever the border is, and whatever the object store does.

use geminga_metastore::record::{
    LedgerMeta, LedgerState, ManifestPart, Segment as SegmentRecord, Tier, TierObject,
};
use geminga_metastore::{Txn, keys};
use geminga_runtime::lines::Lines;
use geminga_tier::faulty::{Byte, Call, Fault, Faulty};
use geminga_tier::format::Header;
use geminga_tier::{FoldedSegment, Marker, SegmentList, SegmentWriter, Store};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::*;
use crate::cold::{Cold, DiskCache};
use crate::partition::retention::Limits;
use crate::partition::retention::task::raise_start;
use crate::partition::testing::FaultyStore;

/// A log of many segments whose broker reads from this store.
async fn long_log(
    cluster: &TestCluster,
    store: Option<&Store>,
    entries: u32,
) -> (Owner, LogParts, Arc<Topic>) {
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let mut parts = cluster.log_parts(1);
    parts.config.tail_bytes = 100;
    parts.config.snapshot_entries = 16;
    if let Some(store) = store {
        let tasks = cluster.tasks.child("cold");
        let cold = Cold::new(cluster.uuid(), store.clone(), None, 64 << 20, tasks);
        parts.cold = Some(cold.clone());
        parts.ledgers = parts.ledgers.with_cold(Arc::new(cold));
    }
    let roll = Roll { bytes: 500, ..Roll::default() };
    let mut owner = Owner::open_with(&parts, OpenSpec { roll, ..spec(&topic, 1) }).await;
    for _ in 0..entries {
        owner.append(3);
        while owner.waiting.len() > 30 {
            owner.turn().await;
        }
    }
    owner.all_acked().await;
    (owner, parts, topic)
}

/// Makes objects of the first closed ledgers, `count` at most, as a bookie does, and lets bookies drop theirs. How many.
async fn offload(cluster: &TestCluster, store: &Store, count: usize) -> usize {
    let mut done = 0;
    for item in cluster.store.range(keys::LEDGERS, None, 10_000).await.unwrap().items {
        let ledger = keys::parse_ledger(&item.key).unwrap();
        let mut meta = LedgerMeta::decode(ledger, &item.value.value).unwrap();
        let last = meta.last_entry.filter(|last| last.0 >= 0);
        let Some(last) = last.filter(|_| meta.state == LedgerState::Closed && done < count) else {
            continue;
        };
        done += 1;
        if meta.tier != Tier::Local {
            continue;
        }
        let attempt = u128::from(ledger.0) + 1;
        let mut writer = SegmentWriter::new(&Header::of(cluster.uuid(), attempt, &meta).unwrap());
        for entry in cluster.bookies.entries_of(ledger, last) {
            writer.push(&entry).unwrap();
        }
        let (bytes, summary) = writer.finish().unwrap();
        assert_eq!(summary.length, meta.length);
        assert!(meta.entries_crc.is_none_or(|crc| crc == summary.entries_crc));
        let key = store.key(cluster.uuid(), &meta.custom, ledger, attempt);
        store.upload(&key).complete(bytes).await.unwrap();
        meta.tier = Tier::Trimmed(TierObject {
            attempt,
            bucket: store.bucket().to_owned(),
            etag: store.head(&key).await.unwrap().unwrap().etag,
            key,
            size: summary.size,
            entries: summary.entries,
            object_crc: summary.object_crc,
            index_place: summary.index_place,
            at_ms: 0,
        });
        let version = Some(item.value.version);
        cluster.store.put_if(&item.key, version, meta.encode()).await.unwrap().unwrap();
        cluster.bookies.trim(ledger, last, attempt);
    }
    done
}

/// Readers that had a ledger's metadata before it was trimmed read the same on from the object.
#[tokio::test(start_paused = true)]
async fn scenario_57_a_cached_handle_outlives_the_trim() {
    let cluster = TestCluster::new(3);
    let store = Faulty::default().store();
    let (owner, ..) = long_log(&cluster, Some(&store), 200).await;
    let before = read_all(&owner.reader).await;
    let some = offload(&cluster, &store, 5).await;
    assert_eq!(some, 5);
    assert_eq!(read_all(&owner.reader).await, before, "over the border of local and cold");
    let all = offload(&cluster, &store, usize::MAX).await;
    assert!(all > 10, "{all} ledgers");
    assert_eq!(read_all(&owner.reader).await, before);
    for offset in (0..600).rev().step_by(7) {
        let read = owner.reader.read(Offset(offset), 1).await.unwrap();
        assert_eq!(read[0].first_offset, Offset(offset / 3 * 3), "the entry that contains it");
    }
}

/// Bookies are asked once for each ledger that was dropped since, and never again; a search takes one block.
#[tokio::test(start_paused = true)]
async fn trimmed_ledgers_are_not_asked_of_bookies() {
    let cluster = TestCluster::new(3);
    let faulty = Faulty::default();
    let store = faulty.store();
    let (owner, ..) = long_log(&cluster, Some(&store), 200).await;
    offload(&cluster, &store, usize::MAX).await;
    let before = read_all(&owner.reader).await;
    let (asked, gets) = (cluster.bookies.reads(), faulty.calls(Call::Get));
    assert_eq!(owner.reader.read(Offset(100), 1).await.unwrap()[0].first_offset, Offset(99));
    assert_eq!(read_all(&owner.reader).await, before);
    let open_only = cluster.bookies.reads() - asked;
    assert!(open_only < 20, "{open_only} reads of bookies, of the open ledger only");
    assert_eq!(faulty.calls(Call::Get), gets, "all of it is cached");
}

/// What was read once is read again from the disk, and whatever stands in the files there, never other records.
#[tokio::test(start_paused = true)]
async fn a_disk_that_keeps_blocks_spares_the_store() {
    let cluster = TestCluster::new(3);
    let (faulty, dir) = (Faulty::default(), tempfile::tempdir().unwrap());
    let store = faulty.store();
    let (owner, mut parts, topic) = long_log(&cluster, Some(&store), 100).await;
    let before = read_all(&owner.reader).await;
    drop(owner);
    offload(&cluster, &store, usize::MAX).await;
    let disk = DiskCache::open(dir.path(), 1 << 30).unwrap();
    // With nothing in memory each time: requests to the store, and blocks on the disk before and after.
    let mut asked = Vec::new();
    for term in 2..5 {
        let (found, gets) = (disk.settled().await, faulty.calls(Call::Get));
        let tasks = cluster.tasks.child("cold");
        let cold = Cold::new(cluster.uuid(), store.clone(), Some(disk.clone()), 64 << 20, tasks);
        parts.cold = Some(cold.clone());
        parts.ledgers = parts.ledgers.with_cold(Arc::new(cold));
        cluster.assign(topic.id, 0, 1, term).await;
        let owner = Owner::open_with(&parts, spec(&topic, term)).await;
        assert_eq!(read_all(&owner.reader).await, before);
        asked.push((faulty.calls(Call::Get) - gets, found, disk.settled().await));
        if term == 3 {
            for file in dir.path().read_dir().unwrap().map(|file| file.unwrap().path()) {
                let mut bytes = std::fs::read(&file).unwrap();
                bytes.iter_mut().skip(40).for_each(|byte| *byte ^= 1);
                std::fs::write(&file, bytes).unwrap();
            }
        }
    }
    let [(first, none, kept), (second, found, all), (third, damaged, again)] = asked[..] else {
        panic!("{asked:?}");
    };
    assert!(none == 0 && kept > 0, "{asked:?}");
    assert!(found == kept && second == first - kept, "{asked:?}");
    assert!(damaged == all && third > second && again == all, "{asked:?}");
}

/// A store that is busy, cuts answers off or does not answer makes errors that pass, and never other records.
#[tokio::test(start_paused = true)]
async fn a_store_in_trouble_gives_the_same_or_an_error() {
    let cluster = TestCluster::new(3);
    let faulty = Faulty::default();
    let store = faulty.store();
    let (owner, ..) = long_log(&cluster, Some(&store), 100).await;
    let before = read_all(&owner.reader).await;
    offload(&cluster, &store, usize::MAX).await;
    // What was read before is kept for so long.
    tokio::time::sleep(Duration::from_secs(60)).await;
    // Each meets another object, of which nothing is cached.
    for (fault, at) in [(Fault::Refuse, 0), (Fault::Truncate, 99), (Fault::Hang, 198)] {
        faulty.fail(Call::Get, fault, 1_000);
        let read = owner.reader.read(Offset(at), 10).await;
        assert!(matches!(read, Err(ReadError::Unavailable(_))), "{fault:?}: {read:?}");
        // Once in a while is no trouble at all.
        let times = if fault == Fault::Hang { 0 } else { 1 };
        faulty.fail(Call::Get, fault, times);
        assert_eq!(owner.reader.read(Offset(at), 1).await.unwrap()[0].first_offset, Offset(at));
    }
    faulty.fail(Call::Get, Fault::Refuse, 0);
    assert_eq!(read_all(&owner.reader).await, before);
}

/// A log of which a part is in objects only, and nothing of that in memory; its records, and how its broker reads objects.
async fn cold_log(cluster: &TestCluster, store: &Store) -> (Owner, Cold, Vec<ReadEntry>) {
    let (owner, parts, _) = long_log(cluster, Some(store), 100).await;
    let before = read_all(&owner.reader).await;
    offload(cluster, store, usize::MAX).await;
    let cold = parts.cold.expect("it was given a store");
    forget(&cold).await;
    (owner, cold, before)
}

/// So that the store is asked for everything again.
async fn forget(cold: &Cold) {
    // What was read is kept for so long above it.
    tokio::time::sleep(Duration::from_secs(60)).await;
    cold.forget();
}

/// Whichever answer is garbled on its way, or cut off: it is asked for once more, and readers get the same records.
#[tokio::test(start_paused = true)]
async fn an_answer_that_arrives_damaged_is_asked_for_once_more() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _counting = ::metrics::set_default_local_recorder(&recorder);
    let (cluster, faulty) = (TestCluster::new(3), Faulty::default());
    let (owner, cold, before) = cold_log(&cluster, &faulty.store()).await;
    let gets = faulty.calls(Call::Get);
    assert_eq!(read_all(&owner.reader).await, before);
    let gets = faulty.calls(Call::Get) - gets;
    assert!(gets > 10, "{gets} requests");
    let garbled = [Byte::First, Byte::Middle, Byte::Last].map(Fault::Garble);
    for fault in garbled.into_iter().chain([Fault::Truncate]) {
        let retried = counted(&recorder, "geminga_cold_retries_total");
        for number in 0..gets {
            forget(&cold).await;
            faulty.fail_after(Call::Get, number, fault, 1);
            assert_eq!(read_all(&owner.reader).await, before, "{fault:?} of request {number}");
            assert!(!faulty.is_to_fail(Call::Get), "{fault:?} of request {number} met nothing");
        }
        let retried = counted(&recorder, "geminga_cold_retries_total") - retried;
        assert_eq!(retried, gets as u64, "{fault:?}: each is asked for once more");
    }
    assert_eq!(counted(&recorder, "geminga_cold_failures_total"), 0, "nobody was told of it");
}

/// What arrives damaged again and again, or too late, is an error that is counted, and never other records; late, but in time, is no trouble.
#[tokio::test(start_paused = true)]
async fn what_arrives_damaged_or_too_late_is_a_counted_error() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _counting = ::metrics::set_default_local_recorder(&recorder);
    let (cluster, faulty) = (TestCluster::new(3), Faulty::default());
    let (owner, cold, before) = cold_log(&cluster, &faulty.store()).await;
    let slow = |seconds| Fault::Slow(Duration::from_secs(seconds));
    let garbled = [Byte::First, Byte::Middle, Byte::Last].map(|byte| (Fault::Garble(byte), true));
    let others = [(Fault::Truncate, true), (slow(60), true), (slow(1), false)];
    let faults: Vec<_> = garbled.into_iter().chain(others).collect();
    // From the first request on, which opens the object, or from the next one on, which is for its records.
    for (well, (fault, told)) in
        [0, 1].into_iter().flat_map(|well| faults.iter().map(move |fault| (well, *fault)))
    {
        forget(&cold).await;
        let failed = counted(&recorder, "geminga_cold_failures_total");
        faulty.fail_after(Call::Get, well, fault, 10_000);
        let read = owner.reader.read(Offset(0), 1).await;
        faulty.fail(Call::Get, fault, 0);
        let failed = counted(&recorder, "geminga_cold_failures_total") - failed;
        match told {
            true => assert!(matches!(read, Err(ReadError::Unavailable(_))), "{fault:?}: {read:?}"),
            false => assert_eq!(read.unwrap()[0].first_offset, Offset(0), "{fault:?}"),
        }
        assert_eq!(failed > 0, told, "{fault:?}: {failed} failures counted");
        // And nothing of it is kept.
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(read_all(&owner.reader).await, before, "after {fault:?}");
    }
}

/// What a counter says.
fn counted(recorder: &PrometheusRecorder, name: &str) -> u64 {
    let page = recorder.handle().render();
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

/// An object that somebody deleted by hand is told as lost, in the log by the names that a human needs; what is in others is read, and so is
/// all of it once the object is back.
#[tokio::test(start_paused = true)]
async fn scenario_56_a_reader_is_told_what_is_lost() {
    let lines = Lines::capture();
    let cluster = TestCluster::new(3);
    let faulty = Faulty::default();
    let store = faulty.store();
    let (owner, ..) = long_log(&cluster, Some(&store), 100).await;
    let before = read_all(&owner.reader).await;
    offload(&cluster, &store, usize::MAX).await;
    // What was read before is kept for so long.
    tokio::time::sleep(Duration::from_secs(60)).await;
    let mut objects = Vec::new();
    for item in cluster.store.range(keys::LEDGERS, None, 10_000).await.unwrap().items {
        let ledger = keys::parse_ledger(&item.key).unwrap();
        let meta = LedgerMeta::decode(ledger, &item.value.value).unwrap();
        objects.extend(meta.tier.object().map(|at| (meta.custom.first_offset, at.clone())));
    }
    let (first, lost) = objects[2].clone();
    let bytes = store.read(&lost, 0..lost.size).await.unwrap();
    store.delete(&lost.key).await.unwrap();
    for _ in 0..3 {
        let read = owner.reader.read(Offset(first), 10).await;
        let Err(ReadError::Damaged(why)) = &read else { panic!("{read:?}") };
        assert!(why.contains(&lost.key) && why.contains("bring it back"), "{why}");
    }
    let object = format!("object=\"{}\"", lost.key);
    let told = lines.with(&["topic=\"flights\"", "partition=0", &object]);
    assert_eq!(told.len(), 1, "once, however often it is asked for: {told:?}");
    // Reads of others go on, before it and behind it.
    for (offset, _) in [&objects[1], &objects[3]] {
        let read = owner.reader.read(Offset(*offset), 10).await.unwrap();
        assert_eq!(read[0].first_offset, Offset(*offset));
    }
    store.upload(&lost.key).complete(bytes).await.unwrap();
    assert_eq!(read_all(&owner.reader).await, before);
}

/// What is not in a directory that is not mounted is not lost.
#[tokio::test(start_paused = true)]
async fn nothing_is_lost_in_a_store_without_its_marker() {
    let cluster = TestCluster::new(3);
    let faulty = Faulty::default();
    let store = faulty.store_of("file://");
    let (owner, ..) = long_log(&cluster, Some(&store), 100).await;
    let before = read_all(&owner.reader).await;
    let marker = Marker { cluster: cluster.uuid(), store: 1 };
    marker.write(&store).await.unwrap();
    offload(&cluster, &store, usize::MAX).await;
    // What was read before is kept for so long.
    tokio::time::sleep(Duration::from_secs(60)).await;
    faulty.fail(Call::Get, Fault::Unmount, 1);
    let read = owner.reader.read(Offset(0), 10).await;
    let Err(ReadError::Unavailable(why)) = &read else { panic!("{read:?}") };
    assert!(why.contains("not mounted"), "{why}");
    faulty.mount();
    assert_eq!(read_all(&owner.reader).await, before);
}

/// An opening reads what it needs of the last ledgers, wherever they are.
#[tokio::test(start_paused = true)]
async fn a_log_opens_and_is_searched_by_time_from_objects() {
    let cluster = TestCluster::new(3);
    let store = Faulty::default().store();
    let (owner, parts, topic) = long_log(&cluster, Some(&store), 60).await;
    let before = read_all(&owner.reader).await;
    let found = owner.reader.by_time(0).await.unwrap();
    drop(owner);
    offload(&cluster, &store, usize::MAX).await;
    cluster.assign(topic.id, 0, 1, 2).await;
    let next = Owner::open_with(&parts, spec(&topic, 2)).await;
    assert_eq!(read_all(&next.reader).await, before);
    assert_eq!(next.reader.by_time(0).await.unwrap(), found);
}

#[tokio::test(start_paused = true)]
async fn a_broker_without_a_store_says_what_it_needs() {
    let cluster = TestCluster::new(3);
    let store = Faulty::default().store();
    let (owner, ..) = long_log(&cluster, None, 60).await;
    offload(&cluster, &store, usize::MAX).await;
    let read = owner.reader.read(Offset(0), 10).await;
    let Err(ReadError::Unavailable(why)) = &read else { panic!("{read:?}") };
    assert!(why.contains("--object-store"), "{why}");
}

/// Folds the first `count` segments of a partition that have keys, as a bookie does: after those of the last part, in a new object.
async fn fold(cluster: &TestCluster, store: &Store, topic: &Topic, count: usize) -> ManifestPart {
    fold_as(cluster, store, topic, count, |_, _| ()).await
}

/// The same, each segment and its ledger changed first.
async fn fold_as(
    cluster: &TestCluster,
    store: &Store,
    topic: &Topic,
    count: usize,
    change: impl Fn(&mut SegmentRecord, &mut LedgerMeta),
) -> ManifestPart {
    let of = (topic.id, PartitionIndex(0));
    let (mut manifest, _) = folded::stored_manifest(&cluster.store, of).await.unwrap();
    let mut all = Vec::new();
    if let Some(part) = manifest.parts.pop() {
        let list = SegmentList::read(store, cluster.uuid(), of, &part).await.unwrap();
        all.extend(list.segments().to_vec());
    }
    let mut txn = Txn::new();
    let listed = opening::list_segments(&cluster.store, of.0, of.1, None).await.unwrap();
    for (stored, next) in listed.iter().zip(&listed[1..]).take(count) {
        let end = stored.segment.end_offset.or(Some(next.segment.base_offset));
        let mut segment = SegmentRecord { end_offset: end, ..stored.segment };
        let key = keys::ledger(segment.ledger);
        let found = cluster.store.get(&key).await.unwrap().unwrap();
        let mut meta = LedgerMeta::decode(segment.ledger, &found.value).unwrap();
        change(&mut segment, &mut meta);
        all.push(FoldedSegment::new(stored.seq, segment, &meta).unwrap());
        txn = txn.delete(key).delete(keys::segment(of.0, of.1, stored.seq));
    }
    let attempt = 1_000 + all.len() as u128;
    let list = SegmentList::new(cluster.uuid(), of, attempt, all).unwrap();
    let part = list.write(store).await.unwrap();
    manifest.parts.push(part.clone());
    let txn = txn.put(keys::manifest(of.0, of.1), manifest.encode());
    cluster.store.txn(txn).await.unwrap();
    part
}

/// The log with its broker's object store, and what is in it.
async fn folding(entries: u32) -> (TestCluster, Faulty, Owner, LogParts, Arc<Topic>) {
    let cluster = TestCluster::new(3);
    let faulty = Faulty::default();
    let store = faulty.store();
    let (owner, parts, topic) = long_log(&cluster, Some(&store), entries).await;
    (cluster, faulty, owner, parts, topic)
}

/// 7.9: who has a partition open when its segments are folded reads on, and so does who opens it then.
#[tokio::test(start_paused = true)]
async fn folded_segments_are_read_as_before() {
    let (cluster, faulty, owner, parts, topic) = folding(200).await;
    let store = faulty.store();
    let before = read_all(&owner.reader).await;
    let by_time = owner.reader.by_time(0).await.unwrap();
    let (found, newest) = (owner.reader.term_of(Offset(5)).await.unwrap(), before.len());
    offload(&cluster, &store, 40).await;
    fold(&cluster, &store, &topic, 5).await;
    assert_eq!(read_all(&owner.reader).await, before, "by one who knows nothing of it");
    // The first list is superseded and gone when somebody reads by it.
    let first = fold(&cluster, &store, &topic, 4).await;
    let second = fold(&cluster, &store, &topic, 3).await;
    store.delete(&first.key).await.unwrap();
    assert_eq!(second.segments, 12);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(read_all(&owner.reader).await, before);
    drop(owner);

    cluster.assign(topic.id, 0, 1, 2).await;
    let gets = faulty.calls(Call::Get);
    let mut next = Owner::open_with(&parts, spec(&topic, 2)).await;
    let end = next.reader.ends().high_watermark;
    assert!(!next.reader.read(Offset(end.0 - 3), 100).await.unwrap().is_empty());
    assert_eq!(faulty.calls(Call::Get), gets, "nobody wants what is old");
    assert_eq!(read_all(&next.reader).await.len(), newest);
    assert_eq!(read_all(&next.reader).await, before);
    for offset in (0..600).rev().step_by(7) {
        let read = next.reader.read(Offset(offset), 1).await.unwrap();
        assert_eq!(read[0].first_offset, Offset(offset / 3 * 3), "the entry that contains it");
    }
    assert_eq!(next.reader.by_time(0).await.unwrap(), by_time);
    assert_eq!(next.reader.term_of(Offset(5)).await.unwrap(), found);
    next.append(3);
    next.all_acked().await;
    let first_of_2 = Offset(600);
    assert_eq!(next.reader.end_of_term(Term(1)).await.unwrap(), Some((Term(1), first_of_2)));
}

/// What is given up is out of range, folded or not, and counts no more.
#[tokio::test(start_paused = true)]
async fn a_log_may_start_among_folded_segments() {
    let (cluster, faulty, owner, _, topic) = folding(200).await;
    let store = faulty.store();
    offload(&cluster, &store, 40).await;
    let part = fold(&cluster, &store, &topic, 8).await;
    assert_eq!(read_all(&owner.reader).await.len(), 200);
    let held = owner.reader.folded_held().await.unwrap();
    assert_eq!((held.oldest.len(), held.later.len()), (8, 0));
    assert_eq!(owner.reader.folded_size().bytes, part.bytes);
    let third = held.oldest[2];
    owner.head.raise(third.end).await.unwrap();
    assert_eq!(owner.reader.folded_held().await.unwrap().oldest[0].base, third.end);
    let below = owner.reader.read(third.base, 10).await;
    assert!(matches!(below, Err(ReadError::OutOfRange { .. })), "{below:?}");
    assert_eq!(owner.reader.read(third.end, 1).await.unwrap()[0].first_offset, third.end);
    owner.head.remove_dead().await.unwrap();
    owner.head.raise(part.end_offset).await.unwrap();
    assert!(owner.reader.folded_held().await.unwrap().oldest.is_empty());
    assert_eq!(owner.reader.folded_size().bytes, 0);
}

/// A list that is lost is an error for those who want what it lists, and for nobody else.
#[tokio::test(start_paused = true)]
async fn a_lost_list_is_told_to_those_who_need_it() {
    let lines = Lines::capture();
    let cluster = TestCluster::new(3);
    let faulty = Faulty::default();
    let store = faulty.store_of("file://");
    let marker = Marker { cluster: cluster.uuid(), store: 1 };
    marker.write(&store).await.unwrap();
    let (owner, parts, topic) = long_log(&cluster, Some(&store), 200).await;
    offload(&cluster, &store, 40).await;
    let part = fold(&cluster, &store, &topic, 20).await;
    drop(owner);
    store.delete(&part.key).await.unwrap();
    cluster.assign(topic.id, 0, 1, 2).await;
    let mut next = Owner::open_with(&parts, spec(&topic, 2)).await;
    let read = next.reader.read(Offset(0), 10).await;
    assert!(matches!(read, Err(ReadError::Damaged(_))), "{read:?}");
    // By those who look after the cluster, once, as of an object.
    next.reader.read(Offset(0), 10).await.unwrap_err();
    let (of, object) = (format!("topic={}", topic.id), format!("object=\"{}\"", part.key));
    let told = lines.with(&["the list of a partition", &of, "partition=0", &object]);
    assert_eq!(told.len(), 1, "{told:?}");
    let end = next.reader.read(part.end_offset, 1).await.unwrap();
    assert_eq!(end[0].first_offset, part.end_offset);
    next.append(3);
    next.all_acked().await;
    // A broker without the store serves what has keys as well.
    drop(next);
    cluster.assign(topic.id, 0, 2, 3).await;
    let other = Owner::open_with(&cluster.log_parts(2), spec(&topic, 3)).await;
    let read = other.reader.read(Offset(0), 10).await;
    let Err(ReadError::Unavailable(why)) = &read else { panic!("{read:?}") };
    assert!(why.contains("--object-store"), "{why}");
    let last = Offset(other.reader.ends().high_watermark.0 - 3);
    assert_eq!(other.reader.read(last, 1).await.unwrap()[0].first_offset, last);
}

/// What is folded behind the back of an owner that rolls on is neither lost nor doubled.
#[tokio::test(start_paused = true)]
async fn an_owner_goes_on_while_its_segments_are_folded() {
    let (cluster, faulty, mut owner, parts, topic) = folding(60).await;
    let store = faulty.store();
    for _ in 0..5 {
        offload(&cluster, &store, usize::MAX).await;
        let listed = cluster.segments(topic.id, 0).await;
        fold(&cluster, &store, &topic, listed.saturating_sub(3)).await;
        for _ in 0..40 {
            owner.append(3);
            while owner.waiting.len() > 20 {
                owner.turn().await;
            }
        }
        owner.all_acked().await;
        owner.head.remove_dead().await.unwrap();
    }
    let before = read_all(&owner.reader).await;
    assert_eq!(before.len(), 260);
    drop(owner);
    cluster.assign(topic.id, 0, 1, 2).await;
    let next = Owner::open_with(&parts, spec(&topic, 2)).await;
    assert_eq!(read_all(&next.reader).await, before);
}

/// 6.8: all segments but the newest are folded, and that one was open in a backup and deleted since. What is folded may be read, and the log
/// goes on behind it.
#[tokio::test(start_paused = true)]
async fn a_log_of_folded_segments_opens_without_the_one_that_was_deleted() {
    let (cluster, faulty, owner, mut parts, topic) = folding(60).await;
    let end = owner.high_watermark;
    let store = faulty.store();
    offload(&cluster, &store, usize::MAX).await;
    let part = fold(&cluster, &store, &topic, usize::MAX).await;
    let [newest] = cluster.stored_segments(topic.id, 0).await[..] else { panic!("one is left") };
    (1..=3).for_each(|number| cluster.bookies.delete(number, newest.ledger));
    let closed = parts.ledgers.close_deleted(newest.ledger).await.unwrap().unwrap();
    assert_eq!(closed.last_entry, Some(geminga_proto::ids::EntryId::NONE));
    cluster.assign(topic.id, 0, 1, 2).await;
    parts.config.tail_bytes = 0;
    let mut owner = Owner::open_with(&parts, spec(&topic, 2)).await;
    assert_eq!(owner.high_watermark, part.end_offset.max(newest.base_offset));
    assert!(owner.high_watermark <= end && owner.high_watermark > Offset(0));
    owner.append(1);
    owner.all_acked().await;
}

/// Two look at the manifest at once, and the one that asked first is answered last: what is listed since is not forgotten, for it is
/// nowhere else.
#[tokio::test(start_paused = true)]
async fn a_manifest_that_is_read_late_takes_nothing_back() {
    let (cluster, faulty, owner, parts, topic) = folding(200).await;
    let store = faulty.store();
    offload(&cluster, &store, 40).await;
    fold(&cluster, &store, &topic, 5).await;
    drop(owner);
    let metadata = FaultyStore::new(cluster.store.clone());
    let (cold, of) = (parts.cold.clone(), (topic.id, PartitionIndex(0)));
    let folded = folded::Folded::load(Arc::new(metadata.clone()), cold, of).await.unwrap();
    let told = metadata.answer_late();
    let mut late = std::pin::pin!(folded.refresh());
    assert!(futures::poll!(late.as_mut()).is_pending());
    let part = fold(&cluster, &store, &topic, 4).await;
    folded.refresh().await.unwrap();
    assert_eq!(folded.last_seq(), Some(part.last_seq));
    told.notify_one();
    late.await.unwrap();
    assert_eq!(folded.last_seq(), Some(part.last_seq));
    assert!(folded.numbered(part.last_seq).await.unwrap().is_some());
}

/// Readers of segments that the opening has in memory need no list, although it knows by now that they were folded.
#[tokio::test(start_paused = true)]
async fn what_is_in_memory_is_read_without_a_list() {
    let (cluster, faulty, owner, parts, topic) = folding(200).await;
    let store = faulty.store();
    offload(&cluster, &store, 40).await;
    let before = read_all(&owner.reader).await;
    let all: u64 = owner.reader.held().iter().filter_map(|held| held.bytes).sum();
    fold(&cluster, &store, &topic, 20).await;
    owner.reader.stored_folded().refresh().await.unwrap();
    let (folded, held) = (owner.reader.folded_size(), owner.reader.held());
    let others = held.iter().filter(|held| !folded.counts(held)).filter_map(|held| held.bytes);
    assert_eq!(folded.bytes + others.sum::<u64>(), all, "nothing counts twice");
    parts.cold.as_ref().unwrap().forget_lists();
    let gets = faulty.calls(Call::Get);
    assert_eq!(read_all(&owner.reader).await, before);
    assert_eq!(faulty.calls(Call::Get), gets);
}

/// Retention looks once a minute, and fetches the oldest list when it has used up what it remembers, or the list is another.
#[tokio::test(start_paused = true)]
async fn retention_remembers_the_oldest_list() {
    let (cluster, faulty, owner, parts, topic) = folding(800).await;
    let store = faulty.store();
    offload(&cluster, &store, usize::MAX).await;
    let part = fold(&cluster, &store, &topic, 48).await;
    assert_eq!(part.segments, 48);
    owner.reader.stored_folded().refresh().await.unwrap();
    let cold = parts.cold.as_ref().unwrap();
    let held = async || {
        cold.forget_lists();
        let gets = faulty.calls(Call::Get);
        let held = owner.reader.folded_held().await.unwrap();
        let bytes = |held: &[Held]| held.iter().filter_map(|held| held.bytes).sum::<u64>();
        let sums = (bytes(&held.oldest) + bytes(&held.later), held.oldest.len());
        (sums.0, sums.1, held, faulty.calls(Call::Get) - gets)
    };
    let (all, told, first, fetched) = held().await;
    assert_eq!((all, told, fetched), (part.bytes, 48, 1));
    let (same, told, again, fetched) = held().await;
    assert_eq!((same, told, fetched), (all, 32, 0), "the rest of it as if it were one");
    assert_eq!(again.oldest, first.oldest[..32]);
    assert_eq!((again.later[0].base, again.later[0].end), (first.oldest[31].end, part.end_offset));
    owner.reader.stored_folded().learned(first.oldest[4].seq, 77);
    owner.head.raise(first.oldest[3].end).await.unwrap();
    let (left, told, later, fetched) = held().await;
    assert_eq!((told, fetched), (28, 0));
    assert_eq!(left, all - first.oldest[..4].iter().filter_map(|held| held.bytes).sum::<u64>());
    let noted = first.oldest[4].max_timestamp.or(Some(77));
    assert_eq!(later.oldest[0].max_timestamp, noted);
    owner.head.raise(first.oldest[31].end).await.unwrap();
    let (_, told, _, fetched) = held().await;
    assert_eq!((told, fetched), (16, 1));
    // Another list takes its place.
    let longer = fold(&cluster, &store, &topic, 2).await;
    owner.reader.stored_folded().refresh().await.unwrap();
    let (_, told, _, fetched) = held().await;
    assert_eq!((told, fetched), (longer.segments as usize - 32, 1));
}

/// Where no record says how old it is, each segment is as old as the ledger after it: what is remembered of a list ends no retention.
#[tokio::test(start_paused = true)]
async fn retention_by_time_goes_through_a_list_without_dates() {
    let (cluster, faulty, owner, parts, topic) = folding(800).await;
    let store = faulty.store();
    offload(&cluster, &store, usize::MAX).await;
    let at_ms = |base: Offset| 1_000 * base.0;
    let part = fold_as(&cluster, &store, &topic, 48, |segment, meta| {
        segment.max_timestamp = Some(-1);
        meta.created_ms = at_ms(segment.base_offset);
    })
    .await;
    drop(owner);
    cluster.assign(topic.id, 0, 1, 2).await;
    let owner = Owner::open_with(&parts, spec(&topic, 2)).await;
    let held = owner.reader.folded_held().await.unwrap().oldest;
    assert_eq!((held.len(), held[47].end), (48, part.end_offset));
    let limits = Limits { ms: Some(1), bytes: None };
    let start_at = async |now_ms| {
        raise_start(&owner.reader, &owner.head, limits, now_ms).await.unwrap();
        owner.reader.ends().log_start
    };
    assert_eq!(start_at(at_ms(held[4].base) + 2).await, held[3].end);
    let mut start = Offset(0);
    for _ in 0..4 {
        start = start_at(at_ms(held[47].base) + 1).await;
    }
    assert_eq!(start, held[45].end, "all but the last two");
}

/// A list is fetched when there is room for it, as a block is.
#[tokio::test(start_paused = true)]
async fn a_list_takes_its_room_before_it_is_fetched() {
    let (cluster, faulty, owner, parts, topic) = folding(200).await;
    let store = faulty.store();
    offload(&cluster, &store, 40).await;
    let part = fold(&cluster, &store, &topic, 20).await;
    drop(owner);
    let cold = parts.cold.clone().unwrap();
    cold.forget_lists();
    let free = cold.free_room();
    faulty.fail(Call::Get, Fault::Hang, 1);
    let of = (topic.id, PartitionIndex(0));
    let mut fetching = Box::pin(cold.segments(of, &part));
    assert!(futures::poll!(fetching.as_mut()).is_pending());
    assert_eq!(cold.free_room(), free - SegmentList::most_bytes(&part));
    drop(fetching);
    assert_eq!(cold.free_room(), free);
    let list = cold.segments(of, &part).await.unwrap();
    assert_eq!(list.segments().len(), part.segments as usize);
    assert_eq!(cold.free_room(), free);
}

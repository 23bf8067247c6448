//! The end of a decommission of a bookie that is lost for good, and cannot say what it had.

use geminga_metastore::Txn;
use geminga_metastore::record::Manifest;
use geminga_tier::faulty::{Call, Fault, Faulty};
use geminga_tier::{FoldedSegment, SegmentList, Store};

use super::super::vouch::Vouched;
use super::*;
use crate::testing;

/// Bookie 3 is lost and to leave; its auditor has an object store.
async fn lost() -> (World, Faulty, Store) {
    let world = World::new().await;
    world.leaves(3).await;
    let live = keys::bookie_live(&member(3).bookie);
    world.store.txn(Txn::new().delete(live)).await.unwrap();
    let faulty = Faulty::default();
    let objects = faulty.store();
    world.auditor.folded.objects_are_in(&objects);
    (world, faulty, objects)
}

/// A trimmed ledger of these bookies, whose object is there.
async fn uploaded(objects: &Store, ledger: u64, ensemble: [u64; 2]) -> LedgerMeta {
    let cluster = ClusterUuid::from_random(1);
    let meta = testing::trimmed_ledger(objects, cluster, LedgerId(ledger), 0).await;
    let LedgerMeta { qw, qa, fragments, .. } = closed(ledger, ensemble);
    LedgerMeta { qw, qa, fragments, ..meta }
}

async fn remove(objects: &Store, meta: &LedgerMeta) {
    objects.delete(&meta.tier.object().unwrap().key).await.unwrap();
}

/// Whether it is known after so many passes.
async fn stays(world: &mut World, passes: u32) -> bool {
    for _ in 0..passes {
        world.pass().await;
        tokio::time::advance(GRACE).await;
    }
    world.known(3).await
}

/// T5: by the answer that it would have dropped its copies by.
#[tokio::test(start_paused = true)]
async fn a_lost_bookie_leaves_once_each_object_was_there_that_it_may_have_had() {
    let (mut world, faulty, objects) = lost().await;
    let (one, two) = (uploaded(&objects, 5, [1, 3]).await, uploaded(&objects, 6, [2, 3]).await);
    // Nobody asks it for this one.
    let others = uploaded(&objects, 7, [1, 2]).await;
    for meta in [&one, &two, &others] {
        world.ledger(meta.clone()).await;
    }
    remove(&objects, &others).await;
    remove(&objects, &two).await;
    assert!(stays(&mut world, 4).await, "its copy may be the last");
    // It is back, but another.
    let key = &two.tier.object().unwrap().key;
    let other = bytes::Bytes::from_static(b"other entries");
    objects.upload(key).complete(other).await.unwrap();
    assert!(stays(&mut world, 4).await, "its copy may be the last");
    remove(&objects, &two).await;
    let back = uploaded(&objects, 6, [2, 3]).await;
    world.ledger(back).await;
    faulty.fail(Call::Get, Fault::Refuse, 1);
    assert!(stays(&mut world, 2).await, "no answer says nothing");
    assert!(!stays(&mut world, 2).await);
}

/// 7.9: those that were folded are known from lists only.
#[tokio::test(start_paused = true)]
async fn a_lost_bookie_leaves_once_the_objects_of_folded_segments_were_there() {
    let (mut world, faulty, objects) = lost().await;
    let of = (TopicId::from_random(9), PartitionIndex(0));
    let (mut segments, mut metas) = (Vec::new(), Vec::new());
    for (seq, ensemble) in [(1, [1, 3]), (2, [1, 2]), (3, [2, 3])] {
        let meta = uploaded(&objects, u64::from(seq), ensemble).await;
        let segment = testing::segment(seq, meta.id);
        segments.push(FoldedSegment::new(seq, segment, &meta).unwrap());
        metas.push(meta);
    }
    let list = SegmentList::new(ClusterUuid::from_random(1), of, 77, segments).unwrap();
    let parts = vec![list.write(&objects).await.unwrap()];
    let manifest = Manifest { parts, ..Manifest::default() };
    let key = keys::manifest(of.0, of.1);
    world.put(key.clone(), manifest.encode()).await;
    remove(&objects, &metas[1]).await;
    remove(&objects, &metas[0]).await;
    assert!(stays(&mut world, 4).await, "its copy may be the last");
    // What retention gave up is nobody's.
    let dropped = Manifest { dropped_before: 2, ..manifest };
    world.put(key.clone(), dropped.encode()).await;
    faulty.fail(Call::Get, Fault::Refuse, 1);
    assert!(stays(&mut world, 1).await, "the list was not read");
    assert!(!stays(&mut world, 2).await);
}

/// The objects of a large cluster are asked for in parts, and each once.
#[tokio::test(start_paused = true)]
async fn objects_are_asked_for_a_part_at_a_time() {
    let (mut world, faulty, objects) = lost().await;
    for ledger in 1..=2_600 {
        let meta = uploaded(&objects, ledger, [1, 3]).await;
        world.ledger(meta).await;
    }
    let before = faulty.calls(Call::Get);
    world.pass().await;
    let asked = faulty.calls(Call::Get) - before;
    let vouched = &world.term.vouched[&member(3).bookie];
    assert!(matches!(vouched, Vouched::Ledgers(Some(_))), "{vouched:?} after {asked}");
    tokio::time::advance(GRACE).await;
    world.pass().await;
    assert_eq!(faulty.calls(Call::Get) - before, 2_600);
    assert!(!stays(&mut world, 2).await);
    assert_eq!(faulty.calls(Call::Get) - before, 2_600, "what was there is not asked for again");
}

/// What was asked for of a manifest that is gone says nothing of the next one.
#[tokio::test(start_paused = true)]
async fn a_manifest_that_goes_takes_none_of_the_next_with_it() {
    let (mut world, _faulty, objects) = lost().await;
    let mut of_topic = Vec::new();
    for (topic, count, missing) in [(1, 150, 150), (2, 1, 1)] {
        let of = (TopicId::from_random(topic), PartitionIndex(0));
        let mut segments = Vec::new();
        for seq in 1..=count {
            let meta = uploaded(&objects, topic as u64 * 1_000 + u64::from(seq), [1, 3]).await;
            let segment = testing::segment(seq, meta.id);
            segments.push(FoldedSegment::new(seq, segment, &meta).unwrap());
            if seq == missing {
                remove(&objects, &meta).await;
            }
        }
        let list = SegmentList::new(ClusterUuid::from_random(1), of, 77, segments).unwrap();
        let parts = vec![list.write(&objects).await.unwrap()];
        let manifest = Manifest { parts, ..Manifest::default() };
        of_topic.push((keys::manifest(of.0, of.1), manifest));
    }
    // In the order of their keys, whichever the random ids are: the long one is first.
    let mut keys: Vec<String> = of_topic.iter().map(|(key, _)| key.clone()).collect();
    keys.sort();
    let ((_, long), (_, short)) = (of_topic.remove(0), of_topic.remove(0));
    if of_topic.is_empty() && keys[0] == keys::manifest(TopicId::from_random(1), PartitionIndex(0))
    {
        world.put(keys[0].clone(), long.encode()).await;
        world.put(keys[1].clone(), short.encode()).await;
        assert!(stays(&mut world, 4).await, "the last of the first is missing");
        world.store.txn(Txn::new().delete(keys[0].clone())).await.unwrap();
        assert!(stays(&mut world, 4).await, "the first of the second is missing");
    } else {
        panic!("choose other topics: {keys:?}");
    }
}

/// Whoever is back says itself what it has.
#[tokio::test(start_paused = true)]
async fn what_was_found_out_in_its_absence_is_forgotten_when_it_is_back() {
    let (mut world, _faulty, objects) = lost().await;
    let meta = uploaded(&objects, 5, [1, 3]).await;
    world.ledger(meta).await;
    world.pass().await;
    assert_eq!(world.term.vouched[&member(3).bookie], Vouched::All);
    world.live(3, false).await;
    assert!(stays(&mut world, 4).await, "it has not said anything");
    assert_eq!(world.term.vouched[&member(3).bookie], Vouched::default());
}

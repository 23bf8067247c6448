//! Segments that leave the metadata, whatever fails and whoever is beside it.

use super::*;
use crate::folded::{Folded, Listing};
use crate::scenario::holds_only_with;
use crate::tiering::Mutation;

#[tokio::test]
async fn old_segments_leave_the_metadata_and_are_all_listed() {
    let mut world = World::new(100).await;
    assert_eq!(world.round(1).await, (95, 0));
    world.judge(1).await;
    assert_eq!(world.keys("segments/").await, 5);
    assert_eq!(world.keys("ledgers/").await, 5);
    assert_eq!(world.keys("manifests/").await, 1);
    let manifest = world.manifest().await;
    assert_eq!(manifest.parts.len(), 1);
    assert_eq!((manifest.parts[0].segments, manifest.parts[0].bytes), (95, 9_500));
    assert_eq!(world.round(2).await, (0, 0), "few are not worth it");
    // Later ones join those that are there, in a new object; the old one is remembered for a while.
    world.grow(10).await;
    assert_eq!(world.round(3).await, (10, 0));
    world.judge(1).await;
    let grown = world.manifest().await;
    assert_eq!((grown.parts.len(), grown.parts[0].segments), (1, 105));
    assert_eq!(grown.former.len(), 1);
    assert_eq!(grown.former[0].attempt, manifest.parts[0].attempt);
}

/// Ten thousand segments: a handful of keys, and a few objects.
#[tokio::test]
async fn ten_thousand_segments_are_a_few_objects() {
    let world = World::new(10_000).await;
    world.fold_all().await;
    world.judge(1).await;
    assert_eq!(world.keys("").await, 5 + 5 + 1 + 1, "segments, ledgers, a manifest, the cluster");
    let manifest = world.manifest().await;
    assert!(manifest.parts.len() <= 3, "{} objects", manifest.parts.len());
    assert!(manifest.encode().len() < 20_000, "{} bytes", manifest.encode().len());
}

/// M9, at each transaction: what was done and not heard of is found, and what was not done is done again.
#[tokio::test]
async fn transactions_of_unknown_outcome_leave_one_place_each() {
    for trouble in [Trouble::LoseAnswer, Trouble::LoseRequest] {
        for at in 0..5 {
            let mut world = World::new(20).await;
            world.round(1).await;
            world.grow(80).await;
            *world.store.plan.lock() = Some((at, trouble.clone()));
            world.round(2).await;
            world.judge(1).await;
            world.round(3).await;
            world.judge(1).await;
            assert!(world.keys("segments/").await < 8, "{trouble:?} at {at}");
        }
    }
}

/// An object that cannot be written, or read back, is named by nothing.
#[tokio::test]
async fn a_store_in_trouble_delays_folding_and_no_more() {
    for (call, fault) in [
        (Call::Put, Fault::Refuse),
        (Call::Put, Fault::LoseReply),
        (Call::Get, Fault::Refuse),
        (Call::Get, Fault::Truncate),
    ] {
        let world = World::new(30).await;
        world.faulty.fail(call, fault, 1);
        assert_eq!(world.round(1).await.0, 0, "{call:?} {fault:?}");
        assert_eq!(world.manifest().await, Manifest::default());
        world.judge(1).await;
        assert_eq!(world.round(2).await.0, 25);
        world.judge(1).await;
    }
}

/// A list that is lost takes nothing else with it: what follows goes into another.
#[tokio::test]
async fn folding_goes_on_behind_a_list_that_is_lost() {
    let mut world = World::new(20).await;
    world.round(1).await;
    let lost = world.manifest().await.parts[0].clone();
    world.objects.delete(&lost.key).await.unwrap();
    world.grow(10).await;
    assert_eq!(world.round(2).await.0, 10);
    let manifest = world.manifest().await;
    assert_eq!(manifest.parts.len(), 2);
    assert_eq!(manifest.parts[0], lost, "it is as it was, for whoever brings the object back");
    assert_eq!(manifest.parts[1].first_seq, lost.last_seq + 1);
}

/// Whatever changes one of the keys first stops the transaction: retention, a repair, another that folds.
#[test]
fn scenario_68_whoever_is_quicker_than_a_fold_wins() {
    holds_only_with(Mutation::FoldUnguarded, async |mutations| {
        let (topic, partition) = of();
        for at in 0..3 {
            let world = World::without(mutations, 80).await;
            let third = world.meta(3);
            let repaired = LedgerMeta { last_op: 77, ..third.clone() };
            let by = Txn::new().put(keys::ledger(third.id), repaired.encode());
            *world.store.plan.lock() = Some((0, Trouble::Overtaken(by)));
            assert_eq!(world.round(1).await.0, 0, "its repair is not undone");
            let found = world.store.get(&keys::ledger(third.id)).await.unwrap().unwrap();
            assert_eq!(LedgerMeta::decode(third.id, &found.value).unwrap().last_op, 77);

            // The owner gives up the first one, whenever it is.
            let world = World::without(mutations, 80).await;
            let first = keys::segment(topic, partition, 1 + 24 * at);
            let by = Txn::new().delete(first);
            *world.store.plan.lock() = Some((at as usize, Trouble::Overtaken(by)));
            world.round(1).await;
            let moved = world.manifest().await.last_seq().unwrap_or(0);
            assert_eq!(moved, 24 * at, "those before it");
        }
    });
}

/// A list that is not there, or is not what was written, is named by nothing, whatever the store said.
#[test]
fn scenario_69_no_key_goes_for_a_list_that_was_not_read_back() {
    holds_only_with(Mutation::FoldUnseen, async |mutations| {
        let mut world = World::without(mutations, 30).await;
        world.faulty.fail(Call::Put, Fault::Pretend, 1);
        assert_eq!(world.round(1).await.0, 0);
        world.judge(1).await;
        assert_eq!(world.round(2).await.0, 25);
        world.grow(10).await;
        world.faulty.fail(Call::Put, Fault::Pretend, 1);
        assert_eq!(world.round(3).await.0, 0, "the list before it stays");
        world.judge(1).await;
    });
}

/// A list that went into a directory that is not mounted any more is read back there, and found nowhere else.
#[tokio::test]
async fn no_key_goes_for_a_list_below_a_mount_point() {
    let mut world = World::new(0).await;
    world.objects = world.faulty.store_of("file://");
    world.grow(30).await;
    assert!(world.folder(1).mark.holds().await);
    world.faulty.fail(Call::Put, Fault::Unmount, 1);
    assert_eq!(world.folder(1).fold(&mut Cursor::default()).await.unwrap(), 0);
    world.faulty.mount();
    world.judge(1).await;
    assert_eq!(world.round(2).await.0, 25);
    world.judge(1).await;
}

/// Two that were both elected: one's object is named, the other's is not.
#[tokio::test]
async fn two_that_fold_at_once_do_it_once() {
    let world = World::new(100).await;
    let (one, two) = (world.folder(1), world.folder(2));
    let mut cursors = (Cursor::default(), Cursor::default());
    let (first, second) = tokio::join!(one.fold(&mut cursors.0), two.fold(&mut cursors.1));
    let folded = first.unwrap() + second.unwrap();
    assert!(folded <= 95, "{folded} segments");
    world.judge(1).await;
    world.round(3).await;
    world.judge(1).await;
    assert_eq!(world.keys("segments/").await, 5);
}

/// What another did to a manifest meanwhile is not undone, whatever is done to it: it is written anew, or removed.
#[test]
fn a_manifest_that_changed_meanwhile_is_left_alone() {
    let (topic, partition) = of();
    let key = keys::manifest(topic, partition);
    // A fold, which does not know yet what was given up.
    holds_only_with(Mutation::FoldBlindly, async |mutations| {
        let mut world = World::without(mutations, 30).await;
        world.round(1).await;
        let given_up = Manifest { dropped_before: 5, ..world.manifest().await };
        world.grow(10).await;
        let by = Txn::new().put(key.clone(), given_up.encode());
        *world.store.plan.lock() = Some((0, Trouble::Overtaken(by)));
        world.folder(2).fold(&mut Cursor::default()).await.unwrap();
        assert_eq!(world.manifest().await.dropped_before, 5);
    });
    // Retention, at each of its transactions, which does not know yet what was folded.
    for at in 0..2_u32 {
        holds_only_with(Mutation::FoldBlindly, async |mutations| {
            let world = World::without(mutations, 30).await;
            world.round(1).await;
            let mut folded = world.manifest().await;
            folded.dropped_before = u64::from(at) * 6;
            folded.parts[0].bytes += 1;
            world.raise(5 * EACH).await;
            let by = Txn::new().put(key.clone(), folded.encode());
            *world.store.plan.lock() = Some((at as usize, Trouble::Overtaken(by)));
            world.folder(2).retire(&mut Memory::default()).await.unwrap();
            assert_eq!(world.manifest().await.parts, folded.parts, "at {at}");
        });
    }
    // The end of a deleted topic: dropped, removed, gone.
    holds_only_with(Mutation::FoldBlindly, async |mutations| {
        let world = World::without(mutations, 30).await;
        world.round(1).await;
        let folded = world.manifest().await;
        world.delete_topic().await;
        let by = Txn::new().put(key.clone(), folded.encode());
        *world.store.plan.lock() = Some((2, Trouble::Overtaken(by)));
        world.folder(2).retire(&mut Memory::default()).await.unwrap();
        assert_eq!(world.manifest().await.parts, folded.parts);
    });
}

/// I16: nothing brings a key back that was folded, however late it is.
#[tokio::test]
async fn a_late_change_of_a_folded_ledger_does_not_bring_it_back() {
    let world = World::new(30).await;
    let key = keys::ledger(world.meta(1).id);
    let before = world.store.get(&key).await.unwrap().unwrap();
    world.round(1).await;
    let late = Txn::new()
        .guard(Guard::Version(key.clone(), before.version))
        .put(key.clone(), before.value.clone());
    assert_eq!(world.store.txn(late).await.unwrap(), TxnOutcome::GuardFailed);
    assert_eq!(world.store.get(&key).await.unwrap(), None);
}

/// What is not in the object store only, or in another, ends the run.
#[tokio::test]
async fn a_run_ends_at_what_bookies_still_have() {
    let world = World::new(30).await;
    let mut fourth = world.meta(4);
    let Tier::Trimmed(object) = fourth.tier.clone() else { panic!("it is trimmed") };
    fourth.tier = Tier::Offloaded(object.clone());
    let key = keys::ledger(fourth.id);
    world.store.memory.txn(Txn::new().put(key.clone(), fourth.encode())).await.unwrap();
    assert_eq!(world.round(1).await.0, 3);
    fourth.tier = Tier::Trimmed(TierObject { bucket: "s3://other".to_owned(), ..object });
    world.store.memory.txn(Txn::new().put(key, fourth.encode())).await.unwrap();
    assert_eq!(world.round(2).await.0, 0);
}

/// Who asks for a ledger without a key hears that it was folded; and nothing certain while the list cannot be read.
#[tokio::test]
async fn a_folded_ledger_counts_as_existing() {
    let world = World::new(30).await;
    world.round(1).await;
    let folded = Folded::new(cluster(), world.store.clone());
    let (known, never) = (world.meta(7).id, LedgerId(world.meta(7).id.0 + 1));
    let asked = [known, never, LedgerId(999_999)].into();
    let blind = folded.find(&asked).await.unwrap();
    assert_eq!(blind.get(&known), Some(&Listing::Unknown), "no store was named yet");
    assert_eq!(blind.get(&LedgerId(999_999)), None, "no list can name it");
    folded.objects_are_in(&world.objects);
    world.faulty.fail(Call::Get, Fault::Refuse, 1);
    assert_eq!(folded.find(&asked).await.unwrap().get(&known), Some(&Listing::Unknown));
    let found = folded.find(&asked).await.unwrap();
    assert_eq!(found.get(&known), Some(&Listing::Folded(Box::new(world.meta(7)))));
    assert_eq!(found.len(), 1);
    let (topic, partition) = of();
    assert_eq!(folded.find_in(topic, partition, never).await.unwrap(), None);
    assert_eq!(folded.find_in(topic, PartitionIndex(9), known).await.unwrap(), None);
}

/// A segment that nobody can read ends the run: what is behind it is not folded around it.
#[tokio::test]
async fn a_run_ends_at_a_key_that_cannot_be_read() {
    let (topic, partition) = of();
    for key in [keys::segment(topic, partition, 8), keys::ledger(LedgerId(8 * 3))] {
        let world = World::new(30).await;
        let before = world.store.get(&key).await.unwrap().unwrap().value;
        let broken = Txn::new().put(key.clone(), Bytes::from_static(b"?"));
        world.store.memory.txn(broken).await.unwrap();
        world.fold_all().await;
        let last = world.manifest().await.last_seq();
        assert!(last.is_none_or(|last| last < 8), "{key}: {last:?}");
        world.store.memory.txn(Txn::new().put(key, before)).await.unwrap();
        world.fold_all().await;
        world.judge(1).await;
        assert_eq!(world.manifest().await.last_seq(), Some(25));
    }
}

/// A partition whose manifest cannot be read holds up no other.
#[tokio::test]
async fn a_broken_manifest_holds_up_no_other_partition() {
    let world = World::new(30).await;
    let (topic, partition) = of();
    let before = PartitionIndex(partition.0 - 1);
    for seq in 1..=30 {
        let found = world.store.get(&keys::segment(topic, partition, seq)).await.unwrap().unwrap();
        let copy = Txn::new().put(keys::segment(topic, before, seq), found.value);
        world.store.memory.txn(copy).await.unwrap();
    }
    let broken = Txn::new().put(keys::manifest(topic, before), Bytes::from_static(b"?"));
    world.store.memory.txn(broken).await.unwrap();
    assert_eq!(world.round(1).await, (25, 0));
    world.judge(1).await;
}

/// A list that cannot be read now is waited for: another is begun behind one that is lost only.
#[tokio::test]
async fn a_list_that_cannot_be_read_now_is_waited_for() {
    let mut world = World::new(20).await;
    world.round(1).await;
    world.grow(10).await;
    world.faulty.fail(Call::Get, Fault::Refuse, 1);
    assert_eq!(world.round(2).await.0, 0);
    assert_eq!(world.round(3).await.0, 10);
    assert_eq!(world.manifest().await.parts.len(), 1);
    world.judge(1).await;
}

/// A manifest of as many lists as there may be still takes what fits into its last.
#[tokio::test]
async fn a_full_manifest_fills_its_last_list() {
    let mut world = World::new(0).await;
    let (topic, partition) = of();
    for _ in 0..MAX_PARTS {
        world.grow(1).await;
        let (seq, mut manifest) = (world.made, world.manifest().await);
        let key = keys::segment(topic, partition, seq);
        let found = world.store.get(&key).await.unwrap().unwrap();
        let segment = Segment::decode(&found.value).unwrap();
        let one = geminga_tier::FoldedSegment::new(seq, segment, &world.meta(seq)).unwrap();
        let list = SegmentList::new(cluster(), of(), u128::from(seq), vec![one]).unwrap();
        manifest.parts.push(list.write(&world.objects).await.unwrap());
        let txn = Txn::new()
            .delete(key)
            .delete(keys::ledger(world.meta(seq).id))
            .put(keys::manifest(topic, partition), manifest.encode());
        world.store.memory.txn(txn).await.unwrap();
    }
    world.grow(20).await;
    assert_eq!(world.round(1).await.0, 15);
    assert_eq!(world.manifest().await.parts.len(), MAX_PARTS);
    world.judge(1).await;
    // Where the last is lost there is no place for another.
    let last = world.manifest().await.parts.pop().unwrap();
    world.objects.delete(&last.key).await.unwrap();
    world.grow(10).await;
    assert_eq!(world.round(2).await.0, 0);
    assert_eq!(world.manifest().await.parts.len(), MAX_PARTS);
}

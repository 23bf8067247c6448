//! What is given up leaves no object, bit by bit, whatever stays.

use super::*;

/// Retention: objects go, the manifest shrinks, at every step again after a crash.
#[tokio::test]
async fn what_is_given_up_leaves_no_object() {
    for trouble in [None, Some(Trouble::LoseAnswer), Some(Trouble::LoseRequest)] {
        for at in 0..3 {
            let mut world = World::new(50).await;
            world.round(1).await;
            assert_eq!(world.manifest().await.last_seq(), Some(45));
            // In the middle of the tenth: that one stays.
            world.raise(9 * EACH + 5).await;
            *world.store.plan.lock() = trouble.clone().map(|trouble| (at, trouble));
            world.round(2).await;
            *world.store.plan.lock() = None;
            world.round(3).await;
            world.judge(10).await;
            let manifest = world.manifest().await;
            assert_eq!((manifest.dropped_before, manifest.removed_before), (10, 10));
            for seq in 1..10 {
                let object = world.object(seq);
                assert_eq!(world.objects.head(&object).await.unwrap(), None, "{seq}");
            }
            // A new list does not name them any more; and when all is given up no list is left.
            world.grow(10).await;
            world.round(4).await;
            world.judge(10).await;
            assert_eq!(world.manifest().await.parts[0].first_seq, 10);
            world.raise(i64::from(world.made) * EACH).await;
            world.round(5).await;
            assert_eq!(world.manifest().await.parts, []);
        }
    }
}

/// What cannot be read now is given up later, and not forgotten.
#[tokio::test]
async fn a_list_that_cannot_be_read_is_given_up_later() {
    let world = World::new(50).await;
    world.round(1).await;
    world.raise(9 * EACH).await;
    world.faulty.fail(Call::Get, Fault::Refuse, 1);
    let (folder, mut memory) = (world.folder(2), Memory::default());
    assert_eq!(folder.retire(&mut memory).await.unwrap(), 0);
    let manifest = world.manifest().await;
    assert!(manifest.removed_before < 10);
    assert_eq!(folder.retire(&mut memory).await.unwrap(), 9);
    let gets = world.faulty.calls(Call::Get);
    assert_eq!(folder.retire(&mut memory).await.unwrap(), 0);
    assert_eq!(folder.retire(&mut memory).await.unwrap(), 0);
    assert!(world.faulty.calls(Call::Get) <= gets + 1, "what is done is not looked at again");
    assert_eq!(world.manifest().await.removed_before, 10);
    world.judge(10).await;
}

/// A list that was garbled on its way is no lost one, whose segments nobody finds again: it is read a second time first.
#[tokio::test]
async fn a_list_is_lost_only_when_it_is_read_twice() {
    let world = World::new(50).await;
    world.round(1).await;
    world.raise(9 * EACH).await;
    world.faulty.fail(Call::Get, Fault::Garble(Byte::Middle), 1);
    let (folder, mut memory) = (world.folder(2), Memory::default());
    assert_eq!(folder.retire(&mut memory).await.unwrap(), 9);
    world.judge(10).await;

    // Of a fold: what is lost is left alone, and what is not goes on in the list that is there.
    for (garbled, lists) in [(1, 1), (2, 2)] {
        let mut world = World::new(50).await;
        world.round(1).await;
        world.grow(20).await;
        world.faulty.fail(Call::Get, Fault::Garble(Byte::Middle), garbled);
        assert_eq!(world.folder(2).fold(&mut Cursor::default()).await.unwrap(), 20);
        assert_eq!(world.manifest().await.parts.len(), lists, "{garbled} times");
    }
}

/// The deletion of a topic: no object of what was folded is left, nor of the lists, nor a key.
#[tokio::test]
async fn a_deleted_topic_leaves_nothing() {
    for trouble in [None, Some(Trouble::LoseAnswer), Some(Trouble::LoseRequest)] {
        for at in 0..3 {
            let mut world = World::new(50).await;
            world.round(1).await;
            world.grow(20).await;
            world.round(2).await;
            let last = world.manifest().await.last_seq().unwrap();
            world.delete_topic().await;
            *world.store.plan.lock() = trouble.clone().map(|trouble| (at, trouble));
            world.round(3).await;
            *world.store.plan.lock() = None;
            world.round(4).await;
            assert_eq!(world.keys("manifests/").await, 0);
            let left: BTreeSet<String> =
                (last + 1..=world.made).map(|seq| world.object(seq)).collect();
            assert_eq!(world.objects().await, left, "those of segments that have keys, only");
        }
    }
}

/// A look removes so many objects and says how far it came: whoever is elected next goes on from there.
#[tokio::test]
async fn a_deleted_topic_is_removed_bit_by_bit() {
    let world = World::new(1_800).await;
    world.fold_all().await;
    world.delete_topic().await;
    let (mut removed, mut looks) = (0, 0);
    while world.keys("manifests/").await > 0 {
        let mut memory = Memory::default();
        let once = world.folder(looks).retire(&mut memory).await.unwrap();
        assert!((1..=500).contains(&once), "{once} at once");
        removed += once;
        looks += 1;
        if world.keys("manifests/").await > 0 {
            assert!(memory.more, "it need not wait for the next round");
            let noted = world.manifest().await.removed_before;
            assert_eq!(noted, removed as u64 + 1, "after {looks} looks");
        }
    }
    assert_eq!((removed, looks), (1_795, 4), "none twice");
    assert_eq!(world.objects().await.len(), 5, "those of segments that have keys");
}

/// An object that cannot be removed keeps its place in the manifest, and holds up none behind it, however many there are.
#[tokio::test]
async fn one_object_that_stays_holds_up_no_other() {
    let world = World::new(1_300).await;
    world.fold_all().await;
    let stuck = [world.object(3), world.object(700)];
    stuck.iter().for_each(|key| world.faulty.lock(key, true));
    world.raise(1_200 * EACH).await;
    let (folder, mut memory) = (world.folder(1), Memory::default());
    for _ in 0..4 {
        folder.retire(&mut memory).await.unwrap();
    }
    let left = |objects: &BTreeSet<String>| {
        (1..=1_200).filter(|seq| objects.contains(&world.object(*seq))).collect::<Vec<_>>()
    };
    assert_eq!(left(&world.objects().await), [3, 700]);
    let manifest = world.manifest().await;
    assert_eq!((manifest.dropped_before, manifest.removed_before), (1_201, 3));
    assert!(!memory.more, "what is stuck is tried in its time");
    stuck.iter().for_each(|key| world.faulty.lock(key, false));
    for _ in 0..6 {
        folder.retire(&mut memory).await.unwrap();
    }
    assert_eq!(left(&world.objects().await), [] as [u32; 0]);
    assert_eq!(world.manifest().await.removed_before, 1_201);
    world.judge(1_201).await;
}

/// Of a store that removes nothing a look asks a few times only.
#[tokio::test]
async fn a_store_that_removes_nothing_is_not_asked_for_all() {
    let world = World::new(200).await;
    world.fold_all().await;
    (1..=200).for_each(|seq| world.faulty.lock(&world.object(seq), true));
    world.raise(190 * EACH).await;
    let before = world.faulty.calls(Call::Delete);
    world.round(1).await;
    assert!(world.faulty.calls(Call::Delete) - before < 20);
    assert!(world.manifest().await.removed_before <= 1, "those before the first are none");
    world.judge(191).await;
}

/// A list of a deleted topic that cannot be removed keeps its manifest, and with it the mark, but no other list.
#[tokio::test]
async fn a_list_that_stays_keeps_the_manifest_of_a_deleted_topic() {
    let mut world = World::new(50).await;
    world.round(1).await;
    let first = world.manifest().await.parts[0].key.clone();
    world.grow(20).await;
    world.round(2).await;
    let second = world.manifest().await.parts[0].key.clone();
    world.faulty.lock(&first, true);
    world.delete_topic().await;
    world.round(3).await;
    assert_eq!(world.keys("manifests/").await, 1);
    assert!(world.objects().await.contains(&first) && !world.objects().await.contains(&second));
    world.faulty.lock(&first, false);
    world.round(4).await;
    assert_eq!(world.keys("manifests/").await, 0);
}

/// Partitions where something is stuck ask for that again, and leave the others their turn.
#[tokio::test]
async fn what_is_stuck_starves_no_other_partition() {
    let first = World::new(1_205).await;
    let mut worlds = vec![first];
    for at in 3..8 {
        let next = worlds[0].beside(at, 1_205).await;
        worlds.push(next);
    }
    let first = &worlds[0];
    first.fold_all().await;
    for world in &worlds {
        world.raise(1_200 * EACH).await;
        world.faulty.lock(&world.object(2), true);
    }
    let (folder, mut memory) = (first.folder(1), Memory::default());
    let left = async |world: &World| {
        let objects = world.objects().await;
        (1..=1_200).filter(|seq| objects.contains(&world.object(*seq))).count()
    };
    for _ in 0..2 {
        folder.retire(&mut memory).await.unwrap();
        assert!(memory.more);
    }
    for world in &worlds {
        assert!(left(world).await < 710, "{} has had its turn", world.at);
    }
    for _ in 0..3 {
        folder.retire(&mut memory).await.unwrap();
    }
    for world in &worlds {
        assert_eq!(left(world).await, 1);
    }
    let deletes = first.faulty.calls(Call::Delete);
    assert_eq!(folder.retire(&mut memory).await.unwrap(), 0);
    assert!(!memory.more);
    assert_eq!(first.faulty.calls(Call::Delete) - deletes, 6, "what is stuck, and nothing else");
    worlds.iter().for_each(|world| world.faulty.lock(&world.object(2), false));
    assert_eq!(folder.retire(&mut memory).await.unwrap(), 6);
    for world in &worlds {
        assert_eq!(world.manifest().await.removed_before, 1_201);
        world.judge(1_201).await;
    }
}

/// A list that stays unreadable holds up none behind it, and what it names is neither forgotten nor given up for lost.
#[tokio::test]
async fn a_list_that_stays_unreadable_holds_up_no_other() {
    let world = World::new(9_005).await;
    world.fold_all().await;
    let move_first = async |bucket: &str| {
        let mut manifest = world.manifest().await;
        manifest.parts[0].bucket = bucket.to_owned();
        let key = keys::manifest(of().0, of().1);
        world.store.memory.txn(Txn::new().put(key, manifest.encode())).await.unwrap();
        manifest.parts[0].clone()
    };
    let unreadable = move_first("s3://other").await;
    world.raise(9_000 * EACH).await;
    let (folder, mut memory) = (world.folder(1), Memory::default());
    for _ in 0..14 {
        folder.retire(&mut memory).await.unwrap();
    }
    let objects = world.objects().await;
    let left: Vec<u32> = (1..=9_000).filter(|seq| objects.contains(&world.object(*seq))).collect();
    assert_eq!(left, (1..=unreadable.last_seq).collect::<Vec<_>>());
    assert_eq!(world.manifest().await.removed_before, 1);
    assert!(!memory.more);
    move_first("memory://").await;
    for _ in 0..12 {
        folder.retire(&mut memory).await.unwrap();
    }
    assert_eq!(world.manifest().await.removed_before, 9_001);
    world.judge(9_001).await;
}

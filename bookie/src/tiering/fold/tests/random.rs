//! Everything at once, by chance: two that fold, an owner that rolls, gives up and repairs, a topic that may be deleted, a store and
//! metadata that fail. A run that fails prints its seed.

use super::*;
use crate::scenario::holds_only_with;
use crate::tiering::Mutation;

/// Runs of one test.
const RUNS: u64 = 60;
/// Things that happen in one run.
const STEPS: usize = 40;

/// One of the next transactions fails, or a call of the object store does.
fn trouble(world: &World, dice: &SeededRandom) {
    let at = usize::try_from(dice.below(4)).unwrap();
    match dice.below(8) {
        0 => *world.store.plan.lock() = Some((at, Trouble::LoseAnswer)),
        1 => *world.store.plan.lock() = Some((at, Trouble::LoseRequest)),
        2 => world.faulty.fail(Call::Put, Fault::Refuse, 1),
        3 => world.faulty.fail(Call::Put, Fault::LoseReply, 1),
        4 => world.faulty.fail(Call::Put, Fault::Pretend, 1),
        5 => world.faulty.fail(Call::Get, Fault::Refuse, 1),
        _ => {}
    }
}

fn calm(world: &World) {
    *world.store.plan.lock() = None;
    [Call::Put, Call::Get].into_iter().for_each(|call| world.faulty.fail(call, Fault::Refuse, 0));
}

/// A repair changes one of the ledgers that have keys, between whatever a fold reads and does.
async fn repair(world: &World, dice: &SeededRandom) {
    let seq = 1 + u32::try_from(dice.below(u64::from(world.made))).unwrap();
    let key = keys::ledger(world.meta(seq).id);
    if let Some(found) = world.store.get(&key).await.unwrap() {
        let meta = LedgerMeta::decode(world.meta(seq).id, &found.value).unwrap();
        let touched = Txn::new().put(key, meta.encode());
        *world.store.plan.lock() = Some((0, Trouble::Overtaken(touched)));
    }
}

/// The first segments that end at the log start or before go with their ledgers' objects, as an owner and a janitor remove them.
async fn give_up(world: &World, start: i64) {
    let (topic, partition) = of();
    for seq in 1..=world.made {
        let key = keys::segment(topic, partition, seq);
        if i64::from(seq) * EACH > start || world.store.get(&key).await.unwrap().is_none() {
            continue;
        }
        let gone = Txn::new().delete(key).delete(keys::ledger(world.meta(seq).id));
        world.store.memory.txn(gone).await.unwrap();
        world.objects.delete(&world.object(seq)).await.unwrap();
    }
}

/// What is wanted is in one place and has its object, after every step.
async fn holds(world: &World, start: i64) {
    let first = u32::try_from(start / EACH).unwrap() + 1;
    let mut seqs: Vec<u32> = world.listed().await.iter().map(|(seq, _)| *seq).collect();
    let prefix = keys::segments_of(of().0, of().1);
    let stored = world.store.range(&prefix, None, 10_000).await.unwrap().items;
    seqs.extend(stored.iter().map(|item| keys::parse_segment_seq(&item.key).unwrap()));
    seqs.retain(|seq| *seq >= first);
    assert_eq!(seqs, (first..=world.made).collect::<Vec<_>>());
    let objects = world.objects().await;
    for seq in first..=world.made {
        assert!(objects.contains(&world.object(seq)), "the object of {seq}");
    }
}

async fn run(seed: u64, mutations: Mutations) {
    let dice = SeededRandom::new(seed);
    let mut world = World::seeded(seed, mutations, 20).await;
    let (mut memories, mut start) = ([Memory::default(), Memory::default()], 0_i64);
    for step in 0..STEPS {
        trouble(&world, &dice);
        let who = usize::try_from(dice.below(2)).unwrap();
        let folder = world.folder(seed * 1_000 + step as u64);
        match dice.below(7) {
            0 => {
                calm(&world);
                world.grow(1 + u32::try_from(dice.below(30)).unwrap()).await;
            }
            1 => {
                let most = i64::from(world.made) * EACH;
                let more = i64::try_from(dice.below(80)).unwrap();
                start = (start + more).min(most);
                world.raise(start).await;
                give_up(&world, start).await;
            }
            2 => {
                repair(&world, &dice).await;
                folder.fold(&mut Cursor::default()).await.unwrap();
            }
            3 => {
                let other = world.folder(seed * 1_000 + 500 + step as u64);
                let mut cursors = (Cursor::default(), Cursor::default());
                let (one, two) =
                    tokio::join!(folder.fold(&mut cursors.0), other.fold(&mut cursors.1));
                one.unwrap();
                two.unwrap();
            }
            4 => {
                let other = world.folder(seed * 1_000 + 500 + step as u64);
                let mut cursor = Cursor::default();
                let (one, two) =
                    tokio::join!(folder.fold(&mut cursor), other.retire(&mut memories[who]));
                one.unwrap();
                two.unwrap();
            }
            5 => _ = folder.fold(&mut Cursor::default()).await.unwrap(),
            _ => _ = folder.retire(&mut memories[who]).await.unwrap(),
        }
        calm(&world);
        holds(&world, start).await;
    }
    let mut memory = Memory::default();
    for round in 0..3 {
        world.folder(seed * 1_000 + 900 + round).retire(&mut memory).await.unwrap();
    }
    world.fold_all().await;
    holds(&world, start).await;
    let first = u32::try_from(start / EACH).unwrap() + 1;
    let left: Vec<u32> = {
        let objects = world.objects().await;
        (1..first).filter(|seq| objects.contains(&world.object(*seq))).collect()
    };
    assert_eq!(left, [] as [u32; 0], "what was given up leaves no object");
    world.delete_topic().await;
    give_up(&world, i64::from(world.made) * EACH).await;
    for round in 0..4 {
        world.round(seed * 1_000 + 950 + round).await;
    }
    assert_eq!(world.keys("manifests/").await, 0);
}

async fn run_all(mutations: Mutations) {
    for seed in 0..RUNS {
        let failed = std::panic::AssertUnwindSafe(run(seed, mutations));
        if let Err(panic) = futures::FutureExt::catch_unwind(failed).await {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[tokio::test]
async fn whatever_happens_a_segment_is_in_one_place() {
    run_all(Mutations::default()).await;
}

/// The runs come upon two at one manifest.
#[test]
fn two_at_one_manifest_are_told_apart_by_its_version() {
    holds_only_with(Mutation::FoldBlindly, run_all);
}

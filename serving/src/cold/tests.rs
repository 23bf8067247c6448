//! What is asked of the store, how often, and what is kept of it: objects of blocks of a MiB, one entry each, and a store that counts.

use geminga_metastore::record::{CloseKind, Digest, Fragment, LedgerState};
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{Incarnation, Member, SealEpoch};
use geminga_proto::payload::Payload;
use geminga_tier::SegmentWriter;
use geminga_tier::faulty::{Call, Fault, Faulty};
use geminga_tier::format::Header;

use super::*;

const LEDGER: LedgerId = LedgerId(7);
const MEBIBYTE: usize = 1 << 20;

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(1)
}

fn stored(id: i64) -> Bytes {
    let cumulative_length = (id as u64 + 1) * MEBIBYTE as u64;
    let position =
        Position { ledger: LEDGER, entry: EntryId(id), lac: EntryId(id - 1), cumulative_length };
    let attributes = Attributes {
        kind: Kind::Barrier,
        first_offset: 0,
        offset_count: 0,
        max_timestamp: -1,
        running_max_timestamp: -1,
        last_snapshot_entry: NO_SNAPSHOT,
    };
    let mut payload = Payload::default();
    payload.push(Bytes::from(vec![id as u8; MEBIBYTE]));
    entry::encode(cluster(), position, attributes, &payload).unwrap()
}

/// A ledger of so many blocks, which is in the store only.
async fn offloaded(store: &Store, blocks: i64) -> LedgerMeta {
    let ensemble = vec![Member { bookie: "b1".parse().unwrap(), incarnation: Incarnation(1) }];
    let mut meta = LedgerMeta {
        id: LEDGER,
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw: 1,
        qa: 1,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble }],
        last_entry: Some(EntryId(blocks - 1)),
        length: blocks as u64 * MEBIBYTE as u64,
        entries_crc: None,
        tier: Tier::Local,
        close_kind: Some(CloseKind::Writer),
        recoverer: String::new(),
        last_op: 1,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    };
    let mut writer = SegmentWriter::new(&Header::of(cluster(), 1, &meta).unwrap());
    (0..blocks).for_each(|id| writer.push(&stored(id)).unwrap());
    let (bytes, summary) = writer.finish().unwrap();
    let key = store.key(cluster(), &meta.custom, LEDGER, 1);
    store.upload(&key).complete(bytes).await.unwrap();
    meta.tier = Tier::Trimmed(TierObject {
        attempt: 1,
        bucket: store.bucket().to_owned(),
        etag: store.head(&key).await.unwrap().unwrap().etag,
        key,
        size: summary.size,
        entries: summary.entries,
        object_crc: summary.object_crc,
        index_place: summary.index_place,
        at_ms: 0,
    });
    meta
}

/// A store with such a ledger, and a broker that has read nothing of it.
async fn cold(blocks: i64, bytes: usize) -> (Faulty, LedgerMeta, Cold) {
    let faulty = Faulty::default();
    let meta = offloaded(&faulty.store(), blocks).await;
    let cold = Cold::new(cluster(), faulty.store(), None, bytes, Tasks::new("test"));
    (faulty, meta, cold)
}

/// The block with that entry: all of it, as a reader that goes on, or only how it begins, which reads nothing ahead.
async fn read(cold: &Cold, meta: &LedgerMeta, id: i64, whole: bool) -> Result<Bytes, ReadError> {
    let (from, prefix_bytes) = (EntryId(id), (!whole).then_some(1));
    let wanted = Wanted { from, to: from, max_bytes: 1, prefix_bytes };
    let read = cold.entries(meta, wanted).await?;
    let [entry] = &read[..] else { panic!("{} entries", read.len()) };
    assert_eq!(entry.payload[0], id as u8);
    Ok(entry.payload.clone())
}

/// Until what is read ahead is there: each request takes a second at most here.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// Those who want the same at once ask once, for the index and for the block.
#[tokio::test(start_paused = true)]
async fn readers_of_one_block_share_its_request() {
    let (faulty, meta, cold) = cold(2, 64 << 20).await;
    let before = faulty.calls(Call::Get);
    faulty.fail(Call::Get, Fault::Slow(Duration::from_secs(1)), 1_000);
    let begun = Instant::now();
    let one = || read(&cold, &meta, 0, false);
    let (a, b, c) = tokio::join!(one(), one(), one());
    assert_eq!((a.unwrap(), b.unwrap()), (c.clone().unwrap(), c.unwrap()));
    assert_eq!(faulty.calls(Call::Get) - before, 2, "the index, and the block");
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
    // Who comes while it is on its way waits for the same answer, and who comes later for none.
    let late = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        read(&cold, &meta, 1, false).await
    };
    let (first, second) = tokio::join!(read(&cold, &meta, 1, false), late);
    assert_eq!(first.unwrap(), second.unwrap());
    read(&cold, &meta, 1, false).await.unwrap();
    assert_eq!(faulty.calls(Call::Get) - before, 3);
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
}

/// Who reads a block finds the next ones in memory, so many and no more; who looks at headers causes no such reading.
#[tokio::test(start_paused = true)]
async fn the_blocks_behind_are_fetched_ahead_of_one_who_reads_on() {
    let (faulty, meta, cold) = cold(12, 64 << 20).await;
    let before = faulty.calls(Call::Get);
    read(&cold, &meta, 0, false).await.unwrap();
    settle().await;
    assert_eq!(faulty.calls(Call::Get) - before, 2, "the index and one block, for its headers");

    read(&cold, &meta, 0, true).await.unwrap();
    settle().await;
    assert_eq!(faulty.calls(Call::Get) - before, 2 + AHEAD);
    faulty.fail(Call::Get, Fault::Refuse, 1_000);
    for ahead in 1..=AHEAD as i64 {
        read(&cold, &meta, ahead, false).await.unwrap();
    }
    let beyond = read(&cold, &meta, AHEAD as i64 + 1, false).await;
    assert!(matches!(beyond, Err(ReadError::Unavailable { .. })), "{beyond:?}");

    // A reader that goes on waits for the first only, however far each of them is.
    faulty.fail(Call::Get, Fault::Slow(Duration::from_secs(1)), 1_000);
    let begun = Instant::now();
    for id in 5..12 {
        read(&cold, &meta, id, true).await.unwrap();
        // It does something with them.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let took = begun.elapsed();
    assert!(took <= Duration::from_millis(7 * 500 + 2_500), "{took:?}, one after the other 10.5 s");
}

/// Where there is no room left nothing is read ahead, and whoever asks is served all the same.
#[tokio::test(start_paused = true)]
async fn reading_ahead_takes_no_room_from_those_who_wait() {
    let (faulty, meta, cold) = cold(12, LEAST_BYTES).await;
    let before = faulty.calls(Call::Get);
    let room = cold.0.room_bytes;
    let taken = cold.0.wait_for_room(cold.0.cost(room / 2)).await;
    read(&cold, &meta, 0, true).await.unwrap();
    settle().await;
    assert_eq!(faulty.calls(Call::Get) - before, 2, "the index, and what was asked for");
    drop(taken);
    assert_eq!(cold.free_room(), room);
}

/// Blocks are kept by their bytes: what is over the half of the memory that is theirs goes, and what was read last stays.
#[tokio::test(start_paused = true)]
async fn no_more_bytes_of_blocks_are_kept_than_there_is_memory_for() {
    let (faulty, meta, cold) = cold(16, LEAST_BYTES).await;
    let blocks = &cold.0.blocks;
    for id in 0..16 {
        read(&cold, &meta, id, false).await.unwrap();
        blocks.run_pending_tasks().await;
        let kept = blocks.weighted_size() as usize;
        assert!(kept <= LEAST_BYTES / 2, "{kept} bytes after {id}");
    }
    let kept = blocks.weighted_size() as usize;
    assert!(kept > LEAST_BYTES / 2 - 2 * MEBIBYTE, "{kept} bytes");
    let gets = faulty.calls(Call::Get);
    read(&cold, &meta, 15, false).await.unwrap();
    assert_eq!(faulty.calls(Call::Get), gets, "it was the last");
    read(&cold, &meta, 0, false).await.unwrap();
    assert_eq!(faulty.calls(Call::Get), gets + 1, "it went for the others");
}

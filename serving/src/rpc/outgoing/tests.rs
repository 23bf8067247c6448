use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use geminga_proto::ids::Offset;
use geminga_records::{Compression, Record, encode};

use super::*;

const KIB: usize = 1024;

fn found(bytes: usize) -> Read {
    let batches = vec![Bytes::from(vec![0; bytes])];
    let at = Offset(0);
    Read { batches, next_offset: Offset(1), high_watermark: at, log_start: at }
}

fn spec(max_bytes: usize) -> ReadSpec {
    ReadSpec { offset: Offset(0), max_bytes, min_bytes: 1, max_wait: Duration::from_secs(1) }
}

/// What the face does with answers: each becomes a frame.
fn frame(taker: &mut Taker) -> Bytes {
    let frame = std::future::poll_fn(|cx| taker.poll_frame(cx)).now_or_never();
    let frame = frame.expect("an answer waits").expect("not the end");
    frame.into_data().expect("no error")
}

async fn lease(room: &Room, bytes: usize) -> Option<Lease> {
    Some(Lease::new(room.take(bytes).await))
}

#[tokio::test]
async fn so_many_answers_wait_and_each_has_its_room_until_it_is_written() {
    let room = Room::new(1024 * KIB);
    let (giver, mut watch, mut taker) = channel::<u32>(2, Client::unknown(room.clone()));
    for answer in [1, 2] {
        assert!(giver.is_taking().await);
        giver.give(answer, lease(&room, 100 * KIB).await);
    }
    assert!(giver.is_taking().now_or_never().is_none(), "so many wait and no more");
    let first = frame(&mut taker);
    assert!(giver.is_taking().await);
    let second = frame(&mut taker);
    assert_eq!(room.used(), 200 * KIB, "on their way");
    drop(first);
    assert_eq!(room.used(), 100 * KIB);
    drop(taker);
    assert!(!giver.is_taking().await, "nobody is there");
    assert!(watch.until_gone().now_or_never().is_some());
    assert!(watch.until_written().now_or_never().is_none());
    drop(second);
    assert!(watch.until_written().now_or_never().is_some());
    assert_eq!(room.used(), 0);
}

#[tokio::test]
async fn what_there_is_no_room_for_is_let_go_and_read_again() {
    let (room, reads) = (Room::new(1024 * KIB), AtomicUsize::new(0));
    let client = Client::unknown(room.clone());
    let one = |asked: ReadSpec| {
        let read = reads.fetch_add(1, Ordering::Relaxed);
        // It is asked at once for what the room is for.
        assert_eq!(asked.max_wait.is_zero(), read % 2 == 1);
        async move { Ok(found(asked.max_bytes.min(300 * KIB))) }
    };
    let full = room.take(1024 * KIB).await;
    let without = client.read(spec(1024 * KIB), 0, Waits::Not, one).await.unwrap();
    assert!(without.is_none(), "who must not wait has nothing");
    reads.store(0, Ordering::Relaxed);
    let mut waiting = Box::pin(client.read(spec(1024 * KIB), 0, Waits::Always, one));
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!((reads.load(Ordering::Relaxed), room.is_wanted()), (1, true));
    drop(full);
    let got = waiting.await.unwrap().unwrap();
    let bytes = got.read.batches[0].len();
    assert_eq!((reads.load(Ordering::Relaxed), room.used()), (2, bytes));
    drop(got);
    // Where there is room, one read of a part of it is enough.
    reads.store(0, Ordering::Relaxed);
    let got = client.read(spec(1024 * KIB), 0, Waits::Always, one).await.unwrap().unwrap();
    assert_eq!((reads.load(Ordering::Relaxed), room.used()), (1, 256 * KIB));
    drop(got);
    assert_eq!(room.used(), 0);
}

/// One that is larger than what is left to one answer waits for more, and for a quarter of the room at most.
#[tokio::test]
async fn a_batch_is_read_whole() {
    let room = Room::new(4096 * KIB);
    let client = Client::unknown(room.clone());
    for (batch, waits_for) in [(800 * KIB, 800 * KIB), (3000 * KIB, 1024 * KIB)] {
        let mut others = room.take(4096 * KIB).await;
        let large = |_| async move { Ok(found(batch)) };
        let mut waiting = Box::pin(client.read(spec(256 * KIB), 0, Waits::Always, large));
        assert!((&mut waiting).now_or_never().is_none());
        others.keep(4096 * KIB - waits_for + 1);
        assert!((&mut waiting).now_or_never().is_none(), "{waits_for} are not free");
        others.keep(4096 * KIB - waits_for);
        let got = waiting.await.unwrap().unwrap();
        assert_eq!((got.read.batches[0].len(), room.used()), (batch, 4096 * KIB));
    }
}

/// Of what needs room to be taken apart the first batch is read, and again once there is that room: nobody waits for room that one has
/// who waits for others.
#[tokio::test]
async fn what_needs_room_is_read_with_it() {
    let (room, reads) = (Room::new(1024 * KIB), AtomicUsize::new(0));
    let client = Client::unknown(room.clone());
    let stored = |base| {
        let records = vec![Record::default(); 3];
        Bytes::from(encode(&records, Compression::None).unwrap().stamp(base, 1).concat())
    };
    let one = |asked: ReadSpec| {
        reads.fetch_add(1, Ordering::Relaxed);
        assert!(asked.max_wait.is_zero() && asked.max_bytes == 1);
        let found = Read { batches: vec![stored(0), stored(3)], ..found(0) };
        async move { Ok(Read { next_offset: Offset(6), ..found }) }
    };
    let mut full = room.take(1000 * KIB).await;
    assert!(client.read(spec(KIB), 100 * KIB, Waits::Not, one).await.unwrap().is_none());
    let mut waiting = Box::pin(client.read(spec(KIB), 100 * KIB, Waits::Always, one));
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!(reads.load(Ordering::Relaxed), 2, "one for each that asked");
    full.keep(900 * KIB);
    let got = waiting.await.unwrap().unwrap();
    assert_eq!((got.read.batches.len(), got.read.next_offset), (1, Offset(3)));
    assert_eq!(got.room.map(|room| room.bytes()), Some(100 * KIB));
    assert_eq!(reads.load(Ordering::Relaxed), 3);
}

/// One that hangs while it has the room gives it back; and those who need little wait for no room that is taken apart with.
#[tokio::test(start_paused = true)]
async fn who_needs_much_room_keeps_it_from_nobody_else() {
    let rooms = Streams::new(2048 * KIB);
    let client = Client { room: Some(rooms.clone()), address: None, cut: Cut::default() };
    let reads = AtomicUsize::new(0);
    let hangs = |_| async {
        if reads.fetch_add(1, Ordering::Relaxed) > 0 {
            pending::<()>().await;
        }
        Ok(found(KIB))
    };
    let mut large = Box::pin(client.read(spec(KIB), usize::MAX, Waits::Always, hangs));
    assert!((&mut large).now_or_never().is_none());
    assert_eq!(rooms.apart.used(), rooms.apart.bytes(), "it has all");
    let waits = async |needs| {
        let read = client.read(spec(KIB), needs, Waits::Always, |_| async { Ok(found(KIB)) });
        read.await.unwrap().unwrap()
    };
    let plain = waits(0).now_or_never().expect("nobody is in its way");
    assert_eq!(plain.room.map(|room| room.bytes()), Some(KIB));
    let begun = Instant::now();
    let (hung, next) = tokio::join!(large, waits(usize::MAX));
    assert_eq!(hung.unwrap_err().reason, Reason::NotReady);
    assert!(begun.elapsed() <= LOOK, "{:?}", begun.elapsed());
    drop(next);
    assert_eq!(rooms.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_has_its_time_waits_no_longer() {
    let room = Room::new(1024 * KIB);
    let client = Client::unknown(room.clone());
    let _full = room.take(1024 * KIB).await;
    let one = |_| async { Ok(found(KIB)) };
    let at = Instant::now() + Duration::from_secs(3);
    assert!(client.read(spec(KIB), 0, Waits::Until(at), one).await.unwrap().is_none());
    assert_eq!(Instant::now(), at);
}

/// A client that has got this far, and nothing of it is written.
async fn unread(room: &Room) -> (Client, Watch, Taker, Bytes) {
    let client = Client::unknown(room.clone());
    let (giver, watch, mut taker) = channel::<u32>(1, client.clone());
    giver.give(1, lease(room, KIB).await);
    let frame = frame(&mut taker);
    (client, watch, taker, frame)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_cut_off_when_others_wait() {
    let room = Room::new(KIB);
    let (client, mut watch, _taker, _frame) = unread(&room).await;
    let alone = tokio::time::timeout(Duration::from_secs(60), watch.until_gone()).await;
    assert!(alone.is_err() && !client.cut.is_cut(), "it is in nobody's way");
    let mut other = Box::pin(room.take(1));
    assert!((&mut other).now_or_never().is_none());
    assert!(tokio::time::timeout(2 * LOOK, watch.until_gone()).await.is_err());
    assert!(client.cut.is_cut());
}

/// Also when its stream has ended, and only its end is not read.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_the_end_is_cut_off_too() {
    let room = Room::new(KIB);
    let (client, mut watch, taker, frame) = unread(&room).await;
    drop(taker);
    let mut other = Box::pin(room.take(1));
    assert!((&mut other).now_or_never().is_none());
    assert!(tokio::time::timeout(PATIENCE + 2 * LOOK, watch.until_written()).await.is_err());
    assert!(client.cut.is_cut());
    drop(frame);
    assert!(watch.until_written().now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_more_is_left_alone() {
    let room = Room::new(KIB);
    let (client, mut watch, _taker, frame) = unread(&room).await;
    drop(frame);
    let _full = room.take(KIB).await;
    let mut other = Box::pin(room.take(1));
    assert!((&mut other).now_or_never().is_none());
    assert!(tokio::time::timeout(Duration::from_secs(60), watch.until_gone()).await.is_err());
    assert!(!client.cut.is_cut());
}

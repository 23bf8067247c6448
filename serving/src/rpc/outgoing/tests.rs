use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{FutureExt, StreamExt};
use geminga_proto::ids::Offset;

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

#[tokio::test]
async fn an_answer_has_its_room_until_the_next_is_asked_for() {
    let room = Room::new(1024 * KIB);
    let (giver, mut taker) = channel::<u32>(2, Client::unknown(room.clone()));
    for answer in [1, 2] {
        assert!(giver.is_taking().await);
        giver.give(answer, Some(room.take(100 * KIB).await));
    }
    assert!(giver.is_taking().now_or_never().is_none(), "so many wait and no more");
    assert_eq!(taker.next().await.unwrap().unwrap(), 1);
    assert_eq!(room.used(), 200 * KIB, "it may be on its way");
    assert_eq!(taker.next().await.unwrap().unwrap(), 2);
    assert_eq!(room.used(), 100 * KIB);
    assert!(giver.is_taking().await);
    drop(taker);
    assert_eq!(room.used(), 0);
    assert!(!giver.is_taking().await, "nobody is there");
}

#[tokio::test]
async fn what_there_is_no_room_for_is_let_go_and_read_again() {
    let (room, reads) = (Room::new(1024 * KIB), AtomicUsize::new(0));
    let one = |asked: ReadSpec| {
        let read = reads.fetch_add(1, Ordering::Relaxed);
        // It is asked at once for what the room is for.
        assert_eq!(asked.max_wait.is_zero(), read % 2 == 1);
        async move { Ok(found(asked.max_bytes.min(300 * KIB))) }
    };
    let full = room.take(1024 * KIB).await;
    let without = read(&room, spec(1024 * KIB), false, one).await.unwrap();
    assert!(without.is_none(), "who must not wait has nothing");
    reads.store(0, Ordering::Relaxed);
    let mut waiting = Box::pin(read(&room, spec(1024 * KIB), true, one));
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!((reads.load(Ordering::Relaxed), room.is_wanted()), (1, true));
    drop(full);
    let got = waiting.await.unwrap().unwrap();
    let bytes = got.read.batches[0].len();
    assert_eq!((reads.load(Ordering::Relaxed), room.used()), (2, bytes));
    drop(got);
    assert_eq!(room.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut_off_when_others_wait() {
    let room = Room::new(KIB);
    let client = Client::unknown(room.clone());
    let (giver, mut taker) = channel::<u32>(1, client.clone());
    giver.give(1, Some(room.take(KIB).await));
    taker.next().await.unwrap().unwrap();
    let alone = tokio::time::timeout(Duration::from_secs(60), giver.gone()).await;
    assert!(alone.is_err() && !client.cut.is_cut(), "it is in nobody's way");
    let mut other = Box::pin(room.take(1));
    assert!((&mut other).now_or_never().is_none());
    // Whoever looks at other things meanwhile asks again and again.
    for _ in 0..10 {
        let _gone = tokio::time::timeout(Duration::from_millis(100), giver.gone()).await;
    }
    assert!(client.cut.is_cut());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_more_is_left_alone() {
    let room = Room::new(KIB);
    let client = Client::unknown(room.clone());
    let (giver, mut taker) = channel::<u32>(1, client.clone());
    giver.give(1, None);
    taker.next().await.unwrap().unwrap();
    assert!(taker.next().now_or_never().is_none(), "it asked for the next");
    let _full = room.take(KIB).await;
    let mut other = Box::pin(room.take(1));
    assert!((&mut other).now_or_never().is_none());
    let waits = |time| tokio::time::timeout(time, giver.gone());
    assert!(waits(Duration::from_secs(60)).await.is_err() && !client.cut.is_cut());
    // From when something is there it has its time.
    giver.give(2, None);
    assert!(waits(PATIENCE - LOOK).await.is_err() && !client.cut.is_cut());
    assert!(waits(2 * LOOK).await.is_err() && client.cut.is_cut());
}

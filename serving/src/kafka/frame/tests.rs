//! Frames come whole or not at all, are charged, and bad ones are told apart.

use bytes::BufMut;
use futures::FutureExt;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;

/// All that there is room for.
const ROOM: usize = MAX_PLAIN_BYTES;

fn frame(key: i16, bytes: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.put_i32(i32::try_from(bytes).unwrap());
    frame.put_i16(key);
    frame.resize(4 + bytes, 9);
    frame
}

fn frames() -> (DuplexStream, Frames<DuplexStream>, Part) {
    frames_in(&Part::new(ROOM))
}

fn frames_in(room: &Part) -> (DuplexStream, Frames<DuplexStream>, Part) {
    let (client, server) = duplex(16 << 20);
    (client, Frames::new(server, Pace::default()), room.clone())
}

async fn next(frames: &mut Frames<DuplexStream>, room: &Part) -> Result<Option<Frame>, Hangup> {
    let Some(head) = frames.head().await? else { return Ok(None) };
    frames.take(&head, room).await
}

#[tokio::test]
async fn frames_come_one_after_the_other_until_the_client_closes() {
    let (mut client, mut frames, room) = frames();
    let lengths = [6, 7, SMALL_BYTES, 6, SMALL_BYTES + 1, 300_000, 20];
    for length in lengths {
        client.write_all(&frame(0, length)).await.unwrap();
    }
    drop(client);
    for length in lengths {
        let frame = next(&mut frames, &room).await.unwrap().expect("one more");
        assert_eq!(frame.bytes.len(), length);
        let charged = if length > SMALL_BYTES { length } else { 0 };
        assert_eq!(room.used(), charged, "while it is held");
    }
    assert_eq!(room.used(), 0);
    assert!(next(&mut frames, &room).await.unwrap().is_none());
}

#[tokio::test]
async fn a_large_frame_waits_for_room_and_small_ones_do_not() {
    let (mut client, mut frames, room) = frames();
    let all = room.take(usize::MAX).await;
    client.write_all(&frame(0, 100)).await.unwrap();
    client.write_all(&frame(0, 100_000)).await.unwrap();
    assert!(next(&mut frames, &room).await.unwrap().is_some());
    let mut next = Box::pin(next(&mut frames, &room));
    assert!((&mut next).now_or_never().is_none(), "there is no room");
    drop(all);
    assert_eq!(next.await.unwrap().expect("there is").bytes.len(), 100_000);
}

/// Whoever is to wait does so without room.
#[tokio::test]
async fn what_a_frame_asks_and_whose_it_is_is_known_before_it_has_room() {
    let (mut client, mut frames, room) = frames();
    let named = |name: &[u8], said: i16, length: i32| {
        let head = [&length.to_be_bytes()[..], &[0, 3, 0, 9, 0, 0, 0, 1], &said.to_be_bytes()];
        let mut frame = [&head.concat(), name].concat();
        frame.resize(4 + usize::try_from(length).unwrap(), 0);
        frame
    };
    let long = "x".repeat(300);
    let mut begins = 0;
    for (name, said, length, known) in [
        (&b"me"[..], 2, 200_000, "me"),
        (b"", -1, 200_000, ""),
        (b"", 0, 5_000, ""),
        (b"", 30_000, 10, ""),
        (b"cut", 30_000, 13, "cut"),
        (b"m\xff\xfe", 3, 5_000, "m"),
        (long.as_bytes(), 300, 5_000, &long[..caps::MAX_CLIENT_ID_BYTES]),
    ] {
        client.write_all(&named(name, said, length)).await.unwrap();
        let head = frames.head().await.unwrap().expect("a head");
        assert_eq!((head.key, head.client_id.as_str()), (3, known));
        assert!(!head.is_produce());
        assert_eq!(room.used(), 0);
        let frame = frames.take(&head, &room).await.unwrap().expect("a frame");
        assert_eq!(frame.bytes.len(), usize::try_from(length).unwrap());
        assert!(head.begins >= begins, "in order");
        begins = head.begins + frame.bytes.len() as u64;
    }
}

#[tokio::test]
async fn what_is_no_frame_is_told_apart() {
    let tls = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00];
    let most = i32::try_from(caps::MAX_CLIENT_MESSAGE_BYTES).unwrap();
    let plain = i32::try_from(MAX_PLAIN_BYTES).unwrap();
    let head = |length: i32, key: i16| [&length.to_be_bytes()[..], &key.to_be_bytes()].concat();
    for (bytes, why) in [
        (tls.to_vec(), Hangup::Tls),
        (b"GET / HTTP/1.1\r\n".to_vec(), Hangup::FrameSize),
        (head(-1, 0), Hangup::FrameSize),
        (head(5, 0), Hangup::FrameSize),
        (head(most + 1, 0), Hangup::FrameSize),
        (head(plain + 1, 3), Hangup::FrameSize),
        (head(i32::MAX, 0), Hangup::FrameSize),
    ] {
        let (mut client, mut frames, room) = frames();
        client.write_all(&bytes).await.unwrap();
        assert_eq!(next(&mut frames, &room).await.unwrap_err(), why, "{bytes:?}");
        assert_eq!(room.used(), 0, "nothing is taken for it");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_and_dawdling_end_a_connection() {
    let (mut client, mut frames, room) = frames();
    assert_eq!(next(&mut frames, &room).await.unwrap_err(), Hangup::Idle);
    client.write_all(&frame(0, 100_000)[..9]).await.unwrap();
    let begun = Instant::now();
    assert_eq!(next(&mut frames, &room).await.unwrap_err(), Hangup::Slow, "not even a head");
    assert_eq!(begun.elapsed().as_secs(), PROGRESS.as_secs());
    let (mut client, mut frames, room) = frames_in(&room);
    client.write_all(&frame(0, 100_000)[..50_000]).await.unwrap();
    let begun = Instant::now();
    assert_eq!(next(&mut frames, &room).await.unwrap_err(), Hangup::Slow);
    assert_eq!(begun.elapsed().as_secs(), PROGRESS.as_secs());
    assert_eq!(room.used(), 0, "its room is given back");
}

/// Two clients that announce all that there is room for and send a little now and then are in nobody's way.
#[tokio::test(start_paused = true)]
async fn what_is_announced_and_does_not_come_keeps_room_from_nobody() {
    let room = Part::new(ROOM);
    let (mut slow, mut of_slow, _) = frames_in(&room);
    let (mut other, mut of_other, _) = frames_in(&room);
    let large = frame(3, ROOM);
    let sends = async {
        for piece in large.chunks(80_000).take(10) {
            slow.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        slow
    };
    let others = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(room.used(), ROOM, "it has just begun");
        let mut waited = Duration::ZERO;
        for _ in 0..20 {
            other.write_all(&frame(3, ROOM / 2)).await.unwrap();
            let begun = Instant::now();
            assert!(next(&mut of_other, &room).await.unwrap().is_some());
            waited = waited.max(begun.elapsed());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        waited
    };
    let slows = async { next(&mut of_slow, &room).await.map(|frame| frame.is_some()) };
    let (slows, waited, sent) = futures::join!(slows, others, sends);
    assert!(waited <= STALLS, "{waited:?}");
    assert_eq!(slows, Err(Hangup::Slow));
    drop(sent);
    assert_eq!(room.used(), 0);
}

/// It goes on from where it stalled, also where others have taken all room meanwhile.
#[tokio::test(start_paused = true)]
async fn a_frame_that_stalled_goes_on_whatever_others_hold() {
    let (mut client, mut frames, room) = frames();
    let large = frame(3, 600_000);
    let sends = async {
        client.write_all(&large[..200_000]).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let held = room.used();
        assert!((200_000..=200_000 + STEP_BYTES).contains(&held), "{held}: what has come");
        let others = room.take(ROOM - held).await;
        client.write_all(&large[200_000..]).await.unwrap();
        others
    };
    let (frame, _others) = futures::join!(next(&mut frames, &room), sends);
    assert_eq!(frame.unwrap().expect("all of it").bytes.len(), 600_000);
}

/// A frame that was large does not keep its memory in the buffer of a connection that is silent then.
#[tokio::test]
async fn the_memory_of_a_large_frame_goes_with_it() {
    let (mut client, mut frames, room) = frames();
    client.write_all(&frame(0, 500_000)).await.unwrap();
    client.write_all(&frame(0, 10)).await.unwrap();
    drop(next(&mut frames, &room).await.unwrap());
    assert!(frames.buffer.capacity() <= 2 * SMALL_BYTES, "{}", frames.buffer.capacity());
    assert_eq!(next(&mut frames, &room).await.unwrap().unwrap().bytes.len(), 10);
}

/// And what follows the request that is served is still there.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_is_seen_unless_it_has_sent_much() {
    let (mut client, mut frames, room) = frames();
    assert!(frames.gone().now_or_never().is_none());
    client.write_all(&frame(0, 100)).await.unwrap();
    assert!(frames.gone().now_or_never().is_none());
    client.shutdown().await.unwrap();
    assert!(frames.gone().now_or_never().is_some());
    assert_eq!(next(&mut frames, &room).await.unwrap().unwrap().bytes.len(), 100);
    assert!(next(&mut frames, &room).await.unwrap().is_none());

    let (mut client, mut frames, room) = frames_in(&room);
    client.write_all(&frame(0, 100_000)).await.unwrap();
    drop(client);
    let gone = timeout(Duration::from_secs(60), frames.gone()).await;
    assert!(gone.is_err(), "it is not seen");
    assert!(frames.buffer.len() <= SMALL_BYTES, "and what lies there stays at its socket");
    assert!(next(&mut frames, &room).await.unwrap().is_some());
}

/// A batch that lay in the socket when the failure of one before was written is known to have been sent before.
#[tokio::test]
async fn what_lay_in_the_socket_was_sent_before_what_is_written_then() {
    let (mut client, mut frames, room) = frames();
    for length in [100, 100_000, 100] {
        client.write_all(&frame(0, length)).await.unwrap();
    }
    let pace = frames.pace.clone();
    let first = frames.head().await.unwrap().unwrap();
    frames.take(&first, &room).await.unwrap();
    let told = pace.sent();
    for _ in 0..2 {
        let head = frames.head().await.unwrap().unwrap();
        assert!(head.begins < told, "it was there");
        frames.take(&head, &room).await.unwrap();
    }
    // All was taken, and the client has an answer before it sends on.
    let mut waiting = Box::pin(frames.head());
    assert!((&mut waiting).now_or_never().is_none());
    let told_too = pace.sent();
    client.write_all(&frame(0, 100)).await.unwrap();
    let head = waiting.await.unwrap().unwrap();
    assert!(head.begins >= told && head.begins >= told_too, "it was sent later");
}

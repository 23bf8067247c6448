//! Frames come whole or not at all, are charged, and bad ones are told apart.

use bytes::BufMut;
use futures::FutureExt;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

use super::*;

fn frame(key: i16, bytes: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.put_i32(i32::try_from(bytes).unwrap());
    frame.put_i16(key);
    frame.resize(4 + bytes, 9);
    frame
}

fn frames() -> (DuplexStream, Frames<DuplexStream>, ProduceRoom) {
    let (client, server) = duplex(1 << 20);
    let room = ProduceRoom::new(0);
    let rooms = (room.clone(), Room::new(MAX_PLAIN_BYTES));
    (client, Frames::new(server, rooms, Pace::default()), room)
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
        let frame = frames.next().await.unwrap().expect("one more");
        assert_eq!(frame.bytes.len(), length);
        let charged = if length > SMALL_BYTES { length } else { 0 };
        assert_eq!(room.used(), (0, charged), "while it is held");
    }
    assert_eq!(room.used(), (0, 0));
    assert!(frames.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_large_frame_waits_for_room_and_small_ones_do_not() {
    let (mut client, mut frames, room) = frames();
    let all = room.take(true, usize::MAX).await;
    client.write_all(&frame(0, 100)).await.unwrap();
    client.write_all(&frame(0, 100_000)).await.unwrap();
    assert!(frames.next().await.unwrap().is_some());
    let mut next = Box::pin(frames.next());
    assert!((&mut next).now_or_never().is_none(), "there is no room");
    drop(all);
    assert_eq!(next.await.unwrap().expect("there is").bytes.len(), 100_000);
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
        assert_eq!(frames.next().await.unwrap_err(), why, "{bytes:?}");
        assert_eq!(room.used(), (0, 0), "nothing is taken for it");
    }
}

#[tokio::test(start_paused = true)]
async fn silence_and_dawdling_end_a_connection() {
    let (mut client, mut frames, room) = frames();
    assert_eq!(frames.next().await.unwrap_err(), Hangup::Idle);
    client.write_all(&frame(0, 100_000)[..50_000]).await.unwrap();
    assert_eq!(frames.next().await.unwrap_err(), Hangup::Slow);
    assert_eq!(room.used(), (0, 0), "its room is given back");
}

/// A frame that was large does not keep its memory in the buffer of a connection that is silent then.
#[tokio::test]
async fn the_memory_of_a_large_frame_goes_with_it() {
    let (mut client, mut frames, _room) = frames();
    client.write_all(&frame(0, 500_000)).await.unwrap();
    client.write_all(&frame(0, 10)).await.unwrap();
    drop(frames.next().await.unwrap());
    assert!(frames.buffer.capacity() <= 2 * SMALL_BYTES, "{}", frames.buffer.capacity());
    assert_eq!(frames.next().await.unwrap().unwrap().bytes.len(), 10);
}

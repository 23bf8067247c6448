use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures::FutureExt;
use geminga_proto::caps;
use http_body::Frame;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::body::Body;

use super::*;

const ALL: usize = caps::MAX_CLIENT_MESSAGE_BYTES;
/// Two messages of that size do not fit into the room.
const LARGE: usize = 12 << 20;

/// A body that is fed by hand.
struct Fed(mpsc::Receiver<Bytes>);

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

fn client() -> (mpsc::Sender<Bytes>, Messages<v1::ProduceRequest>) {
    let (body, pieces) = mpsc::channel(64);
    (body, Messages::in_body(Body::new(Fed(pieces)), ALL))
}

/// A message with a batch of so many bytes as it stands on the wire.
fn message(batch: usize) -> (usize, Bytes) {
    let data = v1::produce_element::Data::Batch(vec![7; batch].into());
    let element = v1::ProduceElement { data: Some(data), ..Default::default() };
    let message = v1::ProduceRequest { elements: vec![element], ..Default::default() };
    let mut wire = BytesMut::new();
    wire.put_u8(0);
    wire.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut wire).unwrap();
    (message.encoded_len(), wire.freeze())
}

/// Bytes of clients' messages for which there is room.
fn used(room: &ProduceRoom) -> usize {
    room.used().0
}

#[tokio::test(start_paused = true)]
async fn room_is_taken_for_what_is_announced_before_it_comes() {
    let room = ProduceRoom::new(0);
    let (feed, mut input) = client();
    let (bytes, mut wire) = message(LARGE);
    feed.send(wire.split_to(100)).await.unwrap();
    let mut gathering = Box::pin(gather(&mut input, &room, false));
    assert!((&mut gathering).now_or_never().is_none());
    assert_eq!(used(&room), bytes);

    // Another one that does not fit is not read: what it sends stays in the window.
    let (other, mut others_input) = client();
    let (_, wire_of_other) = message(LARGE);
    other.send(wire_of_other.slice(..10)).await.unwrap();
    let mut waiting = Box::pin(gather(&mut others_input, &room, false));
    assert!((&mut waiting).now_or_never().is_none());
    other.send(wire_of_other.slice(10..)).await.unwrap();
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!(other.capacity(), 63, "that piece was not taken");

    feed.send(wire).await.unwrap();
    let (message, taken) = gathering.await.unwrap().unwrap();
    assert_eq!((message.elements.len(), taken.as_ref().map(Taken::bytes)), (1, Some(bytes)));
    drop((message, taken));
    assert!(waiting.await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_small_message_is_read_before_it_finds_room() {
    let room = ProduceRoom::new(0);
    let all = room.take(false, ALL).await;
    let (feed, mut input) = client();
    feed.send(message(100).1).await.unwrap();
    let (_, taken) = gather(&mut input, &room, false).await.unwrap().unwrap();
    assert!(taken.is_none());
    drop(all);
}

/// Streams of one connection share its window: the one that waits for room fills it, and the one that has room gets nothing.
#[tokio::test(start_paused = true)]
async fn a_message_that_stalls_lets_others_have_the_room_of_its_rest() {
    let room = ProduceRoom::new(0);
    let (slow, mut slow_input) = client();
    let (bytes, mut wire) = message(LARGE);
    slow.send(wire.split_to(1_005)).await.unwrap();
    let mut stalled = Box::pin(gather(&mut slow_input, &room, false));
    assert!((&mut stalled).now_or_never().is_none());
    assert_eq!(used(&room), bytes);

    let (other, mut other_input) = client();
    other.send(message(LARGE).1).await.unwrap();
    let begun = Instant::now();
    let (_, taken) = {
        let other = gather(&mut other_input, &room, false);
        tokio::select! {
            _ = &mut stalled => panic!("it has not all come"),
            other = other => other.unwrap().unwrap(),
        }
    };
    assert_eq!(begun.elapsed(), STALLS);
    assert_eq!(used(&room), 1_000 + taken.as_ref().unwrap().bytes(), "what came stays charged");

    // It goes on when it has its room again.
    drop(taken);
    slow.send(wire.split_to(1_000)).await.unwrap();
    assert!((&mut stalled).now_or_never().is_none());
    assert_eq!(used(&room), bytes);
    slow.send(wire).await.unwrap();
    assert_eq!(stalled.await.unwrap().unwrap().1.unwrap().bytes(), bytes);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_arrive_in_time_ends_its_stream() {
    let room = ProduceRoom::new(0);
    let (slow, mut input) = client();
    let (_, wire) = message(LARGE);
    let begun = Instant::now();
    let feeding = async {
        for byte in wire.chunks(1) {
            if slow.send(Bytes::copy_from_slice(byte)).await.is_err() {
                return;
            }
            tokio::time::sleep(STALLS / 2).await;
        }
    };
    let late = {
        let gathering = gather(&mut input, &room, false);
        tokio::select! {
            gathered = gathering => gathered.unwrap_err(),
            () = feeding => unreachable!("it takes weeks"),
        }
    };
    let Unread::Late(error) = late else { panic!("{late:?}") };
    assert!(error.reason.retriable() && error.message.contains("bytes of a message came within"));
    assert!(begun.elapsed() >= ARRIVES && begun.elapsed() < ARRIVES * 2, "though it never stalled");
    assert_eq!(used(&room), 0);
}

/// The wait for room is ours, not the client's.
#[tokio::test(start_paused = true)]
async fn what_waits_for_room_is_not_late() {
    let room = ProduceRoom::new(0);
    let others = room.take(false, ALL).await;
    let (feed, mut input) = client();
    let (bytes, mut wire) = message(LARGE);
    feed.send(wire.split_to(1_005)).await.unwrap();
    let mut gathering = Box::pin(gather(&mut input, &room, false));
    let waited = tokio::time::timeout(ARRIVES * 3, &mut gathering).await;
    assert!(waited.is_err());
    drop(others);
    assert!((&mut gathering).now_or_never().is_none());
    feed.send(wire).await.unwrap();
    assert_eq!(gathering.await.unwrap().unwrap().1.unwrap().bytes(), bytes);
}

//! Room for what clients send, as sockets see it: what is announced and does not come, and what comes behind it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, BytesMut};
use futures::future::join_all;
use geminga_proto::messages::Messages;
use http_body::Frame;
use prost::Message;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use super::*;

const MIB: usize = 1 << 20;
/// For clients, and as much for brokers.
const ROOM: usize = 64 * MIB;
const STREAMS: usize = 12;
/// They stall one after the other, half a second each, and other tests have their share of the processor. All have to begin before
/// the first of them has taken too long, a minute.
const ALL_BEGIN: Duration = Duration::from_secs(60);
/// What each of them sends of its message.
const BEGUN: usize = 2 * MIB;

/// A body that is fed by hand.
struct Fed(mpsc::Receiver<Bytes>);

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A produce stream on whose wire anything may be put.
async fn raw(channel: &Channel) -> (mpsc::Sender<Bytes>, Messages<v1::ProduceResponse>) {
    let (feed, pieces) = mpsc::channel(1);
    let request = http::Request::post("http://broker/geminga.v1.Stream/Produce")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Fed(pieces)))
        .unwrap();
    let mut channel = channel.clone();
    std::future::poll_fn(|cx| Service::<http::Request<Body>>::poll_ready(&mut channel, cx))
        .await
        .unwrap();
    let response = channel.call(request).await.unwrap();
    (feed, Messages::in_body(response.into_body(), caps::MAX_CLIENT_MESSAGE_BYTES))
}

/// A message of 16 MiB that holds no good batch.
fn message() -> Bytes {
    let mut large = element(1, "t", 0, String::new());
    let batch = vec![7; 16 * MIB];
    large.data = Some(v1::produce_element::Data::Batch(batch.into()));
    let message = v1::ProduceRequest { elements: vec![large], ..Default::default() };
    let mut wire = BytesMut::new();
    wire.put_u8(0);
    wire.put_u32(u32::try_from(message.encoded_len()).unwrap());
    message.encode(&mut wire).unwrap();
    wire.freeze()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_announced_and_does_not_come_is_bounded_and_starves_nobody() {
    let cluster = TestCluster::new(3);
    cluster.show_bookies(3).await;
    let node =
        Node::start_with(&cluster, Config { produce_bytes: ROOM, ..Config::default() }).await;
    create(&node, "t", 1).await;
    let used = || node.broker.0.ctx.produce_room.used().0;

    // All of one connection, so that those that wait for room hold up those that have it.
    let channel = node.channel().await;
    let wire = message();
    let begin = async |_| {
        let (feed, answers) = raw(&channel).await;
        for piece in wire[..BEGUN].chunks(64 * 1024) {
            feed.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        (feed, answers)
    };
    let all_begin = join_all((0..STREAMS).map(begin));
    let mut most = 0;
    let watching = async {
        // All that came is charged, and what did not come is given back.
        while used() < STREAMS * (BEGUN - 64 * 1024) || used() > STREAMS * BEGUN {
            most = most.max(used());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (streams, ()) = tokio::time::timeout(ALL_BEGIN, futures::future::join(all_begin, watching))
        .await
        .expect("each gets the room of its message in turn, and keeps that of what it has sent");
    assert!(most > STREAMS * BEGUN && most <= ROOM, "{most} bytes");

    // Whoever sends what fits is served meanwhile.
    let mut other = Producer::open(&node).await;
    let sent = other.send(vec![element(1, "t", 0, "x".repeat(MIB / 2))]);
    let results = tokio::time::timeout(LIMIT, sent).await.expect("there is room");
    assert_eq!(results[&1].error, None);

    // And one of those that stalled goes on.
    let (feed, mut answers) = streams.into_iter().next().unwrap();
    let rest = async {
        for piece in wire[BEGUN..].chunks(64 * 1024) {
            feed.send(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        answers.message().await.unwrap().unwrap()
    };
    let answer = tokio::time::timeout(LIMIT, rest).await.expect("it has room again");
    assert_eq!(answer.results[0].error.as_ref().unwrap().reason, "INVALID_RECORD");
}

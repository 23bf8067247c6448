//! One connection over a wire in memory, on a broker whose time stands still but where everybody waits: what it holds in each
//! state, how it ends, and what others notice.

mod journeys;
mod places;
mod quotas;

use bytes::BytesMut;
use geminga_records::{Compression, Record};
use geminga_runtime::Tasks;
use tokio::io::{AsyncReadExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;
use crate::broker::Config;
use crate::kafka::codec;
use crate::kafka::codec::messages::fetch_request::{FetchPartition, FetchTopic};
use crate::kafka::codec::messages::metadata_request::MetadataRequestTopic;
use crate::kafka::codec::messages::produce_request::{PartitionProduceData, TopicProduceData};
use crate::kafka::codec::messages::{
    FetchRequest, FetchResponse, KafkaMessage, KafkaRequest, MetadataRequest, MetadataResponse,
    ProduceRequest, ProduceResponse, RequestResponsePair,
};
use crate::kafka::error::Code;
use crate::kafka::lanes::Lanes;
use crate::kafka::testing::{LISTENER, Rig};
use crate::partition::testing::Mode;

const FETCH: i16 = 11;
const PRODUCE: i16 = 9;
const METADATA: i16 = 9;

/// A broker whose time stands still, and topic `t` of one partition.
async fn rig() -> (Rig, Arc<crate::ownership::topology::Topic>) {
    let rig = Rig::start_as(1, Config::default()).await;
    let topic = rig.create("t", 1).await;
    rig.append(&topic, 0, &["first"]).await;
    tokio::time::pause();
    (rig, topic)
}

/// A client at the other end.
struct Wire {
    kafka: Kafka,
    peer: Arc<Peer>,
    to: Option<DuplexStream>,
    from: DuplexStream,
    sent: i32,
    stop: Tasks,
    serving: JoinHandle<Option<Result<(), Hangup>>>,
}

impl Wire {
    /// `unread` bytes of answers fit between it and the broker, and whatever it sends.
    fn new(rig: &Rig, unread: usize) -> Self {
        Self::through(rig, 64 << 20, unread)
    }

    /// `untaken` bytes that it sends fit between it and the broker, and `unread` ones of answers.
    fn through(rig: &Rig, untaken: usize, unread: usize) -> Self {
        let kafka = rig.kafka(0).clone();
        let (listener, address) = (LISTENER.to_owned(), ([127, 0, 0, 1], 1).into());
        let peer = Arc::new(Peer { listener, address, lanes: Lanes::default() });
        let ((to, reader), (writer, from)) = (duplex(untaken), duplex(unread));
        let stop = Tasks::new("stop");
        let who = (Arc::clone(&peer), None);
        let serve = serve(kafka.clone(), who, (reader, writer), stop.cancelled());
        let serving = Tasks::new("connection").spawn("serve", Box::pin(serve));
        Self { kafka, peer, to: Some(to), from, sent: 0, stop, serving }
    }

    async fn send<R: KafkaRequest>(&mut self, version: i16, request: &R) {
        self.sent += 1;
        let bytes = codec::encode_request(self.sent, version, request);
        self.to.as_mut().unwrap().write_all(&bytes).await.unwrap();
    }

    /// Sends nothing any more.
    fn shut(&mut self) {
        self.to = None;
    }

    async fn frame(&mut self) -> Option<Bytes> {
        let length = self.from.read_u32().await.ok()?;
        let mut frame = BytesMut::zeroed(length as usize);
        self.from.read_exact(&mut frame).await.ok()?;
        Some(frame.freeze())
    }

    /// The answer to the request of that number.
    async fn answer<R: RequestResponsePair>(&mut self, number: i32, version: i16) -> R::Response
    where
        R::Response: KafkaMessage,
    {
        let mut frame = self.frame().await.expect("an answer");
        assert_eq!(frame.get_i32(), number, "in order");
        frame.advance(usize::from(codec::is_flexible::<R>(version)));
        codec::decode(frame, version).unwrap()
    }

    async fn produced(&mut self, number: i32) -> (i16, i32) {
        let answer: ProduceResponse = self.answer::<ProduceRequest>(number, PRODUCE).await;
        (answer.responses[0].partition_responses[0].error_code, answer.throttle_time_ms)
    }

    /// How it ended, and after how many seconds.
    async fn end(&mut self) -> (Result<(), Hangup>, u64) {
        let begun = Instant::now();
        let end = tokio::time::timeout(Duration::from_mins(20), &mut self.serving).await;
        let end = end.expect("it ends in time").unwrap().expect("without a panic");
        (end, begun.elapsed().as_secs())
    }

    /// Bytes of room for records, for other requests, and for answers, of all connections.
    fn used(&self) -> (usize, usize, usize) {
        let kafka = &self.kafka;
        (kafka.ctx.produce_room.used().1, kafka.plain_room.used(), kafka.answers.used())
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn produce(acks: i16, timeout_ms: i32, bytes: usize) -> ProduceRequest {
    let value = Some(Bytes::from("x".repeat(bytes)));
    let records = [Record { value, ..Record::default() }];
    let batch = geminga_records::encode(&records, Compression::None).unwrap().into_bytes();
    let mut request = ProduceRequest::default();
    (request.acks, request.timeout_ms) = (acks, timeout_ms);
    let mut partition = PartitionProduceData::default();
    partition.records = Some(batch);
    let mut data = TopicProduceData::default();
    (data.name, data.partition_data) = ("t".into(), vec![partition]);
    request.topic_data.push(data);
    request
}

/// Of one partition, named so many times.
fn fetch(offset: i64, max_wait_ms: i32, times: usize) -> FetchRequest {
    let mut partition = FetchPartition::default();
    (partition.fetch_offset, partition.partition_max_bytes) = (offset, 1 << 24);
    (partition.current_leader_epoch, partition.log_start_offset) = (-1, -1);
    let mut asked = FetchTopic::default();
    (asked.topic, asked.partitions) = ("t".into(), vec![partition; times]);
    let mut request = FetchRequest::default();
    (request.replica_id, request.session_epoch) = (-1, -1);
    (request.min_bytes, request.max_bytes, request.max_wait_ms) = (1, 1 << 24, max_wait_ms);
    request.topics = vec![asked];
    request
}

/// A request of some size that holds no records.
fn metadata(topics: usize) -> MetadataRequest {
    let topic = |n: usize| {
        let mut topic = MetadataRequestTopic::default();
        topic.name = Some(format!("t-{n}").as_str().into());
        topic
    };
    let mut request = MetadataRequest::default();
    request.topics = Some((0..topics).map(topic).collect());
    request
}

/// Records that are more than goes unread.
async fn fill(rig: &Rig, topic: &Arc<crate::ownership::topology::Topic>) {
    let large = "x".repeat(900_000);
    for _ in 0..4 {
        rig.append(topic, 0, &[&large]).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_served_further_and_let_go_in_the_end() {
    let (rig, topic) = rig().await;
    fill(&rig, &topic).await;
    let mut wire = Wire::new(&rig, 64 * 1024);
    wire.send(FETCH, &fetch(0, 0, 1)).await;
    wire.send(METADATA, &metadata(1)).await;
    wire.send(FETCH, &fetch(0, 0, 1)).await;
    for _ in 0..10 {
        wire.send(PRODUCE, &produce(-1, 10_000, 500_000)).await;
    }
    seconds(10).await;
    let (records, plain, answers) = wire.used();
    assert_eq!((records, plain), (0, 0), "what is behind it waits at its socket");
    assert!((3_400_000..4_000_000).contains(&answers), "{answers}: one of them is served");
    // Whoever reads at last is served.
    for number in [1, 3] {
        let answer: FetchResponse = wire.answer::<FetchRequest>(number, FETCH).await;
        let records = answer.responses[0].partitions[0].records.as_ref().unwrap();
        assert!(records.len() > 3_600_000);
        if number == 1 {
            wire.answer::<MetadataRequest>(2, METADATA).await;
        }
    }
    for number in 4..14 {
        assert_eq!(wire.produced(number).await.0, 0);
    }
    // Whoever never does is let go.
    wire.send(FETCH, &fetch(0, 0, 1)).await;
    wire.send(METADATA, &metadata(1_000)).await;
    for _ in 0..20 {
        wire.send(PRODUCE, &produce(-1, 10_000, 500_000)).await;
    }
    let (end, after) = wire.end().await;
    assert_eq!((end, after), (Err(Hangup::Slow), READ_PATIENCE.as_secs()));
    assert_eq!(wire.used(), (0, 0, 0));
}

/// As long as it is in nobody's way it has time.
#[tokio::test]
async fn whoever_holds_room_that_others_wait_for_has_little_time() {
    let (rig, topic) = rig().await;
    fill(&rig, &topic).await;
    let mut wire = Wire::new(&rig, 64 * 1024);
    wire.send(FETCH, &fetch(0, 0, 1)).await;
    seconds(60).await;
    let answers = wire.kafka.answers.clone();
    let others = answers.recent.take(usize::MAX);
    let ((end, after), _all) = futures::join!(wire.end(), others);
    assert_eq!(end, Err(Hangup::Slow));
    assert!(after <= SHORT_PATIENCE.as_secs(), "{after}");
}

/// A little at a time is enough, and what was taken makes room at once.
#[tokio::test]
async fn a_slow_client_holds_no_more_than_it_has_still_to_read() {
    let (rig, topic) = rig().await;
    fill(&rig, &topic).await;
    let mut wire = Wire::new(&rig, 64 * 1024);
    wire.send(FETCH, &fetch(0, 0, 1)).await;
    let mut left = wire.from.read_u32().await.unwrap() as usize;
    let mut piece = vec![0; 100_000];
    while left > 0 {
        let size = piece.len().min(left);
        wire.from.read_exact(&mut piece[..size]).await.unwrap();
        left -= size;
        seconds(60).await;
        assert!(wire.used().2 <= left, "of {left}");
    }
}

/// A long poll, and what its client sends behind it.
#[tokio::test]
async fn what_waits_holds_no_room_and_nothing_behind_it_does() {
    let (rig, topic) = rig().await;
    let mut wire = Wire::new(&rig, 1 << 20);
    wire.send(FETCH, &fetch(1, 60_000, 500)).await;
    wire.send(METADATA, &metadata(1_000)).await;
    wire.send(PRODUCE, &produce(-1, 10_000, 100_000)).await;
    seconds(10).await;
    assert_eq!(wire.used(), (0, 0, 0));
    rig.append(&topic, 0, &["second"]).await;
    let answer: FetchResponse = wire.answer::<FetchRequest>(1, FETCH).await;
    assert_eq!(answer.responses[0].partitions[0].high_watermark, 2);
    let answer: MetadataResponse = wire.answer::<MetadataRequest>(2, METADATA).await;
    assert_eq!(answer.topics.len(), 1_000);
    assert_eq!(wire.produced(3).await.0, 0);
    wire.shut();
    assert_eq!(wire.end().await, (Ok(()), 0));
    assert_eq!(wire.used(), (0, 0, 0));
}

/// Their client need not wait with the request before them, whatever that waits for; what is large waits where it is.
#[tokio::test]
async fn what_is_small_is_received_while_the_request_before_it_is_served() {
    const UNTAKEN: usize = 16;
    const SMALL: i32 = 50;
    let (rig, topic) = rig().await;
    for polls in [true, false] {
        let mut wire = Wire::through(&rig, UNTAKEN, 1 << 20);
        let answers = wire.kafka.answers.clone();
        let mut all = None;
        if polls {
            let end = rig.ends(&topic, 0).await.1;
            wire.send(FETCH, &fetch(end, 60_000, 1)).await;
        } else {
            all = Some(answers.topics.take(usize::MAX).await);
            wire.send(METADATA, &metadata(1)).await;
        }
        let begun = Instant::now();
        let sending = async {
            for _ in 0..SMALL {
                wire.send(METADATA, &metadata(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(1), sending).await.expect("all are taken");
        let large = codec::encode_request(SMALL + 2, PRODUCE, &produce(-1, 10_000, 100_000));
        let mut taken = 0;
        let to = wire.to.as_mut().unwrap();
        while let Ok(more) =
            tokio::time::timeout(Duration::from_secs(5), to.write(&large[taken..])).await
        {
            taken += more.unwrap();
        }
        assert_eq!(begun.elapsed().as_secs(), 5, "none waited but for what is large");
        assert!((1_000..3 * 4 * 1024).contains(&taken), "{taken}: the bound");
        assert_eq!(wire.used().0, 0, "what is read ahead takes no room");
        assert!(wire.frame().now_or_never().is_none(), "nothing is answered before its turn");
        drop(all);
        if polls {
            rig.append(&topic, 0, &["more"]).await;
            let _: FetchResponse = wire.answer::<FetchRequest>(1, FETCH).await;
        }
        wire.to.as_mut().unwrap().write_all(&large[taken..]).await.unwrap();
        for number in 1 + i32::from(polls)..=SMALL + 1 {
            let _: MetadataResponse = wire.answer::<MetadataRequest>(number, METADATA).await;
        }
        assert_eq!(wire.produced(SMALL + 2).await.0, 0);
    }
}

/// None is answered before it is durable, and none waits for the one before it to be.
#[tokio::test]
async fn batches_of_one_connection_are_on_their_way_together() {
    let (rig, topic) = rig().await;
    let mut wire = Wire::new(&rig, 1 << 20);
    rig.set_bookies(Mode::Held);
    for _ in 0..100 {
        wire.send(PRODUCE, &produce(-1, 10_000, 10_000)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(wire.used().0 > 100 * 10_000, "all of them were received");
    assert!(wire.frame().now_or_never().is_none(), "and none is answered");
    rig.set_bookies(Mode::Up);
    for number in 1..=100 {
        assert_eq!(wire.produced(number).await.0, 0);
    }
    assert_eq!(rig.ends(&topic, 0).await.1, 101);
}

#[tokio::test]
async fn a_client_that_leaves_ends_what_waits_and_nothing_else() {
    let (rig, _topic) = rig().await;
    // While nothing is asked.
    let mut wire = Wire::new(&rig, 1 << 20);
    seconds(1).await;
    wire.shut();
    assert_eq!(wire.end().await, (Ok(()), 0));
    // In a long poll, and in the one behind it; what else it asked is answered.
    let mut wire = Wire::new(&rig, 1 << 20);
    wire.send(FETCH, &fetch(1, 60_000, 1)).await;
    seconds(1).await;
    wire.send(FETCH, &fetch(1, 60_000, 1)).await;
    wire.send(METADATA, &metadata(1)).await;
    wire.shut();
    wire.answer::<MetadataRequest>(3, METADATA).await;
    assert!(wire.frame().await.is_none());
    assert_eq!(wire.end().await, (Ok(()), 0));
    // In the middle of a frame.
    let mut wire = Wire::new(&rig, 1 << 20);
    let bytes = codec::encode_request(1, PRODUCE, &produce(-1, 10_000, 100_000));
    wire.to.as_mut().unwrap().write_all(&bytes[..50_000]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(wire.used().0 > 100_000);
    wire.shut();
    assert_eq!(wire.end().await, (Ok(()), 0));
    assert_eq!(wire.used(), (0, 0, 0));
    // Behind what is bad it is not even listened to.
    let mut wire = Wire::new(&rig, 1 << 20);
    wire.send(METADATA, &metadata(1)).await;
    wire.to.as_mut().unwrap().write_all(&[0xff; 14]).await.unwrap();
    wire.answer::<MetadataRequest>(1, METADATA).await;
    assert_eq!(wire.end().await, (Err(Hangup::FrameSize), 0));
}

/// It is read no more, in whatever state it is, and what it was promised is kept.
#[tokio::test]
async fn a_broker_that_stops_waits_for_nobody() {
    let (rig, _topic) = rig().await;
    let mut idle = Wire::new(&rig, 1 << 20);
    let mut polls = Wire::new(&rig, 1 << 20);
    polls.send(FETCH, &fetch(1, 60_000, 1)).await;
    polls.send(PRODUCE, &produce(-1, 10_000, 100_000)).await;
    let mut waits = Wire::new(&rig, 1 << 20);
    seconds(1).await;
    let all = waits.kafka.ctx.produce_room.take(true, usize::MAX).await;
    waits.send(METADATA, &metadata(1)).await;
    waits.send(PRODUCE, &produce(-1, 10_000, 100_000)).await;
    seconds(1).await;
    for wire in [&mut idle, &mut polls, &mut waits] {
        wire.stop.cancel();
        assert_eq!(wire.end().await, (Ok(()), 0));
    }
    assert!(waits.frame().await.is_some() && waits.frame().await.is_none());
    drop(all);
    assert_eq!(waits.used(), (0, 0, 0));
    // A batch that is on its way is answered.
    let mut writes = Wire::new(&rig, 1 << 20);
    rig.set_bookies(Mode::Held);
    writes.send(PRODUCE, &produce(-1, 10_000, 100_000)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    writes.stop.cancel();
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.set_bookies(Mode::Up);
    assert_eq!(writes.produced(1).await.0, 0);
    assert_eq!(writes.end().await, (Ok(()), 0));
}

/// Batches are in memory until they are written, whether their client waits for it, waits no more, or never did.
#[tokio::test]
async fn batches_hold_their_room_until_they_are_written() {
    let (rig, _topic) = rig().await;
    for (acks, timeout_ms) in [(-1, 10_000), (-1, 1), (0, 0)] {
        let mut wire = Wire::new(&rig, 1 << 20);
        rig.set_bookies(Mode::Held);
        wire.send(PRODUCE, &produce(acks, timeout_ms, 100_000)).await;
        if timeout_ms == 1 {
            assert_eq!(wire.produced(1).await.0, Code::REQUEST_TIMED_OUT.0);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(wire.used().0 > 100_000, "acks {acks}");
        assert!(!wire.peer.lanes.is_empty());
        wire.shut();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(wire.used().0 > 100_000, "acks {acks}: though it has gone");
        rig.set_bookies(Mode::Up);
        assert_eq!(wire.end().await, (Ok(()), 0));
        assert_eq!(wire.used(), (0, 0, 0));
        assert_eq!(wire.peer.lanes.is_empty(), timeout_ms != 1, "what is written is not kept");
    }
}

/// And no longer: not until their client has read what is answered.
#[tokio::test]
async fn batches_that_are_written_hold_no_room_whether_their_client_reads_or_not() {
    let (rig, topic) = rig().await;
    let mut wire = Wire::new(&rig, 16);
    for _ in 0..10 {
        wire.send(PRODUCE, &produce(-1, 10_000, 500_000)).await;
    }
    seconds(5).await;
    assert_eq!(rig.ends(&topic, 0).await.1, 11);
    assert_eq!(wire.used(), (0, 0, 0));
    for number in 1..11 {
        assert_eq!(wire.produced(number).await.0, 0);
    }
}

/// Also where the client is sent away with batches on their way.
#[tokio::test]
async fn batches_of_a_client_that_was_sent_away_hold_their_room() {
    let (rig, _topic) = rig().await;
    let mut wire = Wire::new(&rig, 16);
    let kafka = wire.kafka.clone();
    wire.send(PRODUCE, &produce(-1, 10_000, 10)).await;
    seconds(READ_PATIENCE.as_secs() - 1).await;
    rig.set_bookies(Mode::Held);
    wire.send(PRODUCE, &produce(-1, 10_000, 100_000)).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mut unread = Vec::new();
    wire.from.read_to_end(&mut unread).await.unwrap();
    assert!(unread.len() < 20, "the broker has closed it");
    assert!(kafka.ctx.produce_room.used().1 > 100_000);
    rig.set_bookies(Mode::Up);
    assert_eq!(wire.end().await.0, Err(Hangup::Slow));
    assert_eq!(wire.used(), (0, 0, 0));
}

/// P5: a batch that lay in the socket when the failure of one before it was told was sent before its client could know.
#[tokio::test]
async fn what_was_sent_behind_a_failed_batch_is_refused_until_the_client_can_know() {
    let (rig, _topic) = rig().await;
    let mut wire = Wire::new(&rig, 1 << 20);
    rig.set_bookies(Mode::Held);
    wire.send(PRODUCE, &produce(-1, 1, 10)).await;
    // Keeps what follows from being read.
    wire.send(FETCH, &fetch(100, 0, 1)).await;
    wire.send(FETCH, &fetch(1, 300, 1)).await;
    wire.send(PRODUCE, &produce(-1, 10_000, 10_000)).await;
    wire.send(PRODUCE, &produce(-1, 10_000, 10)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.set_bookies(Mode::Up);
    assert_eq!(wire.produced(1).await.0, Code::REQUEST_TIMED_OUT.0);
    for number in [2, 3] {
        wire.answer::<FetchRequest>(number, FETCH).await;
    }
    for number in [4, 5] {
        assert_eq!(wire.produced(number).await.0, Code::NOT_LEADER_OR_FOLLOWER.0);
    }
    wire.send(PRODUCE, &produce(-1, 10_000, 10)).await;
    assert_eq!(wire.produced(6).await.0, 0, "sent again");
}

/// Batches for which no answer is asked keep to no opening of their partition once they are written.
#[tokio::test]
async fn batches_without_answers_are_not_on_their_way_for_ever() {
    let (rig, topic) = rig().await;
    let mut wire = Wire::new(&rig, 1 << 20);
    for round in 1..4 {
        for _ in 0..3 {
            wire.send(PRODUCE, &produce(0, 0, 10_000)).await;
        }
        seconds(1).await;
        assert_eq!(rig.ends(&topic, 0).await.1, 1 + 3 * round);
        assert!(wire.peer.lanes.is_empty());
    }
    // What cannot be written shows by the end.
    let mut request = produce(0, 0, 10);
    request.topic_data[0].name = "no-such-topic".into();
    wire.send(PRODUCE, &request).await;
    assert_eq!(wire.end().await.0, Err(Hangup::Unwritten));
}

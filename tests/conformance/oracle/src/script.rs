//! What a scenario is written in: questions by several connections, with every answer noted.

use std::fmt::Debug;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use geminga_harness::wait;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiVersionsResponse, BrokerId, CreateTopicsRequest, FindCoordinatorRequest, GroupId,
    HeartbeatRequest, ListOffsetsRequest, MetadataRequest, TopicName,
};
use kafka_protocol::protocol::{Decodable, Request, StrBytes};
use serde_json::{Value, json};

use crate::debug::tree;
use crate::names::Names;
use crate::peer::{Heard, Peer};
use crate::transcript::{CLOSED, Transcript};

/// A text of the codec.
pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A topic's name in the codec.
pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// A dialogue with one broker.
pub struct Script {
    address: String,
    patience: Duration,
    peers: Vec<Option<Peer>>,
    names: Names,
    transcript: Transcript,
}

impl Script {
    /// A dialogue with the broker there; what it does not answer within `patience` it does not answer.
    pub fn new(address: &str, patience: Duration) -> Self {
        let address = address.to_owned();
        Self {
            address,
            patience,
            peers: Vec::new(),
            names: Names::default(),
            transcript: Transcript::default(),
        }
    }

    /// What was noted.
    pub fn finish(self) -> Transcript {
        self.transcript
    }

    /// Asks on the first connection.
    pub(crate) fn ask<R: Request + Debug>(
        &mut self,
        what: &str,
        version: i16,
        request: &R,
    ) -> Option<R::Response>
    where
        R::Response: Debug,
    {
        self.ask_by(0, what, version, request)
    }

    /// Asks on a connection, which is made when it is not there.
    pub(crate) fn ask_by<R: Request + Debug>(
        &mut self,
        peer: usize,
        what: &str,
        version: i16,
        request: &R,
    ) -> Option<R::Response>
    where
        R::Response: Debug,
    {
        self.send::<R>(peer, version, request);
        self.receive::<R>(peer, what, version)
    }

    /// Sends what is answered later.
    pub(crate) fn send<R: Request + Debug>(&mut self, peer: usize, version: i16, request: &R) {
        self.peer(peer).send(version, request);
    }

    /// Notes the answer to what a connection sent last.
    pub(crate) fn receive<R: Request>(
        &mut self,
        peer: usize,
        what: &str,
        version: i16,
    ) -> Option<R::Response>
    where
        R::Response: Debug,
    {
        let answer = self.peer(peer).receive::<R>(version);
        let noted = match &answer {
            Ok(answer) => self.names.settle(tree(&format!("{answer:?}"))),
            Err(not) => {
                self.peers[peer] = None;
                said(not)
            }
        };
        self.transcript.push(what, version, noted);
        answer.ok()
    }

    /// Asks without a note: to bring something about.
    pub(crate) fn quietly<R: Request + Debug>(&mut self, version: i16, request: &R) -> R::Response {
        let peer = self.peer(0);
        peer.send(version, request);
        peer.receive::<R>(version).expect("an answer")
    }

    /// Sends bytes on a connection of their own and notes what comes back: the answer's bytes in hexadecimal.
    pub(crate) fn raw(&mut self, what: &str, version: i16, bytes: &[u8]) {
        let mut peer = Peer::connect(&self.address, self.patience);
        peer.send_raw(bytes);
        let noted = said(&peer.hear());
        self.transcript.push(what, version, noted);
    }

    /// Notes what was found out otherwise.
    pub(crate) fn note(&mut self, what: &str, version: i16, found: Value) {
        self.transcript.push(what, version, found);
    }

    /// Asks for versions in one that is not served: the error, and the row by which a client steps down.
    pub(crate) fn step_down(&mut self, frame: &[u8]) -> Value {
        let mut peer = Peer::connect(&self.address, self.patience);
        peer.send_raw(frame);
        let Heard::Frame(mut answer) = peer.hear() else { return json!(CLOSED) };
        let _correlation = answer.get_i32();
        let answer = ApiVersionsResponse::decode(&mut answer, 0).expect("the first version's form");
        let keys: Vec<i16> = answer.api_keys.iter().map(|row| row.api_key).collect();
        json!({ "error_code": answer.error_code, "names_itself": keys.contains(&18) })
    }

    /// A topic that is led by the time this returns. It keeps its records, whose times are old, unless the configs say otherwise.
    pub(crate) fn topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let retention = ("retention.ms", "-1");
        let keeps = (!configs.iter().any(|(name, _)| *name == retention.0)).then_some(&retention);
        let config = |(name, value): &(&str, &str)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        };
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(configs.iter().chain(keeps).map(config).collect());
        let request =
            CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let made = self.quietly(5, &request);
        assert_eq!(made.topics[0].error_code, 0, "{made:?}");
        self.wait_led(name, partitions);
    }

    /// Waits until all partitions of a topic have a leader.
    pub(crate) fn wait_led(&mut self, name: &str, partitions: i32) {
        let asked = MetadataRequestTopic::default().with_name(Some(topic_name(name)));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![asked]))
            .with_allow_auto_topic_creation(false);
        wait::until("the topic to be led", || {
            let found = self.quietly(9, &request).topics.remove(0);
            let led = found.partitions.iter().filter(|p| p.error_code == 0 && p.leader_id.0 >= 0);
            (i32::try_from(led.count()) == Ok(partitions)).then_some(())
        });
        // Who leads may not know it yet.
        let at =
            |index| ListOffsetsPartition::default().with_partition_index(index).with_timestamp(-1);
        let topic = ListOffsetsTopic::default()
            .with_name(topic_name(name))
            .with_partitions((0..partitions).map(at).collect());
        let request =
            ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        wait::until("the topic to be served", || {
            let found = self.quietly(1, &request).topics.remove(0).partitions;
            found.iter().all(|partition| partition.error_code == 0).then_some(())
        });
    }

    /// Waits until groups are coordinated: a broker that is new may be making what they are kept in.
    pub(crate) fn wait_coordinated(&mut self) {
        const LOADING: [i16; 3] = [14, 15, 16];
        for n in 0..16 {
            let group = GroupId(text(&format!("coordinated-{n}")));
            let find = FindCoordinatorRequest::default().with_key(group.0.clone());
            let beat = HeartbeatRequest::default().with_group_id(group).with_member_id(text("x"));
            wait::until("the coordinator of groups", || {
                let found = self.quietly(3, &find).error_code;
                let heard = self.quietly(3, &beat).error_code;
                (found == 0 && !LOADING.contains(&heard)).then_some(())
            });
        }
    }

    fn peer(&mut self, at: usize) -> &mut Peer {
        while self.peers.len() <= at {
            self.peers.push(None);
        }
        self.peers[at].get_or_insert_with(|| Peer::connect(&self.address, self.patience))
    }
}

/// As it is noted: bytes in hexadecimal.
fn said(heard: &Heard) -> Value {
    match heard {
        Heard::Closed => json!(CLOSED),
        Heard::Nothing => json!("no answer"),
        Heard::Frame(frame) => json!(frame.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// A frame of a key that the codec may not know.
pub(crate) fn bare(key: i16, version: i16, more: &[u8]) -> BytesMut {
    let mut frame = BytesMut::new();
    frame.put_i32(i32::try_from(10 + more.len()).expect("short"));
    frame.put_i16(key);
    frame.put_i16(version);
    frame.put_i32(7);
    frame.put_i16(-1);
    frame.put_slice(more);
    frame
}

/// An id that no topic has.
pub(crate) const NOBODY: uuid::Uuid = uuid::Uuid::from_u128(0x0123_4567_89ab_cdef);

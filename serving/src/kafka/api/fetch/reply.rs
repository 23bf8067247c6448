//! The answer to a fetch, by hand where it matters: record batches go to the socket as they are, between the bytes that say
//! what they are. The library would copy every one of them.
//!
//! ```text
//!   [length head topic partition n] [batch] [batch] … [tail partition n] [batch] … [tail]
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use geminga_metastore::record::KafkaListener;
use geminga_proto::ids::BrokerId;

use super::request::BY_ID_SINCE;
use crate::kafka::call;
use crate::kafka::codec;
use crate::kafka::codec::messages::fetch_response::{
    LeaderIdAndEpoch, NodeEndpoint, PartitionData,
};
use crate::kafka::codec::messages::{FetchResponse, StrBytes, Uuid};
use crate::kafka::error::Code;
use crate::kafka::place::{Elsewhere, Leader};
use crate::kafka::said::Says;

/// Versions from which an answer has an error and a session of its own.
const SESSIONS_SINCE: i16 = 7;
/// Versions from which a client is told who leads a partition that is not here, and where that is.
const LEADERS_SINCE: i16 = 12;
const ENDPOINTS_SINCE: i16 = 16;
/// Tag of the endpoints.
const ENDPOINTS: u32 = 0;
/// Bytes that the head of a partition takes at most, roughly.
const PART_BYTES: usize = 80;

/// An answer.
#[derive(Default)]
pub(super) struct Reply {
    pub(super) code: Option<Code>,
    /// How long the client is not served for what it has taken.
    pub(super) throttle_ms: i32,
    pub(super) topics: Vec<Topic>,
}

/// What there is of one topic.
pub(super) struct Topic {
    pub(super) name: StrBytes,
    pub(super) id: Uuid,
    pub(super) parts: Vec<Part>,
}

/// What there is of one partition.
pub(super) struct Part {
    pub(super) index: i32,
    pub(super) data: Result<Data, Elsewhere>,
}

/// Batches, and where the partition begins and ends.
#[derive(Debug, Clone)]
pub(super) struct Data {
    pub(super) high_watermark: i64,
    pub(super) log_start: i64,
    pub(super) batches: Vec<Bytes>,
    /// The client reads committed records only, and wants to hear of those that were aborted: there are none.
    pub(super) committed_only: bool,
}

impl Data {
    pub(super) fn bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }
}

impl Says for Reply {
    fn codes(&self, mut each: impl FnMut(i16)) {
        self.code.into_iter().for_each(|code| each(code.0));
        let parts = self.topics.iter().flat_map(|topic| &topic.parts);
        parts.filter_map(|part| part.data.as_ref().err()).for_each(|e| each(e.fault.code.0));
    }
}

impl Reply {
    /// An answer that has nothing but an error.
    pub(super) fn refused(code: Code) -> Self {
        Self { code: Some(code), ..Self::default() }
    }

    /// As bytes, to be written end to end. `endpoint` says where a broker is.
    pub(super) fn encode(
        self,
        correlation: i32,
        version: i16,
        endpoint: impl Fn(BrokerId) -> Option<KafkaListener>,
    ) -> call::Reply {
        let flexible = codec::is_flexible::<FetchResponse>(version);
        let parts: usize = self.topics.iter().map(|topic| topic.parts.len()).sum();
        let head = codec::answer_head(correlation, flexible, 64 + parts * PART_BYTES);
        let mut out = Out { flexible, version, bytes: head, done: Vec::new(), leaders: Vec::new() };
        out.bytes.put_i32(self.throttle_ms);
        if version >= SESSIONS_SINCE {
            out.bytes.put_i16(self.code.unwrap_or(Code::NONE).0);
            out.bytes.put_i32(0);
        }
        out.count(self.topics.len());
        for topic in self.topics {
            out.topic(topic);
        }
        out.end(endpoint)
    }
}

struct Out {
    flexible: bool,
    version: i16,
    /// What is not in `done` yet.
    bytes: BytesMut,
    done: Vec<Bytes>,
    leaders: Vec<Leader>,
}

impl Out {
    /// How many elements follow, or bytes.
    fn count(&mut self, count: usize) {
        let count = u32::try_from(count).expect("answers are far below 4 GiB");
        match self.flexible {
            true => varint(&mut self.bytes, count + 1),
            false => self.bytes.put_u32(count),
        }
    }

    fn no_tags(&mut self) {
        if self.flexible {
            self.bytes.put_u8(0);
        }
    }

    fn topic(&mut self, topic: Topic) {
        match self.version < BY_ID_SINCE {
            true if self.flexible => {
                self.count(topic.name.len());
                self.bytes.put_slice(topic.name.as_bytes());
            }
            true => {
                self.bytes
                    .put_u16(u16::try_from(topic.name.len()).expect("it came as such a text"));
                self.bytes.put_slice(topic.name.as_bytes());
            }
            false => self.bytes.put_slice(topic.id.as_bytes()),
        }
        self.count(topic.parts.len());
        for part in topic.parts {
            self.part(part);
        }
        self.no_tags();
    }

    /// The library writes all but the records; those come last but for the tags, of which there are none beside records.
    fn part(&mut self, part: Part) {
        let mut head = PartitionData::default();
        head.partition_index = part.index;
        (head.high_watermark, head.last_stable_offset, head.log_start_offset) = (-1, -1, -1);
        head.preferred_read_replica = -1;
        // None rather than no records: older clients expect a length.
        head.records = Some(Bytes::new());
        head.aborted_transactions = None;
        let batches = match part.data {
            Ok(data) => {
                head.high_watermark = data.high_watermark;
                head.last_stable_offset = data.high_watermark;
                head.log_start_offset = data.log_start;
                head.aborted_transactions = data.committed_only.then(Vec::new);
                data.batches
            }
            Err(Elsewhere { fault, leader }) => {
                head.error_code = fault.code.0;
                if let Some(leader) = leader.filter(|_| self.version >= LEADERS_SINCE) {
                    let mut hint = LeaderIdAndEpoch::default();
                    (hint.leader_id, hint.leader_epoch) = (leader.id.0, leader.epoch.0);
                    head.current_leader = hint;
                    self.leaders.push(leader);
                }
                Vec::new()
            }
        };
        codec::append(&mut self.bytes, self.version, &head);
        if !batches.is_empty() {
            self.records(batches);
        }
    }

    /// In place of the empty records at the end.
    fn records(&mut self, batches: Vec<Bytes>) {
        let empty = if self.flexible { 2 } else { 4 };
        self.bytes.truncate(self.bytes.len() - empty);
        self.count(batches.iter().map(Bytes::len).sum());
        self.done.push(self.bytes.split().freeze());
        self.done.extend(batches);
        self.no_tags();
    }

    fn end(mut self, endpoint: impl Fn(BrokerId) -> Option<KafkaListener>) -> call::Reply {
        let endpoints = self.endpoints(endpoint);
        if !endpoints.is_empty() && self.version >= ENDPOINTS_SINCE {
            let mut tag = BytesMut::new();
            varint(&mut tag, u32::try_from(endpoints.len() + 1).expect("there are few brokers"));
            for endpoint in &endpoints {
                codec::append(&mut tag, self.version, endpoint);
            }
            varint(&mut self.bytes, 1);
            varint(&mut self.bytes, ENDPOINTS);
            varint(&mut self.bytes, u32::try_from(tag.len()).expect("there are few brokers"));
            self.bytes.put_slice(&tag);
        } else {
            self.no_tags();
        }
        self.done.push(self.bytes.split().freeze());
        let all: usize = self.done.iter().map(Bytes::len).sum();
        // The first piece is this answer's own.
        let mut first = BytesMut::from(std::mem::take(&mut self.done[0]));
        let more = all - first.len();
        codec::close_frame(&mut first, more);
        self.done[0] = first.freeze();
        self.done.into()
    }

    fn endpoints(
        &mut self,
        endpoint: impl Fn(BrokerId) -> Option<KafkaListener>,
    ) -> Vec<NodeEndpoint> {
        self.leaders.sort_unstable_by_key(|leader| leader.id);
        self.leaders.dedup_by_key(|leader| leader.id);
        let node = |leader: &Leader| {
            let at = endpoint(leader.id)?;
            let mut node = NodeEndpoint::default();
            (node.node_id, node.host, node.port) =
                (leader.id.0, at.host.into(), i32::from(at.port));
            Some(node)
        };
        self.leaders.iter().filter_map(node).collect()
    }
}

fn varint(bytes: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        bytes.put_u8((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    bytes.put_u8(value as u8);
}

#[cfg(test)]
mod tests;

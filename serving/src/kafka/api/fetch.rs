//! Fetch: record batches of some partitions from given offsets on, as they are stored. Waits until enough is there in all of them
//! together, or the client's time is over, or one of them has something else to say.
//!
//! Sessions are declined: every request says everything, and every answer, too. Clients take that for an answer.

mod reply;
mod request;

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::select_all;
use geminga_proto::ids::Offset;
use geminga_records::{Compression, Header};
use tokio::time::Instant;

use self::reply::{Data, Part, Reply, Topic};
use self::request::{Asked, Wanted};
use super::Api;
use crate::kafka::call::{self, Answer, Call, Served};
use crate::kafka::codec::messages::FetchRequest;
use crate::kafka::error::{Code, Fault};
use crate::kafka::place::Elsewhere;
use crate::router::{Read, ReadSpec};

pub(super) const API: Api = Api::new::<FetchRequest>(
    "Fetch",
    4,
    17,
    |call, body| serve(call, body).boxed(),
    "Sessions are declined: the session id is always 0. A batch is always whole, the first one whatever its size.",
);

/// Most bytes of an answer, whatever is asked for; one batch more where the first is larger.
const MAX_BYTES: usize = 16 * 1024 * 1024;
/// Longest wait.
const MAX_WAIT: Duration = Duration::from_mins(5);
/// Partitions whose end is watched while there is too little. Of more than these, those that a client asks for last wait for
/// its next turn.
const WATCHED: usize = 256;
/// Before this version a client cannot read zstd.
const ZSTD_SINCE: i16 = 10;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: FetchRequest = call.decode(body)?;
    if request.session_id != 0 && request.session_epoch > 0 {
        let reply = Reply::refused(Code::FETCH_SESSION_ID_NOT_FOUND);
        return Ok(Answer::Ready(encode(&call, reply)));
    }
    let asked = request::asked(&call, &request).await;
    let max_wait = u64::try_from(request.max_wait_ms).map_or(Duration::ZERO, Duration::from_millis);
    let bytes = |said: i32| usize::try_from(said).unwrap_or(0).min(MAX_BYTES);
    let mut fetch = Fetch {
        call: &call,
        asked,
        min_bytes: bytes(request.min_bytes),
        max_bytes: bytes(request.max_bytes).max(1),
        deadline: Instant::now() + max_wait.min(MAX_WAIT),
        committed_only: request.isolation_level == 1,
    };
    let reply = fetch.run().await;
    Ok(Answer::Ready(encode(&call, reply)))
}

fn encode(call: &Call, reply: Reply) -> call::Reply {
    let endpoint = |broker| Some(call.node(broker)?.at);
    reply.encode(call.header.correlation, call.version(), endpoint)
}

struct Fetch<'a> {
    call: &'a Call,
    asked: Vec<Asked>,
    min_bytes: usize,
    max_bytes: usize,
    deadline: Instant,
    committed_only: bool,
}

impl Fetch<'_> {
    async fn run(&mut self) -> Reply {
        loop {
            let (reply, bytes, noteworthy) = self.read_all().await;
            if noteworthy || bytes >= self.min_bytes || Instant::now() >= self.deadline {
                return reply;
            }
            self.watch().await;
        }
    }

    /// What there is now of all partitions, in the order of the request; how many bytes; and whether one has an error.
    async fn read_all(&self) -> (Reply, usize, bool) {
        let mut reply = Reply::default();
        let (mut bytes, mut noteworthy) = (0, false);
        for asked in &self.asked {
            let mut topic = Topic { name: asked.name.clone(), id: asked.id, parts: Vec::new() };
            for (index, wanted) in &asked.partitions {
                let room = self.max_bytes.saturating_sub(bytes);
                let data = match wanted {
                    Ok(wanted) => self.read(wanted, room, Duration::ZERO).await,
                    Err(elsewhere) => Err(elsewhere.clone()),
                };
                noteworthy |= data.is_err();
                bytes += data.as_ref().map_or(0, |data| data.bytes());
                topic.parts.push(Part { index: *index, data });
            }
            reply.topics.push(topic);
        }
        (reply, bytes, noteworthy)
    }

    async fn read(&self, wanted: &Wanted, room: usize, wait: Duration) -> Result<Data, Elsewhere> {
        // A full answer still says where the partition ends.
        let max_bytes = wanted.max_bytes.min(room);
        if max_bytes == 0 {
            return self.ends(wanted);
        }
        let offset = Offset(wanted.offset);
        let spec = ReadSpec { offset, max_bytes, min_bytes: 1, max_wait: wait };
        let partitions = &self.call.kafka.ctx.partitions;
        let read = partitions.read(wanted.topic.clone(), wanted.partition, spec).await;
        match read {
            Ok(read) => self.readable(read),
            Err(error) => Err(Fault::from(error).into()),
        }
    }

    fn ends(&self, wanted: &Wanted) -> Result<Data, Elsewhere> {
        let partitions = &self.call.kafka.ctx.partitions;
        let ends = partitions.open_offsets(wanted.topic.id, wanted.partition);
        let ends = ends.map_or((-1, -1), |ends| (ends.high_watermark.0, ends.log_start.0));
        Ok(self.data(ends, Vec::new()))
    }

    fn readable(&self, read: Read) -> Result<Data, Elsewhere> {
        let is_zstd = |batch: &Bytes| {
            Header::peek(batch).and_then(|header| header.compression()) == Ok(Compression::Zstd)
        };
        if self.call.version() < ZSTD_SINCE && read.batches.iter().any(is_zstd) {
            let why = "zstd needs version 10 of Fetch: upgrade the client";
            return Err(Fault::new(Code::UNSUPPORTED_COMPRESSION_TYPE, why).into());
        }
        Ok(self.data((read.high_watermark.0, read.log_start.0), read.batches))
    }

    fn data(&self, (high_watermark, log_start): (i64, i64), batches: Vec<Bytes>) -> Data {
        Data { high_watermark, log_start, batches, committed_only: self.committed_only }
    }

    /// Returns when one of the partitions has more, or something to say, or the time is over.
    async fn watch(&self) {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let wanted = self.asked.iter().flat_map(|asked| &asked.partitions);
        let wanted = wanted.filter_map(|(_, wanted)| wanted.as_ref().ok());
        // A byte is enough to know; it is read again with the others.
        let reads = wanted.take(WATCHED).map(|wanted| {
            let spec = ReadSpec {
                offset: Offset(wanted.offset),
                max_bytes: 1,
                min_bytes: 1,
                max_wait: left,
            };
            self.call.kafka.ctx.partitions.read(wanted.topic.clone(), wanted.partition, spec)
        });
        let reads: Vec<_> = reads.collect();
        if reads.is_empty() {
            return tokio::time::sleep_until(self.deadline).await;
        }
        let _ = tokio::time::timeout_at(self.deadline, select_all(reads)).await;
    }
}

//! Fetch: record batches of some partitions from given offsets on, as they are stored. Waits until enough is there in all of them
//! together, or the client's time is over, or one of them has something else to say.
//!
//! Sessions are declined: every request says everything, and every answer, too. Clients take that for an answer.

mod reply;
mod request;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, select_all};
use futures::{FutureExt, StreamExt, stream};
use geminga_proto::ids::Offset;
use geminga_records::{Compression, Header};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;

use self::reply::{Data, Part, Reply, Topic};
use self::request::{Asked, Wanted};
use super::Api;
use crate::kafka::call::{self, Answer, Call, Served};
use crate::kafka::codec::messages::FetchRequest;
use crate::kafka::error::{Code, Fault};
use crate::kafka::place::Elsewhere;
use crate::quotas::Kind;
use crate::router::{OffsetAt, Read, ReadSpec};

pub(super) const API: Api = Api::new::<FetchRequest>(
    "Fetch",
    4,
    17,
    |call, body| serve(call, body).boxed(),
    "Sessions are declined: the session id is always 0. A batch is always whole, the first one whatever its size.",
)
.waiting();

/// Most bytes of an answer, whatever is asked for; one batch more where the first is larger.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Longest wait.
const MAX_WAIT: Duration = Duration::from_mins(5);
/// How long a partition may take to be opened here, beside the time that the client gives.
const OPENING: Duration = Duration::from_secs(1);
/// Partitions that are opened at one time.
const PARALLEL: usize = 64;
/// How long the first data of an answer may take to be read, and what follows it.
const FIRST_READ: Duration = Duration::from_secs(10);
const FURTHER_READ: Duration = Duration::from_millis(500);
/// Before this version a client cannot read zstd.
const ZSTD_SINCE: i16 = 10;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: FetchRequest = call.decode(body)?;
    if request.session_epoch > 0 {
        let reply = Reply::refused(Code::FETCH_SESSION_ID_NOT_FOUND);
        return Ok(Answer::Ready(encode(&call, reply)));
    }
    let asked = request::asked(&call, &request).await;
    let max_wait = u64::try_from(request.max_wait_ms).map_or(Duration::ZERO, Duration::from_millis);
    let most = MAX_BYTES.min(call.kafka.reply_room.limit());
    let bytes = |said: i32| usize::try_from(said).unwrap_or(0).min(most);
    let fetch = Fetch {
        call: &call,
        asked,
        min_bytes: bytes(request.min_bytes),
        max_bytes: bytes(request.max_bytes).max(1),
        deadline: Instant::now() + max_wait.min(MAX_WAIT),
        committed_only: request.isolation_level == 1,
    };
    let (reply, room) = fetch.run().await;
    let mut reply = encode(&call, reply);
    reply.room = Some(room);
    Ok(Answer::Ready(reply))
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
    /// The answer, and the room that it takes.
    async fn run(mut self) -> (Reply, OwnedSemaphorePermit) {
        self.open_all().await;
        loop {
            // From here on, so that nothing that is committed while it is read is slept through.
            let ends = self.follow();
            let room = self.call.kafka.reply_room.take(self.max_bytes).await;
            let (reply, bytes, noteworthy) = self.read_all().await;
            if noteworthy || bytes >= self.min_bytes || Instant::now() >= self.deadline {
                let mut room = room;
                let spare = room.num_permits().saturating_sub(bytes.max(1));
                drop(room.split(spare));
                let mut reply = reply;
                reply.throttle_ms = self.call.charge(Kind::Consume, bytes);
                return (reply, room);
            }
            // Who only waits takes no room.
            drop((reply, room));
            let _late = tokio::time::timeout_at(self.deadline, any(ends)).await.is_err();
        }
    }

    /// One partition that cannot be opened keeps no other from being read.
    async fn open_all(&mut self) {
        let deadline = self.deadline.max(Instant::now() + OPENING);
        let partitions = &self.call.kafka.ctx.partitions;
        let mut openings: Vec<BoxFuture<'_, (usize, usize, Fault)>> = Vec::new();
        for (t, asked) in self.asked.iter().enumerate() {
            for (p, (_, wanted)) in asked.partitions.iter().enumerate() {
                let Ok(wanted) = wanted else { continue };
                if partitions.open_offsets(wanted.topic.id, wanted.partition).is_none() {
                    openings.push(self.open(wanted, deadline).map(move |f| (t, p, f)).boxed());
                }
            }
        }
        let closed: Vec<_> = stream::iter(openings).buffer_unordered(PARALLEL).collect().await;
        for (t, p, fault) in closed {
            if fault.code != Code::NONE {
                self.asked[t].partitions[p].1 = Err(fault.into());
            }
        }
    }

    /// Code NONE: it is open.
    async fn open(&self, wanted: &Wanted, deadline: Instant) -> Fault {
        let partitions = &self.call.kafka.ctx.partitions;
        let topic = Arc::clone(&wanted.topic);
        let open = partitions.find_offset(topic, wanted.partition, OffsetAt::Latest);
        match tokio::time::timeout_at(deadline, open).await {
            Ok(Ok(_)) => Fault::new(Code::NONE, ""),
            Ok(Err(error)) => Fault::from(error).of_fetch(),
            Err(_) => Fault::new(Code::NOT_LEADER_OR_FOLLOWER, "it is being opened: try again"),
        }
    }

    /// Ends of the partitions, to be told when any moves.
    fn follow(&self) -> Vec<watch::Receiver<Offset>> {
        let partitions = &self.call.kafka.ctx.partitions;
        let wanted = self.asked.iter().flat_map(|asked| &asked.partitions);
        let wanted = wanted.filter_map(|(_, wanted)| wanted.as_ref().ok());
        wanted.filter_map(|wanted| partitions.end(wanted.topic.id, wanted.partition)).collect()
    }

    /// What there is now of all partitions, in the order of the request; how many bytes; and whether one has an error.
    async fn read_all(&self) -> (Reply, usize, bool) {
        let mut reply = Reply::default();
        let (mut bytes, mut noteworthy) = (0, false);
        for asked in &self.asked {
            let mut topic = Topic { name: asked.name.clone(), id: asked.id, parts: Vec::new() };
            for (index, wanted) in &asked.partitions {
                let data = match wanted {
                    Ok(wanted) => self.read(wanted, bytes).await,
                    Err(elsewhere) => Err(elsewhere.clone()),
                };
                noteworthy |= data.is_err();
                bytes += data.as_ref().map_or(0, Data::bytes);
                topic.parts.push(Part { index: *index, data });
            }
            reply.topics.push(topic);
        }
        (reply, bytes, noteworthy)
    }

    /// Reads one partition after `bytes` were read of others.
    async fn read(&self, wanted: &Wanted, bytes: usize) -> Result<Data, Elsewhere> {
        let room = self.max_bytes.saturating_sub(bytes);
        let max_bytes = wanted.max_bytes.min(room);
        // A full answer still says where the partition ends.
        if max_bytes == 0 {
            return Ok(self.ends(wanted));
        }
        let offset = Offset(wanted.offset);
        let spec = ReadSpec { offset, max_bytes, min_bytes: 1, max_wait: Duration::ZERO };
        let partitions = &self.call.kafka.ctx.partitions;
        let read = partitions.read(Arc::clone(&wanted.topic), wanted.partition, spec);
        let patience = if bytes == 0 { FIRST_READ } else { FURTHER_READ };
        let read = match tokio::time::timeout(patience, read).await {
            Ok(read) => read.map_err(|error| Fault::from(error).of_fetch())?,
            // The others are not to wait for it; next time it may come first.
            Err(_) if bytes > 0 => return Ok(self.ends(wanted)),
            Err(_) => {
                let why = "storage is slow: try again";
                return Err(Fault::new(Code::NOT_LEADER_OR_FOLLOWER, why).into());
            }
        };
        let mut data = self.readable(read)?;
        // Only the first batch of an answer may be larger than all of it.
        while bytes > 0 && data.bytes() > room {
            data.batches.pop();
        }
        Ok(data)
    }

    fn ends(&self, wanted: &Wanted) -> Data {
        let partitions = &self.call.kafka.ctx.partitions;
        let ends = partitions.open_offsets(wanted.topic.id, wanted.partition);
        let ends = ends.map_or((-1, -1), |ends| (ends.high_watermark.0, ends.log_start.0));
        self.data(ends, Vec::new())
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
}

/// Resolves when any of the ends has moved since it was followed, or is not here any more; never when there are none.
async fn any(mut ends: Vec<watch::Receiver<Offset>>) {
    let changes = ends.iter_mut().map(|end| Box::pin(end.changed()));
    let changes: Vec<_> = changes.collect();
    if changes.is_empty() {
        return std::future::pending().await;
    }
    let _ended = select_all(changes).await.0.is_err();
}

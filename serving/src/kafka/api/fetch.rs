//! Fetch: record batches of some partitions from given offsets on, as they are stored. Waits until enough is there in all of them
//! together, or the client's time is over, or one of them has something else to say.
//!
//! Sessions are declined: every request says everything, and every answer, too. Clients take that for an answer.

mod reading;
mod reply;
mod request;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, select_all};
use futures::{FutureExt, StreamExt, stream};
use geminga_proto::ids::Offset;
use tokio::sync::watch;
use tokio::time::Instant;

use self::reply::Reply;
use self::request::{Asked, Wanted};
use super::Api;
use crate::kafka::call::{self, Answer, Call, Served};
use crate::kafka::codec::messages::FetchRequest;
use crate::kafka::error::{Code, Fault};
use crate::kafka::said;
use crate::quotas::Kind;
use crate::room::Held;
use crate::router::OffsetAt;

pub(super) const API: Api = Api::new::<FetchRequest>(
    "Fetch",
    4,
    17,
    |call, body| serve(call, body).boxed(),
    "Sessions are declined: the session id is always 0. A batch is always whole, the first one whatever its size.",
)
.waiting();

/// Most bytes of an answer, whatever is asked for; one batch more where the first is larger. Less where many answers are unread.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Longest wait.
const MAX_WAIT: Duration = Duration::from_mins(5);
/// How long a partition may take to be opened here, beside the time that the client gives.
const OPENING: Duration = Duration::from_secs(1);
/// Partitions that are opened at one time.
const PARALLEL: usize = 64;

async fn serve(call: Call, body: Bytes) -> Served {
    let request: FetchRequest = call.decode(body)?;
    if request.session_epoch > 0 {
        let reply = Reply::refused(Code::FETCH_SESSION_ID_NOT_FOUND);
        return Ok(Answer::Ready(encode(&call, reply)));
    }
    call.notes.about(request.topics.iter().map(|topic| topic.partitions.len()).sum());
    let asked = request::asked(&call, &request).await;
    let max_wait = u64::try_from(request.max_wait_ms).map_or(Duration::ZERO, Duration::from_millis);
    let bytes = |said: i32| usize::try_from(said).unwrap_or(0).min(MAX_BYTES);
    let fetch = Fetch {
        call: &call,
        asked,
        min_bytes: bytes(request.min_bytes),
        max_bytes: bytes(request.max_bytes).max(1),
        deadline: Instant::now() + max_wait.min(MAX_WAIT),
        committed_only: request.isolation_level == 1,
    };
    let (reply, rooms) = fetch.run().await;
    let mut reply = encode(&call, reply);
    reply.rooms = rooms;
    Ok(Answer::Ready(reply))
}

fn encode(call: &Call, reply: Reply) -> call::Reply {
    said::count(call.header.key, &reply);
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
    async fn run(mut self) -> (Reply, Vec<Held>) {
        self.open_all().await;
        loop {
            // From here on, so that nothing that is committed while it is read is slept through.
            let (ends, before) = (self.follow(), self.known_bytes());
            let mut found = self.read_all().await;
            if found.is_worth(self.min_bytes) || Instant::now() >= self.deadline {
                found.reply.throttle_ms = self.call.charge(Kind::Consume, found.bytes);
                return (found.reply, found.rooms);
            }
            let missing = (self.min_bytes - found.bytes) as u64;
            // Who only waits takes no room.
            drop(found);
            let _waiting = self.call.notes.wait();
            let more = self.more(ends, before, missing);
            let _late = tokio::time::timeout_at(self.deadline, more).await.is_err();
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

    /// How many bytes the partitions hold, where that is known of all.
    fn known_bytes(&self) -> Option<u64> {
        let partitions = &self.call.kafka.ctx.partitions;
        let wanted = self.asked.iter().flat_map(|asked| &asked.partitions);
        let mut wanted = wanted.filter_map(|(_, wanted)| wanted.as_ref().ok());
        wanted.try_fold(0u64, |all, wanted| {
            Some(all + partitions.known_bytes(wanted.topic.id, wanted.partition)?)
        })
    }

    /// Waits until what is missing may be there: records are not read again for every few that come.
    async fn more(
        &self,
        mut ends: Vec<watch::Receiver<Offset>>,
        before: Option<u64>,
        missing: u64,
    ) {
        while moved(&mut ends).await {
            let grown = before.and_then(|before| self.known_bytes()?.checked_sub(before));
            // Of what was closed meanwhile it is not known how much is new.
            if grown.is_none_or(|grown| grown == 0 || grown >= missing) {
                return;
            }
        }
    }
}

/// Resolves when any of the ends has moved since it was followed, or is not here any more: whether it has moved; never when there are
/// none.
async fn moved(ends: &mut [watch::Receiver<Offset>]) -> bool {
    let changes = ends.iter_mut().map(|end| Box::pin(end.changed()));
    let changes: Vec<_> = changes.collect();
    if changes.is_empty() {
        return std::future::pending().await;
    }
    select_all(changes).await.0.is_ok()
}

//! `Stream.Consume`: one stream is one member of a group. The client grants credit in bytes, so it pulls.
//!
//! * [`member`]: what a member says and when, as a pure state machine. [`reader`]: where its partitions stand; also pure.
//! * [`chunks`](super::chunks): what was read, cut into pieces that fit the credit. [`task`]: the task that moves messages between them,
//!   the client, the coordinator and the partitions' owners.
//!
//! The stream says `Joined` at once, then, for each generation, an `Assignment` with the offsets from which data follows.
//! Before an assignment is taken away it says `Revoke`; no data follows until the next `Assignment`. A stream that breaks
//! is not a departure: whoever opens another with the same member id within the session timeout is the same member,
//! and the former stream ends with UNKNOWN_MEMBER. Only `Leave` departs; it ends the stream when all commits are
//! answered. A client that has nothing more to say may close its side and read on.
//!
//! What the group or the member's own requests bring about is an `Error` event, after which the stream ends; what
//! is wrong with the call as a whole is its status.

mod member;
mod reader;
mod task;

use std::sync::Arc;

use futures::Stream;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_runtime::{Random, Tasks, requests};
use tonic::Status;

use super::outgoing::{self, Client, Taker};
use crate::groups::client::GroupClient;
use crate::groups::limits;
use crate::groups::types::{Caller, Join};
use crate::ownership::topology::Topology;
use crate::quotas::Quotas;
use crate::router::Source;

/// Events on their way to one client. Data among them is bounded by the client's credit as well.
const EVENTS: usize = 4;
/// Most bytes of a client id that a member id begins with.
const ID_PREFIX_BYTES: usize = 64;

/// What consumers are served from; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ConsumeContext {
    /// Who takes what is read, and the room for it.
    pub(super) client: Client,
    /// Which topics exist.
    pub(crate) topology: Topology,
    /// The groups.
    pub(crate) groups: GroupClient,
    /// The partitions.
    pub(crate) source: Arc<dyn Source>,
    /// What client ids may do here.
    pub(crate) quotas: Quotas,
    /// Makes member ids and sessions.
    pub(crate) random: Arc<dyn Random>,
    /// Every stream is a task; they end with SHUTTING_DOWN when these stop.
    pub(crate) tasks: Tasks,
}

/// Serves one member. `input`: what the client sends, the join first. The stream is open at once; what is wrong
/// with its requests is said on it.
pub(crate) fn consume<S>(context: ConsumeContext, input: S) -> Taker
where
    S: Stream<Item = Result<v1::ConsumeRequest, Status>> + Send + Unpin + 'static,
{
    let (events, watch, stream) = outgoing::channel(EVENTS, context.client.clone());
    let tasks = context.tasks.clone();
    let serve = requests::scope(requests::current(), task::serve(context, input, events, watch));
    tasks.spawn("consumer", Box::pin(serve));
    stream
}

/// What a client joined with, checked and completed.
#[derive(Debug, Clone)]
struct Joining {
    group: Arc<str>,
    join: Join,
    reset: v1::OffsetReset,
    format: v1::Format,
}

impl Joining {
    /// Takes a join apart. Limits are the group's to judge, but for what would be copied before it is asked.
    fn new(wire: v1::ConsumeJoin, random: &dyn Random) -> Result<Self, ApiError> {
        let limit = limits::MAX_MEMBER_TOPICS;
        if wire.topics.len() > limit {
            let why = format!("the number of topics of a member is limited to {limit}");
            return Err(ApiError::new(Reason::LimitExceeded, why));
        }
        let invalid = |what| ApiError::new(Reason::InvalidRequest, what);
        let reset = v1::OffsetReset::try_from(wire.offset_reset)
            .map_err(|_| invalid("offset_reset must be latest, earliest or none"))?;
        let format = v1::Format::try_from(wire.format)
            .map_err(|_| invalid("format must be records or batches"))?;
        let member: Arc<str> = match wire.member_id.as_str() {
            "" => new_id(&wire.client_id, random).into(),
            id => id.into(),
        };
        let or = |given: u32, default| if given == 0 { default } else { given };
        let join = Join {
            caller: Caller { member, session: random.next_u64() },
            client_id: wire.client_id,
            topics: wire.topics.into_iter().map(Into::into).collect(),
            session_timeout_ms: or(wire.session_timeout_ms, limits::DEFAULT_SESSION_TIMEOUT_MS),
            rebalance_timeout_ms: or(
                wire.rebalance_timeout_ms,
                limits::DEFAULT_REBALANCE_TIMEOUT_MS,
            ),
        };
        Ok(Self { group: wire.group.into(), join, reset, format })
    }
}

/// A member id that never meets another, recognisable by the client's name.
fn new_id(client_id: &str, random: &dyn Random) -> String {
    let prefix = if client_id.is_empty() { "consumer" } else { client_id };
    let end = prefix.floor_char_boundary(ID_PREFIX_BYTES);
    format!("{}-{:032x}", &prefix[..end], random.next_u128())
}

#[cfg(test)]
mod tests;

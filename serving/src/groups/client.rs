//! Any group, wherever its shard is: here, or one hop away at the broker that coordinates it. While a shard moves,
//! requests are repeated within a bound. That is safe: a join, heartbeat or departure says the same however often it
//! arrives, a commit carries its session's sequence, and whatever is answered was proved by the log (S2).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use geminga_proto::caps;
use geminga_proto::ids::BrokerId;
use geminga_proto::internal::peer_client::PeerClient;
use geminga_proto::internal::{GroupHeartbeatRequest, LeaveGroupRequest, ListShardRequest};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use super::coordinator::Shards;
use super::request::{JoinAnswer, Request};
use super::types::{Caller, Commit, Committed, Join, TopicPartition};
use super::view::Owner;
use super::wire;
use crate::router::{Router, hop};

/// One attempt of anything but a join; a join adds the time that it may be parked.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a tool's request follows a shard that moves.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between attempts: first, and doubled up to the longest. A change of placement cuts it short.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Shards that are listed at one time.
const PARALLEL_LISTS: usize = 8;

/// Connections to other brokers.
pub trait Dial: Send + Sync + fmt::Debug + 'static {
    /// The connection to a broker; connects in the background.
    ///
    /// # Errors
    /// [`Reason::NotReady`] when that broker is not known.
    fn channel(&self, broker: BrokerId) -> Result<Channel, ApiError>;
}

impl Dial for Router {
    fn channel(&self, broker: BrokerId) -> Result<Channel, ApiError> {
        Self::channel(self, broker)
    }
}

/// A handle on all groups of the cluster; cheap to clone.
#[derive(Debug, Clone)]
pub struct GroupClient {
    shards: Shards,
    dial: Arc<dyn Dial>,
}

/// What is asked; kept so that it can be asked again.
enum Ask {
    Join(Join),
    Heartbeat(Caller, i32),
    Leave(Caller),
    Commit(Commit),
    Describe,
    Delete,
    List,
}

/// What comes back.
enum Answer {
    Join(JoinAnswer),
    Done,
    Described(v1::DescribeGroupResponse),
    Listed(Vec<v1::GroupSummary>),
}

impl GroupClient {
    /// A handle that asks `shards` for what is here and others through `dial`.
    pub fn new(shards: Shards, dial: Arc<dyn Dial>) -> Self {
        Self { shards, dial }
    }

    /// Joins, or hears that the join phase goes on.
    ///
    /// # Errors
    /// The group's refusal; a retriable reason when no coordinator was found `within` the time. Cancel-safe: asking
    /// again is the same member.
    pub async fn join(
        &self,
        group: &Arc<str>,
        join: Join,
        within: Duration,
    ) -> Result<JoinAnswer, ApiError> {
        match self.ask(group, &Ask::Join(join), within).await? {
            Answer::Join(answer) => Ok(answer),
            Answer::Done | Answer::Described(_) | Answer::Listed(_) => Err(wrong_answer()),
        }
    }

    /// Says that a member lives.
    ///
    /// # Errors
    /// REBALANCE_IN_PROGRESS, STALE_GENERATION, UNKNOWN_MEMBER, MEMBER_FENCED, or a retriable reason. Cancel-safe.
    pub async fn heartbeat(
        &self,
        group: &Arc<str>,
        caller: Caller,
        generation: i32,
        within: Duration,
    ) -> Result<(), ApiError> {
        self.done(group, &Ask::Heartbeat(caller, generation), within).await
    }

    /// Takes a member out of its group. A member that is not there has left.
    ///
    /// # Errors
    /// A retriable reason when no coordinator was found `within` the time.
    pub async fn leave(
        &self,
        group: &Arc<str>,
        caller: Caller,
        within: Duration,
    ) -> Result<(), ApiError> {
        match self.done(group, &Ask::Leave(caller), within).await {
            Err(error) if error.reason == Reason::UnknownMember => Ok(()),
            done => done,
        }
    }

    /// Commits offsets of a member.
    ///
    /// # Errors
    /// The group's refusal; UNKNOWN when the commit may have been made; else a retriable reason.
    pub async fn commit(
        &self,
        group: &Arc<str>,
        commit: Commit,
        within: Duration,
    ) -> Result<(), ApiError> {
        self.done(group, &Ask::Commit(commit), within).await
    }

    /// Commits offsets without membership; refused while the group has members.
    ///
    /// # Errors
    /// As [`GroupClient::commit`].
    pub async fn commit_offsets(
        &self,
        group: &Arc<str>,
        offsets: Vec<(TopicPartition, Committed)>,
    ) -> Result<(), ApiError> {
        self.commit(group, Commit { by: None, offsets }, PATIENCE).await
    }

    /// Everything about a group but the high watermarks.
    ///
    /// # Errors
    /// [`Reason::UnknownGroup`], or a retriable reason. Cancel-safe.
    pub async fn describe(&self, group: &Arc<str>) -> Result<v1::DescribeGroupResponse, ApiError> {
        match self.ask(group, &Ask::Describe, PATIENCE).await? {
            Answer::Described(description) => Ok(description),
            Answer::Join(_) | Answer::Done | Answer::Listed(_) => Err(wrong_answer()),
        }
    }

    /// Forgets a group without members, with its offsets.
    ///
    /// # Errors
    /// [`Reason::UnknownGroup`], [`Reason::GroupNotEmpty`], or a retriable reason.
    pub async fn delete(&self, group: &Arc<str>) -> Result<(), ApiError> {
        self.done(group, &Ask::Delete, PATIENCE).await
    }

    /// All groups of the cluster, by name.
    ///
    /// # Errors
    /// A retriable reason when any shard could not be asked: part of a list would pass for the whole. Cancel-safe.
    pub async fn list(&self) -> Result<Vec<v1::GroupSummary>, ApiError> {
        let shards = self.shards.placement().shards();
        let nameless: Arc<str> = "".into();
        let lists = futures::stream::iter(0..shards).map(|shard| {
            let (client, nameless) = (self.clone(), nameless.clone());
            async move { client.follow(shard, &nameless, &Ask::List, PATIENCE).await }
        });
        let lists: Vec<Answer> = lists.buffer_unordered(PARALLEL_LISTS).try_collect().await?;
        let mut groups = Vec::new();
        for list in lists {
            match list {
                Answer::Listed(list) => groups.extend(list),
                Answer::Join(_) | Answer::Done | Answer::Described(_) => return Err(wrong_answer()),
            }
        }
        groups.sort_unstable_by(|a: &v1::GroupSummary, b| a.group.cmp(&b.group));
        Ok(groups)
    }

    async fn done(&self, group: &Arc<str>, ask: &Ask, within: Duration) -> Result<(), ApiError> {
        match self.ask(group, ask, within).await? {
            Answer::Done => Ok(()),
            Answer::Join(_) | Answer::Described(_) | Answer::Listed(_) => Err(wrong_answer()),
        }
    }

    async fn ask(&self, group: &Arc<str>, ask: &Ask, within: Duration) -> Result<Answer, ApiError> {
        self.follow(self.shards.of(group), group, ask, within).await
    }

    /// Asks the shard's coordinator, and again while it moves.
    async fn follow(
        &self,
        shard: u32,
        group: &Arc<str>,
        ask: &Ask,
        within: Duration,
    ) -> Result<Answer, ApiError> {
        let deadline = Instant::now() + within;
        let mut changed = self.shards.placement().changed();
        let (mut pause, mut maybe_done) = (FIRST_PAUSE, false);
        loop {
            changed.mark_unchanged();
            let asked = self.shards.placement().owner(shard);
            let attempt = (Instant::now() + ask.attempt()).min(deadline);
            let answer = tokio::select! {
                biased;
                answer = tokio::time::timeout_at(attempt, self.once(shard, group, ask, &asked)) => {
                    answer.unwrap_or_else(|_| Err(late(shard)))
                }
                // One that vanished would be waited for in vain.
                () = self.moved(shard, &asked, &mut changed) => Err(late(shard)),
            };
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if maybe_done && ask.is_done_by(error.reason) {
                return Ok(Answer::Done);
            }
            maybe_done |= error.reason == Reason::Unknown;
            if !moving(error.reason) {
                return Err(error);
            }
            if Instant::now() + pause >= deadline {
                return Err(if maybe_done { unknown(error) } else { error });
            }
            // At least a moment, so that a flood of changes is not a flood of requests.
            tokio::time::sleep(FIRST_PAUSE).await;
            let _changed = tokio::time::timeout(pause, changed.changed()).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Resolves when a shard has another owner than the one that was `asked`. Cancel-safe.
    async fn moved(&self, shard: u32, asked: &Owner, changed: &mut watch::Receiver<u64>) {
        while self.shards.placement().owner(shard) == *asked {
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn once(
        &self,
        shard: u32,
        group: &Arc<str>,
        ask: &Ask,
        asked: &Owner,
    ) -> Result<Answer, ApiError> {
        match asked {
            Owner::Local => self.once_here(shard, group, ask).await,
            Owner::Remote { broker, .. } => {
                let peer = PeerClient::new(self.dial.channel(*broker)?)
                    .max_decoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES)
                    .max_encoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES);
                let answer = Box::pin(once_there(peer, shard, group, ask)).await;
                answer.map_err(|status| ApiError::from_status(&status))
            }
            Owner::Nobody => {
                let why = format!("group shard {shard} has no coordinator now: try again");
                Err(ApiError::new(Reason::NotReady, why))
            }
        }
    }

    async fn once_here(&self, shard: u32, group: &Arc<str>, ask: &Ask) -> Result<Answer, ApiError> {
        let (shards, group) = (&self.shards, group.clone());
        let done = |()| Answer::Done;
        match ask {
            Ask::Join(join) => {
                let join = join.clone();
                let answer = shards.ask(shard, 0, |to| Request::Join(group, join, to)).await?;
                Ok(Answer::Join(answer))
            }
            Ask::Heartbeat(caller, generation) => {
                let (caller, generation) = (caller.clone(), *generation);
                let ask = |to| Request::Heartbeat(group, caller, generation, to);
                shards.ask(shard, 0, ask).await.map(done)
            }
            Ask::Leave(caller) => {
                let caller = caller.clone();
                shards.ask(shard, 0, |to| Request::Leave(group, caller, to)).await.map(done)
            }
            Ask::Commit(commit) => {
                let (bytes, commit) = (wire::commit_bytes(commit), commit.clone());
                shards.ask(shard, bytes, |to| Request::Commit(group, commit, to)).await.map(done)
            }
            Ask::Describe => {
                let found = shards.ask(shard, 0, |to| Request::Describe(group, to)).await?;
                let address = shards.placement().local_address();
                Ok(Answer::Described(wire::description(found, address)))
            }
            Ask::Delete => shards.ask(shard, 0, |to| Request::Delete(group, to)).await.map(done),
            Ask::List => {
                let list = shards.ask(shard, 0, Request::List).await?;
                Ok(Answer::Listed(list.into_iter().map(wire::summary).collect()))
            }
        }
    }
}

async fn once_there(
    mut peer: PeerClient<Channel>,
    shard: u32,
    group: &Arc<str>,
    ask: &Ask,
) -> Result<Answer, Status> {
    let group = group.as_ref();
    match ask {
        Ask::Join(join) => {
            let answer = peer.join_group(hop(wire::join_to_wire(group, join))).await?;
            return Ok(Answer::Join(wire::answer_from_wire(answer.into_inner())));
        }
        Ask::Heartbeat(caller, generation) => {
            let request = GroupHeartbeatRequest {
                group: group.to_owned(),
                member_id: caller.member.to_string(),
                generation: *generation,
                session: caller.session,
            };
            peer.heartbeat(hop(request)).await?;
        }
        Ask::Leave(caller) => {
            let request = LeaveGroupRequest {
                group: group.to_owned(),
                member_id: caller.member.to_string(),
                session: caller.session,
            };
            peer.leave_group(hop(request)).await?;
        }
        Ask::Commit(commit) => {
            peer.commit_offsets(hop(wire::commit_to_wire(group, commit))).await?;
        }
        Ask::Describe => {
            let request = v1::DescribeGroupRequest { group: group.to_owned() };
            return Ok(Answer::Described(peer.describe_group(hop(request)).await?.into_inner()));
        }
        Ask::Delete => {
            let request = v1::DeleteGroupRequest { group: group.to_owned() };
            peer.delete_group(hop(request)).await?;
        }
        Ask::List => {
            let list = peer.list_groups(hop(ListShardRequest { shard })).await?;
            return Ok(Answer::Listed(list.into_inner().groups));
        }
    }
    Ok(Answer::Done)
}

impl Ask {
    fn attempt(&self) -> Duration {
        match self {
            Self::Join(join) => {
                ATTEMPT + Duration::from_millis(u64::from(join.session_timeout_ms / 3))
            }
            Self::Heartbeat(..)
            | Self::Leave(_)
            | Self::Commit(_)
            | Self::Describe
            | Self::Delete
            | Self::List => ATTEMPT,
        }
    }

    /// Whether a refusal shows that an earlier attempt of unknown outcome did it.
    fn is_done_by(&self, reason: Reason) -> bool {
        match self {
            Self::Leave(_) => reason == Reason::UnknownMember,
            Self::Delete => reason == Reason::UnknownGroup,
            Self::Join(_) | Self::Heartbeat(..) | Self::Commit(_) | Self::Describe | Self::List => {
                false
            }
        }
    }
}

/// Whether an error may pass once the shard has settled.
pub(crate) fn moving(reason: Reason) -> bool {
    match reason {
        // Retriable, but by something else than asking again.
        Reason::RebalanceInProgress | Reason::PriorBatchFailed => false,
        reason => reason.retriable(),
    }
}

fn unknown(last: ApiError) -> ApiError {
    ApiError::new(Reason::Unknown, last.message)
}

fn late(shard: u32) -> ApiError {
    let why = format!("the coordinator of group shard {shard} did not answer in time: ask again");
    ApiError::new(Reason::Unknown, why)
}

fn wrong_answer() -> ApiError {
    ApiError::new(Reason::Internal, "a group request was answered with something else")
}

#[cfg(test)]
mod tests;

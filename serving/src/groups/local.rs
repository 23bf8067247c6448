//! Groups for those who must come to their coordinator themselves: whatever is not coordinated here is refused with who
//! does. Classic members speak through this.

use std::fmt;
use std::sync::Arc;

use geminga_proto::ids::BrokerId;
use tokio::sync::oneshot;

use super::classic::{
    CommitClassic, Each, Identity, JoinClassic, JoinedClassic, MemberName, SyncClassic, Synced,
};
use super::coordinator::Shards;
pub use super::refused::Refused;
use super::request::{Description, Fetched, Request, Respond, Summary};
use super::types::{Error, TopicPartition};
use super::view::Owner;

/// A handle on the groups that this broker coordinates; cheap to clone. Dropping any of its futures is safe: what was
/// asked may have been done, and a member that waited is not kept in the group for it.
#[derive(Debug, Clone)]
pub struct LocalGroups {
    shards: Shards,
}

impl LocalGroups {
    /// A handle on the groups of these shards.
    pub fn new(shards: Shards) -> Self {
        Self { shards }
    }

    /// The broker that coordinates the group, if any does at the moment.
    pub fn find(&self, group: &str) -> Option<BrokerId> {
        let placement = self.shards.placement();
        let shard = self.shards.of(group);
        match placement.owner(shard) {
            Owner::Local if self.shards.is_coming(shard) => Some(placement.local_broker()),
            Owner::Remote { broker, .. } => Some(broker),
            Owner::Local | Owner::Nobody => None,
        }
    }

    /// Joins the next generation; answered when that begins, which may take as long as the rebalance timeouts of the
    /// members. `bytes`: what the request keeps in memory until the shard has taken it in.
    ///
    /// # Errors
    /// [`Error::MemberIdRequired`] with the id to join again with, and every other refusal of a group.
    pub async fn join(
        &self,
        group: &Arc<str>,
        join: JoinClassic,
        bytes: usize,
    ) -> Result<JoinedClassic, Refused> {
        let room = self.shards.room(self.shards.of(group), bytes).await?;
        let name = group.clone();
        self.wait(group, |to| Request::JoinClassic(name, join, room, to)).await
    }

    /// Asks for what the member is assigned; answered when the leader has assigned. `bytes`: what the request keeps in memory
    /// until the shard has taken it in.
    ///
    /// # Errors
    /// [`Error::RebalanceInProgress`] when the members have to join again, and every other refusal of a group.
    pub async fn sync(
        &self,
        group: &Arc<str>,
        sync: SyncClassic,
        bytes: usize,
    ) -> Result<Synced, Refused> {
        let room = self.shards.room(self.shards.of(group), bytes).await?;
        let name = group.clone();
        self.wait(group, |to| Request::SyncClassic(name, sync, room, to)).await
    }

    /// Says that a member lives.
    ///
    /// # Errors
    /// [`Error::RebalanceInProgress`] when it has to join again, and every other refusal of a group.
    pub async fn heartbeat(&self, group: &Arc<str>, by: Identity) -> Result<(), Refused> {
        self.ask(group, |to| Request::HeartbeatClassic(group.clone(), by, to)).await
    }

    /// Takes members out of the group; an answer for each.
    ///
    /// # Errors
    /// [`Error::OtherKind`].
    pub async fn leave(&self, group: &Arc<str>, members: Vec<MemberName>) -> Result<Each, Refused> {
        self.ask(group, |to| Request::LeaveClassic(group.clone(), members, to)).await
    }

    /// Commits offsets; an answer for each. `bytes`: what the request keeps in memory until it is answered.
    ///
    /// # Errors
    /// Whatever refuses all of them. [`Refused::Moved`]: the commit may have been made.
    pub async fn commit(
        &self,
        group: &Arc<str>,
        commit: CommitClassic,
        bytes: usize,
    ) -> Result<Each, Refused> {
        let _room = self.shards.room(self.shards.of(group), bytes).await?;
        self.ask(group, |to| Request::CommitClassic(group.clone(), commit, to)).await
    }

    /// What is committed of the partitions named; of all that have something when none are named; how much it is when it is more
    /// than `most` bytes. A group that does not exist has committed nothing.
    ///
    /// # Errors
    /// Only that there is no answer.
    pub async fn fetch_offsets(
        &self,
        group: &Arc<str>,
        partitions: Option<Vec<TopicPartition>>,
        most: usize,
    ) -> Result<Fetched, Refused> {
        self.ask(group, |to| Request::FetchOffsets(group.clone(), partitions, most, to)).await
    }

    /// Everything about one group but its offsets.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`].
    pub async fn describe(&self, group: &Arc<str>) -> Result<Description, Refused> {
        self.ask(group, |to| Request::DescribeMembers(group.clone(), to)).await
    }

    /// Forgets a group without members, with its offsets.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::NotEmpty`].
    pub async fn delete(&self, group: &Arc<str>) -> Result<(), Refused> {
        self.ask(group, |to| Request::Delete(group.clone(), to)).await
    }

    /// Forgets offsets of a group; an answer for each: those of topics that members read are kept.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`]; [`Error::NotEmpty`] where it cannot be told what members read.
    pub async fn delete_offsets(
        &self,
        group: &Arc<str>,
        partitions: Vec<TopicPartition>,
    ) -> Result<Each, Refused> {
        self.ask(group, |to| Request::DeleteOffsets(group.clone(), partitions, to)).await
    }

    /// All groups that this broker coordinates.
    ///
    /// # Errors
    /// [`Refused::Loading`] while it takes over any: part of a list would pass for the whole.
    pub async fn list(&self) -> Result<Vec<Summary>, Refused> {
        let placement = self.shards.placement();
        let mut groups = Vec::new();
        for shard in 0..placement.shards() {
            if placement.owner(shard) != Owner::Local {
                continue;
            }
            match self.at(shard, Request::List).await {
                Ok(list) => groups.extend(list),
                // It has just moved: its new coordinator lists it.
                Err(Refused::NotCoordinator { .. } | Refused::Nobody) => {}
                Err(refused) => return Err(refused),
            }
        }
        Ok(groups)
    }

    async fn ask<T>(
        &self,
        group: &str,
        request: impl FnOnce(Respond<T>) -> Request,
    ) -> Result<T, Refused> {
        self.at(self.shards.of(group), request).await
    }

    async fn at<T>(
        &self,
        shard: u32,
        request: impl FnOnce(Respond<T>) -> Request,
    ) -> Result<T, Refused> {
        let answer = self.shards.send(shard, request).await?;
        Ok(answer.await.map_err(|_| Refused::Moved)??)
    }

    /// Asks for what may take long, and tells the shard when nobody waits any more.
    async fn wait<T>(
        &self,
        group: &Arc<str>,
        request: impl FnOnce(Respond<T>) -> Request,
    ) -> Result<T, Refused> {
        let shard = self.shards.of(group);
        let answer = self.shards.send(shard, request).await?;
        let mut waiting =
            Waiting { answer: Some(answer), group: group.clone(), shards: &self.shards, shard };
        let answer = match &mut waiting.answer {
            Some(answer) => answer.await,
            None => return Err(Refused::Moved),
        };
        waiting.answer = None;
        Ok(answer.map_err(|_| Refused::Moved)??)
    }
}

/// Somebody who waits; says so when they go.
struct Waiting<'a, T> {
    /// `None` once it has come.
    answer: Option<oneshot::Receiver<Result<T, Error>>>,
    group: Arc<str>,
    shards: &'a Shards,
    shard: u32,
}

impl<T> fmt::Debug for Waiting<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("group", &self.group).finish_non_exhaustive()
    }
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            // First the end of the channel, which is what the shard looks at. Should the message not get through, it
            // looks there again before it does anything else with the group.
            drop(answer);
            self.shards.hint(self.shard, Request::Gone(self.group.clone()));
        }
    }
}

#[cfg(test)]
mod tests;

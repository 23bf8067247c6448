//! The internal service between brokers: partitions that are handed over, and groups at their coordinator. Shard-local only, so there is no second hop: what
//! is not coordinated here is answered with NOT_OWNER or NOT_READY, and nothing was done.

use std::sync::Arc;

use geminga_proto::caps;
use geminga_proto::ids::{BrokerId, PartitionIndex, Term, TopicId};
use geminga_proto::internal::peer_server::{Peer, PeerServer};
use geminga_proto::internal::{
    GroupCommitRequest, GroupCommitResponse, GroupHeartbeatRequest, GroupHeartbeatResponse,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, LetGoRequest,
    LetGoResponse, ListShardRequest, PartitionEnd, PartitionEndsRequest, PartitionEndsResponse,
    PartitionSizeRequest, PartitionSizeResponse,
};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use tonic::{Request, Response, Status};

use crate::groups::coordinator::Shards;
use crate::groups::request::Request as Ask;
use crate::groups::wire;
use crate::partition::Partitions;
use crate::router::LocalPartitions;

/// Serves the shards of this broker, and the keys to its partitions, to others.
#[derive(Debug)]
pub(crate) struct PeerService {
    shards: Shards,
    /// `None`: nothing but groups is served here.
    partitions: Option<Partitions>,
}

impl PeerService {
    /// The service with the limits of internal messages.
    pub(crate) fn server(shards: Shards, partitions: Option<Partitions>) -> PeerServer<Self> {
        PeerServer::new(Self { shards, partitions })
            .max_decoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES)
            .max_encoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES)
    }

    fn at(&self, group: String) -> (u32, Arc<str>) {
        (self.shards.of(&group), group.into())
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn join_group(
        &self,
        request: Request<JoinGroupRequest>,
    ) -> Result<Response<JoinGroupResponse>, Status> {
        let mut request = request.into_inner();
        let (shard, group) = self.at(std::mem::take(&mut request.group));
        let join = wire::join_from_wire(request).map_err(ApiError::from)?;
        let answer = self.shards.ask(shard, 0, |to| Ask::Join(group, join, to)).await?;
        Ok(Response::new(wire::answer_to_wire(answer)))
    }

    async fn heartbeat(
        &self,
        request: Request<GroupHeartbeatRequest>,
    ) -> Result<Response<GroupHeartbeatResponse>, Status> {
        let request = request.into_inner();
        let caller = wire::caller(&request.member_id, request.session);
        let (shard, group) = self.at(request.group);
        let ask = |to| Ask::Heartbeat(group, caller, request.generation, to);
        self.shards.ask(shard, 0, ask).await?;
        Ok(Response::new(GroupHeartbeatResponse {}))
    }

    async fn leave_group(
        &self,
        request: Request<LeaveGroupRequest>,
    ) -> Result<Response<LeaveGroupResponse>, Status> {
        let request = request.into_inner();
        let caller = wire::caller(&request.member_id, request.session);
        let (shard, group) = self.at(request.group);
        self.shards.ask(shard, 0, |to| Ask::Leave(group, caller, to)).await?;
        Ok(Response::new(LeaveGroupResponse {}))
    }

    async fn commit_offsets(
        &self,
        request: Request<GroupCommitRequest>,
    ) -> Result<Response<GroupCommitResponse>, Status> {
        let mut request = request.into_inner();
        let (shard, group) = self.at(std::mem::take(&mut request.group));
        let commit = wire::commit_from_wire(request).map_err(ApiError::from)?;
        let bytes = wire::commit_bytes(&commit);
        self.shards.ask(shard, bytes, |to| Ask::Commit(group, commit, to)).await?;
        Ok(Response::new(GroupCommitResponse {}))
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        let (shard, group) = self.at(request.into_inner().group);
        let found = self.shards.ask(shard, 0, |to| Ask::Describe(group, to)).await?;
        let address = self.shards.placement().local_address();
        Ok(Response::new(wire::description(found, address)))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let (shard, group) = self.at(request.into_inner().group);
        self.shards.ask(shard, 0, |to| Ask::Delete(group, to)).await?;
        Ok(Response::new(v1::DeleteGroupResponse {}))
    }

    async fn list_groups(
        &self,
        request: Request<ListShardRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let list = self.shards.ask(request.into_inner().shard, 0, Ask::List).await?;
        let groups = list.into_iter().map(wire::summary).collect();
        Ok(Response::new(v1::ListGroupsResponse { groups }))
    }

    async fn let_go(
        &self,
        request: Request<LetGoRequest>,
    ) -> Result<Response<LetGoResponse>, Status> {
        let LetGoRequest { topic_id, partition, term, to_broker } = request.into_inner();
        let partition = (topic_id_of(&topic_id)?, PartitionIndex(partition));
        if let Some(partitions) = &self.partitions {
            partitions.let_go(partition, Term(term), BrokerId(to_broker)).await;
        }
        Ok(Response::new(LetGoResponse {}))
    }

    async fn partition_size(
        &self,
        request: Request<PartitionSizeRequest>,
    ) -> Result<Response<PartitionSizeResponse>, Status> {
        let PartitionSizeRequest { topic_id, partition } = request.into_inner();
        let topic = topic_id_of(&topic_id)?;
        let Some(partitions) = &self.partitions else {
            let why = "no partitions are served here: ask their owner";
            return Err(ApiError::new(Reason::NotReady, why).into());
        };
        let bytes = partitions.size(topic, PartitionIndex(partition)).await?;
        Ok(Response::new(PartitionSizeResponse { bytes }))
    }

    async fn partition_ends(
        &self,
        request: Request<PartitionEndsRequest>,
    ) -> Result<Response<PartitionEndsResponse>, Status> {
        let PartitionEndsRequest { topic_id, partitions } = request.into_inner();
        let topic = topic_id_of(&topic_id)?;
        let end = |partition: u32| {
            let open = self.partitions.as_ref()?.open_offsets(topic, PartitionIndex(partition))?;
            Some(PartitionEnd { partition, high_watermark: open.high_watermark.0 })
        };
        let ends = partitions.into_iter().filter_map(end).collect();
        Ok(Response::new(PartitionEndsResponse { ends }))
    }
}

fn topic_id_of(bytes: &[u8]) -> Result<TopicId, ApiError> {
    let why = "a topic id has 16 bytes: this is another one's";
    TopicId::from_slice(bytes).ok_or_else(|| ApiError::new(Reason::InvalidRequest, why))
}

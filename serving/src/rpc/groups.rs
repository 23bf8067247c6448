//! `Groups`: consumer groups as tools see them, at any broker. What the coordinator says of offsets is completed here with
//! the high watermarks of the partitions, where these can be read now.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use geminga_proto::caps;
use geminga_proto::ids::PartitionIndex;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::groups_server::{Groups, GroupsServer};
use geminga_proto::v1::reset_offsets_request::To;
use tonic::{Request, Response, Status};

use crate::groups::client::GroupClient;
use crate::groups::types::{Committed, TopicPartition};
use crate::groups::wire;
use crate::ownership::topology::{Topic, Topology};
use crate::router::{OffsetAt, Source};

/// Offsets looked up at one time.
const LOOK_UPS: usize = 32;
/// How long a high watermark may take; it is left out when it takes longer.
const WATERMARK: Duration = Duration::from_secs(2);
/// How long an offset to reset to may take.
const LOOK_UP: Duration = Duration::from_secs(15);

/// The service.
#[derive(Debug)]
pub(crate) struct GroupsService {
    groups: GroupClient,
    source: Arc<dyn Source>,
    topology: Topology,
}

impl GroupsService {
    pub(crate) fn new(groups: GroupClient, source: Arc<dyn Source>, topology: Topology) -> Self {
        Self { groups, source, topology }
    }

    /// The service with the limits of a client's messages. A description may be larger than what a client sends.
    pub(crate) fn server(
        groups: GroupClient,
        source: Arc<dyn Source>,
        topology: Topology,
    ) -> GroupsServer<Self> {
        GroupsServer::new(Self::new(groups, source, topology))
            .max_decoding_message_size(caps::MAX_CLIENT_MESSAGE_BYTES)
            .max_encoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES)
    }

    /// Adds the high watermarks that can be read now.
    async fn complete(&self, offsets: Vec<v1::GroupOffset>) -> Vec<v1::GroupOffset> {
        let look_ups = futures::stream::iter(offsets).map(async |mut offset| {
            let found = self.latest(&offset.topic, offset.partition);
            offset.high_watermark = tokio::time::timeout(WATERMARK, found).await.ok().flatten();
            offset
        });
        look_ups.buffered(LOOK_UPS).collect().await
    }

    async fn latest(&self, topic: &str, partition: u32) -> Option<i64> {
        let topic = self.topology.topic(topic)?;
        let partition = PartitionIndex(partition);
        let found = self.source.find_offset(&topic, partition, OffsetAt::Latest).await.ok()?;
        found.offset.map(|offset| offset.0)
    }

    async fn find(
        &self,
        topic: &Arc<Topic>,
        partition: u32,
        at: OffsetAt,
    ) -> Result<Option<i64>, ApiError> {
        let found = self.source.find_offset(topic, PartitionIndex(partition), at);
        let late = |_| {
            let why = format!("partition {partition} of {} did not answer: try again", topic.name);
            ApiError::new(Reason::NotReady, why)
        };
        let found = tokio::time::timeout(LOOK_UP, found).await.map_err(late)??;
        Ok(found.offset.map(|offset| offset.0))
    }

    /// Where one partition is reset to. An offset that the partition does not have becomes the nearest that it has; a time
    /// after the last record becomes the end.
    async fn target(
        &self,
        topic: &Arc<Topic>,
        partition: u32,
        to: &To,
    ) -> Result<v1::GroupOffset, ApiError> {
        let latest = self.find(topic, partition, OffsetAt::Latest).await?.unwrap_or(0);
        let offset = match *to {
            To::Latest(_) => latest,
            To::Earliest(_) => self.find(topic, partition, OffsetAt::Earliest).await?.unwrap_or(0),
            To::Offset(offset) => {
                let first = self.find(topic, partition, OffsetAt::Earliest).await?.unwrap_or(0);
                offset.clamp(first.min(latest), latest)
            }
            To::TimestampMs(ms) => {
                let found = self.find(topic, partition, OffsetAt::Timestamp(ms)).await?;
                found.unwrap_or(latest)
            }
        };
        Ok(v1::GroupOffset {
            topic: topic.name.clone(),
            partition,
            offset,
            high_watermark: Some(latest),
            metadata: String::new(),
            committed_ms: 0,
        })
    }

    async fn targets(&self, topic: &Arc<Topic>, to: &To) -> Result<Vec<v1::GroupOffset>, ApiError> {
        let targets = futures::stream::iter(0..topic.partitions)
            .map(|partition| self.target(topic, partition, to));
        let mut targets = targets.buffered(LOOK_UPS).boxed();
        let mut found = Vec::new();
        while let Some(target) = targets.next().await {
            found.push(target?);
        }
        Ok(found)
    }

    /// Refuses what a group with members would refuse, before anything is looked up for it.
    async fn check_empty(&self, group: &Arc<str>) -> Result<(), ApiError> {
        match self.groups.describe(group).await {
            Ok(found) if !found.members.is_empty() => {
                let why = format!("group {group} has members: stop them first");
                Err(ApiError::new(Reason::GroupNotEmpty, why))
            }
            Err(error) if error.reason != Reason::UnknownGroup => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn reset(
        &self,
        request: v1::ResetOffsetsRequest,
    ) -> Result<Vec<v1::GroupOffset>, ApiError> {
        let group = named(request.group)?;
        let invalid = |why| ApiError::new(Reason::InvalidRequest, why);
        let to = request.to.ok_or_else(|| {
            invalid("say where to reset to: earliest, latest, an offset or a timestamp")
        })?;
        if matches!(to, To::Offset(offset) if offset < 0) {
            return Err(invalid("an offset to reset to must not be negative"));
        }
        let topic = self.topology.resolve(&request.topic).await?;
        self.check_empty(&group).await?;
        let targets = self.targets(&topic, &to).await?;
        let commits = targets.iter().map(|target| {
            let tp =
                TopicPartition { topic: target.topic.as_str().into(), partition: target.partition };
            let committed = Committed {
                offset: target.offset,
                leader_epoch: None,
                metadata: String::new(),
                committed_ms: 0,
                topic_id: None,
                expires_ms: None,
            };
            (tp, committed)
        });
        self.groups.commit_offsets(&group, commits.collect()).await?;
        Ok(targets)
    }
}

#[tonic::async_trait]
impl Groups for GroupsService {
    async fn list_groups(
        &self,
        _: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        let groups = self.groups.list().await?;
        Ok(Response::new(v1::ListGroupsResponse { groups }))
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::DescribeGroupResponse>, Status> {
        let group = named(request.into_inner().group)?;
        let mut found = self.groups.describe(&group).await?;
        found.offsets = self.complete(found.offsets).await;
        Ok(Response::new(found))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        self.groups.delete(&named(request.into_inner().group)?).await?;
        Ok(Response::new(v1::DeleteGroupResponse {}))
    }

    async fn reset_offsets(
        &self,
        request: Request<v1::ResetOffsetsRequest>,
    ) -> Result<Response<v1::ResetOffsetsResponse>, Status> {
        let offsets = self.reset(request.into_inner()).await?;
        Ok(Response::new(v1::ResetOffsetsResponse { offsets }))
    }

    /// A group that does not exist has committed nothing.
    async fn fetch_offsets(
        &self,
        request: Request<v1::FetchOffsetsRequest>,
    ) -> Result<Response<v1::FetchOffsetsResponse>, Status> {
        let v1::FetchOffsetsRequest { group, topics } = request.into_inner();
        let mut offsets = match self.groups.describe(&named(group)?).await {
            Ok(found) => found.offsets,
            Err(error) if error.reason == Reason::UnknownGroup => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let wanted: std::collections::HashSet<String> = topics.into_iter().collect();
        offsets.retain(|offset| wanted.is_empty() || wanted.contains(&offset.topic));
        let offsets = self.complete(offsets).await;
        Ok(Response::new(v1::FetchOffsetsResponse { offsets }))
    }

    async fn commit_offsets(
        &self,
        request: Request<v1::CommitOffsetsRequest>,
    ) -> Result<Response<v1::CommitOffsetsResponse>, Status> {
        let v1::CommitOffsetsRequest { group, offsets } = request.into_inner();
        let offsets = wire::commit_offsets(offsets).map_err(ApiError::from)?;
        for (tp, _) in &offsets {
            let topic = self.topology.resolve(&tp.topic).await?;
            crate::router::check_partition(&topic, tp.partition)?;
        }
        self.groups.commit_offsets(&named(group)?, offsets).await?;
        Ok(Response::new(v1::CommitOffsetsResponse {}))
    }
}

/// A group's name, as far as any group could have it.
fn named(group: String) -> Result<Arc<str>, ApiError> {
    if group.is_empty() || group.len() > caps::MAX_GROUP_NAME_BYTES {
        let limit = caps::MAX_GROUP_NAME_BYTES;
        let why = format!("a group name has 1 to {limit} bytes");
        return Err(ApiError::new(Reason::InvalidRequest, why));
    }
    Ok(group.into())
}

#[cfg(test)]
mod tests;

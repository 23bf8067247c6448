//! `Topics`: the public service. Making and removing are [`TopicAdmin`](crate::topics::TopicAdmin)'s.

mod describe;

use std::sync::Arc;

use futures::StreamExt;
use geminga_proto::ids::PartitionIndex;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::topics_server::{Topics, TopicsServer};
use tonic::{Request, Response, Status};

use super::context::Context;
use crate::ownership::topology::Topic;
use crate::router::{FoundOffset, OffsetAt, Route, check_partition, no_owner, not_owner};
use crate::topics::NewTopic;

/// Partitions that one request looks up at one time.
const PARALLEL: usize = 16;

/// The service.
#[derive(Debug)]
pub(crate) struct TopicsService {
    ctx: Arc<Context>,
}

impl TopicsService {
    pub(crate) fn server(ctx: Arc<Context>) -> TopicsServer<Self> {
        TopicsServer::new(Self { ctx })
    }
}

/// A topic in short.
pub(super) fn summary(ctx: &Context, topic: &Topic) -> v1::TopicSummary {
    let quorum = topic.quorum.unwrap_or(ctx.admin.default_quorum);
    v1::TopicSummary {
        name: topic.name.clone(),
        topic_id: topic.id.to_string(),
        partitions: topic.partitions,
        write_quorum: u32::from(quorum.write),
        ack_quorum: u32::from(quorum.ack),
        single_copy: quorum.is_single_copy(),
        configs: topic.configs.clone().into_iter().collect(),
        created_ms: topic.created_ms,
    }
}

#[tonic::async_trait]
impl Topics for TopicsService {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let request = request.into_inner();
        let new = NewTopic {
            name: request.name,
            partitions: request.partitions,
            write_quorum: request.write_quorum,
            ack_quorum: request.ack_quorum,
            allow_single_copy: request.allow_single_copy,
            configs: request.configs.into_iter().collect(),
        };
        let topic = self.ctx.admin.create(new).await?;
        let topic = Some(summary(&self.ctx, &topic));
        Ok(Response::new(v1::CreateTopicResponse { topic }))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let internal = request.into_inner().include_internal;
        let topics = self.ctx.router.topology().topics();
        let shown = topics.iter().filter(|topic| internal || !topic.is_internal());
        let topics = shown.map(|topic| summary(&self.ctx, topic)).collect();
        Ok(Response::new(v1::ListTopicsResponse { topics }))
    }

    async fn describe_topic(
        &self,
        request: Request<v1::DescribeTopicRequest>,
    ) -> Result<Response<v1::DescribeTopicResponse>, Status> {
        let name = request.into_inner().name;
        let topic = self.ctx.router.topology().resolve(&name).await?;
        let partitions = describe::partitions(&self.ctx, &topic).await?;
        let topic = Some(summary(&self.ctx, &topic));
        Ok(Response::new(v1::DescribeTopicResponse { topic, partitions }))
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        self.ctx.admin.delete(&request.into_inner().name).await?;
        Ok(Response::new(v1::DeleteTopicResponse {}))
    }

    async fn list_offsets(
        &self,
        request: Request<v1::ListOffsetsRequest>,
    ) -> Result<Response<v1::ListOffsetsResponse>, Status> {
        use v1::list_offsets_request::At;
        let request = request.into_inner();
        let topic = self.ctx.router.topology().resolve(&request.topic).await?;
        let at = match request.at {
            Some(At::Earliest(_)) => OffsetAt::Earliest,
            Some(At::Latest(_)) => OffsetAt::Latest,
            Some(At::TimestampMs(ms)) => OffsetAt::Timestamp(ms),
            None => {
                let why = "say which offsets: earliest, latest, or those at a timestamp";
                return Err(ApiError::new(Reason::InvalidRequest, why).into());
            }
        };
        let partitions = wanted(&topic, request.partitions)?;
        let direct = request.direct;
        let found = futures::stream::iter(partitions)
            .map(|partition| find(Arc::clone(&self.ctx), Arc::clone(&topic), partition, at, direct))
            .buffered(PARALLEL);
        let offsets = found.collect().await;
        Ok(Response::new(v1::ListOffsetsResponse { offsets }))
    }
}

/// The partitions that are asked for: all when none is named.
fn wanted(topic: &Topic, named: Vec<u32>) -> Result<Vec<PartitionIndex>, ApiError> {
    if named.is_empty() {
        return Ok((0..topic.partitions).map(PartitionIndex).collect());
    }
    if named.len() > topic.partitions as usize {
        let why = "more partitions are named than the topic has: name each once";
        return Err(ApiError::new(Reason::InvalidRequest, why));
    }
    named.into_iter().map(|partition| check_partition(topic, partition)).collect()
}

async fn find(
    ctx: Arc<Context>,
    topic: Arc<Topic>,
    partition: PartitionIndex,
    at: OffsetAt,
    direct: bool,
) -> v1::PartitionOffset {
    let found = if direct {
        match ctx.router.owner_of(&topic, partition) {
            Route::Local { .. } => ctx.partitions.find_offset(topic, partition, at).await,
            Route::Remote { address, .. } => Err(not_owner(&topic.name, partition, address)),
            Route::NoOwner => Err(no_owner(&topic.name, partition)),
        }
    } else {
        ctx.source.find_offset(&topic, partition, at).await
    };
    match found {
        Ok(FoundOffset { offset, timestamp_ms, term }) => v1::PartitionOffset {
            partition: partition.0,
            offset: offset.map_or(-1, |offset| offset.0),
            timestamp_ms: timestamp_ms.unwrap_or(-1),
            error: None,
            term: term.0,
        },
        Err(error) => v1::PartitionOffset {
            partition: partition.0,
            offset: -1,
            timestamp_ms: -1,
            error: Some(error.to_proto()),
            term: -1,
        },
    }
}

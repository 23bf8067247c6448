//! `Topics`: the public service. Making, altering and removing are [`TopicAdmin`](crate::topics::TopicAdmin)'s.

mod describe;

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use geminga_proto::ids::{Offset, PartitionIndex, Term};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::topics_server::{Topics, TopicsServer};
use tonic::{Request, Response, Status};

use super::context::Context;
use crate::ownership::topology::Topic;
use crate::router::{FoundOffset, OffsetAt, Route, check_partition, no_owner, not_owner};
use crate::topics::{Alteration, NewTopic};

/// Partitions that one request looks up at one time.
const PARALLEL: usize = 16;

/// The service.
#[derive(Debug)]
pub(crate) struct TopicsService {
    ctx: Arc<Context>,
}

impl TopicsService {
    pub(crate) fn new(ctx: Arc<Context>) -> Self {
        Self { ctx }
    }

    pub(crate) fn server(ctx: Arc<Context>) -> TopicsServer<Self> {
        TopicsServer::new(Self::new(ctx))
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
        replication_factor: u32::from(topic.told_copies(ctx.admin.default_quorum)),
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
            replication_factor: None,
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
            Some(At::MaxTimestamp(_)) => OffsetAt::MaxTimestamp,
            None => {
                let why =
                    "say which offsets: earliest, latest, at a timestamp, or at the largest one";
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

    async fn alter_topic(
        &self,
        request: Request<v1::AlterTopicRequest>,
    ) -> Result<Response<v1::AlterTopicResponse>, Status> {
        let v1::AlterTopicRequest { name, set, unset, partitions } = request.into_inner();
        let partitions = (partitions > 0).then_some(partitions);
        let set = set.into_iter().collect();
        let alteration = Alteration { set, unset, partitions, ..Alteration::default() };
        let topic = self.ctx.admin.alter(&name, alteration).await?;
        let topic = Some(summary(&self.ctx, &topic));
        Ok(Response::new(v1::AlterTopicResponse { topic }))
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        let request = request.into_inner();
        let topic = self.ctx.router.topology().resolve(&request.topic).await?;
        let asked = each_once(&topic, request.partitions, |asked| asked.partition)?;
        if asked.iter().any(|(_, asked)| asked.before < -1) {
            let why = "an offset is negative: name the first one that stays, or -1 for none";
            return Err(ApiError::new(Reason::InvalidRequest, why).into());
        }
        let delete = |(partition, asked): (PartitionIndex, v1::DeletePartitionRecords)| {
            let before = (asked.before >= 0).then_some(Offset(asked.before));
            let (ctx, topic) = (Arc::clone(&self.ctx), Arc::clone(&topic));
            async move {
                let started = if request.direct {
                    match ctx.router.owner_of(&topic, partition) {
                        Route::Local { .. } => {
                            ctx.partitions.delete_records(topic, partition, before).await
                        }
                        elsewhere => Err(refused(&topic, partition, elsewhere)),
                    }
                } else {
                    ctx.source.delete_records(&topic, partition, before).await
                };
                let error = started.as_ref().err().map(ApiError::to_proto);
                let log_start_offset = started.map_or(-1, |start| start.0);
                v1::DeletedPartitionRecords { partition: partition.0, log_start_offset, error }
            }
        };
        let done = futures::stream::iter(asked).map(delete).buffered(PARALLEL);
        let partitions = done.collect().await;
        Ok(Response::new(v1::DeleteRecordsResponse { partitions }))
    }

    async fn offset_for_term(
        &self,
        request: Request<v1::OffsetForTermRequest>,
    ) -> Result<Response<v1::OffsetForTermResponse>, Status> {
        let request = request.into_inner();
        let topic = self.ctx.router.topology().resolve(&request.topic).await?;
        let asked = each_once(&topic, request.partitions, |asked| asked.partition)?;
        let find = |(partition, asked): (PartitionIndex, v1::PartitionTerm)| {
            let (ctx, topic) = (Arc::clone(&self.ctx), Arc::clone(&topic));
            async move {
                let term = Term(asked.term);
                let found = if request.direct {
                    match ctx.router.owner_of(&topic, partition) {
                        Route::Local { .. } => {
                            ctx.partitions.end_of_term(topic, partition, term).await
                        }
                        elsewhere => Err(refused(&topic, partition, elsewhere)),
                    }
                } else {
                    ctx.source.end_of_term(&topic, partition, term).await
                };
                let error = found.as_ref().err().map(ApiError::to_proto);
                let (term, end) = found.ok().flatten().unwrap_or((Term(-1), Offset(-1)));
                v1::TermEnd { partition: partition.0, term: term.0, end_offset: end.0, error }
            }
        };
        let found = futures::stream::iter(asked).map(find).buffered(PARALLEL);
        let ends = found.collect().await;
        Ok(Response::new(v1::OffsetForTermResponse { ends }))
    }
}

/// The answer to a direct request for what this broker does not own.
fn refused(topic: &Topic, partition: PartitionIndex, route: Route) -> ApiError {
    match route {
        Route::Remote { address, .. } => not_owner(&topic.name, partition, address),
        Route::Local { .. } | Route::NoOwner => no_owner(&topic.name, partition),
    }
}

/// What is asked of partitions, each of which the topic has and is named once.
fn each_once<T>(
    topic: &Topic,
    asked: Vec<T>,
    partition: impl Fn(&T) -> u32,
) -> Result<Vec<(PartitionIndex, T)>, ApiError> {
    let mut seen = HashSet::new();
    if asked.is_empty() || asked.iter().any(|asked| !seen.insert(partition(asked))) {
        let why = "name at least one partition, and each once";
        return Err(ApiError::new(Reason::InvalidRequest, why));
    }
    let checked = asked.into_iter().map(|asked| {
        let index = check_partition(topic, partition(&asked))?;
        Ok((index, asked))
    });
    checked.collect()
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
            elsewhere => Err(refused(&topic, partition, elsewhere)),
        }
    } else {
        ctx.source.find_offset(&topic, partition, at).await
    };
    match found {
        Ok(FoundOffset { offset, timestamp_ms, term, epoch }) => v1::PartitionOffset {
            partition: partition.0,
            offset: offset.map_or(-1, |offset| offset.0),
            timestamp_ms: timestamp_ms.unwrap_or(-1),
            error: None,
            term: term.0,
            record_term: epoch.0,
        },
        Err(error) => v1::PartitionOffset {
            partition: partition.0,
            offset: -1,
            timestamp_ms: -1,
            error: Some(error.to_proto()),
            term: -1,
            record_term: -1,
        },
    }
}

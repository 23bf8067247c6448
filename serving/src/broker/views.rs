//! What the public services say of topics and groups, to be asked from within the process: another face that shows the same
//! asks here, so that no two faces can differ.

use std::sync::Arc;

use geminga_proto::reason::ApiError;
use geminga_proto::v1;
use geminga_proto::v1::groups_server::Groups;
use geminga_proto::v1::topics_server::Topics;
use tonic::{Request, Response, Status};

use super::Broker;
use crate::rpc::groups::GroupsService;
use crate::rpc::topics::TopicsService;

impl Broker {
    /// All topics that are the users'.
    ///
    /// # Errors
    /// As the service.
    pub async fn list_topics(&self) -> Result<v1::ListTopicsResponse, ApiError> {
        let request = v1::ListTopicsRequest { include_internal: false };
        said(self.topics_service().list_topics(Request::new(request)).await)
    }

    /// One topic with its partitions.
    ///
    /// # Errors
    /// As the service: UNKNOWN_TOPIC, METADATA_UNAVAILABLE.
    pub async fn describe_topic(
        &self,
        name: String,
    ) -> Result<v1::DescribeTopicResponse, ApiError> {
        let request = v1::DescribeTopicRequest { name };
        said(self.topics_service().describe_topic(Request::new(request)).await)
    }

    /// All consumer groups.
    ///
    /// # Errors
    /// As the service.
    pub async fn list_groups(&self) -> Result<v1::ListGroupsResponse, ApiError> {
        said(self.groups_service().list_groups(Request::new(v1::ListGroupsRequest {})).await)
    }

    /// One group with its members and offsets.
    ///
    /// # Errors
    /// As the service: UNKNOWN_GROUP, NOT_READY.
    pub async fn describe_group(
        &self,
        group: String,
    ) -> Result<v1::DescribeGroupResponse, ApiError> {
        let request = v1::DescribeGroupRequest { group };
        said(self.groups_service().describe_group(Request::new(request)).await)
    }

    fn topics_service(&self) -> TopicsService {
        TopicsService::new(Arc::clone(&self.0.ctx))
    }

    fn groups_service(&self) -> GroupsService {
        let ctx = &self.0.ctx;
        let source = Arc::clone(&ctx.source);
        GroupsService::new(ctx.groups.clone(), source, self.0.topology.clone())
    }
}

fn said<T>(answer: Result<Response<T>, Status>) -> Result<T, ApiError> {
    answer.map(Response::into_inner).map_err(|status| ApiError::from_status(&status))
}

//! Topics, groups and the cluster: one call each. What only asks is repeated while things move; what changes something
//! is repeated only when it surely was not done.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use geminga_proto::caps;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::cluster_client::ClusterClient;
use geminga_proto::v1::groups_client::GroupsClient;
use geminga_proto::v1::stream_client::StreamClient;
use geminga_proto::v1::topics_client::TopicsClient;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::backoff;
use crate::client::Client;
use crate::error::{Error, never_sent};
use crate::producer::ProducerId;

/// What a new topic is to be; see [`Admin::create_topic`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions, for ever.
    pub partitions: u32,
    /// Copies; `None` = the server's default.
    pub write_quorum: Option<u32>,
    /// Copies on stable storage before a record is acknowledged; `None` = the server's default.
    pub ack_quorum: Option<u32>,
    /// Accept a single copy, with which the loss of one disk loses records.
    pub allow_single_copy: bool,
    /// Configs by their Kafka names.
    pub configs: HashMap<String, String>,
}

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetAt {
    /// The first record there is.
    Earliest,
    /// After the last committed record: the high watermark.
    Latest,
    /// The first record of this time or later, milliseconds since the Unix epoch.
    Timestamp(i64),
    /// The record with the largest timestamp, the first of several.
    MaxTimestamp,
}

/// What is to change of a topic; see [`Admin::alter_topic`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicChanges {
    /// Configs to set, by their Kafka names.
    pub set: HashMap<String, String>,
    /// Configs that go back to their defaults.
    pub unset: Vec<String>,
    /// How many partitions there are to be, at least as many as there are; `None` = as many.
    pub partitions: Option<u32>,
}

/// Whether a call may be repeated when its outcome is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Always,
    IfNotDone,
}

/// Calls to any broker of the cluster. Each is repeated for at most the timeouts of
/// [`ClientConfig`](crate::ClientConfig). Dropping a call's future does not take back what it sent.
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates a topic.
    ///
    /// # Errors
    /// `TOPIC_EXISTS`, `INVALID_…`, `NOT_ENOUGH_BOOKIES`, `NOT_ENOUGH_LIVE_BOOKIES`.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<v1::TopicSummary, Error> {
        let request = v1::CreateTopicRequest {
            name: topic.name,
            partitions: topic.partitions,
            write_quorum: topic.write_quorum.unwrap_or(0),
            ack_quorum: topic.ack_quorum.unwrap_or(0),
            allow_single_copy: topic.allow_single_copy,
            configs: topic.configs,
        };
        let answer = self
            .call(Repeat::IfNotDone, |channel| {
                let request = request.clone();
                async move { topics(channel).create_topic(request).await }
            })
            .await?;
        Ok(answer.topic.unwrap_or_default())
    }

    /// All topics; those that the cluster keeps for itself only when asked for.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_topics(&self, internal: bool) -> Result<Vec<v1::TopicSummary>, Error> {
        let request = v1::ListTopicsRequest { include_internal: internal };
        let answer =
            self.call(Repeat::Always, |channel| async move {
                topics(channel).list_topics(request).await
            })
            .await?;
        Ok(answer.topics)
    }

    /// A topic's partitions, their owners and segments.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`.
    pub async fn describe_topic(&self, name: &str) -> Result<v1::DescribeTopicResponse, Error> {
        self.call(Repeat::Always, |channel| {
            let request = v1::DescribeTopicRequest { name: name.to_owned() };
            async move { topics(channel).describe_topic(request).await }
        })
        .await
    }

    /// Deletes a topic and all its records.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`.
    pub async fn delete_topic(&self, name: &str) -> Result<(), Error> {
        self.call(Repeat::IfNotDone, |channel| {
            let request = v1::DeleteTopicRequest { name: name.to_owned() };
            async move { topics(channel).delete_topic(request).await }
        })
        .await?;
        Ok(())
    }

    /// Changes configs of a topic, or gives it more partitions; open partitions follow at once. May be repeated.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `INVALID_CONFIG`, `INVALID_PARTITIONS`.
    pub async fn alter_topic(
        &self,
        name: &str,
        changes: TopicChanges,
    ) -> Result<v1::TopicSummary, Error> {
        let request = v1::AlterTopicRequest {
            name: name.to_owned(),
            set: changes.set,
            unset: changes.unset,
            partitions: changes.partitions.unwrap_or(0),
        };
        let answer = self
            .call(Repeat::Always, |channel| {
                let request = request.clone();
                async move { topics(channel).alter_topic(request).await }
            })
            .await?;
        Ok(answer.topic.unwrap_or_default())
    }

    /// Makes the records of a partition before an offset unreadable for ever (-1 = all that there are); returns where it
    /// starts then. May be repeated.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `UNKNOWN_PARTITION`, `OFFSET_OUT_OF_RANGE`.
    pub async fn delete_records(
        &self,
        topic: &str,
        partition: u32,
        before: i64,
    ) -> Result<i64, Error> {
        let answer = self
            .call(Repeat::Always, |channel| {
                let request = v1::DeleteRecordsRequest {
                    topic: topic.to_owned(),
                    partitions: vec![v1::DeletePartitionRecords { partition, before }],
                    direct: false,
                };
                async move {
                    let answer = topics(channel).delete_records(request).await?;
                    match answer.get_ref().partitions.iter().find_map(|p| p.error.as_ref()) {
                        Some(error) => Err(ApiError::from_proto(error).to_status()),
                        None => Ok(answer),
                    }
                }
            })
            .await?;
        Ok(answer.partitions.first().map_or(-1, |done| done.log_start_offset))
    }

    /// The offset of a place in each of `partitions`; in all when empty. Ascending by partition.
    ///
    /// # Errors
    /// As [`Self::list_places`].
    pub async fn list_offsets(
        &self,
        topic: &str,
        partitions: &[u32],
        at: OffsetAt,
    ) -> Result<Vec<(u32, i64)>, Error> {
        let places = self.list_places(topic, partitions, at).await?;
        Ok(places.into_iter().map(|place| (place.partition, place.offset)).collect())
    }

    /// The same with the timestamp of the record, where one was looked for by time.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `UNKNOWN_PARTITION`; the error of a partition that did not become ready in time.
    pub async fn list_places(
        &self,
        topic: &str,
        partitions: &[u32],
        at: OffsetAt,
    ) -> Result<Vec<v1::PartitionOffset>, Error> {
        use v1::list_offsets_request::At;
        let at = match at {
            OffsetAt::Earliest => At::Earliest(true),
            OffsetAt::Latest => At::Latest(true),
            OffsetAt::Timestamp(ms) => At::TimestampMs(ms),
            OffsetAt::MaxTimestamp => At::MaxTimestamp(true),
        };
        let mut answer = self
            .call(Repeat::Always, |channel| {
                let request = v1::ListOffsetsRequest {
                    topic: topic.to_owned(),
                    partitions: partitions.to_vec(),
                    at: Some(at),
                    direct: false,
                };
                async move {
                    let answer = topics(channel).list_offsets(request).await?;
                    // The error of one partition is repeated as if it were the whole call's.
                    match answer.get_ref().offsets.iter().find_map(|o| o.error.as_ref()) {
                        Some(error) => Err(ApiError::from_proto(error).to_status()),
                        None => Ok(answer),
                    }
                }
            })
            .await?
            .offsets;
        answer.sort_by_key(|offset| offset.partition);
        Ok(answer)
    }

    /// All consumer groups.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_groups(&self) -> Result<Vec<v1::GroupSummary>, Error> {
        let answer = self
            .call(Repeat::Always, |channel| async move {
                groups(channel).list_groups(v1::ListGroupsRequest {}).await
            })
            .await?;
        Ok(answer.groups)
    }

    /// A group's members, offsets and lag.
    ///
    /// # Errors
    /// `UNKNOWN_GROUP`.
    pub async fn describe_group(&self, group: &str) -> Result<v1::DescribeGroupResponse, Error> {
        self.call(Repeat::Always, |channel| {
            let request = v1::DescribeGroupRequest { group: group.to_owned() };
            async move { groups(channel).describe_group(request).await }
        })
        .await
    }

    /// Deletes a group without members, and its offsets.
    ///
    /// # Errors
    /// `UNKNOWN_GROUP`, `GROUP_NOT_EMPTY`.
    pub async fn delete_group(&self, group: &str) -> Result<(), Error> {
        self.call(Repeat::IfNotDone, |channel| {
            let request = v1::DeleteGroupRequest { group: group.to_owned() };
            async move { groups(channel).delete_group(request).await }
        })
        .await?;
        Ok(())
    }

    /// Sets the offsets of a group without members in all partitions of a topic.
    ///
    /// # Errors
    /// `GROUP_NOT_EMPTY`, `UNKNOWN_TOPIC`.
    pub async fn reset_offsets(
        &self,
        group: &str,
        topic: &str,
        to: v1::reset_offsets_request::To,
    ) -> Result<Vec<v1::GroupOffset>, Error> {
        let answer = self
            .call(Repeat::Always, |channel| {
                let (group, topic) = (group.to_owned(), topic.to_owned());
                let request = v1::ResetOffsetsRequest { group, topic, to: Some(to) };
                async move { groups(channel).reset_offsets(request).await }
            })
            .await?;
        Ok(answer.offsets)
    }

    /// The offsets that a group has committed: in `topics`, or in all when empty.
    ///
    /// # Errors
    /// `UNKNOWN_GROUP`.
    pub async fn fetch_offsets(
        &self,
        group: &str,
        topics: &[String],
    ) -> Result<Vec<v1::GroupOffset>, Error> {
        let answer = self
            .call(Repeat::Always, |channel| {
                let request =
                    v1::FetchOffsetsRequest { group: group.to_owned(), topics: topics.to_vec() };
                async move { groups(channel).fetch_offsets(request).await }
            })
            .await?;
        Ok(answer.offsets)
    }

    /// Commits offsets of a group without members: for readers that choose their partitions.
    ///
    /// # Errors
    /// `GROUP_NOT_EMPTY`.
    pub async fn commit_offsets(
        &self,
        group: &str,
        offsets: Vec<v1::CommitOffset>,
    ) -> Result<(), Error> {
        self.call(Repeat::Always, |channel| {
            let (group, offsets) = (group.to_owned(), offsets.clone());
            let request = v1::CommitOffsetsRequest { group, offsets };
            async move { groups(channel).commit_offsets(request).await }
        })
        .await?;
        Ok(())
    }

    /// Brokers, bookies and defaults.
    ///
    /// # Errors
    /// As every call.
    pub async fn cluster_status(&self) -> Result<v1::GetStatusResponse, Error> {
        self.call(Repeat::Always, |channel| async move {
            cluster(channel).get_status(v1::GetStatusRequest {}).await
        })
        .await
    }

    /// Says that a broker is to own nothing: its partitions are handed over, which [`Admin::cluster_status`] shows.
    ///
    /// # Errors
    /// `INVALID_REQUEST`: no such broker, or no other one to take its partitions.
    pub async fn drain_broker(&self, broker: i32) -> Result<(), Error> {
        let request = v1::DrainBrokerRequest { broker_id: broker };
        self.call(
            Repeat::Always,
            |channel| async move { cluster(channel).drain_broker(request).await },
        )
        .await?;
        Ok(())
    }

    /// Says that a broker may own partitions again.
    ///
    /// # Errors
    /// `INVALID_REQUEST`: no such broker.
    pub async fn undrain_broker(&self, broker: i32) -> Result<(), Error> {
        let request = v1::UndrainBrokerRequest { broker_id: broker };
        self.call(Repeat::Always, |channel| async move {
            cluster(channel).undrain_broker(request).await
        })
        .await?;
        Ok(())
    }

    /// Gives a partition to another broker, and waits until that owns it.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `UNKNOWN_PARTITION`; `INVALID_REQUEST`: that broker takes no partitions.
    pub async fn move_partition(
        &self,
        topic: &str,
        partition: u32,
        to_broker: i32,
    ) -> Result<v1::MovePartitionResponse, Error> {
        self.call(Repeat::Always, |channel| {
            let topic = topic.to_owned();
            let request = v1::MovePartitionRequest { topic, partition, to_broker };
            async move { cluster(channel).move_partition(request).await }
        })
        .await
    }

    /// Quotas of client ids, and whom the broker that answers holds back.
    ///
    /// # Errors
    /// As every call.
    pub async fn list_quotas(&self) -> Result<v1::ListQuotasResponse, Error> {
        self.call(Repeat::Always, |channel| async move {
            cluster(channel).list_quotas(v1::ListQuotasRequest {}).await
        })
        .await
    }

    /// Sets the quotas that are named; those of every client id that has none of its own, where no client id is given.
    ///
    /// # Errors
    /// `INVALID_REQUEST`, `LIMIT_EXCEEDED`.
    pub async fn set_quota(&self, quota: v1::Quota) -> Result<(), Error> {
        self.call(Repeat::Always, |channel| {
            let request = v1::SetQuotaRequest { quota: Some(quota.clone()) };
            async move { cluster(channel).set_quota(request).await }
        })
        .await
        .map(|_| ())
    }

    /// Takes quotas of a client id away, or the default ones; all, when `quotas` is empty.
    ///
    /// # Errors
    /// `INVALID_REQUEST`.
    pub async fn remove_quota(
        &self,
        client_id: Option<String>,
        quotas: Vec<String>,
    ) -> Result<(), Error> {
        self.call(Repeat::Always, |channel| {
            let request =
                v1::RemoveQuotaRequest { client_id: client_id.clone(), quotas: quotas.clone() };
            async move { cluster(channel).remove_quota(request).await }
        })
        .await
        .map(|_| ())
    }

    /// Who owns the partitions of `topics`, or of all when empty, from a broker's cache.
    ///
    /// # Errors
    /// As every call; a topic that does not exist is in the answer and says so.
    pub async fn metadata(&self, topics: &[String]) -> Result<v1::GetMetadataResponse, Error> {
        let answer = self
            .call(Repeat::Always, |channel| {
                let request =
                    v1::GetMetadataRequest { topics: topics.to_vec(), brokers_only: false };
                async move { cluster(channel).get_metadata(request).await }
            })
            .await?;
        self.client.directory().learn(&answer);
        Ok(answer)
    }

    /// How many partitions a topic has.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`.
    pub async fn partitions(&self, topic: &str) -> Result<u32, Error> {
        let metadata = self.metadata(&[topic.to_owned()]).await?;
        let known = metadata.topics.into_iter().find(|t| t.topic == topic && t.exists);
        if let Some(known) = known
            && let Ok(count @ 1..) = u32::try_from(known.owners.len())
        {
            return Ok(count);
        }
        // A cache may be behind: ask for the topic itself before saying that there is none.
        let described = self.describe_topic(topic).await?;
        match described.topic.map_or(0, |summary| summary.partitions) {
            0 => {
                let message = format!("topic `{topic}` has no partitions");
                Err(ApiError::new(Reason::UnknownTopic, message).into())
            }
            count => Ok(count),
        }
    }

    /// An id for an idempotent producer, and its first epoch.
    pub(crate) async fn init_producer(&self) -> Result<ProducerId, Error> {
        let answer = self
            .call(Repeat::Always, |channel| async move {
                StreamClient::new(channel).init_producer(v1::InitProducerRequest::default()).await
            })
            .await?;
        // A broker gives no epoch that is none.
        Ok((answer.producer_id, i16::try_from(answer.epoch).unwrap_or(0)))
    }

    /// An id for an idempotent producer whose batches the caller numbers: see `docs/api.md`. Its epoch is 0.
    ///
    /// # Errors
    /// As every call.
    pub async fn new_producer_id(&self) -> Result<i64, Error> {
        Ok(self.init_producer().await?.0)
    }

    /// Calls until it succeeds, is refused for good, or the time is over. Whoever does not answer, or cannot help, is
    /// followed by the next broker at once; the time for that begins to count when all were asked.
    async fn call<T, F>(&self, repeat: Repeat, ask: impl Fn(Channel) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let (config, directory) = (self.client.config(), self.client.directory());
        let begin = Instant::now();
        let mut failures = 0;
        // Brokers in a row that sent us away, or could not help.
        let mut away = 0;
        loop {
            let left = config.request_timeout.saturating_sub(begin.elapsed());
            let entry = directory.entry();
            let asked = tokio::time::timeout(left, ask(directory.shared_channel(&entry)?)).await;
            let status = match asked {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable(format!("no answer within {left:?}")),
            };
            let error = Error::from_status(&entry, &status);
            failures += 1;
            if error.sends_away() {
                away += 1;
                directory.failed(&entry);
            } else if error.needs_another() {
                away += 1;
                directory.unhelpful(&entry);
            } else {
                away = 0;
            }
            let others = away < directory.choices();
            let pause = match away > 0 && others {
                true => Duration::ZERO,
                false => backoff::pause(failures, &*config.random),
            };
            let timeout = match error {
                Error::Unreachable { .. } if !others => config.unreachable_timeout,
                _ => config.request_timeout,
            };
            if !may_repeat(repeat, &error, never_sent(&status))
                || begin.elapsed() + pause >= timeout
            {
                return Err(error);
            }
            tracing::debug!(%error, failures, "call failed; trying again");
            tokio::time::sleep(pause).await;
        }
    }
}

/// Whether a call that ended with `error` is tried again. Too few bookies or a full metadata store do not pass by
/// themselves within a call's patience.
fn may_repeat(repeat: Repeat, error: &Error, never_sent: bool) -> bool {
    match error {
        Error::Unreachable { .. } => never_sent || repeat == Repeat::Always,
        Error::Api(error) => match error.reason {
            Reason::NotEnoughLiveBookies | Reason::MetadataNoSpace => false,
            Reason::NotOwner | Reason::NotReady | Reason::Overloaded | Reason::ShuttingDown => true,
            other => repeat == Repeat::Always && other.retriable(),
        },
        _ => false,
    }
}

fn topics(channel: Channel) -> TopicsClient<Channel> {
    TopicsClient::new(channel).max_decoding_message_size(caps::MAX_CLIENT_MESSAGE_BYTES)
}

fn groups(channel: Channel) -> GroupsClient<Channel> {
    GroupsClient::new(channel).max_decoding_message_size(caps::MAX_CLIENT_MESSAGE_BYTES)
}

fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(caps::MAX_CLIENT_MESSAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_repeated_only_when_it_was_not_done() {
        let lost = Error::Unreachable { server: "h:1".to_owned(), why: "reset".to_owned() };
        let api = |reason| Error::Api(ApiError::new(reason, ""));
        assert!(may_repeat(Repeat::Always, &lost, false));
        assert!(!may_repeat(Repeat::IfNotDone, &lost, false));
        assert!(may_repeat(Repeat::IfNotDone, &lost, true));
        assert!(!may_repeat(Repeat::IfNotDone, &api(Reason::Unknown), false));
        assert!(may_repeat(Repeat::Always, &api(Reason::Unknown), false));
        assert!(may_repeat(Repeat::IfNotDone, &api(Reason::NotReady), false));
        for repeat in [Repeat::Always, Repeat::IfNotDone] {
            assert!(!may_repeat(repeat, &api(Reason::NotEnoughLiveBookies), true));
            assert!(!may_repeat(repeat, &api(Reason::UnknownTopic), true));
        }
    }
}

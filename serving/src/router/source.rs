//! Reading a partition wherever it is served: here, or one hop away over the public API with `direct` set. Reading
//! changes nothing, so whatever goes wrong on the way is retriable: NOT_READY.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use geminga_proto::caps;
use geminga_proto::ids::{BrokerId, Offset, PartitionIndex, Term};
use geminga_proto::internal::peer_client::PeerClient;
use geminga_proto::internal::{PartitionEnd, PartitionEndsRequest, PartitionSizeRequest};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::stream_client::StreamClient;
use geminga_proto::v1::topics_client::TopicsClient;
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;

use super::local::{FoundOffset, LocalPartitions, OffsetAt, Read, ReadSpec};
use super::{Route, Router, check_partition, hop, no_owner};
use crate::ownership::topology::Topic;

/// What the owner may need on top of the wait that was asked for: it may have to open the partition first.
const GRACE: Duration = Duration::from_secs(15);
/// What one may need to say where its partitions end, which it knows.
const ENDS_WITHIN: Duration = Duration::from_secs(2);
/// For so long one that did not say it is not asked for it again: there may be many topics to ask for.
const MUTE_FOR: Duration = Duration::from_secs(10);
/// Before the length field of a record batch come its base offset (8 bytes); the length counts what follows it.
const BATCH_LENGTH_AT: usize = 8;
const BATCH_PREFIX: usize = 12;

/// Where consumers and tools read from.
#[async_trait]
pub trait Source: Send + Sync + fmt::Debug + 'static {
    /// Reads committed batches; waits as `spec` says. Cancel-safe.
    ///
    /// # Errors
    /// NOT_READY while the partition has no owner or cannot be reached, OFFSET_OUT_OF_RANGE, or whatever keeps its
    /// owner from reading it.
    async fn read(
        &self,
        topic: &Arc<Topic>,
        partition: PartitionIndex,
        spec: ReadSpec,
    ) -> Result<Read, ApiError>;

    /// Looks an offset up. Cancel-safe.
    ///
    /// # Errors
    /// As [`Source::read`].
    async fn find_offset(
        &self,
        topic: &Arc<Topic>,
        partition: PartitionIndex,
        at: OffsetAt,
    ) -> Result<FoundOffset, ApiError>;

    /// Where what is committed ends (P1), of those of these partitions that are open, wherever they are; opens none, and says nothing
    /// of what cannot be asked. Cancel-safe.
    async fn ends(
        &self,
        topic: &Arc<Topic>,
        partitions: &[PartitionIndex],
    ) -> Vec<(PartitionIndex, Offset)>;

    /// [`LocalPartitions::delete_records`], wherever the partition is. Cancel-safe, and may be repeated.
    ///
    /// # Errors
    /// As there.
    async fn delete_records(
        &self,
        topic: &Arc<Topic>,
        partition: PartitionIndex,
        before: Option<Offset>,
    ) -> Result<Offset, ApiError>;

    /// [`LocalPartitions::end_of_term`], wherever the partition is. Cancel-safe.
    ///
    /// # Errors
    /// As there.
    async fn end_of_term(
        &self,
        topic: &Arc<Topic>,
        partition: PartitionIndex,
        term: Term,
    ) -> Result<Option<(Term, Offset)>, ApiError>;

    /// [`LocalPartitions::size`] of a partition wherever it is. Cancel-safe.
    ///
    /// # Errors
    /// As there, or as [`Source::read`] but for an owner: what is stored is known without one.
    async fn size(&self, topic: &Arc<Topic>, partition: PartitionIndex) -> Result<u64, ApiError>;
}

/// Reads here what this broker owns and at its owner what another one does. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RoutedSource {
    router: Router,
    local: Arc<dyn LocalPartitions>,
    /// Brokers that did not say where their partitions end, and since when.
    mute: Arc<Mutex<BTreeMap<BrokerId, Instant>>>,
}

impl RoutedSource {
    /// A source over the partitions of this broker and, by `router`, those of others.
    pub fn new(router: Router, local: Arc<dyn LocalPartitions>) -> Self {
        Self { router, local, mute: Arc::default() }
    }

    /// One call of another broker, for as long as it is registered, under a deadline.
    async fn within<T>(
        &self,
        deadline: Duration,
        broker: BrokerId,
        call: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, ApiError> {
        let call = async {
            tokio::select! {
                answer = call => answer.map_err(|status| of_owner(ApiError::from_status(&status), broker)),
                () = self.router.gone(broker) => Err(unserved(broker, "its registration ended")),
            }
        };
        let answer = tokio::time::timeout(deadline, call).await;
        answer.unwrap_or_else(|_| Err(unserved(broker, "it did not answer in time")))
    }

    async fn read_remote(
        &self,
        broker: BrokerId,
        topic: &Topic,
        partition: PartitionIndex,
        spec: ReadSpec,
    ) -> Result<Read, ApiError> {
        let mut client = StreamClient::new(self.router.channel(broker)?)
            .max_decoding_message_size(caps::MAX_INTERNAL_MESSAGE_BYTES);
        let saturate = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let request = v1::FetchRequest {
            topic: topic.name.clone(),
            partitions: vec![v1::FetchPartition { partition: partition.0, offset: spec.offset.0 }],
            min_bytes: saturate(spec.min_bytes),
            max_bytes: saturate(spec.max_bytes),
            max_wait_ms: u32::try_from(spec.max_wait.as_millis()).unwrap_or(u32::MAX),
            format: v1::Format::Batches.into(),
            direct: true,
            until_end: false,
            client_id: String::new(),
            once: true,
            forwarded: true,
        };
        let call = async {
            let mut stream = client.fetch(hop(request)).await?.into_inner();
            stream.message().await
        };
        let answer = self.within(spec.max_wait.saturating_add(GRACE), broker, call).await?;
        let data = answer
            .into_iter()
            .flat_map(|response| response.partitions)
            .find(|data| data.partition == partition.0)
            .ok_or_else(|| unserved(broker, "it ended the stream without an answer"))?;
        read_of(data, broker)
    }

    async fn find_remote(
        &self,
        broker: BrokerId,
        topic: &Topic,
        partition: PartitionIndex,
        at: OffsetAt,
    ) -> Result<FoundOffset, ApiError> {
        use v1::list_offsets_request::At;
        let mut client = TopicsClient::new(self.router.channel(broker)?);
        let request = v1::ListOffsetsRequest {
            topic: topic.name.clone(),
            partitions: vec![partition.0],
            at: Some(match at {
                OffsetAt::Earliest => At::Earliest(true),
                OffsetAt::Latest => At::Latest(true),
                OffsetAt::Timestamp(ms) => At::TimestampMs(ms),
                OffsetAt::MaxTimestamp => At::MaxTimestamp(true),
            }),
            direct: true,
        };
        let answer = self.within(GRACE, broker, client.list_offsets(hop(request))).await?;
        let found = answer
            .into_inner()
            .offsets
            .into_iter()
            .find(|found| found.partition == partition.0)
            .ok_or_else(|| left_out(broker))?;
        if let Some(error) = &found.error {
            return Err(of_owner(ApiError::from_proto(error), broker));
        }
        Ok(FoundOffset {
            offset: (found.offset >= 0).then_some(Offset(found.offset)),
            timestamp_ms: (found.timestamp_ms >= 0).then_some(found.timestamp_ms),
            term: Term(found.term),
            epoch: Term(found.record_term),
        })
    }
}

impl RoutedSource {
    async fn delete_remote(
        &self,
        broker: BrokerId,
        topic: &Topic,
        partition: PartitionIndex,
        before: Option<Offset>,
    ) -> Result<Offset, ApiError> {
        let mut client = TopicsClient::new(self.router.channel(broker)?);
        let before = before.map_or(-1, |before| before.0);
        let request = v1::DeleteRecordsRequest {
            topic: topic.name.clone(),
            partitions: vec![v1::DeletePartitionRecords { partition: partition.0, before }],
            direct: true,
        };
        let answer = self.within(GRACE, broker, client.delete_records(hop(request))).await?;
        let done = answer.into_inner().partitions.into_iter().find(|p| p.partition == partition.0);
        let done = done.ok_or_else(|| left_out(broker))?;
        match &done.error {
            Some(error) => Err(of_owner(ApiError::from_proto(error), broker)),
            None => Ok(Offset(done.log_start_offset)),
        }
    }

    async fn term_remote(
        &self,
        broker: BrokerId,
        topic: &Topic,
        partition: PartitionIndex,
        term: Term,
    ) -> Result<Option<(Term, Offset)>, ApiError> {
        let mut client = TopicsClient::new(self.router.channel(broker)?);
        let request = v1::OffsetForTermRequest {
            topic: topic.name.clone(),
            partitions: vec![v1::PartitionTerm { partition: partition.0, term: term.0 }],
            direct: true,
        };
        let answer = self.within(GRACE, broker, client.offset_for_term(hop(request))).await?;
        let end = answer.into_inner().ends.into_iter().find(|end| end.partition == partition.0);
        let end = end.ok_or_else(|| left_out(broker))?;
        match &end.error {
            Some(error) => Err(of_owner(ApiError::from_proto(error), broker)),
            None => Ok((end.term >= 0).then_some((Term(end.term), Offset(end.end_offset)))),
        }
    }
}

impl RoutedSource {
    async fn size_remote(
        &self,
        broker: BrokerId,
        topic: &Topic,
        partition: PartitionIndex,
    ) -> Result<u64, ApiError> {
        let mut client = PeerClient::new(self.router.channel(broker)?);
        let topic_id = Bytes::copy_from_slice(topic.id.as_bytes());
        let request = PartitionSizeRequest { topic_id, partition: partition.0 };
        let answer = self.within(GRACE, broker, client.partition_size(hop(request))).await?;
        Ok(answer.into_inner().bytes)
    }
}

impl RoutedSource {
    /// A broker that cannot be asked, or of a version that does not know the question, says nothing.
    async fn ends_remote(
        &self,
        broker: BrokerId,
        topic: &Topic,
        partitions: Vec<u32>,
    ) -> Vec<(PartitionIndex, Offset)> {
        self.mute.lock().retain(|_, since| since.elapsed() < MUTE_FOR);
        if self.mute.lock().contains_key(&broker) {
            return Vec::new();
        }
        let Ok(channel) = self.router.channel(broker) else { return Vec::new() };
        let mut client = PeerClient::new(channel);
        let topic_id = Bytes::copy_from_slice(topic.id.as_bytes());
        let request = PartitionEndsRequest { topic_id, partitions };
        let answer = self.within(ENDS_WITHIN, broker, client.partition_ends(hop(request))).await;
        let Ok(answer) = answer else {
            self.mute.lock().insert(broker, Instant::now());
            return Vec::new();
        };
        let ends = answer.into_inner().ends;
        let end = |end: PartitionEnd| (PartitionIndex(end.partition), Offset(end.high_watermark));
        ends.into_iter().map(end).collect()
    }
}

fn left_out(broker: BrokerId) -> ApiError {
    unserved(broker, "it left the partition out of its answer")
}

#[async_trait]
impl Source for RoutedSource {
    async fn read(
        &self,
        topic: &Arc<Topic>,
        partition: PartitionIndex,
        spec: ReadSpec,
    ) -> Result<Read, ApiError> {
        check_partition(topic, partition.0)?;
        match self.router.owner_of(topic, partition) {
            Route::Local { .. } => self.local.read(Arc::clone(topic), partition, spec).await,
            Route::Remote { broker, .. } => self.read_remote(broker, topic, partition, spec).await,
            Route::NoOwner => Err(no_owner(&topic.name, partition)),
        }
    }

    async fn find_offset(
        &self,
        topic: &Arc<Topic>,
        partition: PartitionIndex,
        at: OffsetAt,
    ) -> Result<FoundOffset, ApiError> {
        check_partition(topic, partition.0)?;
        match self.router.owner_of(topic, partition) {
            Route::Local { .. } => self.local.find_offset(Arc::clone(topic), partition, at).await,
            Route::Remote { broker, .. } => self.find_remote(broker, topic, partition, at).await,
            Route::NoOwner => Err(no_owner(&topic.name, partition)),
        }
    }

    async fn ends(
        &self,
        topic: &Arc<Topic>,
        partitions: &[PartitionIndex],
    ) -> Vec<(PartitionIndex, Offset)> {
        let (mut ends, mut remote) = (Vec::new(), BTreeMap::<BrokerId, Vec<u32>>::new());
        for &partition in partitions {
            match self.router.owner_of(topic, partition) {
                Route::Local { .. } => {
                    let open = self.local.open_offsets(topic.id, partition);
                    ends.extend(open.map(|open| (partition, open.high_watermark)));
                }
                Route::Remote { broker, .. } => remote.entry(broker).or_default().push(partition.0),
                Route::NoOwner => {}
            }
        }
        let remote =
            remote.into_iter().map(|(broker, asked)| self.ends_remote(broker, topic, asked));
        ends.extend(join_all(remote).await.into_iter().flatten());
        ends
    }

    async fn delete_records(
        &self,
        topic: &Arc<Topic>,
        partition: PartitionIndex,
        before: Option<Offset>,
    ) -> Result<Offset, ApiError> {
        check_partition(topic, partition.0)?;
        match self.router.owner_of(topic, partition) {
            Route::Local { .. } => {
                self.local.delete_records(Arc::clone(topic), partition, before).await
            }
            Route::Remote { broker, .. } => {
                self.delete_remote(broker, topic, partition, before).await
            }
            Route::NoOwner => Err(no_owner(&topic.name, partition)),
        }
    }

    async fn end_of_term(
        &self,
        topic: &Arc<Topic>,
        partition: PartitionIndex,
        term: Term,
    ) -> Result<Option<(Term, Offset)>, ApiError> {
        check_partition(topic, partition.0)?;
        match self.router.owner_of(topic, partition) {
            Route::Local { .. } => self.local.end_of_term(Arc::clone(topic), partition, term).await,
            Route::Remote { broker, .. } => self.term_remote(broker, topic, partition, term).await,
            Route::NoOwner => Err(no_owner(&topic.name, partition)),
        }
    }

    async fn size(&self, topic: &Arc<Topic>, partition: PartitionIndex) -> Result<u64, ApiError> {
        check_partition(topic, partition.0)?;
        match self.router.owner_of(topic, partition) {
            Route::Remote { broker, .. } => self.size_remote(broker, topic, partition).await,
            Route::Local { .. } | Route::NoOwner => self.local.size(topic.id, partition).await,
        }
    }
}

/// What the caller is told of an owner's error. One that does not own the partition (any more), or that broke off,
/// is the caller's to try again: nothing was changed.
fn of_owner(error: ApiError, broker: BrokerId) -> ApiError {
    match error.reason {
        Reason::NotOwner | Reason::Unknown | Reason::ShuttingDown => {
            unserved(broker, &error.message)
        }
        _ => error,
    }
}

fn unserved(broker: BrokerId, why: &str) -> ApiError {
    let why =
        format!("the partition's owner, broker {broker}, could not serve this ({why}): try again");
    ApiError::new(Reason::NotReady, why)
}

/// An owner's answer, checked as far as it is relied upon.
fn read_of(data: v1::PartitionData, broker: BrokerId) -> Result<Read, ApiError> {
    if let Some(error) = &data.error {
        return Err(of_owner(ApiError::from_proto(error), broker));
    }
    let bytes = match data.data {
        Some(v1::partition_data::Data::Batches(bytes)) => bytes,
        Some(v1::partition_data::Data::Records(_)) => {
            return Err(ApiError::new(
                Reason::Internal,
                format!("broker {broker} sent records where batches were asked for"),
            ));
        }
        None => Bytes::new(),
    };
    let batches = split(bytes).ok_or_else(|| {
        ApiError::new(Reason::Internal, format!("broker {broker} sent an incomplete batch"))
    })?;
    Ok(Read {
        batches,
        next_offset: Offset(data.next_offset),
        high_watermark: Offset(data.high_watermark),
        log_start: Offset(data.log_start_offset),
    })
}

/// Cuts batches that are laid end to end; `None` when they are not whole.
fn split(mut bytes: Bytes) -> Option<Vec<Bytes>> {
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.get(BATCH_LENGTH_AT..BATCH_PREFIX)?.try_into().ok()?;
        let length = usize::try_from(i32::from_be_bytes(length)).ok()?.checked_add(BATCH_PREFIX)?;
        if length > bytes.len() {
            return None;
        }
        batches.push(bytes.split_to(length));
    }
    Some(batches)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(body: usize) -> Vec<u8> {
        let mut bytes = vec![0; BATCH_LENGTH_AT];
        bytes.extend(i32::try_from(body).unwrap().to_be_bytes());
        bytes.resize(BATCH_PREFIX + body, 7);
        bytes
    }

    #[test]
    fn batches_laid_end_to_end_are_cut_where_their_lengths_say() {
        let bytes = [batch(49), batch(0), batch(100)].concat();
        let cut = split(Bytes::from(bytes)).unwrap();
        assert_eq!(cut.iter().map(Bytes::len).collect::<Vec<_>>(), [61, 12, 112]);
        assert_eq!(split(Bytes::new()), Some(Vec::new()));
    }

    #[test]
    fn an_incomplete_or_senseless_batch_is_no_batch() {
        let whole = batch(49);
        for end in 1..whole.len() {
            assert_eq!(split(Bytes::copy_from_slice(&whole[..end])), None, "{end}");
        }
        let mut negative = batch(49);
        negative[BATCH_LENGTH_AT] = 0xff;
        assert_eq!(split(Bytes::from(negative)), None);
    }

    #[test]
    fn an_owner_that_is_none_any_more_is_worth_another_try() {
        let moved = v1::PartitionData {
            error: Some(ApiError::not_owner("moved", Some("b:1".to_owned())).to_proto()),
            ..v1::PartitionData::default()
        };
        assert_eq!(read_of(moved, BrokerId(2)).unwrap_err().reason, Reason::NotReady);
        let gone = v1::PartitionData {
            error: Some(ApiError::new(Reason::OffsetOutOfRange, "10 is after 5").to_proto()),
            ..v1::PartitionData::default()
        };
        assert_eq!(read_of(gone, BrokerId(2)).unwrap_err().reason, Reason::OffsetOutOfRange);
    }
}

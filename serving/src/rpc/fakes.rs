//! Partitions made up, and a broker of groups around them, for the tests of services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use geminga_metastore::{Guard, MemoryStore, MetaStore, Txn, keys, record};
use geminga_proto::ids::{Offset, PartitionIndex, Term, TopicId};
use geminga_proto::reason::{ApiError, Reason};
use geminga_records::{Compression, Record, encode};
use geminga_runtime::{SeededRandom, Tasks};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::consume::ConsumeContext;
use super::outgoing::Client;
use crate::groups::client::GroupClient;
use crate::groups::coordinator::Shards;
use crate::groups::fakes::{FakeBroker, FakeDial, FakeTopics, MemoryLogs};
use crate::groups::view::Owner;
use crate::ownership::topology::{Topic, Topology};
use crate::quotas::Quotas;
use crate::room::Room;
use crate::router::{FoundOffset, OffsetAt, Read, ReadSpec, Source};
use crate::topics::name::DEFAULT_NAMESPACE;

/// Partitions whose record at offset `n` says `n` and is dated `n`, in batches of [`BATCH`].
#[derive(Debug, Default)]
pub(crate) struct FakeSource {
    /// Log start and end of each; absent = empty.
    ends: watch::Sender<BTreeMap<u32, (i64, i64)>>,
    /// Cannot be read now.
    broken: Mutex<BTreeSet<u32>>,
}

/// Records of a batch.
pub(crate) const BATCH: i64 = 5;

impl FakeSource {
    pub(crate) fn set(&self, partition: u32, start: i64, end: i64) {
        self.ends.send_modify(|ends| {
            ends.insert(partition, (start, end));
        });
    }

    pub(crate) fn set_broken(&self, partition: u32, broken: bool) {
        let mut all = self.broken.lock();
        if broken {
            all.insert(partition);
        } else {
            all.remove(&partition);
        }
    }

    fn ends(&self, partition: u32) -> Result<(i64, i64), ApiError> {
        if self.broken.lock().contains(&partition) {
            return Err(ApiError::new(Reason::NotReady, "told so by the test"));
        }
        Ok(self.ends.borrow().get(&partition).copied().unwrap_or_default())
    }
}

/// The batch that holds `offset`, cut off at `end`.
fn batch(offset: i64, end: i64) -> (Bytes, i64) {
    let first = offset - offset % BATCH;
    let last = (first + BATCH).min(end);
    let record =
        |n: i64| Record { timestamp: n, value: Some(n.to_string().into()), ..Record::default() };
    let records: Vec<_> = (first..last).map(record).collect();
    let batch = encode(&records, Compression::Lz4).unwrap().stamp(first, 1).concat();
    (batch.into(), last)
}

#[async_trait]
impl Source for FakeSource {
    async fn read(
        &self,
        _: &Arc<Topic>,
        partition: PartitionIndex,
        spec: ReadSpec,
    ) -> Result<Read, ApiError> {
        let mut changed = self.ends.subscribe();
        let more = changed
            .wait_for(|ends| ends.get(&partition.0).is_some_and(|(_, end)| *end > spec.offset.0));
        let _late = tokio::time::timeout(spec.max_wait, more).await.is_err();
        let (start, end) = self.ends(partition.0)?;
        if spec.offset.0 < start || spec.offset.0 > end {
            return Err(ApiError::new(Reason::OffsetOutOfRange, "told so by the test"));
        }
        let (mut batches, mut at, mut bytes) = (Vec::new(), spec.offset.0, 0);
        while at < end && (batches.is_empty() || bytes < spec.max_bytes) {
            let (batch, next) = batch(at, end);
            bytes += batch.len();
            batches.push(batch);
            at = next;
        }
        Ok(Read {
            batches,
            next_offset: Offset(at),
            high_watermark: Offset(end),
            log_start: Offset(start),
        })
    }

    async fn size(&self, _: &Arc<Topic>, partition: PartitionIndex) -> Result<u64, ApiError> {
        let (start, end) = self.ends(partition.0)?;
        Ok(end.abs_diff(start))
    }

    async fn find_offset(
        &self,
        _: &Arc<Topic>,
        partition: PartitionIndex,
        at: OffsetAt,
    ) -> Result<FoundOffset, ApiError> {
        let (start, end) = self.ends(partition.0)?;
        let offset = match at {
            OffsetAt::Earliest => Some(start),
            OffsetAt::Latest => Some(end),
            OffsetAt::Timestamp(ms) => (ms < end).then_some(ms.max(start)),
            OffsetAt::MaxTimestamp => (start < end).then_some(end - 1),
        };
        let (offset, term) = (offset.map(Offset), Term(1));
        Ok(FoundOffset { offset, timestamp_ms: None, term, epoch: term })
    }

    async fn ends(
        &self,
        _: &Arc<Topic>,
        partitions: &[PartitionIndex],
    ) -> Vec<(PartitionIndex, Offset)> {
        let end = |&partition: &PartitionIndex| {
            self.ends(partition.0).ok().map(|(_, end)| (partition, Offset(end)))
        };
        partitions.iter().filter_map(end).collect()
    }

    async fn delete_records(
        &self,
        _: &Arc<Topic>,
        partition: PartitionIndex,
        before: Option<Offset>,
    ) -> Result<Offset, ApiError> {
        let (start, end) = self.ends(partition.0)?;
        let start = before.map_or(end, |before| before.0).max(start);
        self.set(partition.0, start, end);
        Ok(Offset(start))
    }

    async fn end_of_term(
        &self,
        _: &Arc<Topic>,
        partition: PartitionIndex,
        term: Term,
    ) -> Result<Option<(Term, Offset)>, ApiError> {
        let (_, end) = self.ends(partition.0)?;
        Ok((term <= Term(1)).then_some((Term(1), Offset(end))))
    }
}

/// A broker with topic `t` of four partitions and all group shards.
pub(crate) struct FakeCluster {
    pub(crate) source: Arc<FakeSource>,
    pub(crate) logs: MemoryLogs,
    pub(crate) groups: GroupClient,
    pub(crate) topology: Topology,
    pub(crate) tasks: Tasks,
    pub(crate) quotas: Quotas,
    pub(crate) room: Room,
    random: Arc<SeededRandom>,
    broker: FakeBroker,
}

impl FakeCluster {
    pub(crate) async fn start() -> Self {
        let (tasks, store) = (Tasks::new("test"), MemoryStore::new());
        let topic = record::Topic {
            id: TopicId::from_random(1),
            partitions: 4,
            write_quorum: 1,
            ack_quorum: 1,
            replication_factor: None,
            configs: BTreeMap::new(),
            created_ms: 1,
        };
        let key = keys::topic(DEFAULT_NAMESPACE, "t");
        let create = Txn::new().guard(Guard::Absent(key.clone())).put(key, topic.encode());
        store.txn(create).await.unwrap();
        let groups_topic = (TopicId::from_random(2), 1);
        let topology = Topology::start(Arc::new(store), &tasks, groups_topic).await.unwrap();
        let logs = MemoryLogs::new(1);
        let topics = Arc::new(FakeTopics::new(&[("t", 4)]));
        let broker = FakeBroker::start(&logs, &topics, vec![Owner::Local]);
        let groups = broker.client(FakeDial::default());
        let (source, random) = (Arc::default(), Arc::new(SeededRandom::new(1)));
        let (quotas, room) = (Quotas::new(), Room::new(64 << 20));
        Self { room, source, logs, groups, topology, tasks, quotas, random, broker }
    }

    pub(crate) fn shards(&self) -> &Shards {
        &self.broker.shards
    }

    pub(crate) fn context(&self) -> ConsumeContext {
        ConsumeContext {
            client: Client::unknown(self.room.clone()),
            topology: self.topology.clone(),
            groups: self.groups.clone(),
            source: self.source.clone(),
            quotas: self.quotas.clone(),
            random: self.random.clone(),
            tasks: self.tasks.clone(),
        }
    }
}

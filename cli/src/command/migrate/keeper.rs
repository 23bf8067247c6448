//! What is kept of a migration, at the target: checkpoints as the committed offsets of a group, places in a topic, both called
//! `migrate.NAME`. A place is kept before the checkpoint that lies behind it, so whatever is copied can be translated.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use geminga_client::v1::CommitOffset;
use geminga_client::{
    Client, Error, Message, NewTopic, OffsetAt, Producer, ProducerConfig, Reader, ReaderConfig,
    Reason,
};
use geminga_runtime::{SystemClock, WallClock};

use super::checkpoint::Checkpoint;
use super::copying::Copying;
use super::map::Place;
use crate::exit::Failure;

/// Offsets of one commit; the broker takes as much metadata as these have.
const AT_ONCE: usize = 1_000;

/// Checkpoints by topic and partition, and how old they are.
pub(super) type Kept = BTreeMap<(String, u32), (Checkpoint, Duration)>;

/// See the module.
#[derive(Debug)]
pub(super) struct Keeper {
    client: Client,
    name: String,
    producer: Producer,
}

impl Keeper {
    /// That of the migration of this name.
    pub(super) fn new(client: &Client, name: &str) -> Self {
        let producer = client.producer(ProducerConfig::default());
        Self { client: client.clone(), name: format!("migrate.{name}"), producer }
    }

    /// What the group and the topic are called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// All checkpoints.
    pub(super) async fn load(&self) -> Result<Kept, Failure> {
        let offsets = match self.client.admin().fetch_offsets(&self.name, &[]).await {
            Ok(offsets) => offsets,
            Err(error) if error.reason() == Reason::UnknownGroup => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let now = SystemClock.now_ms();
        let mut kept = Kept::new();
        for offset in offsets {
            let Some(checkpoint) = Checkpoint::parse(offset.offset, &offset.metadata) else {
                return Err(Failure::new(format!(
                    "group `{}` has an offset of `{}` that no migration wrote: choose another --name",
                    self.name, offset.topic
                )));
            };
            let age = u64::try_from(now - offset.committed_ms).unwrap_or(0);
            let key = (offset.topic, offset.partition);
            kept.insert(key, (checkpoint, Duration::from_millis(age)));
        }
        Ok(kept)
    }

    /// Makes the topic of places, where there is none.
    pub(super) async fn prepare(&self) -> Result<(), Failure> {
        let configs = HashMap::from([("retention.ms".to_owned(), "-1".to_owned())]);
        let topic =
            NewTopic { name: self.name.clone(), partitions: 1, configs, ..NewTopic::default() };
        match self.client.admin().create_topic(topic).await {
            Err(error) if error.reason() != Reason::TopicExists => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Keeps what is new of some partitions.
    pub(super) async fn save(&self, partitions: &mut [Copying]) -> Result<(), Error> {
        let mut deliveries = Vec::new();
        for copying in partitions.iter() {
            for place in copying.places() {
                let (key, value) = place.record(&copying.topic, copying.partition);
                let message = Message::keyed(key, value);
                deliveries.push(self.producer.send(&self.name, message).await?);
            }
        }
        for delivery in deliveries {
            delivery.await?;
        }
        let mut dirty: Vec<_> =
            partitions.iter_mut().filter(|copying| copying.is_dirty()).collect();
        for some in dirty.chunks_mut(AT_ONCE) {
            self.commit(some.iter().map(|copying| &**copying)).await?;
            some.iter_mut().for_each(|copying| copying.kept());
        }
        Ok(())
    }

    /// Keeps checkpoints as they are, so that they stay young.
    pub(super) async fn renew(&self, partitions: &[Copying]) -> Result<(), Error> {
        for some in partitions.chunks(AT_ONCE) {
            self.commit(some.iter()).await?;
        }
        Ok(())
    }

    async fn commit(&self, partitions: impl Iterator<Item = &Copying>) -> Result<(), Error> {
        let offset = |copying: &Copying| CommitOffset {
            topic: copying.topic.as_ref().to_owned(),
            partition: copying.partition,
            offset: copying.checkpoint.target,
            leader_epoch: None,
            metadata: copying.checkpoint.to_string(),
        };
        self.client.admin().commit_offsets(&self.name, partitions.map(offset).collect()).await
    }

    /// Goes through all places that are kept.
    pub(super) async fn places(
        &self,
        mut each: impl FnMut(&str, u32, Place),
    ) -> Result<(), Failure> {
        let admin = self.client.admin();
        let bound = |offsets: Vec<(u32, i64)>| offsets.first().map_or(0, |(_, offset)| *offset);
        let end = bound(admin.list_offsets(&self.name, &[0], OffsetAt::Latest).await?);
        let start = bound(admin.list_offsets(&self.name, &[0], OffsetAt::Earliest).await?);
        if start >= end {
            return Ok(());
        }
        let mut reader: Reader =
            self.client.reader(&self.name, [(0, start)], ReaderConfig::default());
        while reader.positions().get(&0).is_none_or(|at| *at < end) {
            for record in reader.next().await?.records {
                let text = |bytes: Option<Bytes>| String::from_utf8(bytes?.to_vec()).ok();
                let place = text(record.key)
                    .zip(text(record.value))
                    .and_then(|(key, value)| Place::parse(&key, &value));
                let Some((topic, partition, place)) = place else {
                    return Err(Failure::new(format!(
                        "topic `{}` has a record at offset {} that no migration wrote: choose another --name",
                        self.name, record.offset
                    )));
                };
                each(&topic, partition, place);
            }
        }
        Ok(())
    }
}

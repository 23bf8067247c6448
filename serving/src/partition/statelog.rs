//! Statelogs on partitions: the shards of the groups are the partitions of an internal topic, written as commands (DESIGN 7).
//! An opening replays the newest complete snapshot and every later command (S1); P4 puts both into one ledger.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use geminga_proto::ids::PartitionIndex;

use super::log::{self, AppendError, LogParts, LogWriter, OpenSpec, Roll, What};
use crate::ownership::topology::Topology;
use crate::statelog::log::{Append, Closed, Event, Log, Logs, Lost, OpenError, Opened, Replay};
use crate::topics::quorum::Quorum;

/// When a statelog rolls: early, since what is before its newest snapshot is dead weight (DESIGN 7).
const ROLL: Roll = Roll { bytes: 64 * 1024 * 1024, age: Duration::from_secs(4 * 3600) };

/// Opens shards that this broker is assigned.
#[derive(Debug, Clone)]
pub struct GroupLogs {
    parts: LogParts,
    topology: Topology,
    quorum: Quorum,
}

impl GroupLogs {
    /// `quorum`: the server's default, which internal topics follow.
    pub fn new(parts: LogParts, topology: Topology, quorum: Quorum) -> Self {
        Self { parts, topology, quorum }
    }
}

#[async_trait]
impl Logs for GroupLogs {
    async fn open(&self, shard: PartitionIndex) -> Result<Opened, OpenError> {
        let topic = self.topology.groups_topic();
        let owner = self.topology.owner(topic.id, shard);
        // This view may lag; the opening itself decides by a linearizable read (M8).
        let Some(owner) = owner.filter(|owner| owner.broker == self.parts.me) else {
            return Err(OpenError::NotOwner(shard));
        };
        let (term, quorum) = (owner.term, self.quorum);
        let spec = OpenSpec { topic, partition: shard, term, quorum, roll: ROLL };
        let opened = log::open(&self.parts, spec).await.map_err(|e| refused(shard, e))?;
        let replay = opened.replay.map(move |step| replayed(shard, step)).boxed();
        Ok(Opened { term, replay, log: Box::new(ShardLog(opened.writer)) })
    }
}

fn refused(shard: PartitionIndex, error: log::OpenError) -> OpenError {
    match error {
        log::OpenError::NotOwner => OpenError::NotOwner(shard),
        log::OpenError::Unavailable(why) => OpenError::Unavailable(why),
        log::OpenError::Damaged(what) => OpenError::Damaged { shard, what },
    }
}

fn replayed(
    shard: PartitionIndex,
    step: Result<log::Replay, log::OpenError>,
) -> Result<Replay, OpenError> {
    match step.map_err(|error| refused(shard, error))? {
        log::Replay::SnapshotPart(part) => Ok(Replay::SnapshotPart(part)),
        log::Replay::Command(command) => Ok(Replay::Command(command)),
        log::Replay::Batches { first_offset, .. } => {
            let what = format!("records at offset {first_offset} in a statelog");
            Err(OpenError::Damaged { shard, what })
        }
    }
}

/// One opening of a shard's log.
struct ShardLog(LogWriter);

#[async_trait]
impl Log for ShardLog {
    fn append(&mut self, what: Append) -> Result<u64, Closed> {
        let appended = match what {
            Append::Command(command) => self.0.append(What::Command, vec![command]),
            Append::Barrier => self.0.append(What::Barrier, Vec::new()),
        };
        match appended {
            Ok(appended) => Ok(appended.number),
            Err(AppendError::Closed) => Err(Closed),
            Err(error @ AppendError::TooLarge) => {
                // Nothing was written; the shard ends here and is opened again from what is durable.
                tracing::error!(%error, "a statelog made a command that is too large");
                Err(Closed)
            }
        }
    }

    async fn event(&mut self) -> Event {
        match self.0.event().await {
            log::Event::Acked { through, .. } => Event::Acked { through },
            log::Event::Snapshot(wanted) => Event::Snapshot(wanted),
            log::Event::Lost(lost) => Event::Lost(match lost {
                log::Lost::Deposed => Lost::Deposed,
                log::Lost::Failed(why) => Lost::Failed(why),
                log::Lost::Stopping => Lost::Stopping,
            }),
        }
    }
}

#[cfg(test)]
mod tests;

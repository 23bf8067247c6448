//! One member of a group. It writes what it is given before it commits, and commits before it lets go.

use std::time::Duration;

use anyhow::Result;
use geminga_check::Event as Line;
use geminga_client::{
    Consumer, ConsumerConfig, Error, Event, OffsetReset, Reason, Records, TopicPartition,
};
use tokio::sync::watch;

use super::{Context, TOPIC};
use crate::dice::Dice;
use crate::history::{content, place};

/// Shorter than a pause or a silence may be.
const SESSION: Duration = Duration::from_secs(6);
/// Pause before a member that failed joins anew.
const PAUSE: Duration = Duration::from_millis(500);

/// A member that gets nothing for so long commits.
const IDLE: Duration = Duration::from_millis(300);

/// What a member is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Stay,
    /// Commit, leave the group, end.
    Leave,
    /// End without a word.
    Vanish,
}

/// Who reads.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) context: Context,
    pub(super) group: String,
    pub(super) name: String,
    pub(super) order: watch::Receiver<Order>,
    pub(super) dice: Dice,
}

/// One life of a member within its group.
struct Life<'a> {
    member: &'a Member,
    name: String,
    consumer: Consumer,
    assigned: Vec<TopicPartition>,
    /// What it was given and did not commit: the next offset of each.
    done: Vec<(TopicPartition, i64)>,
    /// Batches until the next commit.
    until_commit: usize,
}

impl Member {
    /// Reads until it is told to end. What trying again cures, the consumer tries again; what it gives up is written down, and
    /// another life begins.
    pub(super) async fn run(self) -> Result<()> {
        let mut lives = 0;
        loop {
            lives += 1;
            let name =
                if lives == 1 { self.name.clone() } else { format!("{}.{lives}", self.name) };
            let client = self.context.client(&name)?;
            let mut config = ConsumerConfig::new(&*self.group, TOPIC);
            config.offset_reset = OffsetReset::Earliest;
            config.session_timeout = SESSION;
            config.rebalance_timeout = SESSION;
            config.credit_bytes = 64 * 1024;
            let consumer = client.consumer(config);
            let (assigned, done) = (Vec::new(), Vec::new());
            let mut life = Life {
                member: &self,
                name: name.clone(),
                consumer,
                assigned,
                done,
                until_commit: 1,
            };
            let ended = life.live().await;
            if ended.is_ok() && *self.order.borrow() == Order::Leave {
                // Nothing is fetched any more, whatever becomes of the leave.
                life.let_go();
                life.consumer.leave().await;
            } else {
                drop(life);
            }
            client.close().await;
            let Err(error) = ended else { return Ok(()) };
            let what = format!("{name} failed: {error}");
            self.context.history.write(&name, Line::Fault { what });
            if *self.order.borrow() != Order::Stay {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Waits until the member is told to end, or nobody is there to tell it anything.
async fn told(order: &mut watch::Receiver<Order>) {
    drop(order.wait_for(|order| *order != Order::Stay).await);
}

impl Life<'_> {
    fn write(&self, line: Line) {
        self.member.context.history.write(&self.name, line);
    }

    async fn live(&mut self) -> Result<(), Error> {
        let mut order = self.member.order.clone();
        self.write(Line::Join { group: self.member.group.clone() });
        loop {
            let event = tokio::select! {
                () = told(&mut order) => None,
                event = self.consumer.next() => Some(event?),
                // What is done is committed, also when nothing follows.
                () = tokio::time::sleep(IDLE) => {
                    self.commit().await?;
                    continue;
                }
            };
            let Some(event) = event else {
                let leaves = *order.borrow() == Order::Leave;
                return if leaves { self.commit().await } else { Ok(()) };
            };
            self.on(event).await?;
        }
    }

    async fn on(&mut self, event: Event) -> Result<(), Error> {
        match event {
            Event::Assigned(partitions) => {
                self.done.clear();
                let starts = self.consumer.assignment();
                for from in &partitions {
                    let offset = starts.get(from).and_then(|offset| u64::try_from(*offset).ok());
                    let (group, place) =
                        (self.member.group.clone(), place(&from.topic, from.partition));
                    self.write(Line::Assign { group, place, offset });
                }
                self.assigned = partitions;
                Ok(())
            }
            Event::Records(records) => {
                self.given(records);
                self.until_commit -= 1;
                if self.until_commit == 0 { self.commit().await } else { Ok(()) }
            }
            Event::Revoked => {
                // Some are slow to say what they have done, so that it is done again.
                if self.member.dice.chance(80) {
                    self.commit().await?;
                }
                self.let_go();
                Ok(())
            }
            Event::Lost => {
                self.let_go();
                Ok(())
            }
        }
    }

    fn given(&mut self, records: Records) {
        let Records { from, records, next_offset, .. } = records;
        for record in records {
            let place = place(&from.topic, from.partition);
            let content = content(record.value.as_deref().unwrap_or_default());
            let offset = u64::try_from(record.offset).unwrap_or(u64::MAX);
            self.write(Line::Fetch { group: self.member.group.clone(), place, offset, content });
        }
        self.done.retain(|(done, _)| *done != from);
        self.done.push((from, next_offset));
    }

    fn let_go(&mut self) {
        for from in std::mem::take(&mut self.assigned) {
            let (group, place) = (self.member.group.clone(), place(&from.topic, from.partition));
            self.write(Line::Revoke { group, place });
        }
        self.done.clear();
    }

    /// Commits what is done. That others have it by now is no failure.
    async fn commit(&mut self) -> Result<(), Error> {
        self.until_commit = 1 + self.member.dice.below(20);
        let offsets = std::mem::take(&mut self.done);
        if offsets.is_empty() {
            return Ok(());
        }
        for (from, offset) in &offsets {
            let (group, place) = (self.member.group.clone(), place(&from.topic, from.partition));
            let offset = u64::try_from(*offset).unwrap_or(u64::MAX);
            self.write(Line::Commit { group, place, offset });
        }
        match self.consumer.commit_offsets(offsets.clone()).await {
            Ok(()) => {
                for (from, _) in offsets {
                    let (group, place) =
                        (self.member.group.clone(), place(&from.topic, from.partition));
                    self.write(Line::Committed { group, place });
                }
                Ok(())
            }
            Err(error) => match error.reason() {
                Reason::StaleGeneration | Reason::UnknownMember | Reason::RebalanceInProgress => {
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }
}

//! One member of a group, for one life. It writes what it is given before it commits, and commits before it lets go.

use std::time::Duration;

use anyhow::{Result, bail};
use geminga_check::Event as Line;
use geminga_client::{
    Consumer, ConsumerConfig, Error, Event, OffsetReset, Reason, Records, TopicPartition,
};

use super::TOPIC;
use super::client::Own;
use super::order::{Order, orders, told};
use crate::dice::Dice;
use crate::history::{content, place};

/// Shorter than a pause or a silence may be.
const SESSION: Duration = Duration::from_secs(6);
/// A member that gets nothing for so long commits.
const IDLE: Duration = Duration::from_millis(300);

struct Life<'a> {
    own: &'a Own,
    group: &'a str,
    dice: &'a Dice,
    consumer: Consumer,
    assigned: Vec<TopicPartition>,
    /// What it was given and did not commit: the next offset of each.
    done: Vec<(TopicPartition, i64)>,
    /// Batches until the next commit.
    until_commit: usize,
}

/// Reads until it is told to end. What trying again cures, the consumer tries again; what it gives up is written down.
pub(super) async fn consume(own: &Own, dice: &Dice, group: &str) -> Result<()> {
    let mut config = ConsumerConfig::new(group, TOPIC);
    config.offset_reset = OffsetReset::Earliest;
    config.session_timeout = SESSION;
    config.rebalance_timeout = SESSION;
    config.credit_bytes = 64 * 1024;
    let consumer = own.client.consumer(config);
    let (assigned, done) = (Vec::new(), Vec::new());
    let mut life = Life { own, group, dice, consumer, assigned, done, until_commit: 1 };
    match life.live().await {
        Ok(Order::Leave) => {
            // Nothing is fetched any more, whatever becomes of the leave.
            life.let_go();
            life.consumer.leave().await;
            own.client.close().await;
            Ok(())
        }
        Ok(_) => Ok(()),
        Err(error) => {
            let what = format!("{} failed: {error}", own.name);
            own.history.write(&own.name, Line::Fault { what: what.clone() });
            bail!(what)
        }
    }
}

impl Life<'_> {
    fn write(&self, line: Line) {
        self.own.history.write(&self.own.name, line);
    }

    async fn live(&mut self) -> Result<Order, Error> {
        let mut orders = orders();
        self.write(Line::Join { group: self.group.to_owned() });
        loop {
            let event = tokio::select! {
                order = told(&mut orders) => {
                    if order == Order::Leave {
                        self.commit().await?;
                    }
                    return Ok(order);
                }
                event = self.consumer.next() => event?,
                // What is done is committed, also when nothing follows.
                () = tokio::time::sleep(IDLE) => {
                    self.commit().await?;
                    continue;
                }
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
                        (self.group.to_owned(), place(&from.topic, from.partition));
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
                if self.dice.chance(80) {
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
            self.write(Line::Fetch { group: self.group.to_owned(), place, offset, content });
        }
        self.done.retain(|(done, _)| *done != from);
        self.done.push((from, next_offset));
    }

    fn let_go(&mut self) {
        for from in std::mem::take(&mut self.assigned) {
            let (group, place) = (self.group.to_owned(), place(&from.topic, from.partition));
            self.write(Line::Revoke { group, place });
        }
        self.done.clear();
    }

    /// Commits what is done. That others have it by now is no failure.
    async fn commit(&mut self) -> Result<(), Error> {
        self.until_commit = 1 + self.dice.below(20);
        let offsets = std::mem::take(&mut self.done);
        if offsets.is_empty() {
            return Ok(());
        }
        for (from, offset) in &offsets {
            let (group, place) = (self.group.to_owned(), place(&from.topic, from.partition));
            let offset = u64::try_from(*offset).unwrap_or(u64::MAX);
            self.write(Line::Commit { group, place, offset });
        }
        match self.consumer.commit_offsets(offsets.clone()).await {
            Ok(()) => {
                for (from, _) in offsets {
                    let (group, place) =
                        (self.group.to_owned(), place(&from.topic, from.partition));
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

//! One member of a consumer group, on one stream at a time. A broken stream is not a leave: the next one, to another broker
//! when that one is gone, resumes the member id within the session timeout, and reading goes on where the caller is, not
//! where the group last committed.
//!
//! The order that keeps a rebalance from losing or repeating work: when partitions are revoked, records that the caller
//! has not taken are dropped, the caller commits what it has done, and its next [`Consumer::next`] says that they are no
//! longer worked on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt};
use geminga_proto::caps;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::consume_request::Op;
use geminga_proto::v1::consume_response::Event as Wire;
use geminga_proto::v1::stream_client::StreamClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::data::{self, Arrived};
use super::position::Position;
use super::reader::Retry;
use super::{Records, TopicPartition};
use crate::client::Client;
use crate::error::Error;

/// Requests that wait for the network.
const QUEUE: usize = 16;
/// How long [`Consumer::leave`] waits for the server.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a partition starts that the group has no committed offset for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OffsetReset {
    /// After the last record.
    #[default]
    Latest,
    /// At the first record.
    Earliest,
    /// Nowhere: it is an error.
    None,
}

/// Settings of a [`Consumer`].
#[derive(Debug, Clone)]
pub struct ConsumerConfig {
    /// The group.
    pub group: String,
    /// What it reads.
    pub topics: Vec<String>,
    /// Where a partition starts that the group has no committed offset for. Default latest.
    pub offset_reset: OffsetReset,
    /// How long a member may be silent before others take over its partitions. Default 10 s.
    pub session_timeout: Duration,
    /// How long others wait for this member to let go in a rebalance. Default 30 s.
    pub rebalance_timeout: Duration,
    /// Bytes of records that the broker may send ahead. Default 4 MiB.
    pub credit_bytes: u64,
    /// How long it is tried again without any answer before calls fail. Default 2 minutes.
    pub retry_timeout: Duration,
}

impl ConsumerConfig {
    /// A member of `group` that reads `topic`.
    pub fn new(group: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            group: group.into(),
            topics: vec![topic.into()],
            offset_reset: OffsetReset::default(),
            session_timeout: Duration::from_secs(10),
            rebalance_timeout: Duration::from_secs(30),
            credit_bytes: 4 * 1024 * 1024,
            retry_timeout: Duration::from_secs(120),
        }
    }
}

/// What [`Consumer::next`] returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// These partitions are this member's now.
    Assigned(Vec<TopicPartition>),
    /// Records of one of them.
    Records(Records),
    /// All partitions must be let go: stop working, commit what is done, then call [`Consumer::next`] again.
    Revoked,
    /// All partitions are another's already, for this member was taken for dead. Nothing can be committed; the member
    /// joins again by itself.
    Lost,
}

/// One stream.
struct Session {
    /// Whom it was opened to.
    address: String,
    requests: mpsc::Sender<v1::ConsumeRequest>,
    events: BoxStream<'static, Result<v1::ConsumeResponse, Status>>,
    /// The assignment has come: commits and seeks make sense.
    assigned: bool,
}

/// How far a revocation is; the number is what the server is told at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Revoking {
    No,
    /// The event is queued.
    Queued(i32),
    /// The caller knows; its next call confirms.
    Told(i32),
}

/// Something for the caller, and the credit to give back for it.
#[derive(Debug)]
struct Queued {
    event: Event,
    bytes: u64,
}

/// One member of a consumer group.
///
/// Dropping it without [`Consumer::leave`] leaves its partitions unread until the session timeout.
pub struct Consumer {
    client: Client,
    config: ConsumerConfig,
    session: Option<Session>,
    /// Requests of this session that are still to be handed to its stream.
    outbox: VecDeque<Op>,
    /// Empty until the group has given one.
    member_id: String,
    generation: i32,
    /// Where each assigned partition is read: next offset to put into `queue`.
    positions: BTreeMap<TopicPartition, Position>,
    /// Offset after what the caller was given.
    consumed: BTreeMap<TopicPartition, i64>,
    committed: BTreeMap<TopicPartition, i64>,
    queue: VecDeque<Queued>,
    credit_due: u64,
    /// The caller stopped these.
    paused: BTreeSet<TopicPartition>,
    revoking: Revoking,
    last_commit: u64,
    commit_results: BTreeMap<u64, Result<(), ApiError>>,
    retry: Retry,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("group", &self.config.group)
            .field("member_id", &self.member_id)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl Consumer {
    pub(crate) fn new(client: Client, config: ConsumerConfig) -> Self {
        for topic in &config.topics {
            client.directory().follow(topic);
        }
        Self {
            client,
            config,
            session: None,
            outbox: VecDeque::new(),
            member_id: String::new(),
            generation: -1,
            positions: BTreeMap::new(),
            consumed: BTreeMap::new(),
            committed: BTreeMap::new(),
            queue: VecDeque::new(),
            credit_due: 0,
            paused: BTreeSet::new(),
            revoking: Revoking::No,
            last_commit: 0,
            commit_results: BTreeMap::new(),
            retry: Retry::default(),
        }
    }

    /// What happens next: records, or a change of what this member reads. Broken streams and moving coordinators are
    /// tried again. Cancel-safe. Call it often: a member that does not confirm a revocation in time is taken for dead.
    ///
    /// # Errors
    /// `UNKNOWN_TOPIC`, `OFFSET_OUT_OF_RANGE` and what else trying again does not cure; the last failure when nothing
    /// was heard for `retry_timeout`.
    pub async fn next(&mut self) -> Result<Event, Error> {
        if let Revoking::Told(generation) = self.revoking {
            self.revoking = Revoking::No;
            self.forget_assignment();
            self.outbox.push_back(Op::Revoked(v1::ConsumeRevoked { generation }));
        }
        loop {
            if let Some(Queued { event, bytes }) = self.queue.pop_front() {
                self.give_back(bytes);
                match &event {
                    Event::Records(records) => {
                        self.consumed.insert(records.from.clone(), records.next_offset);
                    }
                    Event::Revoked => {
                        if let Revoking::Queued(generation) = self.revoking {
                            self.revoking = Revoking::Told(generation);
                        }
                    }
                    Event::Assigned(_) | Event::Lost => {}
                }
                return Ok(event);
            }
            self.pump().await?;
        }
    }

    /// [`Consumer::next`], if there is something at once.
    ///
    /// # Errors
    /// As [`Consumer::next`].
    pub fn try_next(&mut self) -> Result<Option<Event>, Error> {
        self.next().now_or_never().transpose()
    }

    /// Commits the offsets after everything that [`Consumer::next`] has returned, and waits until they are durable.
    ///
    /// # Errors
    /// `STALE_GENERATION` or `UNKNOWN_MEMBER` when the partitions are another's by now, so that what was done since
    /// the last commit will be done again; as [`Consumer::next`] otherwise.
    pub async fn commit(&mut self) -> Result<(), Error> {
        let new = |(from, offset): (&TopicPartition, &i64)| {
            (self.committed.get(from) != Some(offset)).then(|| (from.clone(), *offset))
        };
        let offsets: Vec<(TopicPartition, i64)> = self.consumed.iter().filter_map(new).collect();
        self.commit_offsets(offsets).await
    }

    /// Commits these offsets (each the next to be read) and waits until they are durable. Cancel-safe as far as that it
    /// can be called again.
    ///
    /// # Errors
    /// As [`Consumer::commit`].
    pub async fn commit_offsets(
        &mut self,
        offsets: Vec<(TopicPartition, i64)>,
    ) -> Result<(), Error> {
        if offsets.is_empty() {
            return Ok(());
        }
        let generation = self.generation;
        let mut id = None;
        loop {
            if self.generation != generation {
                let message = "the partitions were given to other members before the commit";
                return Err(ApiError::new(Reason::StaleGeneration, message).into());
            }
            if let Some(result) = id.and_then(|id| self.commit_results.remove(&id)) {
                match result {
                    Ok(()) => {
                        self.committed.extend(offsets);
                        return Ok(());
                    }
                    Err(error) if may_commit_again(error.reason) => {
                        let timeout = self.config.retry_timeout;
                        self.retry.failed(error.into(), None, timeout, &self.client)?;
                        id = None;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            // On each new session it is asked again: whether the last one heard it is not known, and it says the same.
            // A copy: a reference to the stream would not be `Send` across the pause.
            match self.session.as_ref().map(|session| session.assigned) {
                Some(true) if id.is_none() => {
                    self.retry.pause().await;
                    id = Some(self.ask_commit(&offsets));
                }
                None => id = None,
                Some(_) => {}
            }
            self.pump().await?;
        }
    }

    fn ask_commit(&mut self, offsets: &[(TopicPartition, i64)]) -> u64 {
        self.last_commit += 1;
        let offset = |(from, offset): &(TopicPartition, i64)| v1::CommitOffset {
            topic: from.topic.as_ref().to_owned(),
            partition: from.partition,
            offset: *offset,
            leader_epoch: None,
            metadata: String::new(),
        };
        let offsets = offsets.iter().map(offset).collect();
        self.commit_results.clear();
        self.outbox.push_back(Op::Commit(v1::ConsumeCommit { id: self.last_commit, offsets }));
        self.last_commit
    }

    /// What this member reads now, and the offset of the next record of each that [`Consumer::next`] has not returned.
    pub fn assignment(&self) -> BTreeMap<TopicPartition, i64> {
        let queued = |from: &TopicPartition| {
            self.queue.iter().find_map(|queued| match &queued.event {
                Event::Records(records) if records.from == *from => {
                    records.records.first().map(|record| record.offset)
                }
                _ => None,
            })
        };
        let next = |(from, position): (&TopicPartition, &Position)| {
            (from.clone(), queued(from).unwrap_or_else(|| position.next()))
        };
        self.positions.iter().map(next).collect()
    }

    /// Goes on at `offset` in an assigned partition.
    ///
    /// # Errors
    /// `Config` when it is not assigned.
    pub fn seek(&mut self, from: &TopicPartition, offset: i64) -> Result<(), Error> {
        let position = self.positions.get_mut(from).ok_or_else(|| not_assigned(from))?;
        position.seek(offset);
        self.drop_queued(|records| records.from == *from);
        self.consumed.remove(from);
        self.outbox.push_back(seek_to(from, offset));
        Ok(())
    }

    /// Stops, or goes on with, an assigned partition. What is already on its way is still returned. Ends with the
    /// assignment.
    ///
    /// # Errors
    /// `Config` when it is not assigned.
    pub fn pause(&mut self, from: &TopicPartition, paused: bool) -> Result<(), Error> {
        if !self.positions.contains_key(from) {
            return Err(not_assigned(from));
        }
        if paused {
            self.paused.insert(from.clone());
        } else {
            self.paused.remove(from);
        }
        self.outbox.push_back(pause_at(from, paused));
        Ok(())
    }

    /// Leaves the group, so that others take over at once. Commits nothing by itself.
    pub async fn leave(mut self) {
        let Some(Session { requests, mut events, .. }) = self.session.take() else { return };
        let leave = async {
            let left = std::mem::take(&mut self.outbox);
            for op in left.into_iter().chain([Op::Leave(v1::ConsumeLeave {})]) {
                if requests.send(v1::ConsumeRequest { op: Some(op) }).await.is_err() {
                    return;
                }
            }
            drop(requests);
            while let Some(Ok(_)) = events.next().await {}
        };
        if tokio::time::timeout(LEAVE_TIMEOUT, leave).await.is_err() {
            tracing::warn!(
                group = self.config.group,
                "the server did not confirm the leave in time"
            );
        }
    }

    /// Moves one message in either direction. Cancel-safe: what was taken off the stream is kept in `self`.
    async fn pump(&mut self) -> Result<(), Error> {
        if self.session.is_none() {
            self.retry.pause().await;
            self.open()?;
        }
        if self.credit_due > 0 && self.outbox.is_empty() {
            let bytes = std::mem::take(&mut self.credit_due);
            self.outbox.push_back(Op::Credit(v1::ConsumeCredit { bytes }));
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        let next = tokio::select! {
            biased;
            room = session.requests.reserve(), if !self.outbox.is_empty() => {
                match (room, self.outbox.pop_front()) {
                    (Ok(room), op) => {
                        room.send(v1::ConsumeRequest { op });
                        return Ok(());
                    }
                    // The stream has ended, and says why when it is read.
                    (Err(_), _) => session.events.next().await,
                }
            }
            next = session.events.next() => next,
        };
        match next {
            Some(Ok(response)) => match response.event {
                Some(event) => self.on_event(event),
                None => Ok(()),
            },
            Some(Err(status)) => {
                let error = Error::from_status(&session.address, &status);
                self.on_lost(error)
            }
            None => {
                let server = session.address.clone();
                let why = "the server ended the stream".to_owned();
                self.on_lost(Error::Unreachable { server, why })
            }
        }
    }

    fn open(&mut self) -> Result<(), Error> {
        let address = self.client.directory().entry();
        let channel = self.client.directory().own_channel(&address)?;
        let (requests, queue) = mpsc::channel(QUEUE);
        let events = async move {
            StreamClient::new(channel)
                .max_decoding_message_size(caps::MAX_CLIENT_MESSAGE_BYTES)
                .consume(ReceiverStream::new(queue))
                .await
        }
        .map_ok(tonic::Response::into_inner)
        .try_flatten_stream()
        .boxed();
        let ms = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        let join = v1::ConsumeJoin {
            group: self.config.group.clone(),
            topics: self.config.topics.clone(),
            member_id: self.member_id.clone(),
            client_id: self.client.config().client_id.clone(),
            session_timeout_ms: ms(self.config.session_timeout),
            rebalance_timeout_ms: ms(self.config.rebalance_timeout),
            offset_reset: match self.config.offset_reset {
                OffsetReset::Latest => v1::OffsetReset::Latest,
                OffsetReset::Earliest => v1::OffsetReset::Earliest,
                OffsetReset::None => v1::OffsetReset::None,
            }
            .into(),
            format: v1::Format::Batches.into(),
        };
        // What is queued here was sent on an earlier credit; it comes back as it is taken.
        let queued: u64 = self.queue.iter().map(|queued| queued.bytes).sum();
        let bytes = self.config.credit_bytes.saturating_sub(queued).max(1);
        self.credit_due = 0;
        self.outbox.clear();
        self.outbox.push_back(Op::Join(join));
        self.outbox.push_back(Op::Credit(v1::ConsumeCredit { bytes }));
        self.session = Some(Session { address, requests, events, assigned: false });
        Ok(())
    }

    fn on_event(&mut self, event: Wire) -> Result<(), Error> {
        match event {
            Wire::Joined(joined) => {
                self.member_id = joined.member_id;
                Ok(())
            }
            Wire::Assignment(assignment) => {
                self.on_assignment(assignment);
                Ok(())
            }
            Wire::Revoke(revoke) => {
                self.on_revoke(revoke.generation);
                Ok(())
            }
            Wire::Data(data) => self.on_data(data),
            Wire::Committed(committed) => {
                let result = match &committed.error {
                    None => Ok(()),
                    Some(error) => Err(ApiError::from_proto(error)),
                };
                self.commit_results.insert(committed.id, result);
                Ok(())
            }
            Wire::Error(error) => self.on_lost(ApiError::from_proto(&error).into()),
        }
    }

    fn on_assignment(&mut self, assignment: v1::ConsumeAssignment) {
        self.retry.succeeded();
        let resumed = assignment.generation == self.generation && !self.positions.is_empty();
        let mut positions = BTreeMap::new();
        for assigned in assignment.partitions {
            let topic = Arc::from(assigned.topic);
            let from = TopicPartition { topic, partition: assigned.partition };
            let mut position = Position::at(assigned.start_offset);
            if let Some(known) = self.positions.get(&from).filter(|_| resumed) {
                // The server starts at what is committed: go on where we are.
                position = *known;
                position.reopened(assigned.start_offset);
                if position.next() != assigned.start_offset {
                    self.outbox.push_back(seek_to(&from, position.next()));
                }
            }
            positions.insert(from, position);
        }
        if resumed && positions.keys().eq(self.positions.keys()) {
            self.outbox.extend(self.paused.iter().map(|from| pause_at(from, true)));
        } else {
            self.lose_assignment();
            let assigned = positions.keys().cloned().collect();
            self.queue.push_back(Queued { event: Event::Assigned(assigned), bytes: 0 });
        }
        self.generation = assignment.generation;
        self.positions = positions;
        if let Some(session) = &mut self.session {
            session.assigned = true;
        }
    }

    fn on_revoke(&mut self, generation: i32) {
        self.retry.succeeded();
        self.drop_queued(|_| true);
        self.revoking = match self.revoking {
            Revoking::Told(_) => Revoking::Told(generation),
            Revoking::Queued(_) => Revoking::Queued(generation),
            // Nothing to let go of.
            Revoking::No if self.positions.is_empty() => {
                self.outbox.push_back(Op::Revoked(v1::ConsumeRevoked { generation }));
                Revoking::No
            }
            Revoking::No => {
                self.queue.push_back(Queued { event: Event::Revoked, bytes: 0 });
                Revoking::Queued(generation)
            }
        };
    }

    fn on_data(&mut self, data: v1::PartitionData) -> Result<(), Error> {
        let Arrived { from, records, batches, next_offset, high_watermark, bytes, error } =
            data::take(data)?;
        if let Some(error) = error {
            return if error.reason.retriable() {
                // The broker goes on by itself.
                tracing::debug!(%error, partition = %from, "partition cannot be read now");
                Ok(())
            } else {
                let message = format!("{from}: {}", error.message);
                Err(ApiError::new(error.reason, message).into())
            };
        }
        self.retry.succeeded();
        let accepted = match self.positions.get_mut(&from) {
            Some(position) if self.revoking == Revoking::No => {
                position.accept(records, next_offset)
            }
            _ => None,
        };
        match accepted {
            Some(records) => {
                let records = Records { from, records, batches, next_offset, high_watermark };
                self.queue.push_back(Queued { event: Event::Records(records), bytes });
            }
            None => self.give_back(bytes),
        }
        Ok(())
    }

    /// The stream has ended with `error`.
    fn on_lost(&mut self, error: Error) -> Result<(), Error> {
        let address = self.session.take().map(|session| session.address);
        self.outbox.clear();
        if error.reason() == Reason::UnknownMember || error.reason() == Reason::StaleGeneration {
            // Too late to resume: join anew. Asking again does help here, though not with the same member id.
            self.member_id.clear();
            self.generation = -1;
            self.lose_assignment();
            let again = ApiError::new(Reason::RebalanceInProgress, error.to_string());
            return self.retry.failed(again.into(), None, self.config.retry_timeout, &self.client);
        }
        let timeout = self.config.retry_timeout;
        self.retry.failed(error, address.as_deref(), timeout, &self.client)
    }

    /// What this member read is no longer its own, and it was not asked.
    fn lose_assignment(&mut self) {
        self.drop_queued(|_| true);
        self.queue.retain(|queued| queued.event == Event::Lost);
        self.revoking = Revoking::No;
        if !self.positions.is_empty() {
            self.queue.push_back(Queued { event: Event::Lost, bytes: 0 });
        }
        self.forget_assignment();
    }

    fn forget_assignment(&mut self) {
        self.positions.clear();
        self.consumed.clear();
        self.committed.clear();
        self.paused.clear();
    }

    /// Takes records back that the caller has not seen.
    fn drop_queued(&mut self, which: impl Fn(&Records) -> bool) {
        let mut bytes = 0;
        self.queue.retain(|queued| match &queued.event {
            Event::Records(records) if which(records) => {
                bytes += queued.bytes;
                false
            }
            _ => true,
        });
        self.give_back(bytes);
    }

    fn give_back(&mut self, bytes: u64) {
        self.credit_due += bytes;
    }
}

/// Whether a commit is asked again within its generation.
fn may_commit_again(reason: Reason) -> bool {
    reason.retriable() && reason != Reason::RebalanceInProgress
}

fn not_assigned(from: &TopicPartition) -> Error {
    Error::Config(format!("partition {from} is not assigned to this member"))
}

fn seek_to(from: &TopicPartition, offset: i64) -> Op {
    let (topic, partition) = (from.topic.as_ref().to_owned(), from.partition);
    Op::Seek(v1::ConsumeSeek { topic, partition, offset })
}

fn pause_at(from: &TopicPartition, paused: bool) -> Op {
    let (topic, partition) = (from.topic.as_ref().to_owned(), from.partition);
    Op::Pause(v1::ConsumePause { topic, partition, paused })
}

#[cfg(test)]
mod tests;

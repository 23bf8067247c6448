//! Calls of a recovery to one member, repeated where they got no answer, and copies from one to another.

use std::time::Duration;

use bytes::Bytes;
use geminga_proto::bookie::{QueryOp, Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{EntryId, Member};

use crate::client::LedgerClient;
use crate::core::recovery::Event;
use crate::read::{Answer, Reader};

/// How often a part of a copy is tried before its source or target is given up.
const COPY_ATTEMPTS: u32 = 4;

/// Calls to one member.
pub(super) struct Call<'a> {
    pub(super) client: &'a LedgerClient,
    pub(super) member: Member,
    pub(super) scope: Scope,
}

impl Call<'_> {
    async fn write(&self, op: WriteOp) -> Option<WriteReply> {
        let config = &self.client.parts.config;
        let request = WriteRequest { scope: self.scope, op };
        let reply = self.client.parts.bookies.connection(&self.member.bookie).ok()?.write(request);
        tokio::time::timeout(config.add_timeout, reply).await.ok()?.ok()
    }

    /// Repeats unknown answers with growing pauses; the attempt's end drops it.
    pub(super) async fn seal(&self, position: usize) -> Event {
        let config = &self.client.parts.config;
        let mut pause = config.retry_min;
        loop {
            let reply = self.write(WriteOp::Seal).await;
            if let Some(event) = reply.as_ref().and_then(|reply| Event::from_seal(position, reply))
            {
                return event;
            }
            tracing::debug!(ledger = %self.scope.ledger, member = %self.member, ?reply, "seal got no answer yet");
            tokio::time::sleep(pause).await;
            pause = config.retry_max.min(pause * 2);
        }
    }
}

/// A copy from one member to another, in chunks, verbatim (D2).
pub(super) struct Copy<'a> {
    pub(super) reader: Reader,
    pub(super) call: Call<'a>,
    pub(super) from: Member,
    pub(super) source: usize,
    pub(super) target: usize,
}

impl Copy<'_> {
    pub(super) async fn run(&self, first: EntryId, last: EntryId) -> Event {
        let mut next = first;
        let mut tail = first.prev();
        while next <= last {
            let entries = match self.read(next, last).await {
                Ok(entries) => entries,
                Err(corrupt) => {
                    let (source, target) = (self.source, self.target);
                    return Event::SourceFailed { source, target, entry: next, corrupt };
                }
            };
            let count =
                i64::try_from(entries.len()).expect("a reply holds fewer entries than 2^63");
            match self.add(next, entries).await {
                Event::Copied { tail: reached, .. } => tail = reached,
                other => return other,
            }
            next = EntryId(next.0 + count);
        }
        Event::Copied { target: self.target, tail }
    }

    /// One chunk. What got no answer is sent again a few times: an add that took place is recognised (D3), and one that
    /// is given up costs the whole attempt where no other target is left.
    async fn add(&self, first: EntryId, entries: Vec<Bytes>) -> Event {
        let mut left = COPY_ATTEMPTS;
        loop {
            let op = WriteOp::RecoveryAdd { first, entries: entries.clone() };
            let event = match self.call.write(op).await {
                Some(reply) => Event::from_recovery_add(self.target, &reply),
                None => Event::TargetFailed { target: self.target },
            };
            left -= 1;
            if left == 0 || !matches!(event, Event::TargetFailed { .. }) {
                return event;
            }
            tokio::time::sleep(self.pause(left)).await;
        }
    }

    /// Verified bytes; an error says whether they are there but bad.
    async fn read(&self, from: EntryId, to: EntryId) -> Result<Vec<Bytes>, bool> {
        let max_bytes = self.call.client.parts.config.read_bytes;
        let op = QueryOp::Read { from, to, max_bytes, prefix_bytes: None };
        let mut left = COPY_ATTEMPTS;
        loop {
            match self.reader.ask(&self.from, self.call.scope.fragment_first, op.clone()).await {
                Answer::Entries(raw, _) => return Ok(raw),
                Answer::Corrupt(_) => return Err(true),
                Answer::Absent | Answer::Unknown(_) => {}
            }
            left -= 1;
            if left == 0 {
                return Err(false);
            }
            tokio::time::sleep(self.pause(left)).await;
        }
    }

    /// Before the next attempt of those that are left.
    fn pause(&self, left: u32) -> Duration {
        let config = &self.call.client.parts.config;
        config.retry_max.min(config.retry_min * 2u32.pow(COPY_ATTEMPTS - 1 - left))
    }
}

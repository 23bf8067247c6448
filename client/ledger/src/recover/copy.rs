//! Calls of a recovery to one member, repeated where they got no answer, and copies from one to another.

use bytes::Bytes;
use geminga_proto::bookie::{Code, QueryOp, Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{EntryId, Member};

use crate::attempts::Attempts;
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
        let mut attempts = Attempts::endless(&self.client.parts.config);
        loop {
            let reply = self.write(WriteOp::Seal).await;
            if let Some(event) = reply.as_ref().and_then(|reply| Event::from_seal(position, reply))
            {
                return event;
            }
            tracing::debug!(ledger = %self.scope.ledger, member = %self.member, ?reply, "seal got no answer yet");
            attempts.again().await;
        }
    }
}

/// A copy from one member to another, in chunks, verbatim (D2).
pub(super) struct Copy<'a> {
    pub(super) reader: Reader,
    pub(super) call: Call<'a>,
    pub(super) from: Member,
    pub(super) target: usize,
}

/// What an add came to.
enum Added {
    Said(Event),
    /// The target holds so many of the chunk's first entries. They are sent on their own, to be compared (D3), and then the
    /// rest.
    Holds(usize),
}

impl Copy<'_> {
    pub(super) async fn run(&self, first: EntryId, last: EntryId) -> Event {
        let mut next = first;
        let mut tail = first.prev();
        while next <= last {
            let mut entries = match self.read(next, last).await {
                Ok(entries) => entries,
                Err(corrupt) => {
                    let (from, target) = (self.from.clone(), self.target);
                    return Event::SourceFailed { from, target, entry: next, corrupt };
                }
            };
            let mut count = entries.len();
            while !entries.is_empty() {
                let rest = entries.split_off(count);
                match self.add(next, entries.clone()).await {
                    Added::Said(Event::Copied { tail: reached, .. }) => {
                        tail = reached;
                        let added = i64::try_from(count).expect("fewer entries than 2^63");
                        next = EntryId(next.0 + added);
                        (entries, count) = (rest, usize::MAX);
                    }
                    Added::Said(other) => return other,
                    Added::Holds(held) => {
                        entries.extend(rest);
                        count = held;
                    }
                }
                count = count.min(entries.len());
            }
        }
        Event::Copied { target: self.target, tail }
    }

    /// One chunk. What got no answer is sent again a few times: an add that took place is recognised (D3), and one that
    /// is given up costs the whole attempt where no other target is left.
    async fn add(&self, first: EntryId, entries: Vec<Bytes>) -> Added {
        let mut attempts = self.attempts();
        loop {
            let op = WriteOp::RecoveryAdd { first, entries: entries.clone() };
            let reply = self.call.write(op).await;
            if let Some(held) = reply.as_ref().and_then(|reply| held(first, entries.len(), reply)) {
                return Added::Holds(held);
            }
            let event = match reply {
                Some(reply) => Event::from_recovery_add(self.target, &reply),
                None => Event::TargetFailed { target: self.target },
            };
            if !matches!(event, Event::TargetFailed { .. }) || !attempts.again().await {
                return Added::Said(event);
            }
        }
    }

    /// Verified bytes; an error says whether they are there but bad.
    async fn read(&self, from: EntryId, to: EntryId) -> Result<Vec<Bytes>, bool> {
        let max_bytes = self.call.client.parts.config.read_bytes;
        let op = QueryOp::Read { from, to, max_bytes, prefix_bytes: None };
        let mut attempts = self.attempts();
        loop {
            match self.reader.ask(&self.from, self.call.scope.fragment_first, op.clone()).await {
                Answer::Entries(raw, _) => return Ok(raw),
                Answer::Corrupt(_) => return Err(true),
                Answer::Absent | Answer::Unknown(_) => {}
            }
            if !attempts.again().await {
                return Err(false);
            }
        }
    }

    fn attempts(&self) -> Attempts {
        Attempts::of(&self.call.client.parts.config, COPY_ATTEMPTS)
    }
}

/// How many of a chunk's `count` entries a target holds that refused the chunk because it is partly held. It may have been a
/// member before, or have stood in during an earlier attempt.
pub(crate) fn held(first: EntryId, count: usize, reply: &WriteReply) -> Option<usize> {
    let held = reply.staged_tail.0.checked_sub(first.0)?.checked_add(1)?;
    let held = usize::try_from(held).ok()?;
    (reply.code == Code::OutOfOrder && (1..count).contains(&held)).then_some(held)
}

#[cfg(test)]
mod tests;

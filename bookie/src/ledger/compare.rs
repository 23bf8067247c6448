//! Compares entries that were sent again with what is stored (D3): `(ledger, entry)` names one content for ever. An equal
//! answer acknowledges, so it is given only from what is durable (K3, H20).

use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::bookie::{Code, WriteReply};
use geminga_proto::entry;
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId};
use tokio::sync::Semaphore;

use super::owner::io_error;
use crate::log::{Log, Lsn, ReadError};
use crate::metrics;

/// Bytes read at a time.
const CHUNK: usize = 4 * 1024 * 1024;

/// What a comparison came to.
#[derive(Debug)]
pub(super) enum Compared {
    /// All of it is stored, durably.
    Equal,
    /// It is not, or nobody knows.
    Refused(WriteReply),
    /// What is stored has rotted. What was sent passed its digest, and `(ledger, entry)` names one content: it can take the
    /// place of it.
    Rotten(Rotten),
}

/// Entries to be stored again.
#[derive(Debug)]
pub(super) struct Rotten {
    pub(super) first: EntryId,
    pub(super) sent: Vec<Bytes>,
    /// The answer when they cannot be.
    pub(super) refusal: WriteReply,
}

/// One comparison.
#[derive(Debug)]
pub(super) struct Compare {
    pub(super) cluster: ClusterUuid,
    pub(super) log: Log,
    pub(super) turns: Arc<Semaphore>,
    pub(super) ledger: LedgerId,
    /// What the ledger holds is durable once this is.
    pub(super) lsn: Lsn,
    pub(super) first: EntryId,
    pub(super) sent: Vec<Bytes>,
}

impl Compare {
    pub(super) async fn run(self) -> Compared {
        if let Err(failed) = self.log.wait_durable(self.lsn).await {
            return Compared::Refused(io_error(&failed));
        }
        let Ok(_turn) = Arc::clone(&self.turns).acquire_owned().await else {
            return Compared::Refused(WriteReply::refusal(Code::Busy, "the bookie is stopping"));
        };
        let mut next = self.first;
        let mut left = &self.sent[..];
        while let Some(last) = i64::try_from(left.len()).ok().filter(|count| *count > 0) {
            let last = EntryId(next.0 + last - 1);
            let stored = match self.log.read(self.ledger, next, last, CHUNK).await {
                Ok(stored) => stored,
                Err(error @ (ReadError::Absent | ReadError::Corrupt { .. })) => {
                    let refusal = self.unreadable(next, &error);
                    return self.rotten(refusal);
                }
                Err(error @ ReadError::Crowded) => {
                    return Compared::Refused(WriteReply::refusal(Code::Busy, error.to_string()));
                }
                Err(error) => return Compared::Refused(self.unreadable(next, &error)),
            };
            for stored in &stored {
                let Some((sent, rest)) = left.split_first() else { break };
                if sent != stored {
                    let refusal = self.differs(next, stored);
                    return match refusal.code {
                        Code::Corrupt => self.rotten(refusal),
                        _ => Compared::Refused(refusal),
                    };
                }
                (left, next) = (rest, next.next());
            }
        }
        Compared::Equal
    }

    fn rotten(self, refusal: WriteReply) -> Compared {
        Compared::Rotten(Rotten { first: self.first, sent: self.sent, refusal })
    }

    /// Two writers, an id used twice, or a stored copy that has rotted: a human must look.
    fn differs(&self, entry: EntryId, stored: &Bytes) -> WriteReply {
        metrics::damaged();
        if let Err(error) = entry::decode_expecting(self.cluster, self.ledger, entry, stored) {
            tracing::error!(ledger = %self.ledger, entry = entry.0, %error, "a stored entry is damaged");
            return WriteReply::refusal(Code::Corrupt, format!("entry {entry}: {error}"));
        }
        tracing::error!(ledger = %self.ledger, entry = entry.0, "an entry was sent again with other content; the stored one is kept");
        WriteReply::refusal(Code::Conflict, format!("entry {entry} is stored with other content"))
    }

    fn unreadable(&self, entry: EntryId, error: &ReadError) -> WriteReply {
        metrics::damaged();
        tracing::error!(ledger = %self.ledger, entry = entry.0, %error, "a stored entry cannot be compared");
        let code = match error {
            ReadError::Absent | ReadError::Corrupt { .. } => Code::Corrupt,
            ReadError::Crowded => Code::Busy,
            ReadError::Failed(_) | ReadError::Index { .. } | ReadError::Io { .. } => Code::IoError,
        };
        WriteReply::refusal(code, format!("entry {entry} is held, but cannot be read: {error}"))
    }
}

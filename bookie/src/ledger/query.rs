//! What changes nothing: reading entries, and waiting for the LAC to move.
//!
//! K1 is the rule here: absence is said only when the index, which is whole, has no such entry. A ledger that was deleted, an
//! entry that cannot be read or fails its digest, a log that failed: all of these are *unknown*.
//!
//! A read of recent entries waits for nothing. One of old entries waits for the disk in its ledger's line, inside the log; no other
//! queue stands before that, or one ledger's reads would hold up those of others there. But for reads of prefixes, which look through
//! much: few are under way at a time, so those of a ledger with a long line hold up those of others.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::OptionFuture;
use geminga_proto::bookie::{Code, QueryOp, QueryReply, QueryRequest};
use geminga_proto::entry;
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId};
use tokio::sync::{Semaphore, TryAcquireError};

use super::inventory;
use super::mutation::{Mutation, Mutations};
use super::owner::BROKEN;
use super::state::{GIVEN_UP, pointer};
use super::table::{Standing, Table};
use crate::log::{Log, Lsn, ReadError};
use crate::metrics;

/// Most bytes of entries in one reply, but for a single larger entry.
pub(crate) const MAX_READ_BYTES: usize = 8 * 1024 * 1024;
/// Most bytes looked through for one reply of prefixes.
const MAX_SCAN_BYTES: usize = 32 * 1024 * 1024;
/// Most entries in one reply.
const MAX_READ_ENTRIES: usize = 16 * 1024;
/// Longest wait for the LAC.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What queries of one disk work with.
#[derive(Debug, Clone)]
pub(super) struct Queries {
    pub(super) cluster: ClusterUuid,
    pub(super) authoritative: bool,
    pub(super) log: Log,
    /// Bounds who looks through much for little: more bytes than its stream has room for.
    pub(super) scanning: Arc<Semaphore>,
    /// Bounds who waits for a LAC.
    pub(super) waiting: Arc<Semaphore>,
    /// None but in tests.
    pub(super) mutations: Mutations,
}

/// A ledger as a query sees it.
#[derive(Debug, Clone, Copy)]
struct View {
    standing: Standing,
    /// Last entry of the run that the asked one belongs to; before it when it is not held.
    tail: EntryId,
    /// What is held is durable once this is.
    lsn: Lsn,
    broken: bool,
    given_up: bool,
}

/// What is to be read.
#[derive(Debug, Clone, Copy)]
struct Range {
    ledger: LedgerId,
    from: EntryId,
    to: EntryId,
    max_bytes: usize,
    prefix_bytes: Option<u32>,
}

impl Queries {
    /// Answers a query that was routed here. Cancel-safe.
    pub(super) async fn answer(&self, table: &Table, request: QueryRequest) -> QueryReply {
        let ledger = request.scope.ledger;
        match request.op {
            QueryOp::Read { from, to, max_bytes, prefix_bytes } => {
                let max_bytes = (max_bytes as usize).min(MAX_READ_BYTES);
                let range = Range { ledger, from, to, max_bytes, prefix_bytes };
                self.read(table, range).await
            }
            QueryOp::WaitLac { after, deadline_ms } => {
                let wait = Duration::from_millis(u64::from(deadline_ms)).min(MAX_WAIT);
                self.wait_lac(table, ledger, after, wait).await
            }
            QueryOp::Inventory { after, max_ledgers } => {
                self.inventory([table].into_iter(), after, max_ledgers)
            }
        }
    }

    /// One page of what the tables of a disk hold.
    pub(super) fn inventory<'a>(
        &self,
        tables: impl Iterator<Item = &'a Table>,
        after: Option<LedgerId>,
        max_ledgers: u32,
    ) -> QueryReply {
        inventory::page(tables, &self.log, after, max_ledgers)
    }

    fn view(&self, table: &Table, ledger: LedgerId, from: EntryId) -> Result<View, QueryReply> {
        let mut slots = table.lock();
        let Some(slot) = slots.get(ledger) else {
            return Err(self.no_such_ledger(slots.is_deleted(ledger)));
        };
        // T4: never a negative.
        if let Some(attempt) = slot.state.trimmed() {
            return Err(QueryReply::refusal(Code::Trimmed, pointer(attempt)));
        }
        let tail = slot.state.held().tail(from);
        let (standing, lsn) = (slot.standing(), slot.lsn);
        let (broken, given_up) = (slot.broken, slot.state.is_given_up());
        Ok(View { standing, tail, lsn, broken, given_up })
    }

    fn no_such_ledger(&self, deleted: bool) -> QueryReply {
        if deleted {
            QueryReply::refusal(Code::Deleted, "the ledger was deleted")
        } else if self.authoritative {
            QueryReply::refusal(Code::NoSuchLedger, "this disk never had the ledger")
        } else {
            QueryReply::refusal(Code::Limbo, "this disk lost data and does not know")
        }
    }

    async fn read(&self, table: &Table, range: Range) -> QueryReply {
        let view = match self.view(table, range.ledger, range.from) {
            Ok(view) => view,
            Err(refusal) => return refusal,
        };
        if view.broken {
            return QueryReply::refusal(Code::IoError, BROKEN);
        }
        let reply = |code, detail: String| {
            let Standing { lac, sealed, .. } = view.standing;
            QueryReply { lac, sealed, ..QueryReply::refusal(code, detail) }
        };
        if view.tail < range.from {
            return match self.authoritative {
                true if view.given_up && !self.mutations.is(Mutation::VouchAfterGivingUp) => {
                    reply(Code::Limbo, GIVEN_UP.to_owned())
                }
                true => reply(Code::NoSuchEntry, String::new()),
                false => reply(Code::Limbo, "this disk lost data and does not know".to_owned()),
            };
        }
        let range = Range { to: range.to.min(view.tail), ..range };
        match self.collect(range, view.lsn).await {
            Ok(entries) => {
                metrics::read_bytes(entries.iter().map(Bytes::len).sum());
                QueryReply { entries, ..reply(Code::Ok, String::new()) }
            }
            Err(Unreadable { why, .. }) if self.mutations.is(Mutation::SayAbsent) => {
                reply(Code::NoSuchEntry, why)
            }
            Err(Unreadable { code, why }) => reply(code, why),
        }
    }

    /// Verified entries, as many as fit but at least one.
    async fn collect(&self, range: Range, lsn: Lsn) -> Result<Vec<Bytes>, Unreadable> {
        let scans = range.prefix_bytes.is_some() && range.from < range.to;
        let scanning = OptionFuture::from(scans.then(|| self.scanning.acquire())).await;
        let Ok(_scanning) = scanning.transpose() else {
            return Err(Unreadable { code: Code::Busy, why: "the bookie is stopping".to_owned() });
        };
        let (mut entries, mut bytes, mut scanned) = (Vec::new(), 0, 0);
        let mut next = range.from;
        while next <= range.to && scanned < MAX_SCAN_BYTES && entries.len() < MAX_READ_ENTRIES {
            let chunk = match range.prefix_bytes {
                None => range.max_bytes - bytes,
                Some(_) => MAX_READ_BYTES,
            };
            let stored = match self.stored(Range { from: next, ..range }, lsn, chunk).await {
                Ok(stored) => stored,
                Err(_) if !entries.is_empty() => break,
                Err(unreadable) => return Err(unreadable),
            };
            for stored in stored {
                let cut = match self.verify(range, next, &stored) {
                    Ok(cut) => cut,
                    Err(_) if !entries.is_empty() => return Ok(entries),
                    Err(unreadable) => return Err(unreadable),
                };
                if !entries.is_empty() && bytes + cut.len() > range.max_bytes {
                    return Ok(entries);
                }
                (bytes, scanned, next) = (bytes + cut.len(), scanned + stored.len(), next.next());
                entries.push(cut);
            }
            if bytes >= range.max_bytes || range.prefix_bytes.is_none() {
                break;
            }
        }
        Ok(entries)
    }

    /// Raw entries. One that is held but not durable yet is waited for.
    async fn stored(&self, range: Range, lsn: Lsn, bytes: usize) -> Result<Vec<Bytes>, Unreadable> {
        let Range { ledger, from, to, max_bytes: _, prefix_bytes } = range;
        let read = async || match prefix_bytes {
            None => self.log.read(ledger, from, to, bytes).await,
            Some(_) => self.log.scan(ledger, from, to, bytes).await,
        };
        let result = match read().await {
            Err(ReadError::Absent) => {
                self.log.wait_durable(lsn).await.map_err(|failed| Unreadable {
                    code: Code::IoError,
                    why: failed.to_string(),
                })?;
                read().await
            }
            result => result,
        };
        result.map_err(|error| {
            if matches!(error, ReadError::Crowded) {
                return Unreadable { code: Code::Busy, why: error.to_string() };
            }
            metrics::damaged();
            tracing::error!(ledger = %range.ledger, entry = range.from.0, %error, "a stored entry cannot be read");
            if matches!(error, ReadError::Absent) {
                // Forgotten when it rotted: whoever marked it then may be forgotten as well.
                self.log.note_damaged(range.ledger);
            }
            let code = match error {
                // The ledger holds it, so this is no absence, whatever the log says (K1).
                ReadError::Absent | ReadError::Corrupt { .. } => Code::Corrupt,
                ReadError::Crowded => Code::Busy,
                ReadError::Failed(_) | ReadError::Index { .. } | ReadError::Io { .. } => Code::IoError,
            };
            Unreadable { code, why: error.to_string() }
        })
    }

    /// D1: the entry is whole and the one that was asked for. Cut down where only a prefix is wanted.
    fn verify(&self, range: Range, id: EntryId, stored: &Bytes) -> Result<Bytes, Unreadable> {
        let verified = entry::decode_expecting(self.cluster, range.ledger, id, stored);
        let cut = verified.and_then(|_| match range.prefix_bytes {
            Some(prefix_bytes) => entry::prefix(stored, prefix_bytes),
            None => Ok(stored.clone()),
        });
        cut.map_err(|error| {
            metrics::damaged();
            self.log.note_damaged(range.ledger);
            tracing::error!(ledger = %range.ledger, entry = id.0, %error, "a stored entry is damaged");
            Unreadable { code: Code::Corrupt, why: format!("entry {id}: {error}") }
        })
    }

    async fn wait_lac(
        &self,
        table: &Table,
        ledger: LedgerId,
        after: EntryId,
        wait: Duration,
    ) -> QueryReply {
        let turn = match Arc::clone(&self.waiting).try_acquire_owned() {
            Ok(turn) => turn,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => {
                return QueryReply::refusal(Code::Busy, "too many readers wait at this bookie");
            }
        };
        let mut standing = {
            let mut slots = table.lock();
            match slots.get(ledger) {
                Some(slot) if slot.broken => return QueryReply::refusal(Code::IoError, BROKEN),
                Some(slot) => slot.watch(),
                None => return self.no_such_ledger(slots.is_deleted(ledger)),
            }
        };
        let moved = |now: &Standing| now.lac > after || now.sealed || now.deleted;
        let ended =
            tokio::time::timeout(wait, standing.wait_for(moved)).await.is_ok_and(|r| r.is_err());
        let now = *standing.borrow();
        drop(turn);
        if now.deleted {
            return QueryReply::refusal(Code::Deleted, "the ledger was deleted");
        }
        if ended {
            return QueryReply::refusal(Code::Busy, "the bookie is stopping");
        }
        let Standing { lac, sealed, .. } = now;
        QueryReply { lac, sealed, ..QueryReply::refusal(Code::Ok, "") }
    }
}

/// An entry that is held but cannot be given.
#[derive(Debug)]
struct Unreadable {
    code: Code,
    why: String,
}

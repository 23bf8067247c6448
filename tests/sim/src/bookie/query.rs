//! Reads at a bookie, by the rules of the production service: absence only where the ledger's own state says so (K1).

use bytes::Bytes;
use geminga_bookie::ledger::Mutation;
use geminga_bookie::log::ReadError;
use geminga_proto::bookie::{Code, QueryOp, QueryReply, QueryRequest};
use geminga_proto::entry;
use geminga_proto::ids::{EntryId, LedgerId};

use super::process::Process;
use crate::context::{Context, cluster};

impl Process {
    /// Answers a read; `damaged`: bits of this disk were flipped.
    pub(super) fn answer(
        &self,
        request: &QueryRequest,
        damaged: bool,
        context: &mut Context,
    ) -> QueryReply {
        let scope = &request.scope;
        if scope.incarnation != self.me.member.incarnation {
            return QueryReply::refusal(Code::WrongIncarnation, "");
        }
        let QueryOp::Read { from, to, max_bytes, .. } = request.op else {
            return QueryReply::refusal(Code::Invalid, "the simulator only reads");
        };
        let reply = self.read(scope.ledger, from, to, max_bytes as usize);
        if reply.code == Code::Corrupt {
            context.coverage.hit("disk: damaged copy read");
            if !damaged {
                let detail = format!("{}, ledger {}: {from}", self.me.member, scope.ledger);
                context.truth.violated("D1: a good disk has good entries", detail);
            }
        }
        context.truth.read(&self.me.member, scope.ledger, from, &reply);
        reply
    }

    fn read(&self, ledger: LedgerId, from: EntryId, to: EntryId, max_bytes: usize) -> QueryReply {
        if self.tombstones.contains(ledger) {
            return QueryReply::refusal(Code::Deleted, "");
        }
        let Some(slot) = self.ledgers.get(&ledger) else {
            return QueryReply::refusal(Code::NoSuchLedger, "");
        };
        if slot.state.trimmed().is_some() {
            return QueryReply::refusal(Code::Trimmed, "");
        }
        let lac = slot.state.max_lac();
        let reply = |code| QueryReply { lac, ..QueryReply::refusal(code, "") };
        let tail = slot.state.held().tail(from);
        if tail < from {
            let vouches = self.me.mutations.is(Mutation::VouchAfterGivingUp);
            return match slot.state.is_given_up() && !vouches {
                true => reply(Code::Limbo),
                false => reply(Code::NoSuchEntry),
            };
        }
        if slot.lsn > self.log.durable().borrow().lsn {
            // In production such a read waits; here its caller asks again.
            return reply(Code::Busy);
        }
        match self.log.read_blocking(ledger, from, to.min(tail), max_bytes) {
            Ok(entries) => match self.good(ledger, from, entries) {
                entries if entries.is_empty() => reply(Code::Corrupt),
                entries => QueryReply { entries, ..reply(Code::Ok) },
            },
            Err(ReadError::Absent | ReadError::Corrupt { .. }) => reply(Code::Corrupt),
            Err(ReadError::Crowded) => reply(Code::Busy),
            Err(ReadError::Failed(_) | ReadError::Index { .. } | ReadError::Io { .. }) => {
                reply(Code::IoError)
            }
        }
    }

    /// The leading entries whose digests are right (D1).
    fn good(&self, ledger: LedgerId, from: EntryId, mut entries: Vec<Bytes>) -> Vec<Bytes> {
        let ids = (from.0..).map(EntryId);
        let whole = ids.zip(&entries).take_while(|(id, bytes)| {
            entry::decode_expecting(cluster(), ledger, *id, bytes).is_ok()
        });
        let count = whole.count();
        entries.truncate(count);
        entries
    }

    /// Every entry of a ledger that it can deliver.
    pub(super) fn read_all(&self, ledger: LedgerId) -> Vec<(i64, Bytes)> {
        let Some(slot) = self.ledgers.get(&ledger) else { return Vec::new() };
        let mut all = Vec::new();
        for (first, last) in slot.state.held().runs() {
            for entry in (first.0..=last.0).map(EntryId) {
                if let Ok(read) = self.log.read_blocking(ledger, entry, entry, 1) {
                    all.extend(self.good(ledger, entry, read).into_iter().map(|b| (entry.0, b)));
                }
            }
        }
        all
    }
}

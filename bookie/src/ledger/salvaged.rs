//! What is left of a lost life of a disk, under the incarnation of that life (protocol 5.7, loss boot): what is there is read, what
//! is not is unknown, and nothing is ever added. A seal finds it sealed already, for nothing can be added, and is told a tail
//! that counts for nobody: it is not authoritative.

use std::sync::Arc;

use geminga_proto::bookie::{
    Code, QueryReply, QueryRequest, Scope, WriteOp, WriteReply, WriteRequest,
};
use geminga_proto::ids::{ClusterUuid, EntryId, Member, SealEpoch};
use tokio::sync::Semaphore;

use super::mutation::Mutations;
use super::query::Queries;
use super::table::Table;
use crate::log::Opened;

/// Reads that look through much for little at a time.
const SCANS: usize = 8;

/// The ledgers of a lost life.
#[derive(Debug)]
pub(crate) struct Salvaged {
    member: Member,
    table: Table,
    queries: Queries,
}

impl Salvaged {
    /// From what was found. `waiting` bounds who waits for a LAC.
    pub(crate) fn new(
        cluster: ClusterUuid,
        member: Member,
        opened: Opened,
        waiting: Arc<Semaphore>,
    ) -> Self {
        let table = Table::default();
        table.load(opened.ledgers, &opened.tombstones);
        let queries = Queries {
            cluster,
            authoritative: false,
            log: opened.log,
            scanning: Arc::new(Semaphore::new(SCANS)),
            waiting,
            mutations: Mutations::default(),
        };
        Self { member, table, queries }
    }

    /// The bookie under the lost incarnation.
    pub(crate) fn member(&self) -> &Member {
        &self.member
    }

    /// Answers a write: nothing is stored.
    pub(crate) fn write(&self, request: &WriteRequest) -> WriteReply {
        let WriteRequest { scope, op } = request;
        match op {
            // What is there may be copied; what is not, nobody knows.
            WriteOp::Seal | WriteOp::Tail => self.seal(scope),
            _ => WriteReply::refusal(Code::Limbo, "this life of the disk was lost"),
        }
    }

    fn seal(&self, scope: &Scope) -> WriteReply {
        let mut slots = self.table.lock();
        if slots.is_deleted(scope.ledger) {
            return WriteReply::refusal(Code::Deleted, "the ledger was deleted");
        }
        let first = scope.fragment_first;
        let state = slots.get(scope.ledger).map(|slot| &slot.state);
        let tail = state.map_or(first.prev(), |state| state.held().tail(first));
        WriteReply {
            durable_tail: tail,
            staged_tail: tail,
            sealed_epoch: state.map_or(SealEpoch(0), |s| s.sealed_epoch()).max(scope.epoch),
            max_lac: state.map_or(EntryId::NONE, |state| state.max_lac()),
            authoritative: false,
            ..WriteReply::refusal(Code::Ok, "")
        }
    }

    /// Answers a query. Cancel-safe.
    pub(crate) async fn query(&self, request: QueryRequest) -> QueryReply {
        self.queries.answer(&self.table, request).await
    }
}

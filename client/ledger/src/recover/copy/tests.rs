use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_metastore::record::{LedgerMeta, LedgerState, LiveBookie};
use geminga_metastore::{LedgerIds, MemoryStore, MetaStore};
use geminga_proto::bookie::{QueryReply, QueryRequest};
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{BookieId, ClusterUuid, Incarnation, SealEpoch};
use geminga_proto::payload::Payload;
use geminga_runtime::{SeededRandom, SystemClock, Tasks};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;
use crate::client::Parts;
use crate::config::Config;
use crate::connection::{BookieConnection, Bookies, ConnectionLost};
use crate::recover::tests::{LEDGER, member, open};

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(1)
}

fn stored(id: i64) -> Bytes {
    let entry = EntryId(id);
    let position = Position { ledger: LEDGER, entry, lac: EntryId::NONE, cumulative_length: 0 };
    let attributes = Attributes {
        kind: Kind::Barrier,
        first_offset: 0,
        offset_count: 0,
        max_timestamp: -1,
        running_max_timestamp: -1,
        last_snapshot_entry: NO_SNAPSHOT,
    };
    entry::encode(cluster(), position, attributes, &Payload::default()).unwrap()
}

/// A source that has every entry, and a target that takes what follows on what it has, by the rules of a bookie.
#[derive(Debug, Clone)]
struct Both {
    tail: Arc<Mutex<EntryId>>,
    adds: Arc<Mutex<Vec<(i64, usize)>>>,
}

impl BookieConnection for Both {
    fn write(
        &self,
        request: WriteRequest,
    ) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        let WriteOp::RecoveryAdd { first, entries } = request.op else { panic!("only copies") };
        self.adds.lock().push((first.0, entries.len()));
        let mut tail = self.tail.lock();
        let last = EntryId(first.0 + i64::try_from(entries.len()).unwrap() - 1);
        let mut reply = WriteReply::refusal(Code::Ok, "");
        if last > *tail && first != tail.next() {
            reply.code = Code::OutOfOrder;
            reply.staged_tail = *tail;
        } else {
            *tail = (*tail).max(last);
            (reply.durable_tail, reply.staged_tail) = (last, last);
        }
        std::future::ready(Ok(reply)).boxed()
    }

    fn query(
        &self,
        request: QueryRequest,
    ) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        let QueryOp::Read { from, to, .. } = request.op else { panic!("only reads") };
        let entries = (from.0..=to.0).map(stored).collect();
        let reply = QueryReply { entries, ..QueryReply::refusal(Code::Ok, "") };
        std::future::ready(Ok(reply)).boxed()
    }
}

impl Bookies for Both {
    fn connection(&self, _: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        Ok(Arc::new(self.clone()))
    }

    fn live(&self) -> Vec<LiveBookie> {
        Vec::new()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

fn meta() -> LedgerMeta {
    LedgerMeta { state: LedgerState::InRecovery, seal_epoch: SealEpoch(1), ..open() }
}

/// Copies 13 to 20 to a target that has everything up to `tail`; returns the event and the adds.
async fn copied(tail: i64) -> (Event, Vec<(i64, usize)>) {
    let both = Both { tail: Arc::new(Mutex::new(EntryId(tail))), adds: Arc::default() };
    let store: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
    let client = LedgerClient::new(Parts {
        cluster: cluster(),
        ids: Arc::new(LedgerIds::new(Arc::clone(&store), 0)),
        store,
        bookies: Arc::new(both.clone()),
        clock: Arc::new(SystemClock),
        random: Arc::new(SeededRandom::new(1)),
        tasks: Tasks::new("test"),
        config: Config::default(),
        owner: "test".to_owned(),
    });
    let scope = Scope {
        cluster: cluster(),
        ledger: LEDGER,
        fragment_first: EntryId(13),
        epoch: SealEpoch(1),
        incarnation: Incarnation(3),
    };
    let call = Call { client: &client, member: member(3), scope };
    let reader = client.reader(Arc::new(meta()));
    let copy = Copy { reader, call, from: member(1), target: 1 };
    let event = copy.run(EntryId(13), EntryId(20)).await;
    let adds = both.adds.lock().clone();
    (event, adds)
}

/// A stand-in may have been a member before, or have stood in during an attempt that was cut short: a chunk that it holds in
/// part is no reason to give it up.
#[tokio::test(start_paused = true)]
async fn a_target_that_holds_some_of_a_chunk_takes_the_rest() {
    let all = Event::Copied { target: 1, tail: EntryId(20) };
    assert_eq!(copied(12).await, (all.clone(), vec![(13, 8)]));
    assert_eq!(copied(15).await, (all.clone(), vec![(13, 8), (13, 3), (16, 5)]));
    assert_eq!(copied(19).await, (all.clone(), vec![(13, 8), (13, 7), (20, 1)]));
    assert_eq!(copied(20).await, (all, vec![(13, 8)]));
}

/// One that lacks what comes before is none to copy to.
#[tokio::test(start_paused = true)]
async fn a_target_with_a_gap_fails() {
    let (event, adds) = copied(11).await;
    assert_eq!(event, Event::TargetFailed { target: 1 });
    assert_eq!(adds, [(13, 8); 4]);
}

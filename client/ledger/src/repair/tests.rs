//! A whole repair over bookies that are made up.

use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_metastore::record::{
    CloseKind, Custom, Digest, Fragment, LedgerState, LiveBookie, LiveDisk, UnderReason,
};
use geminga_metastore::{LeaseId, LedgerIds, MemoryStore, MetaStore};
use geminga_proto::bookie::{QueryReply, QueryRequest};
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{BookieId, ClusterUuid, Incarnation};
use geminga_proto::payload::Payload;
use geminga_runtime::{SeededRandom, SystemClock, Tasks};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::*;
use crate::client::Parts;
use crate::config::Config;
use crate::connection::{BookieConnection, Bookies, ConnectionLost};

const LEDGER: LedgerId = LedgerId(7);
const LAST: i64 = 3;

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(1)
}

fn stored(id: EntryId) -> Bytes {
    let position = Position { ledger: LEDGER, entry: id, lac: EntryId::NONE, cumulative_length: 0 };
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

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

/// Bookies 1 and 3, and what was sent to the third. Both say that they hold everything.
#[derive(Debug, Clone, Default)]
struct Cluster(Arc<Mutex<Vec<EntryId>>>);

#[derive(Debug)]
struct One(Cluster);

impl BookieConnection for One {
    fn write(
        &self,
        request: WriteRequest,
    ) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        if let WriteOp::RepairAdd { first, entries } = request.op {
            let last = first.0 + i64::try_from(entries.len()).unwrap();
            self.0.0.lock().extend((first.0..last).map(EntryId));
        }
        let reply = WriteReply {
            durable_tail: EntryId(LAST),
            staged_tail: EntryId(LAST),
            authoritative: true,
            ..WriteReply::refusal(Code::Ok, "")
        };
        std::future::ready(Ok(reply)).boxed()
    }

    fn query(
        &self,
        request: QueryRequest,
    ) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        let QueryOp::Read { from, to, .. } = request.op else { panic!("only reads") };
        let entries = (from.0..=to.0).map(|id| stored(EntryId(id))).collect();
        let reply = QueryReply { entries, ..QueryReply::refusal(Code::Ok, "") };
        std::future::ready(Ok(reply)).boxed()
    }
}

impl Bookies for Cluster {
    fn connection(&self, bookie: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        match bookie.as_str() {
            "b1" | "b3" => Ok(Arc::new(One(self.clone()))),
            _ => Err(ConnectionLost { bookie: bookie.clone(), why: "away".to_owned() }),
        }
    }

    fn live(&self) -> Vec<LiveBookie> {
        let bookie = |number| LiveBookie {
            id: member(number).bookie,
            address: String::new(),
            http_address: String::new(),
            zone: String::new(),
            rack: String::new(),
            disks: vec![LiveDisk {
                incarnation: member(number).incarnation,
                writable: true,
                free_bytes: 1 << 40,
                total_bytes: 1 << 41,
            }],
            lease: LeaseId(1),
            started_ms: 0,
            repair_rate: 0,
        };
        vec![bookie(1), bookie(3)]
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

fn closed() -> LedgerMeta {
    LedgerMeta {
        id: LEDGER,
        state: LedgerState::Closed,
        seal_epoch: geminga_proto::ids::SealEpoch(0),
        qw: 2,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble: vec![member(1), member(2)] }],
        last_entry: Some(EntryId(LAST)),
        length: 0,
        entries_crc: None,
        close_kind: Some(CloseKind::Writer),
        recoverer: String::new(),
        last_op: 1,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
        tier: geminga_metastore::record::Tier::Local,
    }
}

/// A2: its tail says that the newcomer has everything, from when it was a member; what has rotted there since is not in its tail.
#[tokio::test(start_paused = true)]
async fn a_place_is_given_only_for_what_was_sent() {
    let store: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
    store.put_if(&keys::ledger(LEDGER), None, closed().encode()).await.unwrap().unwrap();
    let lost = [member(2)];
    crate::mark_under(&*store, LEDGER, &lost, UnderReason::Lost, 0).await.unwrap();
    let bookies = Cluster::default();
    let client = LedgerClient::new(Parts {
        cluster: cluster(),
        ids: Arc::new(LedgerIds::new(Arc::clone(&store), 0)),
        store,
        bookies: Arc::new(bookies.clone()),
        clock: Arc::new(SystemClock),
        random: Arc::new(SeededRandom::new(1)),
        tasks: Tasks::new("test"),
        config: Config::default(),
        owner: "test".to_owned(),
    });
    assert_eq!(repair(&client, LEDGER, &Throttle::new(0)).await.unwrap(), Finish::Clean);
    let (meta, _) = client.metadata(LEDGER).await.unwrap().unwrap();
    assert_eq!(meta.last_fragment().ensemble, [member(1), member(3)]);
    let sent = bookies.0.lock().clone();
    assert_eq!(sent, (0..=LAST).map(EntryId).collect::<Vec<_>>());
}

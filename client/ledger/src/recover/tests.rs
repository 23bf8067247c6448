//! A whole attempt over bookies that are made up.

use bytes::Bytes;
use geminga_metastore::record::{Custom, Digest, Features, Fragment, LiveBookie, LiveDisk, Tier};
use geminga_metastore::{LeaseId, LedgerIds, MemoryStore, MetaStore};
use geminga_proto::bookie::{Code, QueryOp, QueryReply, QueryRequest, WriteReply};
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{BookieId, ClusterUuid, Incarnation};
use geminga_proto::payload::Payload;
use geminga_runtime::{SeededRandom, SystemClock, Tasks};
use tokio::sync::watch;

use super::*;
use crate::client::Parts;
use crate::config::Config;
use crate::connection::{BookieConnection, Bookies, ConnectionLost};

pub(super) const LEDGER: LedgerId = LedgerId(7);
/// What the only entry says of the ledger's length.
const LENGTH: u64 = 99;

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(1)
}

fn stored() -> Bytes {
    let position = Position {
        ledger: LEDGER,
        entry: EntryId(0),
        lac: EntryId::NONE,
        cumulative_length: LENGTH,
    };
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

pub(super) fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

/// Bookies 1 to 3. The first holds the entry and delivers it for a copy only, as if it died then; the second is away; the
/// third takes copies and delivers them.
#[derive(Debug, Clone)]
struct Three(u64);

impl BookieConnection for Three {
    fn write(
        &self,
        request: WriteRequest,
    ) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        let tail = EntryId(0);
        let reply = WriteReply {
            durable_tail: tail,
            staged_tail: tail,
            max_lac: EntryId::NONE,
            authoritative: true,
            sealed_epoch: request.scope.epoch,
            ..WriteReply::refusal(Code::Ok, "")
        };
        std::future::ready(Ok(reply)).boxed()
    }

    fn query(
        &self,
        request: QueryRequest,
    ) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        let QueryOp::Read { prefix_bytes, .. } = request.op else { panic!("only reads") };
        let copying = prefix_bytes.is_none();
        let reply = match (self.0, copying) {
            (1, true) | (3, _) => {
                QueryReply { entries: vec![stored()], ..QueryReply::refusal(Code::Ok, "") }
            }
            _ => QueryReply::refusal(Code::Busy, "dying"),
        };
        std::future::ready(Ok(reply)).boxed()
    }
}

#[derive(Debug)]
struct Cluster;

impl Bookies for Cluster {
    fn connection(&self, bookie: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        match bookie.as_str() {
            "b1" => Ok(Arc::new(Three(1))),
            "b3" => Ok(Arc::new(Three(3))),
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
            objects_missing: None,
            features: Features::ALL,
        };
        vec![bookie(1), bookie(3)]
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

/// One of two members and no end.
pub(super) fn open() -> LedgerMeta {
    LedgerMeta {
        id: LEDGER,
        state: LedgerState::Open,
        seal_epoch: SealEpoch(0),
        qw: 2,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble: vec![member(1), member(2)] }],
        last_entry: None,
        length: 0,
        entries_crc: None,
        tier: Tier::Local,
        close_kind: None,
        recoverer: String::new(),
        last_op: 1,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    }
}

/// 4.3: whoever stood in for a member holds the last entry, too, and tells the length when its source died.
#[tokio::test(start_paused = true)]
async fn a_stand_in_tells_the_length() {
    let store: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
    store.put_if(&keys::ledger(LEDGER), None, open().encode()).await.unwrap().unwrap();
    let client = LedgerClient::new(Parts {
        cluster: cluster(),
        ids: Arc::new(LedgerIds::new(Arc::clone(&store), 0)),
        store,
        bookies: Arc::new(Cluster),
        clock: Arc::new(SystemClock),
        random: Arc::new(SeededRandom::new(1)),
        tasks: Tasks::new("test"),
        config: Config::default(),
        owner: "test".to_owned(),
    });
    let closed = recover(&client, LEDGER, QuorumLoss::Stop).await.unwrap();
    assert_eq!(closed.last_fragment().ensemble, [member(1), member(3)]);
    assert_eq!((closed.last_entry, closed.length), (Some(EntryId(0)), LENGTH));
}

//! Where a ledger ends that is given up, by who is away, who does not come back, and what the others say.

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_metastore::record::{CookieDisk, LedgerState, LiveBookie};
use geminga_metastore::{
    Error as MetaError, LeaseId, LedgerIds, MemoryStore, MetaStore, Range, Revision, Txn,
    TxnOutcome, Versioned, WatchStream,
};
use geminga_proto::bookie::{Code, QueryReply, QueryRequest, WriteReply, WriteRequest};
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{BookieId, ClusterUuid, DiskUuid, Incarnation, SealEpoch};
use geminga_proto::payload::Payload;
use geminga_runtime::{SeededRandom, SystemClock, Tasks};
use tokio::sync::watch;

use super::*;
use crate::client::Parts;
use crate::config::Config;
use crate::connection::{BookieConnection, Bookies, ConnectionLost};
use crate::recover::tests::{LEDGER, member, open};

/// The last entry that somebody delivers, and the one that was the ledger's last.
const DELIVERED: i64 = 2;
const LAST: EntryId = EntryId(9);

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(1)
}

/// Ten bytes each.
fn stored(id: EntryId) -> Bytes {
    let cumulative_length = 10 * (id.0.unsigned_abs() + 1);
    let position = Position { ledger: LEDGER, entry: id, lac: EntryId::NONE, cumulative_length };
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

/// Bookie 1, which delivers the first entries and says this of others; bookie 2 is away.
#[derive(Debug, Clone)]
struct One(Code);

impl BookieConnection for One {
    fn write(&self, _: WriteRequest) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        panic!("nobody writes");
    }

    fn query(
        &self,
        request: QueryRequest,
    ) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        let QueryOp::Read { from, .. } = request.op else { panic!("only reads") };
        let reply = match from.0 <= DELIVERED {
            true => QueryReply { entries: vec![stored(from)], ..QueryReply::refusal(Code::Ok, "") },
            false => QueryReply::refusal(self.0, ""),
        };
        std::future::ready(Ok(reply)).boxed()
    }
}

impl Bookies for One {
    fn connection(&self, bookie: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        match bookie.as_str() {
            "b1" => Ok(Arc::new(self.clone())),
            _ => Err(ConnectionLost { bookie: bookie.clone(), why: "away".to_owned() }),
        }
    }

    fn live(&self) -> Vec<LiveBookie> {
        Vec::new()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

/// A store that does not answer questions about bookies, or does.
#[derive(Debug)]
struct Silent(MemoryStore, bool);

#[async_trait]
impl MetaStore for Silent {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, MetaError> {
        match self.1 && key.starts_with(keys::BOOKIE_COOKIES) {
            true => Err(MetaError::Unavailable("on purpose".to_owned())),
            false => self.0.get(key).await,
        }
    }
    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Range, MetaError> {
        self.0.range(prefix, after, limit).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, MetaError> {
        self.0.txn(txn).await
    }
    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, MetaError> {
        self.0.watch(prefix, from).await
    }
    async fn grant_lease(&self, ttl: std::time::Duration) -> Result<LeaseId, MetaError> {
        self.0.grant_lease(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.0.keep_alive(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), MetaError> {
        self.0.revoke_lease(lease).await
    }
}

/// What the metadata store says of a bookie whose disk lives this life.
fn cookie(number: u64, life: u64) -> Bytes {
    let disk = CookieDisk {
        disk: DiskUuid::from_random(3),
        incarnation: Incarnation(life),
        boot_counter: 1,
        lost: Vec::new(),
    };
    Cookie { cluster: cluster(), bookie: member(number).bookie, disks: vec![disk] }.encode()
}

fn meta() -> LedgerMeta {
    LedgerMeta { state: LedgerState::InRecovery, seal_epoch: SealEpoch(1), ..open() }
}

/// Where it ends when bookie 1 says this of the last entries, and the store says that of bookie 2.
async fn found(one: Code, two: Option<Bytes>, silent: bool) -> Event {
    let memory = MemoryStore::new();
    let cookies = [(1, Some(cookie(1, 1))), (2, two)];
    for (number, cookie) in cookies.into_iter().filter_map(|(n, cookie)| Some((n, cookie?))) {
        let key = keys::bookie_cookie(&member(number).bookie);
        memory.put_if(&key, None, cookie).await.unwrap().unwrap();
    }
    let store: Arc<dyn MetaStore> = Arc::new(Silent(memory, silent));
    let client = LedgerClient::new(Parts {
        cluster: cluster(),
        ids: Arc::new(LedgerIds::new(Arc::clone(&store), 0)),
        store,
        bookies: Arc::new(One(one)),
        clock: Arc::new(SystemClock),
        random: Arc::new(SeededRandom::new(1)),
        tasks: Tasks::new("test"),
        config: Config::default(),
        owner: "test".to_owned(),
    });
    find(&client, meta(), LAST).await
}

/// 4.8: what a bookie may have that is only away is not cut off; what is on a disk that does not come back is.
#[tokio::test(start_paused = true)]
async fn only_what_does_not_come_back_is_given_up() {
    let ends = Event::EndFound { end: EntryId(DELIVERED), length: 30 };
    let has_not = Code::NoSuchEntry;
    assert_eq!(found(has_not, None, false).await, ends, "decommissioned");
    assert_eq!(found(has_not, Some(cookie(2, 99)), false).await, ends, "another life");
    assert_eq!(found(has_not, Some(cookie(2, 2)), false).await, Event::EndUnknown, "away");
    let unreadable = Some(Bytes::from_static(b"no cookie"));
    assert_eq!(found(has_not, unreadable, false).await, Event::EndUnknown, "it may be named");
    assert_eq!(found(has_not, None, true).await, Event::EndUnknown, "nobody says");
    // Who is there may have what it does not deliver.
    for may_have in [Code::Corrupt, Code::Limbo, Code::Busy] {
        assert_eq!(found(may_have, None, false).await, Event::EndUnknown, "{may_have:?}");
    }
}

//! A whole repair over bookies that are made up.

use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_metastore::record::{
    CloseKind, Custom, Digest, Features, Fragment, LedgerState, LiveBookie, LiveDisk, Tier,
    TierObject, UnderReason,
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
use crate::cold::{StoredObjects, Wanted};
use crate::config::Config;
use crate::connection::{BookieConnection, Bookies, ConnectionLost};
use crate::core::repair::Wait;
use crate::read::ReadError;

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
        let QueryOp::Read { from, to, max_bytes, .. } = request.op else { panic!("only reads") };
        let size = stored(from).len();
        let many = (max_bytes as usize / size).max(1);
        let entries = (from.0..=to.0).take(many).map(|id| stored(EntryId(id))).collect();
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
            objects_missing: None,
            features: Features::ALL,
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

/// The ledger's lock, taken.
async fn locked(store: &dyn MetaStore) -> Version {
    store.put_if(&keys::under_lock(LEDGER), None, Bytes::from_static(b"x")).await.unwrap().unwrap()
}

/// Its members are marked so.
async fn client(
    meta: LedgerMeta,
    marked: &[(u64, UnderReason)],
    bookies: &Cluster,
) -> LedgerClient {
    client_with(Config::default(), meta, marked, bookies).await
}

async fn client_with(
    config: Config,
    meta: LedgerMeta,
    marked: &[(u64, UnderReason)],
    bookies: &Cluster,
) -> LedgerClient {
    let store: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
    store.put_if(&keys::ledger(LEDGER), None, meta.encode()).await.unwrap().unwrap();
    for (number, reason) in marked {
        crate::mark_under(&*store, LEDGER, &[member(*number)], *reason, 0).await.unwrap();
    }
    LedgerClient::new(Parts {
        cluster: cluster(),
        ids: Arc::new(LedgerIds::new(Arc::clone(&store), 0)),
        store,
        bookies: Arc::new(bookies.clone()),
        clock: Arc::new(SystemClock),
        random: Arc::new(SeededRandom::new(1)),
        tasks: Tasks::new("test"),
        config,
        owner: "test".to_owned(),
    })
}

async fn ensemble(client: &LedgerClient) -> Vec<Member> {
    client.metadata(LEDGER).await.unwrap().unwrap().0.last_fragment().ensemble.clone()
}

/// A2: its tail says that the newcomer has everything, from when it was a member; what has rotted there since is not in its tail.
#[tokio::test(start_paused = true)]
async fn a_place_is_given_only_for_what_was_sent() {
    let bookies = Cluster::default();
    let client = client(closed(), &[(2, UnderReason::Lost)], &bookies).await;
    let lock = locked(&*client.parts.store).await;
    assert_eq!(repair(&client, LEDGER, lock, &Throttle::new(0)).await.unwrap(), Finish::Clean);
    assert_eq!(ensemble(&client).await, [member(1), member(3)]);
    let sent = bookies.0.lock().clone();
    assert_eq!(sent, (0..=LAST).map(EntryId).collect::<Vec<_>>());
}

/// 6.5: what is copied waits for its turn, chunk by chunk, so that repairs leave bookies to those who write.
#[tokio::test(start_paused = true)]
async fn copies_go_at_the_pace_that_is_set() {
    let size = stored(EntryId(0)).len();
    for (rate, least, most) in [(0, 0.0, 0.0), (size as u64, 2.5, 4.0), (2 * size as u64, 1.2, 2.0)]
    {
        let bookies = Cluster::default();
        let config = Config { read_bytes: 1, ..Config::default() };
        let client = client_with(config, closed(), &[(2, UnderReason::Lost)], &bookies).await;
        let lock = locked(&*client.parts.store).await;
        let begun = tokio::time::Instant::now();
        let repaired = repair(&client, LEDGER, lock, &Throttle::new(rate)).await;
        let took = begun.elapsed().as_secs_f64();
        assert_eq!(repaired.unwrap(), Finish::Clean);
        assert_eq!(bookies.0.lock().len(), 4, "one entry after the other");
        assert!(took >= least && took <= most, "{rate} bytes a second: {took} s");
    }
}

/// 5.6: whoever has the lock now may have seen the newcomer give up what it was asked to keep.
#[tokio::test(start_paused = true)]
async fn scenario_51_no_place_changes_hands_without_the_lock() {
    let bookies = Cluster::default();
    let client = client(closed(), &[(2, UnderReason::Lost)], &bookies).await;
    let (store, key) = (&client.parts.store, keys::under_lock(LEDGER));
    let lock = locked(&**store).await;
    store.put_if(&key, Some(lock), Bytes::from_static(b"y")).await.unwrap().unwrap();
    let ended = repair(&client, LEDGER, lock, &Throttle::new(0)).await;
    assert!(matches!(ended, Err(MetaError::Unavailable(_))), "{ended:?}");
    assert_eq!(ensemble(&client).await, [member(1), member(2)]);
}

/// What is said to be in the object.
#[derive(Debug)]
struct Objects(Option<Vec<Bytes>>);

impl StoredObjects for Objects {
    fn read(
        &self,
        _meta: Arc<LedgerMeta>,
        wanted: Wanted,
    ) -> BoxFuture<'static, Result<Vec<Bytes>, ReadError>> {
        let away =
            ReadError::Unavailable { ledger: LEDGER, entry: wanted.from, why: "away".to_owned() };
        let range = wanted.from.0 as usize..=wanted.to.0 as usize;
        let read = self.0.as_ref().map(|entries| entries[range].to_vec()).ok_or(away);
        std::future::ready(read).boxed()
    }
}

/// T6, D1: what comes from an object is verified as what comes from a bookie is.
#[tokio::test(start_paused = true)]
async fn only_sound_entries_come_from_an_object() {
    let offloaded = || {
        let object = TierObject {
            attempt: 1,
            bucket: String::new(),
            key: String::new(),
            size: 1,
            entries: 4,
            object_crc: 0,
            etag: String::new(),
            index_place: 0,
            at_ms: 0,
        };
        // Nobody who answers is a member.
        let ensemble = [2, 4].map(member).to_vec();
        let fragments = vec![Fragment { first_entry: EntryId(0), ensemble }];
        LedgerMeta { tier: Tier::Offloaded(object), fragments, ..closed() }
    };
    let good: Vec<Bytes> = (0..=LAST).map(|id| stored(EntryId(id))).collect();
    let mut bad = good.clone();
    bad[2] = stored(EntryId(1));
    let lost = [(2, UnderReason::Lost), (4, UnderReason::Lost)];
    for (object, ended) in [
        (Some(good), Finish::Clean),
        (Some(bad), Finish::Waits(Wait::Object)),
        (None, Finish::Waits(Wait::Object)),
    ] {
        let bookies = Cluster::default();
        let client = client(offloaded(), &lost, &bookies).await;
        let client = client.with_objects(Arc::new(Objects(object)));
        let lock = locked(&*client.parts.store).await;
        let clean = ended == Finish::Clean;
        assert_eq!(repair(&client, LEDGER, lock, &Throttle::new(0)).await.unwrap(), ended);
        let now = ensemble(&client).await;
        assert_eq!(now.contains(&member(1)) && now.contains(&member(3)), clean, "{now:?}");
        assert_eq!(bookies.0.lock().is_empty(), !clean);
    }
}

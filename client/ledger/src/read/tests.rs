//! Members that do not deliver, and who is asked after that.

use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_metastore::record::{Custom, Digest, Features, Fragment, LedgerState, LiveBookie};
use geminga_metastore::{LeaseId, LedgerIds, MemoryStore, MetaStore};
use geminga_proto::bookie::{WriteReply, WriteRequest};
use geminga_proto::entry::{Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{BookieId, Incarnation};
use geminga_proto::payload::Payload;
use geminga_runtime::{SeededRandom, SystemClock, Tasks};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::*;
use crate::connection::{BookieConnection, ConnectionLost};
use crate::{LedgerClient, Parts};

/// How the bookie of the reader's zone fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fails {
    Hangs,
    BreaksOff,
    IsBusy,
    /// Its disk does: it says so at once.
    CannotRead,
}

/// Bookies `b1` to `b3` in zones `a` to `c`: the first does not deliver, the others do. Who was asked.
#[derive(Debug, Clone)]
struct Three(Fails, Arc<Mutex<Vec<BookieId>>>);

#[derive(Debug)]
struct One(BookieId, Three);

impl BookieConnection for One {
    fn write(&self, _: WriteRequest) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        panic!("only reads")
    }

    fn query(
        &self,
        request: QueryRequest,
    ) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        let (bookie, Three(fails, asked)) = (self.0.clone(), self.1.clone());
        asked.lock().push(bookie.clone());
        if bookie.as_str() != "b1" {
            let entries = vec![stored(request.scope.ledger)];
            return std::future::ready(Ok(QueryReply {
                entries,
                ..QueryReply::refusal(Code::Ok, "")
            }))
            .boxed();
        }
        match fails {
            Fails::Hangs => std::future::pending().boxed(),
            Fails::BreaksOff => {
                std::future::ready(Err(ConnectionLost { bookie, why: "reset".to_owned() })).boxed()
            }
            Fails::IsBusy => std::future::ready(Ok(QueryReply::refusal(Code::Busy, ""))).boxed(),
            Fails::CannotRead => {
                std::future::ready(Ok(QueryReply::refusal(Code::IoError, ""))).boxed()
            }
        }
    }
}

impl Bookies for Three {
    fn connection(&self, bookie: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        Ok(Arc::new(One(bookie.clone(), self.clone())))
    }

    fn live(&self) -> Vec<LiveBookie> {
        let live = |(number, zone): (u64, &str)| LiveBookie {
            id: member(number).bookie,
            address: String::new(),
            http_address: String::new(),
            zone: zone.to_owned(),
            rack: String::new(),
            disks: Vec::new(),
            lease: LeaseId(1),
            started_ms: 0,
            repair_rate: 0,
            objects_missing: None,
            features: Features::ALL,
        };
        (1..).zip(["a", "b", "c"]).map(live).collect()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(7)
}

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

fn stored(ledger: LedgerId) -> Bytes {
    let position = Position { ledger, entry: EntryId(0), lac: EntryId::NONE, cumulative_length: 0 };
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

fn closed(id: LedgerId) -> Arc<LedgerMeta> {
    let ensemble = (1..=3).map(member).collect();
    Arc::new(LedgerMeta {
        id,
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw: 3,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble }],
        last_entry: Some(EntryId(0)),
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
    })
}

fn client(bookies: &Three) -> LedgerClient {
    let store: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
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
    client.in_zone("a")
}

/// Reads another ledger by a reader of its own: who was asked, and how long it took.
async fn read(client: &LedgerClient, bookies: &Three, ledger: u64) -> (Vec<String>, Duration) {
    let begun = Instant::now();
    let reader = client.reader(closed(LedgerId(ledger)));
    reader.read(EntryId(0), EntryId(0), 1, None).await.unwrap();
    let asked = std::mem::take(&mut *bookies.1.lock());
    (asked.iter().map(ToString::to_string).collect(), begun.elapsed())
}

/// 3.3: of a bookie that hangs one reader learns, and no other waits for it, whichever ledger it reads; until it is tried again.
#[tokio::test(start_paused = true)]
async fn nobody_waits_twice_for_a_member_that_hangs() {
    let bookies = Three(Fails::Hangs, Arc::default());
    let client = client(&bookies);
    let waited = Config::default().read_timeout;
    let (asked, took) = read(&client, &bookies, 0).await;
    assert_eq!((asked[0].as_str(), asked.len(), took), ("b1", 2, waited), "{asked:?}");
    for ledger in 1..9 {
        let (asked, took) = read(&client, &bookies, ledger).await;
        assert_eq!((asked.len(), took), (1, Duration::ZERO), "ledger {ledger}: {asked:?}");
        assert_ne!(asked[0], "b1", "ledger {ledger}");
    }
    tokio::time::advance(late::LENGTH).await;
    let (asked, took) = read(&client, &bookies, 9).await;
    assert_eq!((asked[0].as_str(), took), ("b1", waited), "it has its chance: {asked:?}");
}

/// So it is with one that breaks off or is busy; what a disk does not deliver says nothing about other ledgers.
#[tokio::test(start_paused = true)]
async fn what_a_member_says_decides_whether_others_come_first() {
    for (fails, first) in
        [(Fails::BreaksOff, "b2"), (Fails::IsBusy, "b2"), (Fails::CannotRead, "b1")]
    {
        let bookies = Three(fails, Arc::default());
        let client = client(&bookies);
        assert_eq!(read(&client, &bookies, 0).await.0, ["b1", "b2"], "{fails:?}");
        assert_eq!(read(&client, &bookies, 0).await.0[0], first, "{fails:?}");
    }
}

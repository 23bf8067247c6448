//! What an audit changes, on a store in memory. No bookie is asked.

use std::sync::Arc;

use geminga_metastore::record::{Custom, Digest, Fragment, LiveBookie, TierObject};
use geminga_metastore::{LedgerIds, MemoryStore, MetaStore};
use geminga_proto::bookie::LocalLedger;
use geminga_proto::ids::{BookieId, ClusterUuid, Incarnation, Member};
use geminga_runtime::{ManualClock, SeededRandom, Tasks};
use tokio::sync::watch;

use super::*;
use crate::client::Parts;
use crate::config::Config;
use crate::connection::{BookieConnection, Bookies, ConnectionLost};

pub(in crate::audit) const LEDGER: LedgerId = LedgerId(7);

#[derive(Debug)]
struct Nobody;

impl Bookies for Nobody {
    fn connection(&self, bookie: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        Err(ConnectionLost { bookie: bookie.clone(), why: "nobody is there".to_owned() })
    }

    fn live(&self) -> Vec<LiveBookie> {
        Vec::new()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

pub(in crate::audit) fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

pub(in crate::audit) fn open() -> LedgerMeta {
    LedgerMeta {
        id: LEDGER,
        state: LedgerState::Open,
        seal_epoch: SealEpoch(1),
        qw: 3,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: vec![Fragment {
            first_entry: EntryId(0),
            ensemble: vec![member(1), member(2), member(3)],
        }],
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

pub(in crate::audit) fn holder(number: u64, sealed: u32, first: i64, last: i64) -> Holder {
    let local = LocalLedger {
        ledger: LEDGER,
        sealed_epoch: SealEpoch(sealed),
        closed: None,
        max_lac: EntryId::NONE,
        runs: vec![(EntryId(first), EntryId(last))],
        trimmed: None,
        bytes: 10,
    };
    Holder { member: member(number), local }
}

async fn client(meta: &LedgerMeta) -> LedgerClient {
    with(meta, Arc::new(MemoryStore::new()), Arc::new(Nobody)).await
}

/// A client of a store that holds a ledger, and of these bookies.
pub(in crate::audit) async fn with(
    meta: &LedgerMeta,
    store: Arc<dyn MetaStore>,
    bookies: Arc<dyn Bookies>,
) -> LedgerClient {
    store.put_if(&keys::ledger(LEDGER), None, meta.encode()).await.unwrap().unwrap();
    LedgerClient::new(Parts {
        cluster: ClusterUuid::from_random(1),
        ids: Arc::new(LedgerIds::new(Arc::clone(&store), 0)),
        store,
        bookies,
        clock: Arc::new(ManualClock::at(5)),
        random: Arc::new(SeededRandom::new(1)),
        tasks: Tasks::new("test"),
        config: Config::default(),
        owner: "test".to_owned(),
    })
}

async fn stands(client: &LedgerClient) -> LedgerMeta {
    client.metadata(LEDGER).await.unwrap().unwrap().0
}

/// A recovery hears whoever is ahead, begins above all seals, and whoever recovers by the old ensemble notices.
#[tokio::test]
async fn whoever_goes_on_becomes_the_last_ensemble() {
    let client = client(&open()).await;
    let same = [holder(1, 0, 0, 9), holder(7, 0, 0, 9)];
    client.prepare_recovery(LEDGER, &same).await.unwrap();
    assert_eq!(stands(&client).await, open(), "nobody is ahead");
    client.prepare_recovery(LEDGER, &[holder(1, 4, 0, 9)]).await.unwrap();
    let sealed = stands(&client).await;
    assert_eq!((sealed.seal_epoch, sealed.fragments.len()), (SealEpoch(4), 1));
    let ahead = [holder(1, 4, 0, 9), holder(7, 2, 8, 20)];
    for _ in 0..2 {
        client.prepare_recovery(LEDGER, &ahead).await.unwrap();
        let meta = stands(&client).await;
        assert_eq!(meta.seal_epoch, SealEpoch(5));
        let last = meta.last_fragment();
        assert_eq!(last.first_entry, EntryId(10));
        assert_eq!(last.ensemble, [member(7), member(1), member(2)]);
    }
}

#[tokio::test]
async fn what_was_deleted_is_closed_once() {
    let mut meta = open();
    let second = Fragment { first_entry: EntryId(5), ..meta.fragments[0].clone() };
    meta.fragments.push(second);
    let client = client(&meta).await;
    let closed = client.close_deleted(LEDGER).await.unwrap().unwrap();
    assert_eq!((closed.state, closed.last_entry), (LedgerState::Closed, Some(EntryId::NONE)));
    let missing = vec![member(1), member(2), member(3)];
    assert_eq!(closed.close_kind, Some(CloseKind::ForcedWithRisk { missing }));
    assert_eq!((closed.fragments.len(), closed.seal_epoch), (1, SealEpoch(2)));
    assert_eq!(client.close_deleted(LEDGER).await.unwrap().unwrap(), closed);
    assert_eq!(stands(&client).await, closed);
    // M2: an end that there is stays.
    let mut ended = open();
    (ended.state, ended.last_entry) = (LedgerState::Closed, Some(EntryId(9)));
    let client = self::client(&ended).await;
    client.close_deleted(LEDGER).await.unwrap();
    assert_eq!(stands(&client).await, ended);
}

#[tokio::test]
async fn an_object_that_is_gone_is_not_waited_for() {
    let object = TierObject {
        attempt: 5,
        bucket: String::new(),
        key: String::new(),
        size: 1,
        entries: 10,
        object_crc: 0,
        etag: String::new(),
        index_place: 0,
        at_ms: 0,
    };
    let mut meta = open();
    (meta.state, meta.last_entry) = (LedgerState::Closed, Some(EntryId(9)));
    meta.tier = Tier::Offloaded(object.clone());
    let client = client(&meta).await;
    client.note_gone(LEDGER).await.unwrap();
    assert_eq!(stands(&client).await.tier, Tier::Trimmed(object));
}

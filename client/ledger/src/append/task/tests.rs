//! The task on bookies that answer after a while, by paused time.

use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_metastore::MemoryStore;
use geminga_metastore::record::{Custom, Digest, Fragment, LedgerState, LiveBookie};
use geminga_proto::bookie::{Code, QueryReply, QueryRequest};
use geminga_proto::entry::{Attributes, Kind, NO_SNAPSHOT};
use geminga_proto::ids::{BookieId, Incarnation, LedgerId};
use geminga_runtime::SeededRandom;
use parking_lot::Mutex;

use super::*;
use crate::connection::BookieConnection;
use crate::core::writer::Outcome;

/// How long a bookie takes for an answer.
const ANSWER: Duration = Duration::from_millis(5);

/// A bookie that stores nothing and acknowledges everything, once it is not stuck.
#[derive(Debug, Default)]
struct Slow {
    tail: Mutex<EntryId>,
    stuck: watch::Sender<bool>,
}

impl BookieConnection for Slow {
    fn write(
        &self,
        request: WriteRequest,
    ) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        let mut tail = self.tail.lock();
        if let WriteOp::Add { first, entries, .. } = &request.op {
            *tail = EntryId(first.0 + i64::try_from(entries.len()).unwrap() - 1);
        }
        let reply = WriteReply {
            durable_tail: *tail,
            staged_tail: *tail,
            authoritative: true,
            ..WriteReply::refusal(Code::Ok, "")
        };
        let mut stuck = self.stuck.subscribe();
        let answer = async move {
            tokio::time::sleep(ANSWER).await;
            let _ended = stuck.wait_for(|stuck| !stuck).await.is_err();
            Ok(reply)
        };
        answer.boxed()
    }

    fn query(&self, _: QueryRequest) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        std::future::pending().boxed()
    }
}

#[derive(Debug)]
struct Three {
    bookies: BTreeMap<BookieId, Arc<Slow>>,
    changed: watch::Sender<u64>,
}

impl Bookies for Three {
    fn connection(&self, bookie: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        Ok(Arc::<Slow>::clone(&self.bookies[bookie]))
    }

    fn live(&self) -> Vec<LiveBookie> {
        Vec::new()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

fn start_on_three(tasks: &Tasks) -> (Writer, Arc<Three>) {
    let slow =
        || Arc::new(Slow { tail: Mutex::new(EntryId::NONE), stuck: watch::Sender::new(false) });
    let bookies = (1..=3).map(|n| (member(n).bookie, slow())).collect();
    let bookies = Arc::new(Three { bookies, changed: watch::Sender::new(0) });
    let meta = LedgerMeta {
        id: LedgerId(7),
        state: LedgerState::Open,
        seal_epoch: SealEpoch(0),
        qw: 3,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: vec![Fragment {
            first_entry: EntryId(0),
            ensemble: (1..=3).map(member).collect(),
        }],
        last_entry: None,
        length: 0,
        entries_crc: None,
        close_kind: None,
        recoverer: String::new(),
        last_op: 1,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    };
    let setup = Setup {
        cluster: ClusterUuid::from_random(1),
        meta,
        version: Version(1),
        store: Arc::new(MemoryStore::new()),
        bookies: Arc::<Three>::clone(&bookies),
        random: Arc::new(SeededRandom::new(1)),
        config: Config::default(),
    };
    (start(tasks, setup), bookies)
}

async fn append(writer: &mut Writer) -> Outcome {
    let attributes = Attributes {
        kind: Kind::Batches,
        first_offset: 0,
        offset_count: 1,
        max_timestamp: 0,
        running_max_timestamp: 0,
        last_snapshot_entry: NO_SNAPSHOT,
    };
    let (_, outcome) = writer.append(attributes, vec![Bytes::from_static(b"x")]).unwrap();
    outcome.await
}

/// Idleness is not slowness: a ledger that had nothing to do for an hour goes on with all its members.
#[tokio::test(start_paused = true)]
async fn a_pause_between_appends_costs_no_member() {
    let tasks = Tasks::new("test");
    let (mut writer, _bookies) = start_on_three(&tasks);
    assert_eq!(append(&mut writer).await, Outcome::Acked);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    for _ in 0..3 {
        assert_eq!(append(&mut writer).await, Outcome::Acked);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(*writer.health().borrow(), Health::Healthy);
}

/// 2.6: a member that is connected and does not move is left out, while the others acknowledge.
#[tokio::test(start_paused = true)]
async fn a_member_that_hangs_is_left_out_in_time() {
    let tasks = Tasks::new("test");
    let (mut writer, bookies) = start_on_three(&tasks);
    assert_eq!(append(&mut writer).await, Outcome::Acked);
    tokio::time::sleep(Duration::from_secs(60)).await;
    bookies.bookies[&member(2).bookie].stuck.send_replace(true);
    assert_eq!(append(&mut writer).await, Outcome::Acked);
    assert_eq!(*writer.health().borrow(), Health::Healthy);
    let mut health = writer.health();
    let wait = health.wait_for(|health| *health == Health::Degraded);
    let left_out = tokio::time::timeout(Duration::from_secs(10), wait).await;
    assert!(left_out.is_ok(), "it hangs and is waited for");
    drop(left_out);
    assert_eq!(append(&mut writer).await, Outcome::Acked);
}

//! The task on bookies that answer after a while, by paused time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// What adds are refused with.
    refuses: Mutex<Option<Code>>,
    asked: AtomicUsize,
}

impl BookieConnection for Slow {
    fn write(
        &self,
        request: WriteRequest,
    ) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        if let (WriteOp::Add { .. }, Some(code)) = (&request.op, *self.refuses.lock()) {
            let reply = WriteReply::refusal(code, "on purpose");
            return tokio::time::sleep(ANSWER).map(|()| Ok(reply)).boxed();
        }
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
    let slow = || Arc::new(Slow { tail: Mutex::new(EntryId::NONE), ..Slow::default() });
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
    let payload = Bytes::from_static(b"x").into();
    let (_, _, outcome) = writer.append(attributes, &payload).unwrap();
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

/// 2.5: a member whose disk is full says hello and takes nothing. The others go on without it, at once.
#[tokio::test(start_paused = true)]
async fn a_read_only_member_is_left_out_at_once() {
    let tasks = Tasks::new("test");
    let (mut writer, bookies) = start_on_three(&tasks);
    assert_eq!(append(&mut writer).await, Outcome::Acked);
    *bookies.bookies[&member(3).bookie].refuses.lock() = Some(Code::ReadOnly);
    assert_eq!(append(&mut writer).await, Outcome::Acked);
    let mut health = writer.health();
    let wait = health.wait_for(|health| *health == Health::Degraded);
    let left_out = tokio::time::timeout(Duration::from_millis(100), wait).await;
    assert!(left_out.is_ok(), "it is asked again and again");
    drop(left_out);
    // One of the two that are left fills up, too: the owner must know, since nothing is acknowledged any more.
    *bookies.bookies[&member(2).bookie].refuses.lock() = Some(Code::ReadOnly);
    let second = Duration::from_secs(1);
    // What `wait_for` gives locks the health, so it must not be kept.
    let lost = async { health.wait_for(|health| *health == Health::QuorumLost).await.is_ok() };
    let (lost, outcome) = tokio::join!(
        tokio::time::timeout(second, lost),
        tokio::time::timeout(second, append(&mut writer))
    );
    assert_eq!((lost, outcome.is_err()), (Ok(true), true));
}

/// 2.6: connecting is no progress. A member that refuses entry after entry is left out in time, and is not asked in a
/// loop meanwhile.
#[tokio::test(start_paused = true)]
async fn a_member_that_keeps_refusing_is_left_out_in_time() {
    let tasks = Tasks::new("test");
    let (mut writer, bookies) = start_on_three(&tasks);
    assert_eq!(append(&mut writer).await, Outcome::Acked);
    let refusing = &bookies.bookies[&member(3).bookie];
    *refusing.refuses.lock() = Some(Code::Busy);
    let before = refusing.asked.load(Ordering::Relaxed);
    assert_eq!(append(&mut writer).await, Outcome::Acked);
    let mut health = writer.health();
    let wait = health.wait_for(|health| *health == Health::Degraded);
    let left_out = tokio::time::timeout(Duration::from_secs(10), wait).await;
    assert!(left_out.is_ok(), "it refuses and is waited for");
    let asked = refusing.asked.load(Ordering::Relaxed) - before;
    assert!(asked < 50, "{asked} requests");
}

/// A refusal that passes costs no member.
#[tokio::test(start_paused = true)]
async fn a_member_that_was_busy_goes_on() {
    let tasks = Tasks::new("test");
    let (mut writer, bookies) = start_on_three(&tasks);
    assert_eq!(append(&mut writer).await, Outcome::Acked);
    let busy = &bookies.bookies[&member(3).bookie];
    *busy.refuses.lock() = Some(Code::Busy);
    assert_eq!(append(&mut writer).await, Outcome::Acked);
    tokio::time::sleep(Duration::from_secs(1)).await;
    *busy.refuses.lock() = None;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(*busy.tail.lock(), EntryId(1));
    assert_eq!(*writer.health().borrow(), Health::Healthy);
}

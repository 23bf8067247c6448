//! The task on bookies that answer after a while, by paused time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use geminga_metastore::record::{
    Custom, Digest, Features, Fragment, LedgerState, LiveBookie, LiveDisk, Tier, Under, UnderReason,
};
use geminga_metastore::{
    Error, LeaseId, MemoryStore, Range, Revision, Txn, TxnOutcome, Versioned, WatchStream, keys,
};
use geminga_proto::bookie::{QueryReply, QueryRequest};
use geminga_proto::entry::{Attributes, Kind, NO_SNAPSHOT};
use geminga_proto::ids::{BookieId, Incarnation, LedgerId};
use geminga_runtime::{SeededRandom, SystemClock};
use parking_lot::Mutex;

use super::*;
use crate::append::AppendRefused;
use crate::connection::BookieConnection;
use crate::core::mutation::Mutation;

/// How long a bookie takes for an answer.
const ANSWER: Duration = Duration::from_millis(5);

/// A bookie that stores nothing and acknowledges everything, once it is not stuck.
#[derive(Debug, Default)]
struct Slow {
    tail: Mutex<EntryId>,
    /// How long it takes for an answer, where that is longer than [`ANSWER`].
    takes: Mutex<Duration>,
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
        *tail = (*tail).max(request.scope.fragment_first.prev());
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
        let takes = ANSWER.max(*self.takes.lock());
        let answer = async move {
            tokio::time::sleep(takes).await;
            let _ended = stuck.wait_for(|stuck| !stuck).await.is_err();
            Ok(reply)
        };
        answer.boxed()
    }

    fn query(&self, _: QueryRequest) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        std::future::pending().boxed()
    }
}

/// Bookies 1 to 5, of which some are registered.
#[derive(Debug)]
struct Five {
    bookies: BTreeMap<BookieId, Arc<Slow>>,
    live: Mutex<Vec<LiveBookie>>,
    changed: watch::Sender<u64>,
}

impl Bookies for Five {
    fn connection(&self, bookie: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        Ok(Arc::<Slow>::clone(&self.bookies[bookie]))
    }

    fn live(&self) -> Vec<LiveBookie> {
        self.live.lock().clone()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

impl Five {
    fn get(&self, number: u64) -> &Slow {
        &self.bookies[&member(number).bookie]
    }

    /// Bookies 1 to 3 stop answering, or go on.
    fn stick(&self, stuck: bool) {
        for number in 1..=3 {
            self.get(number).stuck.send_replace(stuck);
        }
    }

    /// The registration ends, whatever became of the bookie.
    fn unregister(&self, number: u64) {
        self.live.lock().retain(|bookie| bookie.id != member(number).bookie);
        self.changed.send_modify(|version| *version += 1);
    }

    /// Requests so far.
    fn asked(&self, number: u64) -> usize {
        self.get(number).asked.load(Ordering::Relaxed)
    }

    fn register(&self, number: u64, lease: i64) {
        let disk = LiveDisk {
            incarnation: Incarnation(number),
            writable: true,
            free_bytes: 1,
            total_bytes: 1,
        };
        let bookie = LiveBookie {
            id: member(number).bookie,
            address: String::new(),
            http_address: String::new(),
            zone: String::new(),
            rack: String::new(),
            disks: vec![disk],
            lease: LeaseId(lease),
            started_ms: 0,
            repair_rate: 0,
            objects_missing: None,
            features: Features::ALL,
        };
        let mut live = self.live.lock();
        live.retain(|other| other.id != bookie.id);
        live.push(bookie);
        drop(live);
        self.changed.send_modify(|version| *version += 1);
    }
}

/// A store in memory that can be away, or lose what it answers to the next transaction.
#[derive(Debug, Default)]
struct Moody {
    store: MemoryStore,
    hangs: AtomicBool,
    loses_reply: AtomicBool,
    refuses: AtomicBool,
    /// How long reads, and the answers to transactions, are on their way.
    distance: Mutex<(Duration, Duration)>,
}

#[async_trait]
impl MetaStore for Moody {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let (read, _) = *self.distance.lock();
        tokio::time::sleep(read).await;
        self.store.get(key).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.store.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Error::Unavailable("on purpose".to_owned()));
        }
        let done = self.store.txn(txn).await;
        let (_, answer) = *self.distance.lock();
        tokio::time::sleep(answer).await;
        if self.loses_reply.swap(false, Ordering::Relaxed) {
            return Err(Error::Unknown("on purpose".to_owned()));
        }
        done
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        self.store.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.store.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.revoke_lease(lease).await
    }
}

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

const LEDGER: LedgerId = LedgerId(7);

fn meta() -> LedgerMeta {
    LedgerMeta {
        id: LEDGER,
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

/// Everything around a writer.
struct Rig {
    _tasks: Tasks,
    bookies: Arc<Five>,
    store: Arc<Moody>,
    writer: Writer,
}

impl Rig {
    /// A ledger on bookies 1 to 3; `live` bookies are registered.
    async fn start(live: u64) -> Self {
        Self::without(live, Mutations::default()).await
    }

    /// The same, without a rule.
    async fn without(live: u64, mutations: Mutations) -> Self {
        let config = Config::default();
        let outstanding = Arc::new(Semaphore::new(config.total_outstanding_bytes));
        Self::start_without(live, config, outstanding, mutations).await
    }

    async fn start_with(live: u64, config: Config, outstanding: Arc<Semaphore>) -> Self {
        Self::start_without(live, config, outstanding, Mutations::default()).await
    }

    async fn start_without(
        live: u64,
        config: Config,
        outstanding: Arc<Semaphore>,
        mutations: Mutations,
    ) -> Self {
        let tasks = Tasks::new("test");
        let slow = || Arc::new(Slow { tail: Mutex::new(EntryId::NONE), ..Slow::default() });
        let bookies = Arc::new(Five {
            bookies: (1..=5).map(|n| (member(n).bookie, slow())).collect(),
            live: Mutex::default(),
            changed: watch::Sender::new(0),
        });
        (1..=live).for_each(|number| bookies.register(number, 1));
        let store = Arc::new(Moody::default());
        let meta = meta();
        let version = store.put_if(&keys::ledger(LEDGER), None, meta.encode()).await.unwrap();
        let setup = Setup {
            cluster: ClusterUuid::from_random(1),
            meta,
            version: version.unwrap(),
            zones: vec![String::new(); 3],
            store: Arc::<Moody>::clone(&store),
            bookies: Arc::<Five>::clone(&bookies),
            random: Arc::new(SeededRandom::new(1)),
            clock: Arc::new(SystemClock),
            quarantine: Arc::new(Quarantine::new(100, Duration::from_secs(60))),
            asks: Arc::default(),
            outstanding,
            config,
            mutations,
        };
        Self { writer: start(&tasks, setup), _tasks: tasks, bookies, store }
    }

    /// Whether the health becomes that within the time. What `wait_for` gives locks the health, so it is not kept.
    async fn becomes(&self, wanted: Health, within: Duration) -> bool {
        let mut health = self.writer.health();
        let wait = async { health.wait_for(|health| *health == wanted).await.is_ok() };
        tokio::time::timeout(within, wait).await == Ok(true)
    }

    async fn stored(&self) -> LedgerMeta {
        let found = self.store.store.get(&keys::ledger(LEDGER)).await.unwrap().unwrap();
        LedgerMeta::decode(LEDGER, &found.value).unwrap()
    }

    async fn mark(&self) -> Option<Under> {
        let found = self.store.store.get(&keys::under(LEDGER)).await.unwrap()?;
        Some(Under::decode(LEDGER, &found.value).unwrap())
    }

    /// Waits until the ensemble has changed so often.
    async fn fragments(&self, count: usize) -> Arc<LedgerMeta> {
        let mut meta = self.writer.meta_watch();
        let changed =
            async { Arc::clone(&*meta.wait_for(|m| m.fragments.len() == count).await.unwrap()) };
        tokio::time::timeout(Duration::from_secs(60), changed).await.expect("the ensemble changes")
    }
}

/// A scenario in paused time: it must pass, and fail without the rule.
fn holds_only_with(rule: Mutation, scenario: impl AsyncFn(Mutations)) {
    geminga_runtime::holds_only_with(rule, |mutations| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(scenario(mutations));
    });
}

const SECOND: Duration = Duration::from_secs(1);

fn attributes() -> Attributes {
    Attributes {
        kind: Kind::Batches,
        first_offset: 0,
        offset_count: 1,
        max_timestamp: 0,
        running_max_timestamp: 0,
        last_snapshot_entry: NO_SNAPSHOT,
    }
}

fn submit(writer: &mut Writer) -> (EntryId, impl Future<Output = Outcome> + use<>) {
    let (entry, _, outcome) =
        writer.append(attributes(), &Bytes::from_static(b"x").into()).unwrap();
    (entry, outcome)
}

async fn append(writer: &mut Writer) -> Outcome {
    submit(writer).1.await
}

/// Idleness is not slowness: a ledger that had nothing to do for an hour goes on with all its members.
#[tokio::test(start_paused = true)]
async fn a_pause_between_appends_costs_no_member() {
    let mut rig = Rig::start(5).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    for _ in 0..3 {
        assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(*rig.writer.health().borrow(), Health::Healthy);
    assert_eq!(rig.stored().await, meta());
}

/// 2.6: a member that is connected and does not move is left out, while the others acknowledge; there is no spare.
#[tokio::test(start_paused = true)]
async fn a_member_that_hangs_is_left_out_in_time() {
    let mut rig = Rig::start(3).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    tokio::time::sleep(Duration::from_secs(60)).await;
    rig.bookies.get(2).stuck.send_replace(true);
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    assert_eq!(*rig.writer.health().borrow(), Health::Healthy);
    assert!(rig.becomes(Health::Degraded, 10 * SECOND).await, "it hangs and is waited for");
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
}

/// 2.5: a member whose disk is full says hello and takes nothing. The others go on without it, at once.
#[tokio::test(start_paused = true)]
async fn a_read_only_member_is_left_out_at_once() {
    let mut rig = Rig::start(3).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    *rig.bookies.get(3).refuses.lock() = Some(Code::ReadOnly);
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    assert!(rig.becomes(Health::Degraded, SECOND / 10).await, "it is asked again and again");
    // One of the two that are left fills up, too: the owner must know, since nothing is acknowledged any more.
    *rig.bookies.get(2).refuses.lock() = Some(Code::ReadOnly);
    let (_, outcome) = submit(&mut rig.writer);
    assert!(rig.becomes(Health::QuorumLost, SECOND).await);
    assert!(tokio::time::timeout(SECOND, outcome).await.is_err());
}

/// 2.6: connecting is no progress. A member that refuses entry after entry is left out in time, and is not asked in a
/// loop meanwhile.
#[tokio::test(start_paused = true)]
async fn a_member_that_keeps_refusing_is_left_out_in_time() {
    let mut rig = Rig::start(3).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    *rig.bookies.get(3).refuses.lock() = Some(Code::Busy);
    let before = rig.bookies.get(3).asked.load(Ordering::Relaxed);
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    assert!(rig.becomes(Health::Degraded, 10 * SECOND).await, "it refuses and is waited for");
    let asked = rig.bookies.get(3).asked.load(Ordering::Relaxed) - before;
    assert!(asked < 50, "{asked} requests");
}

/// A refusal that passes costs no member.
#[tokio::test(start_paused = true)]
async fn a_member_that_was_busy_goes_on() {
    let mut rig = Rig::start(3).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    *rig.bookies.get(3).refuses.lock() = Some(Code::Busy);
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    tokio::time::sleep(SECOND).await;
    *rig.bookies.get(3).refuses.lock() = None;
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(*rig.bookies.get(3).tail.lock(), EntryId(1));
    assert_eq!(*rig.writer.health().borrow(), Health::Healthy);
}

/// 2.5 as a whole: a spare takes the place, the store says so, the fragment that ended is marked, and nobody was told to
/// roll.
#[tokio::test(start_paused = true)]
async fn a_spare_takes_the_place_of_a_member_that_hangs() {
    let mut rig = Rig::start(4).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    rig.bookies.get(2).stuck.send_replace(true);
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    let changed = rig.fragments(2).await;
    assert_eq!(changed.fragments[1].first_entry, EntryId(2));
    assert_eq!(changed.fragments[1].ensemble, [member(1), member(4), member(3)]);
    assert_eq!(rig.stored().await, *changed);
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    tokio::time::sleep(SECOND).await;
    assert_eq!(*rig.bookies.get(4).tail.lock(), EntryId(2), "it streams from the new fragment on");
    let mark = rig.mark().await.expect("the fragment that ended is marked");
    assert_eq!((mark.members, mark.reason), (vec![member(2)], UnderReason::Replaced));
    assert_eq!(*rig.writer.health().borrow(), Health::Healthy);
    let closed = rig.writer.close(SECOND, |_| Txn::new()).await.unwrap();
    assert_eq!((closed.fragments.len(), closed.last_entry), (2, Some(EntryId(2))));
}

/// 6.4: nobody writes, so nothing fails; still a member that is gone is replaced, after its grace, behind what it has.
#[tokio::test(start_paused = true)]
async fn an_idle_ledger_replaces_a_member_that_is_gone() {
    let mut rig = Rig::start(4).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    tokio::time::sleep(SECOND).await;
    rig.bookies.get(2).stuck.send_replace(true);
    rig.bookies.unregister(2);
    tokio::time::sleep(29 * SECOND).await;
    assert_eq!(rig.stored().await, meta(), "it may come back");
    let changed = rig.fragments(2).await;
    assert_eq!(changed.fragments[1].first_entry, EntryId(1));
    assert_eq!(changed.fragments[1].ensemble, [member(1), member(4), member(3)]);
    tokio::time::sleep(3600 * SECOND).await;
    assert_eq!(rig.mark().await, None, "it had everything");
    assert_eq!((rig.stored().await, rig.bookies.asked(4)), ((*changed).clone(), 1));
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    assert_eq!(*rig.writer.health().borrow(), Health::Healthy);
}

/// A metadata store that was paused ends registrations of bookies that are there: none of them loses its place.
#[tokio::test(start_paused = true)]
async fn a_member_that_answers_stays_though_it_is_not_registered() {
    let mut rig = Rig::start(4).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    tokio::time::sleep(SECOND).await;
    let before = rig.bookies.asked(2);
    rig.bookies.unregister(2);
    tokio::time::sleep(3600 * SECOND).await;
    let asked = rig.bookies.asked(2) - before;
    assert!((3600 / 46..=3600 / 30).contains(&asked), "{asked} questions in an hour");
    assert_eq!(rig.stored().await, meta());
    // Once it is registered it is not asked any more.
    rig.bookies.register(2, 2);
    let before = rig.bookies.asked(2);
    tokio::time::sleep(3600 * SECOND).await;
    assert_eq!(rig.bookies.asked(2), before);
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    assert_eq!(*rig.writer.health().borrow(), Health::Healthy);
}

/// Where nobody could take the place nothing changes and nothing is asked, of bookies or of the store, until somebody comes.
#[tokio::test(start_paused = true)]
async fn an_idle_ledger_keeps_its_members_while_nobody_could_take_a_place() {
    let mut rig = Rig::start(3).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    tokio::time::sleep(SECOND).await;
    rig.bookies.get(2).stuck.send_replace(true);
    rig.bookies.unregister(2);
    let before = rig.bookies.asked(2);
    tokio::time::sleep(3600 * SECOND).await;
    assert_eq!(rig.bookies.asked(2), before);
    assert_eq!((rig.stored().await, *rig.writer.health().borrow()), (meta(), Health::Healthy));
    rig.bookies.register(4, 1);
    assert_eq!(rig.fragments(2).await.fragments[1].ensemble, [member(1), member(4), member(3)]);
}

/// What is pending is replayed to those that come, from the buffer.
#[tokio::test(start_paused = true)]
async fn what_is_pending_is_replayed_to_both_that_come() {
    let mut rig = Rig::start(5).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    for dead in [2, 3] {
        rig.bookies.get(dead).stuck.send_replace(true);
    }
    let (_, first) = submit(&mut rig.writer);
    let (_, second) = submit(&mut rig.writer);
    let outcomes = async { (first.await, second.await) };
    let outcomes = tokio::time::timeout(20 * SECOND, outcomes).await;
    assert_eq!(outcomes, Ok((Outcome::Acked, Outcome::Acked)));
    let meta = rig.stored().await;
    assert_eq!(meta.fragments.len(), 2, "both in one change");
    assert_eq!(meta.fragments[1].first_entry, EntryId(1));
}

/// M9, with the whole task: one fragment, although the reply was lost.
#[tokio::test(start_paused = true)]
async fn a_change_whose_reply_was_lost_is_made_once() {
    let mut rig = Rig::start(4).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    *rig.bookies.get(3).refuses.lock() = Some(Code::ReadOnly);
    rig.store.loses_reply.store(true, Ordering::Relaxed);
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    rig.fragments(2).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    assert_eq!(rig.stored().await.fragments.len(), 2);
}

/// Scenario 10 by the read before the change: who finds that the ledger is somebody else's acknowledges nothing more.
#[tokio::test(start_paused = true)]
async fn a_writer_that_finds_itself_deposed_ends() {
    let mut rig = Rig::start(4).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    for state in [LedgerState::InRecovery, LedgerState::Deleting] {
        let mut taken = meta();
        taken.state = state;
        let found = rig.store.get(&keys::ledger(LEDGER)).await.unwrap().unwrap();
        rig.store.put_if(&keys::ledger(LEDGER), Some(found.version), taken.encode()).await.unwrap();
    }
    rig.bookies.stick(true);
    *rig.bookies.get(3).refuses.lock() = Some(Code::ReadOnly);
    let (_, outcome) = submit(&mut rig.writer);
    assert_eq!(outcome.await, Outcome::Unknown);
    assert_eq!(*rig.writer.health().borrow(), Health::Dead);
}

/// 2.5 step 0: an outage of the metadata store stops no ledger that has Qa; what is missing is replaced afterwards.
#[test]
fn scenario_42_without_metadata_the_ledger_goes_on_with_qa() {
    holds_only_with(Mutation::WaitForSpare, async |mutations| {
        let mut rig = Rig::without(4, mutations).await;
        assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
        for outage in [&rig.store.hangs, &rig.store.refuses] {
            outage.store(true, Ordering::Relaxed);
        }
        *rig.bookies.get(3).refuses.lock() = Some(Code::ReadOnly);
        assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
        assert!(rig.becomes(Health::Degraded, 5 * SECOND).await);
        for _ in 0..10 {
            assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
            tokio::time::sleep(60 * SECOND).await;
        }
        // Back, but it refuses to write: nothing is frozen for it.
        rig.store.hangs.store(false, Ordering::Relaxed);
        tokio::time::sleep(10 * SECOND).await;
        assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
        rig.store.refuses.store(false, Ordering::Relaxed);
        assert_eq!(rig.fragments(2).await.fragments[1].ensemble, [member(1), member(2), member(4)]);
        assert!(rig.becomes(Health::Healthy, SECOND).await);
    });
}

/// The owner is asked to roll when a member that was left out has registered anew.
#[tokio::test(start_paused = true)]
async fn a_member_that_registers_again_asks_for_a_roll() {
    let mut rig = Rig::start(3).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    *rig.bookies.get(3).refuses.lock() = Some(Code::ReadOnly);
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    assert!(rig.becomes(Health::Degraded, SECOND).await);
    assert!(!rig.becomes(Health::Roll, 30 * SECOND).await, "nothing has changed");
    rig.bookies.register(3, 2);
    assert!(rig.becomes(Health::Roll, 2 * SECOND).await);
}

/// 2.9: nobody answers; the owner learns it, and again that it is over.
/// A search reads the ledger after its close took place and before the writer hears of it.
#[tokio::test(start_paused = true)]
async fn a_search_does_not_take_its_writers_close_for_anothers() {
    let mut rig = Rig::start(3).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    *rig.store.distance.lock() = (Duration::from_millis(50), Duration::from_millis(100));
    *rig.bookies.get(1).refuses.lock() = Some(Code::ReadOnly);
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    let closed = rig.writer.close(SECOND, |_| geminga_metastore::Txn::new()).await;
    assert_eq!(closed.map(|closed| closed.last_entry), Ok(Some(EntryId(1))));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_stuck_is_told_to_the_owner() {
    let config = Config { add_timeout: Duration::from_secs(3600), ..Config::default() };
    let outstanding = Arc::new(Semaphore::new(config.total_outstanding_bytes));
    let mut rig = Rig::start_with(3, config, outstanding).await;
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    tokio::time::sleep(60 * SECOND).await;
    rig.bookies.stick(true);
    let (_, outcome) = submit(&mut rig.writer);
    assert!(!rig.becomes(Health::QuorumLost, 14 * SECOND).await);
    assert!(rig.becomes(Health::QuorumLost, 2 * SECOND).await);
    rig.bookies.stick(false);
    assert_eq!(outcome.await, Outcome::Acked);
    assert!(rig.becomes(Health::Healthy, SECOND).await);
}

/// 2.6: a member that moves, but falls behind by more than the limit, is replaced.
#[tokio::test(start_paused = true)]
async fn scenario_59_a_member_that_falls_behind_is_replaced() {
    let mut rig = Rig::start(4).await;
    *rig.bookies.get(3).takes.lock() = 900 * ANSWER;
    for _ in 0..100 {
        assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
        tokio::time::sleep(SECOND / 20).await;
    }
    let meta = rig.fragments(2).await;
    assert_eq!(meta.fragments[1].ensemble, [member(1), member(2), member(4)]);
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
}

/// A bookie that dies again and again costs no more changes than the limit: then the ledger is to be rolled.
#[tokio::test(start_paused = true)]
async fn an_ensemble_that_changes_too_often_is_rolled() {
    let config = Config { max_changes: 1, ..Config::default() };
    let outstanding = Arc::new(Semaphore::new(config.total_outstanding_bytes));
    let mut rig = Rig::start_with(5, config, outstanding).await;
    for full in [3, 2] {
        assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
        *rig.bookies.get(full).refuses.lock() = Some(Code::ReadOnly);
    }
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
    assert!(rig.becomes(Health::Roll, 10 * SECOND).await);
    assert_eq!(append(&mut rig.writer).await, Outcome::Acked);
}

/// 2.6, scenario 60: what all ledgers hold together is bounded.
#[test]
fn scenario_60_what_all_ledgers_hold_together_is_bounded() {
    holds_only_with(Mutation::IgnoreBudgets, async |mutations| {
        let outstanding = Arc::new(Semaphore::new(512));
        let rig = |bytes| Rig::start_without(3, Config::default(), bytes, mutations);
        let mut one = rig(Arc::clone(&outstanding)).await;
        let mut other = rig(outstanding).await;
        one.bookies.stick(true);
        let (_, first) = submit(&mut one.writer);
        let (_, second) = submit(&mut one.writer);
        let refused = other.writer.append(attributes(), &Bytes::from_static(b"x").into());
        assert_eq!(refused.err(), Some(AppendRefused::Full));
        assert!(tokio::time::timeout(SECOND, other.writer.ready(1)).await.is_err());
        one.bookies.stick(false);
        assert_eq!((first.await, second.await), (Outcome::Acked, Outcome::Acked));
        assert_eq!(tokio::time::timeout(SECOND, other.writer.ready(1)).await, Ok(Ok(())));
        assert_eq!(append(&mut other.writer).await, Outcome::Acked);
    });
}

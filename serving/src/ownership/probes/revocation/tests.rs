//! Revocations on the store in memory and a paused clock. The brokers that are taken for dead do not act.

use std::collections::BTreeSet;

use async_trait::async_trait;
use geminga_metastore::record::{Assign, Assignment, Topic as Record};
use geminga_metastore::{MemoryStore, Range, WatchStream};
use geminga_proto::ids::{Term, TopicId};
use geminga_runtime::Tasks;
use parking_lot::Mutex;

use super::*;

const ONE: BrokerId = BrokerId(1);
const TWO: BrokerId = BrokerId(2);
/// No wait of these tests is longer than this, on the paused clock.
const LIMIT: Duration = Duration::from_secs(600);

struct World {
    store: MemoryStore,
    topology: Topology,
    view: watch::Sender<View>,
    leases: [LeaseId; 2],
    _tasks: Tasks,
}

impl World {
    /// Two brokers, of which the second is the coordinator and dead as the first sees it, and the other way round.
    async fn new() -> Self {
        let (store, tasks) = (MemoryStore::new(), Tasks::new("broker"));
        let shared: Arc<dyn MetaStore> = Arc::new(store.clone());
        let groups = (TopicId::from_random(1), 1);
        let topology = Topology::start(shared, &tasks, groups).await.unwrap();
        let leases = [register(&store, ONE).await, register(&store, TWO).await];
        let office = record::Coordinator { broker: TWO }.encode();
        store.txn(Txn::new().put(keys::COORDINATOR, office)).await.unwrap();
        let view = View { dead: BTreeSet::from([ONE, TWO]), ..View::default() };
        let world = Self { store, topology, view: watch::Sender::new(view), leases, _tasks: tasks };
        let seen = |view: &Topology| view.broker(TWO).map(|_| ());
        world.topology.wait_for(LIMIT, seen).await.unwrap();
        world
    }

    /// The second broker owns the only partition.
    async fn assigned_to_two(&self) {
        let record = Record {
            id: topic(),
            partitions: 1,
            write_quorum: 3,
            ack_quorum: 2,
            replication_factor: None,
            configs: std::collections::BTreeMap::new(),
            created_ms: 0,
        };
        let created = owned_by(TWO, 1).put(keys::topic("default", "t"), record.encode());
        self.store.txn(created).await.unwrap();
        let owns = |view: &Topology| view.loads().contains_key(&TWO).then_some(());
        self.topology.wait_for(LIMIT, owns).await.unwrap();
    }

    /// Of the second broker by the first one.
    fn revocation(&self, store: impl MetaStore) -> Revocation {
        Revocation {
            store: Arc::new(store),
            topology: self.topology.clone(),
            view: self.view.subscribe(),
            me: (ONE, self.leases[0]),
            dead: (TWO, self.leases[1]),
            refused: false,
        }
    }

    async fn attempt(&self, revocation: &Revocation) -> (LeaseId, Outcome) {
        let hold = self.store.grant_lease(HOLD).await.unwrap();
        (hold, revocation.attempt(hold).await.unwrap())
    }

    async fn is_there(&self, key: &str) -> bool {
        self.store.get(key).await.unwrap().is_some()
    }
}

fn topic() -> TopicId {
    TopicId::from_random(2)
}

fn owned_by(broker: BrokerId, term: i32) -> Txn {
    let owner = Assignment { broker: Some(broker), term: Term(term) };
    Txn::new().put(keys::assign(topic(), 0), Assign { partitions: vec![owner] }.encode())
}

async fn register(store: &MemoryStore, id: BrokerId) -> LeaseId {
    let lease = store.grant_lease(LIMIT).await.unwrap();
    let record = record::Broker {
        id,
        grpc_address: format!("127.0.0.1:{id}"),
        http_address: String::new(),
        zone: String::new(),
        lease,
        started_ms: 0,
        load: None,
        kafka: Vec::new(),
        features: record::Features::ALL,
    };
    store.txn(Txn::new().put_leased(keys::broker(id), record.encode(), lease)).await.unwrap();
    lease
}

/// What happens to a transaction right before it takes effect, or instead of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// The second broker registers again.
    Again,
    /// The first one's registration ends.
    Ended,
    /// It stays on its way until the test lets it arrive.
    Late,
    /// It takes effect, and is never answered.
    Unanswered,
    /// It takes effect, and nobody can say so.
    Unknown,
    /// As above, and nothing is read from then on.
    Deaf,
}

#[derive(Debug, Clone)]
struct Between {
    store: MemoryStore,
    before: Before,
    late: Arc<Mutex<Option<Txn>>>,
}

impl Between {
    fn new(world: &World, before: Before) -> Self {
        Self { store: world.store.clone(), before, late: Arc::default() }
    }
}

#[async_trait]
impl MetaStore for Between {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        if self.before == Before::Deaf && self.late.lock().is_some() {
            return Err(Error::Unavailable("away".to_owned()));
        }
        self.store.get(key).await
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.store.range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        match self.before {
            Before::Again => {
                self.store.txn(Txn::new().delete(keys::broker(TWO))).await?;
                register(&self.store, TWO).await;
                self.store.txn(txn).await
            }
            Before::Ended => {
                self.store.txn(Txn::new().delete(keys::broker(ONE))).await?;
                self.store.txn(txn).await
            }
            Before::Late => {
                *self.late.lock() = Some(txn);
                std::future::pending().await
            }
            Before::Unanswered => {
                self.store.txn(txn).await?;
                std::future::pending().await
            }
            Before::Unknown | Before::Deaf => {
                *self.late.lock() = Some(txn.clone());
                self.store.txn(txn).await?;
                Err(Error::Unknown("no answer".to_owned()))
            }
        }
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

#[tokio::test(start_paused = true)]
async fn a_registration_ends_with_its_office() {
    let world = World::new().await;
    let (_, outcome) = world.attempt(&world.revocation(world.store.clone())).await;
    assert_eq!(outcome, Outcome::Ended);
    assert!(!world.is_there(&keys::broker(TWO)).await);
    assert!(!world.is_there(keys::COORDINATOR).await);
    assert!(world.is_there(&keys::broker(ONE)).await);
    let gone = world.store.keep_alive(world.leases[1]).await;
    assert_eq!(gone, Err(Error::LeaseGone(world.leases[1])));
}

#[tokio::test(start_paused = true)]
async fn the_office_of_another_broker_stays() {
    let world = World::new().await;
    let office = record::Coordinator { broker: ONE }.encode();
    world.store.txn(Txn::new().put(keys::COORDINATOR, office)).await.unwrap();
    let (_, outcome) = world.attempt(&world.revocation(world.store.clone())).await;
    assert_eq!(outcome, Outcome::Ended);
    assert!(world.is_there(keys::COORDINATOR).await);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_registered_again_is_not_hit() {
    let world = World::new().await;
    let meanwhile = Between::new(&world, Before::Again);
    let (_, outcome) = world.attempt(&world.revocation(meanwhile)).await;
    assert_eq!(outcome, Outcome::InTheWay);
    assert!(world.is_there(&keys::broker(TWO)).await);
    // And so when it did before this one looked.
    let (_, outcome) = world.attempt(&world.revocation(world.store.clone())).await;
    assert_eq!(outcome, Outcome::InTheWay);
    assert!(world.is_there(&keys::broker(TWO)).await);
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_taken_back_when_the_evidence_goes() {
    let world = World::new().await;
    let late = Between::new(&world, Before::Late);
    let answers = async {
        while late.late.lock().is_none() {
            tokio::task::yield_now().await;
        }
        world.view.send_modify(|view| view.dead.retain(|broker| *broker != TWO));
    };
    let begin = tokio::time::Instant::now();
    tokio::join!(world.revocation(late.clone()).run(), answers);
    assert!(begin.elapsed() < CONTACT, "it is not merely given up");
    let txn = late.late.lock().take().expect("it was on its way");
    assert!(world.store.txn(txn).await.is_err(), "it arrives when nobody is dead any more");
    assert!(world.is_there(&keys::broker(TWO)).await);
    assert!(!world.is_there(keys::REVOKING).await);
}

/// Others would end the next registration before anything has moved.
#[tokio::test(start_paused = true)]
async fn a_revocation_whose_answer_is_lost_holds_like_any_other() {
    for before in [Before::Unanswered, Before::Unknown] {
        let world = World::new().await;
        world.assigned_to_two().await;
        let lost = Between::new(&world, before);
        let moves = async {
            let gone = |view: &Topology| view.broker(TWO).is_none().then_some(());
            world.topology.wait_for(LIMIT, gone).await.unwrap();
            world.view.send_modify(|view| view.dead.retain(|broker| *broker != TWO));
            for _ in 0..100 {
                tokio::task::yield_now().await;
                assert!(world.is_there(keys::REVOKING).await, "{before:?}: nothing has moved");
            }
            world.store.txn(owned_by(ONE, 2)).await.unwrap();
        };
        tokio::join!(world.revocation(lost).run(), moves);
        assert!(!world.is_there(keys::REVOKING).await, "{before:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_nobody_can_tell_the_key_stays() {
    let world = World::new().await;
    world.revocation(Between::new(&world, Before::Deaf)).run().await;
    assert!(world.is_there(keys::REVOKING).await);
    tokio::time::sleep(2 * HOLD).await;
    assert!(!world.is_there(keys::REVOKING).await);
}

/// As after a pause of this process, of which its prober hears first.
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_once_the_evidence_has_gone() {
    let world = World::new().await;
    let revocation = world.revocation(world.store.clone());
    world.view.send_modify(|view| view.dead.retain(|broker| *broker != TWO));
    let hold = world.store.grant_lease(HOLD).await.unwrap();
    assert_eq!(revocation.end(hold, &AtomicBool::new(false)).await, Ok(Outcome::TakenBack));
    assert!(world.is_there(&keys::broker(TWO)).await);
}

#[tokio::test(start_paused = true)]
async fn one_revocation_at_a_time_in_the_cluster() {
    let world = World::new().await;
    let office = record::Coordinator { broker: ONE }.encode();
    world.store.txn(Txn::new().put(keys::COORDINATOR, office)).await.unwrap();
    let other = record::Revoking { broker: BrokerId(8), by: BrokerId(9) }.encode();
    world.store.txn(Txn::new().put(keys::REVOKING, other)).await.unwrap();
    let (_, outcome) = world.attempt(&world.revocation(world.store.clone())).await;
    assert_eq!(outcome, Outcome::InTheWay);
    assert!(world.is_there(&keys::broker(TWO)).await);
}

/// Nobody gives partitions of the one before to others.
#[tokio::test(start_paused = true)]
async fn the_revocation_of_the_coordinator_replaces_another_one() {
    let world = World::new().await;
    let other = record::Revoking { broker: BrokerId(8), by: BrokerId(9) }.encode();
    let before = world.store.grant_lease(HOLD).await.unwrap();
    world.store.txn(Txn::new().put_leased(keys::REVOKING, other, before)).await.unwrap();
    let (hold, outcome) = world.attempt(&world.revocation(world.store.clone())).await;
    assert_eq!(outcome, Outcome::Ended);
    assert!(!world.is_there(&keys::broker(TWO)).await);
    world.store.revoke_lease(before).await.unwrap();
    assert!(world.is_there(keys::REVOKING).await, "it lives by its own lease");
    world.store.revoke_lease(hold).await.unwrap();
    assert!(!world.is_there(keys::REVOKING).await);

    let world = World::new().await;
    let same = record::Revoking { broker: TWO, by: BrokerId(9) }.encode();
    world.store.txn(Txn::new().put(keys::REVOKING, same)).await.unwrap();
    let (_, outcome) = world.attempt(&world.revocation(world.store.clone())).await;
    assert_eq!(outcome, Outcome::InTheWay, "somebody else is at it");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_moves_that_a_dead_coordinator_would_have_to_make() {
    let world = World::new().await;
    world.assigned_to_two().await;
    let begin = tokio::time::Instant::now();
    let dies = async {
        let gone = |view: &Topology| view.broker(TWO).is_none().then_some(());
        world.topology.wait_for(LIMIT, gone).await.unwrap();
        let office = record::Coordinator { broker: BrokerId(3) }.encode();
        world.store.txn(Txn::new().put(keys::COORDINATOR, office)).await.unwrap();
        let elected = |view: &Topology| view.coordinator().map(|_| ());
        world.topology.wait_for(LIMIT, elected).await.unwrap();
        assert!(world.is_there(keys::REVOKING).await, "nothing has moved");
        world.view.send_modify(|view| _ = view.dead.insert(BrokerId(3)));
    };
    tokio::join!(world.revocation(world.store.clone()).run(), dies);
    assert!(!world.is_there(keys::REVOKING).await);
    assert!(begin.elapsed() < HOLD, "it was not merely forgotten");
}

#[tokio::test(start_paused = true)]
async fn of_two_that_accuse_each_other_one_goes() {
    let world = World::new().await;
    let meanwhile = world.revocation(Between::new(&world, Before::Ended));
    assert_eq!(world.attempt(&meanwhile).await.1, Outcome::InTheWay);
    assert!(world.is_there(&keys::broker(TWO)).await);
    let world = World::new().await;
    let one = world.revocation(world.store.clone());
    let two = Revocation { me: one.dead, dead: one.me, ..world.revocation(world.store.clone()) };
    let (hold, outcome) = world.attempt(&one).await;
    assert_eq!(outcome, Outcome::Ended);
    world.store.revoke_lease(hold).await.unwrap();
    // The second one does not know yet that its own registration has ended.
    let (_, outcome) = world.attempt(&two).await;
    assert_eq!(outcome, Outcome::InTheWay);
    assert!(world.is_there(&keys::broker(ONE)).await);
}

#[tokio::test(start_paused = true)]
async fn the_next_revocation_waits_until_partitions_have_moved() {
    let world = World::new().await;
    world.assigned_to_two().await;
    let moves = async {
        let gone = |view: &Topology| view.broker(TWO).is_none().then_some(());
        world.topology.wait_for(LIMIT, gone).await.unwrap();
        for _ in 0..100 {
            tokio::task::yield_now().await;
            assert!(world.is_there(keys::REVOKING).await, "nothing has moved");
        }
        world.store.txn(owned_by(ONE, 2)).await.unwrap();
    };
    let begin = tokio::time::Instant::now();
    tokio::join!(world.revocation(world.store.clone()).run(), moves);
    assert!(!world.is_there(keys::REVOKING).await);
    assert!(begin.elapsed() < HOLD, "it was not merely forgotten");
}

//! Coordinators on the store in memory and a paused clock: elections, assignment, death, and guards against the stale.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::record::{Assign, Topic as Record};
use geminga_metastore::{Guard, LeaseId, MemoryStore, MetaStore, Txn, TxnOutcome, keys, record};
use geminga_proto::ids::{BrokerId, PartitionIndex, Term, TopicId};
use geminga_proto::reason::Reason;
use geminga_runtime::{ManualClock, Tasks};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Coordinator, Decision, Liveness, Office, Parts, Probed, View, decisions, start};
use crate::ownership::assignment::{Cause, Change, Ownership};
use crate::ownership::liveness::{ABSENCE, GRACE};
use crate::ownership::operator::Operator;
use crate::ownership::registration::{Identity, Registration, Standing};
use crate::ownership::topology::Topology;
use crate::partition::testing::number_brokers;

const TTL: Duration = Duration::from_secs(3);
const SHARDS: u32 = 4;
/// No wait of these tests is longer than this, on the paused clock.
const LIMIT: Duration = Duration::from_secs(60);

fn groups() -> TopicId {
    TopicId::from_random(1)
}

fn topic_id() -> TopicId {
    TopicId::from_random(2)
}

struct Node {
    tasks: Tasks,
    topology: Topology,
    registration: Registration,
}

impl Node {
    /// A registered broker without a coordinator's task.
    async fn registered(store: &MemoryStore, id: i32) -> (Self, Parts) {
        number_brokers(store).await;
        let store: Arc<dyn MetaStore> = Arc::new(store.clone());
        let tasks = Tasks::new("broker");
        let topology =
            Topology::start(Arc::clone(&store), &tasks, (groups(), SHARDS)).await.unwrap();
        let identity = Identity {
            grpc_address: format!("127.0.0.1:{id}"),
            http_address: String::new(),
            zone: String::new(),
            kafka: Vec::new(),
            started_ms: 0,
        };
        let registration = Registration::start(
            Arc::clone(&store),
            topology.clone(),
            &tasks,
            (BrokerId(id), 0),
            identity,
            TTL,
        )
        .await
        .unwrap();
        let parts = Parts {
            store,
            topology: topology.clone(),
            registration: registration.clone(),
            probed: None,
            ttl: TTL,
            sole: false,
        };
        (Self { tasks, topology, registration }, parts)
    }

    async fn start(store: &MemoryStore, id: i32) -> Self {
        let (node, parts) = Self::registered(store, id).await;
        start(parts, &node.tasks).await.unwrap();
        node
    }

    /// Owners and terms of the topic's partitions, when it is seen.
    fn owners(&self) -> Option<Vec<(i32, Term)>> {
        let topic = self.topology.topic_by_id(topic_id())?;
        let owners = self.topology.owners(&topic);
        Some(owners.iter().map(|o| (o.broker.map_or(-1, |b| b.0), o.term)).collect())
    }

    /// Waits until brokers own so many partitions, group shards among them; returns the topic's.
    async fn wait_loads(&self, wanted: &[(i32, u32)]) -> Vec<(i32, Term)> {
        let wanted: HashMap<_, _> = wanted.iter().map(|(id, n)| (BrokerId(*id), *n)).collect();
        let found = self
            .topology
            .wait_for(LIMIT, |view| (view.loads() == wanted).then(|| self.owners()).flatten());
        found.await.unwrap_or_else(|| panic!("{wanted:?}, not {:?}", self.topology.loads()))
    }

    async fn wait_coordinator(&self) -> BrokerId {
        let elected = self.topology.wait_for(LIMIT, |view| view.coordinator());
        elected.await.expect("a coordinator in time").broker
    }

    /// Ends without a word.
    fn kill(&self) {
        self.tasks.cancel();
    }

    /// Its lease ends, as by a fault of its network. No pause of the store can have done it: it counts as dead at once.
    async fn end_registration(&self, store: &MemoryStore) {
        tokio::time::sleep(2 * TTL).await;
        let Standing::Registered { lease } = self.registration.standing() else {
            panic!("not registered")
        };
        self.kill();
        store.revoke_lease(lease).await.unwrap();
    }
}

async fn create(store: &MemoryStore, partitions: u32) {
    let record = Record {
        id: topic_id(),
        partitions,
        write_quorum: 3,
        ack_quorum: 2,
        replication_factor: None,
        configs: BTreeMap::new(),
        created_ms: 0,
    };
    let put = store.put_if(&keys::topic("default", "t"), None, record.encode()).await.unwrap();
    assert!(put.is_some());
}

/// More than one transaction takes.
#[tokio::test(start_paused = true)]
async fn a_topic_of_any_size_gets_owners() {
    let store = MemoryStore::new();
    create(&store, 10_000).await;
    let node = Node::start(&store, 1).await;
    node.wait_loads(&[(1, 10_000 + SHARDS)]).await;
}

#[tokio::test(start_paused = true)]
async fn two_brokers_share_and_one_that_dies_is_replaced_under_the_next_term() {
    let store = MemoryStore::new();
    create(&store, 10).await;
    let (one, two) = (Node::start(&store, 1).await, Node::start(&store, 2).await);
    let before = one.wait_loads(&[(1, 7), (2, 7)]).await;
    let coordinator = one.wait_coordinator().await;
    // Whoever dies, the other one serves everything: first the plain case, then the coordinator's own death.
    let (dead, left) = if coordinator == BrokerId(1) { (&two, &one) } else { (&one, &two) };
    let (gone, stays) = (dead.registration.id().0, left.registration.id().0);
    dead.kill();
    let after = left.wait_loads(&[(stays, 14)]).await;
    for ((was, term), (is, next)) in before.iter().zip(&after) {
        let moved = *was == gone;
        assert_eq!(*is, stays);
        assert_eq!(
            next.0,
            term.0 + i32::from(moved),
            "a term rises with each change of owner only"
        );
    }
    let three = Node::start(&store, 3).await;
    three.wait_loads(&[(stays, 7), (3, 7)]).await;
    left.kill();
    three.wait_loads(&[(3, 14)]).await;
    assert_eq!(three.wait_coordinator().await, BrokerId(3));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_leaves_is_replaced_at_once() {
    let store = MemoryStore::new();
    create(&store, 4).await;
    let (one, two) = (Node::start(&store, 1).await, Node::start(&store, 2).await);
    one.wait_loads(&[(1, 4), (2, 4)]).await;
    // The proof that no pause of the store ended the lease takes a time to live of contact.
    tokio::time::sleep(2 * TTL).await;
    let left_at = tokio::time::Instant::now();
    two.registration.leave().await;
    one.wait_loads(&[(1, 8)]).await;
    assert!(left_at.elapsed() < TTL, "it took {:?}", left_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn group_shards_are_assigned_like_partitions() {
    let store = MemoryStore::new();
    let (one, _two) = (Node::start(&store, 1).await, Node::start(&store, 2).await);
    let spread = one.topology.wait_for(LIMIT, |view| {
        let owners = view.owners(&view.groups_topic());
        let of = |id| owners.iter().filter(|o| o.broker == Some(BrokerId(id))).count();
        (of(1) == 2 && of(2) == 2).then_some(())
    });
    assert!(spread.await.is_some());
}

/// A coordinator that does not know yet that another one was elected.
async fn deposed(store: &MemoryStore, parts: Parts, lease: LeaseId) -> (Coordinator, Office) {
    let elect = |id| {
        let record = record::Coordinator { broker: BrokerId(id) }.encode();
        let txn = Txn::new().put_leased(keys::COORDINATOR, record, lease);
        let store = store.clone();
        async move {
            match store.txn(txn).await.unwrap() {
                TxnOutcome::Committed(created) => created,
                TxnOutcome::GuardFailed => panic!("there is no guard"),
            }
        }
    };
    let created = elect(1).await;
    // Deposed: the key ends, and another one is elected.
    store.txn(Txn::new().delete(keys::COORDINATOR)).await.unwrap();
    elect(2).await;
    let office = Office { created, lease, seen: true };
    let stale = Coordinator {
        liveness: Liveness::new(TTL, false),
        parts,
        office: Some(office),
        decided: geminga_metastore::Revision(0),
        decided_at: Instant::now(),
        brokers: Box::pin(futures::stream::pending()),
    };
    (stale, office)
}

/// Its registration was ended by others, and its lease not yet: the office would end with that, in the midst of decisions.
#[tokio::test(start_paused = true)]
async fn who_is_not_registered_is_not_elected() {
    let store = MemoryStore::new();
    let (node, parts) = Node::registered(&store, 1).await;
    let Standing::Registered { lease } = node.registration.standing() else {
        panic!("not registered")
    };
    let mut coordinator = Coordinator {
        liveness: Liveness::new(TTL, false),
        parts,
        office: None,
        decided: geminga_metastore::Revision(0),
        decided_at: Instant::now(),
        brokers: Box::pin(futures::stream::pending()),
    };
    let seen = |view: &Topology| view.broker(BrokerId(1)).map(|_| ());
    node.topology.wait_for(LIMIT, seen).await.unwrap();
    assert_eq!(coordinator.campaign(LeaseId(7)).await, Ok(false), "by another lease");
    // The view does not show yet that the key has gone.
    node.kill();
    let key = keys::broker(BrokerId(1));
    let mine = store.get(&key).await.unwrap().unwrap();
    store.txn(Txn::new().delete(&key)).await.unwrap();
    assert_eq!(coordinator.campaign(lease).await, Ok(false));
    store.txn(Txn::new().put_leased(&key, mine.value, lease)).await.unwrap();
    assert_eq!(coordinator.campaign(lease).await, Ok(false), "that is another registration");
    assert!(store.get(keys::COORDINATOR).await.unwrap().is_none());
}

/// A coordinator whose election ended while it decided changes nothing, whatever its view says.
#[tokio::test(start_paused = true)]
async fn a_stale_coordinator_writes_nothing() {
    let store = MemoryStore::new();
    create(&store, 1).await;
    let (node, parts) = Node::registered(&store, 1).await;
    let Standing::Registered { lease } = node.registration.standing() else {
        panic!("not registered")
    };
    let (mut stale, office) = deposed(&store, parts, lease).await;
    let assign = Assign { partitions: Vec::new() };
    let key = keys::assign(topic_id(), 0);
    let txn = Txn::new().guard(Guard::Absent(key.clone())).put(&key, assign.encode());
    let committed = stale.commit(office, Decision { txn, moves: Vec::new() }).await.unwrap();
    assert!(!committed);
    assert!(stale.office.is_none(), "it has seen that it is none any more");
    assert!(store.get(&key).await.unwrap().is_none());
}

/// The view may move on between a plan and its transactions. The version that guards these is then of an assignment that
/// the plan has not seen, and would let one term through for two brokers, of which neither could take the partition over.
#[tokio::test(start_paused = true)]
async fn a_plan_that_the_view_has_overtaken_changes_nothing() {
    let store = MemoryStore::new();
    create(&store, 1).await;
    let (node, _) = Node::registered(&store, 1).await;
    let owned = |id, term| Ownership { broker: Some(BrokerId(id)), term: Term(term) };
    let put = |id, term| {
        let owner = record::Assignment { broker: Some(BrokerId(id)), term: Term(term) };
        Txn::new().put(keys::assign(topic_id(), 0), Assign { partitions: vec![owner] }.encode())
    };
    store.txn(put(1, 5)).await.unwrap();
    let change = Change {
        topic: topic_id(),
        partition: PartitionIndex(0),
        before: owned(1, 5),
        after: owned(3, 6),
        cause: Cause::Balance,
    };
    let sees = async |term| {
        let seen = |view: &Topology| view.owner(topic_id(), PartitionIndex(0));
        let seen = |view: &Topology| seen(view).filter(|o| o.term == Term(term));
        node.topology.wait_for(LIMIT, seen).await.expect("seen");
    };
    sees(5).await;
    assert_eq!(decisions(&[change], &node.topology).len(), 1);
    store.txn(put(2, 6)).await.unwrap();
    sees(6).await;
    assert_eq!(decisions(&[change], &node.topology).len(), 0);
}

fn operator(store: &MemoryStore, node: &Node) -> Operator {
    Operator {
        store: Arc::new(store.clone()),
        topology: node.topology.clone(),
        clock: Arc::new(ManualClock::at(1)),
    }
}

#[tokio::test(start_paused = true)]
async fn a_drained_broker_gives_everything_away_and_is_forgotten_when_it_has_gone() {
    let store = MemoryStore::new();
    create(&store, 40).await;
    let (one, two) = (Node::start(&store, 1).await, Node::start(&store, 2).await);
    one.wait_loads(&[(1, 22), (2, 22)]).await;
    let operator = operator(&store, &one);
    for _ in 0..2 {
        operator.drain(BrokerId(2)).await.unwrap();
    }
    two.wait_loads(&[(1, 44)]).await;
    let seen = one.topology.wait_for(LIMIT, |view| (!view.drains().is_empty()).then_some(()));
    seen.await.unwrap();
    // Nobody is left to take what the other one has.
    let refused = operator.drain(BrokerId(1)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidRequest);
    assert_eq!(operator.drain(BrokerId(7)).await.unwrap_err().reason, Reason::InvalidRequest);

    for _ in 0..2 {
        operator.undrain(BrokerId(2)).await.unwrap();
    }
    one.wait_loads(&[(1, 22), (2, 22)]).await;
    assert_eq!(operator.undrain(BrokerId(7)).await.unwrap_err().reason, Reason::InvalidRequest);

    operator.drain(BrokerId(2)).await.unwrap();
    one.wait_loads(&[(1, 44)]).await;
    two.end_registration(&store).await;
    let gone_at = Instant::now();
    let forgotten =
        one.topology.wait_for(2 * ABSENCE, |view| view.drains().is_empty().then_some(()));
    forgotten.await.expect("the key of a broker that has gone is removed");
    assert!(gone_at.elapsed() >= ABSENCE, "it might have come back");
}

/// One that was taken for dead registers again, and is still to own nothing.
#[tokio::test(start_paused = true)]
async fn a_drain_outlives_a_registration_that_ends() {
    let store = MemoryStore::new();
    create(&store, 4).await;
    let (one, two) = (Node::start(&store, 1).await, Node::start(&store, 2).await);
    one.wait_loads(&[(1, 4), (2, 4)]).await;
    operator(&store, &one).drain(BrokerId(2)).await.unwrap();
    one.wait_loads(&[(1, 8)]).await;
    two.end_registration(&store).await;
    let gone =
        one.topology.wait_for(LIMIT, |view| view.broker(BrokerId(2)).is_none().then_some(()));
    gone.await.unwrap();
    // Much longer than the store's pauses that are made up for otherwise.
    tokio::time::sleep(10 * (TTL + GRACE)).await;
    let (_again, _) = Node::registered(&store, 2).await;
    tokio::time::sleep(ABSENCE).await;
    assert!(one.topology.drains().contains_key(&BrokerId(2)));
    one.wait_loads(&[(1, 8)]).await;
}

/// Its number does not come back.
#[tokio::test(start_paused = true)]
async fn who_leaves_in_order_takes_its_drain_with_it() {
    let store = MemoryStore::new();
    create(&store, 4).await;
    let (one, two) = (Node::start(&store, 1).await, Node::start(&store, 2).await);
    one.wait_loads(&[(1, 4), (2, 4)]).await;
    let drain = |id| keys::drain(BrokerId(id));
    for id in [2, 3] {
        let record = record::Drain { since_ms: 1 };
        store.txn(Txn::new().put(drain(id), record.encode())).await.unwrap();
    }
    one.wait_loads(&[(1, 8)]).await;
    two.registration.leave().await;
    assert!(store.get(&drain(2)).await.unwrap().is_none());
    assert!(store.get(&drain(3)).await.unwrap().is_some(), "that is another one's");
}

#[tokio::test(start_paused = true)]
async fn a_partition_moves_where_an_operator_wants_it() {
    let store = MemoryStore::new();
    create(&store, 4).await;
    let (one, two) = (Node::start(&store, 1).await, Node::start(&store, 2).await);
    let before = one.wait_loads(&[(1, 4), (2, 4)]).await;
    let operator = operator(&store, &two);
    two.wait_loads(&[(1, 4), (2, 4)]).await;
    let at = before.iter().position(|(owner, _)| *owner == 1).unwrap();
    let partition = u32::try_from(at).unwrap();
    let (from, owner) = operator.move_partition("t", partition, BrokerId(2)).await.unwrap();
    assert_eq!((from, owner.broker, owner.term.0), (BrokerId(1), BrokerId(2), before[at].1.0 + 1));
    let key = keys::move_of(topic_id(), PartitionIndex(partition));
    assert!(store.get(&key).await.unwrap().is_none(), "it is done once");
    let again = operator.move_partition("t", partition, BrokerId(2)).await.unwrap();
    assert_eq!((again.0, again.1.term), (BrokerId(2), owner.term));
    let refused = async |partition, to| {
        operator.move_partition("t", partition, BrokerId(to)).await.unwrap_err().reason
    };
    assert_eq!(refused(partition, 7).await, Reason::InvalidRequest);
    assert_eq!(refused(9, 1).await, Reason::UnknownPartition);

    // Asked for a broker that has gone meanwhile: nothing moves, and the key does not stay.
    let asked = record::Move { to: BrokerId(7), asked_ms: 1 };
    let mut changed = two.topology.changed();
    store.txn(Txn::new().put(&key, asked.encode())).await.unwrap();
    while store.get(&key).await.unwrap().is_some() {
        changed.changed().await.unwrap();
    }
    assert_eq!(two.wait_loads(&[(1, 3), (2, 5)]).await[at], (2, owner.term));
}

#[tokio::test(start_paused = true)]
async fn a_stale_coordinator_carries_nothing_out() {
    let store = MemoryStore::new();
    create(&store, 1).await;
    let (node, parts) = Node::registered(&store, 1).await;
    let Standing::Registered { lease } = node.registration.standing() else {
        panic!("not registered")
    };
    let (mut stale, office) = deposed(&store, parts, lease).await;
    let owner = record::Assignment { broker: Some(BrokerId(1)), term: Term(1) };
    let assign = Assign { partitions: vec![owner] }.encode();
    let key = keys::move_of(topic_id(), PartitionIndex(0));
    let asked = record::Move { to: BrokerId(3), asked_ms: 1 }.encode();
    let txn = Txn::new().put(keys::assign(topic_id(), 0), assign.clone()).put(&key, asked);
    store
        .txn(txn.put(keys::drain(BrokerId(9)), record::Drain { since_ms: 1 }.encode()))
        .await
        .unwrap();
    let seen = node.topology.wait_for(LIMIT, |view| {
        (view.moves().len() == 1 && view.drains().len() == 1).then_some(())
    });
    seen.await.unwrap();
    let (one, three) = (BrokerId(1), BrokerId(3));
    for live in [vec![one, three], vec![one]] {
        // As it would be carried out, and as it would be refused.
        let live: BTreeSet<BrokerId> = live.into_iter().collect();
        stale.office = Some(office);
        stale.liveness.on_snapshot(Instant::now(), live.clone());
        assert_eq!(stale.carry_out_asked(office, &live).await.unwrap(), Some(false));
        assert!(stale.office.is_none(), "it has seen that it is none any more");
    }
    let stands = store.get(&keys::assign(topic_id(), 0)).await.unwrap().unwrap();
    assert_eq!(stands.value, assign);
    assert!(store.get(&key).await.unwrap().is_some());
    assert!(store.get(&keys::drain(BrokerId(9))).await.unwrap().is_some());
}

/// A partition of a dead broker is served again before anything that is merely asked for is done.
#[tokio::test(start_paused = true)]
async fn what_nobody_serves_comes_before_what_is_asked_for() {
    let store = MemoryStore::new();
    create(&store, 2).await;
    let (node, parts) = Node::registered(&store, 1).await;
    let Standing::Registered { lease } = node.registration.standing() else {
        panic!("not registered")
    };
    let owned = |broker, term| record::Assignment { broker: Some(BrokerId(broker)), term };
    let assign =
        |partitions| Txn::new().put(keys::assign(topic_id(), 0), Assign { partitions }.encode());
    let shards = vec![owned(1, Term(1)); SHARDS as usize];
    let key = keys::move_of(topic_id(), PartitionIndex(0));
    let asked = record::Move { to: BrokerId(2), asked_ms: 1 }.encode();
    let txn = assign(vec![owned(1, Term(1)), owned(3, Term(1))]).put(&key, asked);
    let shards = Assign { partitions: shards }.encode();
    store.txn(txn.put(keys::assign(groups(), 0), shards)).await.unwrap();
    let seen = node.topology.wait_for(LIMIT, |view| {
        let registered = view.broker(BrokerId(1)).is_some();
        let loaded = view.loads().contains_key(&BrokerId(3));
        (registered && view.moves().len() == 1 && loaded).then_some(())
    });
    seen.await.unwrap();
    let mut coordinator = Coordinator {
        liveness: Liveness::new(TTL, false),
        parts,
        office: None,
        decided: geminga_metastore::Revision(0),
        decided_at: Instant::now(),
        brokers: Box::pin(futures::stream::pending()),
    };
    assert!(coordinator.campaign(lease).await.unwrap());
    let office = coordinator.office.unwrap();
    let present = [BrokerId(1), BrokerId(2)].into();
    coordinator.liveness.on_snapshot(Instant::now(), present);
    coordinator.liveness.on_deleted(Instant::now(), BrokerId(3), true);
    assert!(coordinator.decide(office).await.unwrap());
    let moved = node.topology.wait_for(LIMIT, |view| {
        (!view.loads().contains_key(&BrokerId(3)))
            .then(|| view.owner(topic_id(), PartitionIndex(1)))
    });
    assert_eq!(moved.await.flatten().expect("served").term, Term(2));
    assert!(store.get(&key).await.unwrap().is_some(), "it is asked for still");
    assert!(coordinator.decide(office).await.unwrap());
    assert!(store.get(&key).await.unwrap().is_none(), "and done in its turn");
}

/// A broker that no probe reaches is given nothing, not even when it is asked for.
#[tokio::test(start_paused = true)]
async fn nothing_moves_to_whom_probes_do_not_reach() {
    let store = MemoryStore::new();
    create(&store, 4).await;
    let (one, mut parts) = Node::registered(&store, 1).await;
    let (two, _) = Node::registered(&store, 2).await;
    let probed = watch::Sender::new(Probed::default());
    parts.probed = Some(probed.subscribe());
    start(parts, &one.tasks).await.unwrap();
    one.wait_loads(&[(1, 8)]).await;
    let operator = operator(&store, &two);
    two.wait_loads(&[(1, 8)]).await;
    let refused = operator.move_partition("t", 0, BrokerId(2)).await.unwrap_err();
    assert_eq!(refused.reason, Reason::NotReady);
    two.wait_loads(&[(1, 8)]).await;
    let Standing::Registered { lease } = two.registration.standing() else {
        panic!("not registered")
    };
    probed.send_modify(|view| view.reached.extend([(BrokerId(2), lease)]));
    one.wait_loads(&[(1, 4), (2, 4)]).await;
}

#[test]
fn partitions_without_an_owner_that_lives_are_counted() {
    let owned = |id: i32| Ownership { broker: Some(BrokerId(id)), term: Term(1) };
    let view = View {
        topics: vec![(topic_id(), 3), (groups(), 2)],
        current: HashMap::from([
            (topic_id(), vec![owned(1), owned(2), Ownership::default()]),
            (groups(), vec![owned(1), owned(2)]),
        ]),
    };
    assert_eq!(view.partitions(), 5);
    for (live, unserved) in [(vec![1, 2], 1), (vec![1], 3), (vec![], 5)] {
        let live: BTreeSet<_> = live.into_iter().map(BrokerId).collect();
        assert_eq!(view.unserved(&live), unserved, "{live:?}");
    }
}

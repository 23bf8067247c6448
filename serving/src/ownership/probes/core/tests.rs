//! Probers in one made-up world: who reaches whom is said by each test, time by its ticks.

use super::*;

fn lease(broker: i32) -> LeaseId {
    LeaseId(100 + i64::from(broker))
}

/// What lies between two brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Open,
    /// The process at the other end is gone.
    Refused,
    /// Packets are dropped, or the process stands still.
    Silent,
}

/// Some probers, what each meets, and whom they took for dead.
struct World {
    now: Instant,
    cores: BTreeMap<i32, Core>,
    /// From, to. Open when not named.
    paths: BTreeMap<(i32, i32), Path>,
    /// Who stands still: nothing happens to them.
    paused: BTreeSet<i32>,
    /// Ends when it is revoked; none are named twice.
    revoked: Vec<(i32, i32)>,
    distrusted: Vec<i32>,
    probes: usize,
    /// Probes that wait for what they themselves caused.
    nested: usize,
    leases: BTreeMap<i32, LeaseId>,
    coordinator: Option<i32>,
}

impl World {
    fn new(brokers: i32) -> Self {
        let mut world = Self {
            now: Instant::now(),
            cores: (1..=brokers).map(|id| (id, Core::new(BrokerId(id)))).collect(),
            paths: BTreeMap::new(),
            paused: BTreeSet::new(),
            revoked: Vec::new(),
            distrusted: Vec::new(),
            probes: 0,
            nested: 0,
            leases: (1..=brokers).map(|id| (id, lease(id))).collect(),
            coordinator: Some(brokers),
        };
        world.members();
        world.ticks(2);
        world
    }

    fn path(&self, from: i32, to: i32) -> Path {
        self.paths.get(&(from, to)).copied().unwrap_or(Path::Open)
    }

    /// The same to everybody.
    fn set(&mut self, to: i32, path: Path) {
        for from in self.cores.keys() {
            self.paths.insert((*from, to), path);
        }
    }

    /// The process ends: its peers notice at once.
    fn kill(&mut self, broker: i32) {
        self.cores.remove(&broker);
        self.set(broker, Path::Refused);
        let others: Vec<i32> = self.cores.keys().copied().collect();
        for other in others {
            self.step(other, Event::Refused(BrokerId(broker)));
        }
    }

    /// Tells everybody who is registered; who is not keeps its partitions until the test says otherwise.
    fn members(&mut self) {
        let coordinator = self.coordinator.map(BrokerId);
        for id in self.cores.keys().copied().collect::<Vec<_>>() {
            let peers = self
                .leases
                .iter()
                .filter(|(other, _)| **other != id)
                .map(|(other, lease)| {
                    let registered = !self.revoked.iter().any(|(_, dead)| dead == other);
                    (BrokerId(*other), Member { lease: *lease, registered })
                })
                .collect();
            self.step(id, Event::Members { peers, coordinator });
        }
    }

    fn step(&mut self, broker: i32, event: Event) {
        if self.paused.contains(&broker) {
            return;
        }
        let Some(core) = self.cores.get_mut(&broker) else { return };
        for effect in core.step(self.now, event) {
            match effect {
                Effect::Probe(BrokerId(to)) => self.probe(broker, to),
                Effect::Revoke { broker: BrokerId(dead), .. } => self.revoked.push((broker, dead)),
                Effect::Distrusted => self.distrusted.push(broker),
            }
        }
    }

    fn probe(&mut self, from: i32, to: i32) {
        self.probes += 1;
        self.nested += 1;
        assert!(self.nested < 50, "probes beget probes without an end");
        match self.path(from, to) {
            Path::Refused => self.step(from, Event::Refused(BrokerId(to))),
            Path::Open if self.cores.contains_key(&to) && !self.paused.contains(&to) => {
                let asks = self.cores[&from].seen();
                self.step(to, Event::Told { peer: BrokerId(from), seen: asks });
                let says = self.cores[&to].seen();
                self.step(from, Event::Answered(BrokerId(to)));
                self.step(from, Event::Told { peer: BrokerId(to), seen: says });
            }
            Path::Open | Path::Silent => {}
        }
        self.nested -= 1;
    }

    fn ticks(&mut self, count: u32) {
        for _ in 0..count {
            self.now += INTERVAL;
            for id in self.cores.keys().copied().collect::<Vec<_>>() {
                self.step(id, Event::Tick);
            }
        }
    }

    /// Every way from one of these brokers to one of the others, and back.
    fn cut(&mut self, some: &[i32], path: Path) {
        for id in self.leases.keys().filter(|id| !some.contains(id)) {
            for one in some {
                self.paths.insert((*one, *id), path);
                self.paths.insert((*id, *one), path);
            }
        }
    }

    /// Everybody from everybody else.
    fn cut_all(&mut self, path: Path) {
        for id in self.leases.keys().copied().collect::<Vec<_>>() {
            self.cut(&[id], path);
        }
    }

    fn dead(&self) -> BTreeSet<i32> {
        self.revoked.iter().map(|(_, dead)| *dead).collect()
    }
}

#[test]
fn a_process_that_ends_is_dead_at_once_where_two_see_it() {
    let mut world = World::new(3);
    world.kill(2);
    assert_eq!(world.dead(), [2].into(), "without a single tick");
    assert_eq!(world.cores[&1].dead(world.now), [BrokerId(2)].into());
}

#[test]
fn of_two_one_sees_a_refusal_and_believes_no_silence() {
    let mut world = World::new(2);
    world.set(2, Path::Silent);
    world.ticks(20);
    assert_eq!(world.dead(), [].into());
    world.kill(2);
    assert_eq!(world.dead(), [2].into());
}

#[test]
fn silence_counts_after_three_probes_and_as_seen_by_two() {
    let mut world = World::new(3);
    world.paused.insert(3);
    world.ticks(3);
    assert_eq!(
        world.dead(),
        [].into(),
        "the first of these probes was answered by its own tick before"
    );
    world.ticks(1);
    assert_eq!(world.dead(), [3].into());
    assert!(world.cores[&1].reached().contains_key(&BrokerId(2)));
    assert!(!world.cores[&1].reached().contains_key(&BrokerId(3)));
}

#[test]
fn what_only_one_sees_kills_nobody() {
    for path in [Path::Silent, Path::Refused] {
        let mut world = World::new(3);
        world.paths.insert((1, 2), path);
        world.ticks(20);
        assert_eq!(world.dead(), [].into(), "{path:?}");
        assert!(!world.cores[&1].reached().contains_key(&BrokerId(2)), "it is given nothing");
    }
}

/// One that is cut off sees everybody dead, and they see it: it is the one that goes.
#[test]
fn the_one_that_is_cut_off_goes() {
    let mut world = World::new(4);
    world.cut(&[3], Path::Silent);
    world.ticks(10);
    assert_eq!(world.dead(), [3].into());
}

/// Two that agree are not enough where they see less than half: they are the ones that are cut off.
#[test]
fn the_smaller_part_ends_nobodys_registration() {
    let mut world = World::new(5);
    world.cut(&[1, 2], Path::Silent);
    world.ticks(10);
    assert!(!world.revoked.is_empty());
    for (by, dead) in world.revoked.clone() {
        assert!(by > 2 && dead <= 2, "{dead} by {by}");
    }
    assert!(world.cores[&1].seen().is_empty(), "nor does it tell others what it sees");
    assert!(world.cores[&1].dead(world.now).is_empty());
    // What it saw does not count when it is back, not even together with one of the others.
    world.revoked.clear();
    world.cut(&[1, 2], Path::Open);
    world.paths.insert((3, 5), Path::Silent);
    world.ticks(10);
    assert_eq!(world.dead(), [].into());
}

/// One machine with three of five brokers ends: their addresses refuse connections, so the network works.
#[test]
fn who_is_refused_by_most_is_not_cut_off() {
    let mut world = World::new(5);
    for dead in [3, 4, 5] {
        world.cores.remove(&dead);
        world.set(dead, Path::Refused);
    }
    world.ticks(1);
    assert_eq!(world.revoked.len(), 2, "each survivor begins with one: {:?}", world.revoked);
    assert!(world.distrusted.is_empty());
    assert_eq!(world.cores[&1].dead(world.now), [3, 4, 5].map(BrokerId).into());
    // A refusal from before does not say that the network works now.
    world.cut(&[1], Path::Silent);
    world.ticks(3);
    assert!(world.cores[&1].dead(world.now).is_empty());
}

/// Such as brokers that were given wrong addresses.
#[test]
fn who_was_never_reached_cuts_nobody_off() {
    let mut world = World::new(3);
    for stranger in [6, 7, 8, 9] {
        world.leases.insert(stranger, lease(stranger));
        world.set(stranger, Path::Refused);
    }
    world.members();
    world.kill(3);
    assert_eq!(world.dead(), [3].into());
}

/// Cut off, it cannot reach new registrations of those that it knows: they count all the same.
#[test]
fn the_smaller_part_stays_so_when_others_register_again() {
    let mut world = World::new(5);
    world.cut(&[1, 2], Path::Silent);
    for again in [3, 4] {
        world.leases.insert(again, LeaseId(7));
    }
    world.members();
    world.ticks(10);
    assert!(!world.revoked.is_empty() && world.revoked.iter().all(|(by, _)| *by > 2));
}

/// Such as two racks between which the probes' port is blocked, and which both reach the metadata store.
#[test]
fn of_two_halves_one_has_a_say() {
    for (half, coordinator, by) in [
        (&[1, 2][..], Some(4), &[3, 4][..]),
        (&[1, 2], Some(1), &[1, 2]),
        (&[1, 4], None, &[1, 4]),
        (&[2, 4], None, &[1, 3]),
        // Elected, and not registered any more.
        (&[3, 4], Some(9), &[1, 2]),
        (&[1, 2, 3], Some(6), &[4, 5, 6]),
        (&[1, 2, 3], Some(2), &[1, 2, 3]),
        (&[4, 5, 6], None, &[1, 2, 3]),
    ] {
        let brokers = 2 * i32::try_from(half.len()).unwrap();
        let mut world = World::new(brokers);
        world.coordinator = coordinator;
        world.members();
        world.cut(half, Path::Silent);
        world.ticks(10);
        let what = format!("{half:?}, {coordinator:?} is elected");
        assert!(!world.revoked.is_empty(), "{what}");
        for (accuser, dead) in &world.revoked {
            assert!(by.contains(accuser) && !by.contains(dead), "{what}: {:?}", world.revoked);
        }
        // Nor do they after the first of them has gone, and its partitions have moved.
        let gone = world.revoked[0].1;
        world.leases.remove(&gone);
        world.cores.remove(&gone);
        world.members();
        world.ticks(10);
        assert!(world.revoked.iter().all(|(accuser, _)| by.contains(accuser)), "{what}, later");
    }
}

/// The last answer of one was on its way when the way to the others broke.
#[test]
fn nor_does_it_while_it_notices_that_it_is_cut_off() {
    let mut world = World::new(5);
    for (one, other) in [(1, 3), (1, 4), (2, 3), (2, 4)] {
        world.paths.insert((one, other), Path::Silent);
        world.paths.insert((other, one), Path::Silent);
    }
    world.ticks(1);
    world.cut(&[1, 2], Path::Silent);
    world.ticks(10);
    assert!(!world.revoked.is_empty() && world.revoked.iter().all(|(by, _)| *by > 2));
}

#[test]
fn nobody_goes_when_the_network_was_away_for_a_moment() {
    for (brokers, silence) in [(3, 3), (3, 4), (3, 20), (4, 5), (5, 3), (5, 20)] {
        let mut world = World::new(brokers);
        world.cut_all(Path::Silent);
        world.ticks(silence);
        world.cut_all(Path::Open);
        world.ticks(1);
        assert_eq!(world.dead(), [].into(), "{brokers} brokers, {silence} ticks");
        world.ticks(5);
        assert_eq!(world.dead(), [].into(), "{brokers} brokers, {silence} ticks, later");
    }
}

/// As above, but one broker is back before another, with the word that the third one is dead in its buffers.
#[test]
fn what_lay_in_buffers_while_the_network_was_away_does_not_count() {
    let mut world = World::new(3);
    world.cut_all(Path::Silent);
    world.ticks(5);
    let seen = vec![Seen { broker: BrokerId(3), lease: lease(3), evidence: Evidence::Missed }];
    world.step(1, Event::Told { peer: BrokerId(2), seen: seen.clone() });
    world.step(1, Event::Answered(BrokerId(2)));
    world.step(1, Event::Told { peer: BrokerId(2), seen });
    assert_eq!(world.dead(), [].into());
    // Who does not come back at all is found dead all the same.
    world.cut(&[3], Path::Silent);
    world.paths.insert((1, 2), Path::Open);
    world.paths.insert((2, 1), Path::Open);
    world.ticks(5);
    assert_eq!(world.dead(), [3].into());
}

/// Two that cannot reach each other say so to the third one, which looks for itself, and is told so again by the answers.
#[test]
fn what_is_said_again_is_not_looked_at_again() {
    let mut world = World::new(3);
    world.paths.insert((1, 2), Path::Silent);
    world.paths.insert((2, 1), Path::Silent);
    world.ticks(4);
    world.probes = 0;
    world.ticks(10);
    assert_eq!(world.probes, 10 * 3 * 2, "one probe for each peer and tick");
    assert_eq!(world.dead(), [].into());
}

/// A revocation on its way is given up by this.
#[test]
fn who_answers_is_not_dead_any_more() {
    let mut world = World::new(3);
    world.paused.insert(3);
    world.ticks(4);
    assert_eq!(world.cores[&1].dead(world.now), [BrokerId(3)].into());
    world.step(1, Event::Answered(BrokerId(3)));
    assert_eq!(world.cores[&1].dead(world.now), [].into());
}

/// A process that stood still sees everybody silent. It may believe nothing of that, whatever it finds in its buffers.
#[test]
fn a_prober_that_stood_still_distrusts_what_it_saw() {
    let mut world = World::new(3);
    world.set(3, Path::Silent);
    world.paths.insert((2, 3), Path::Open);
    world.ticks(3);
    world.paused.insert(1);
    world.now += 10 * INTERVAL;
    world.paused.remove(&1);
    // 2 was paused as well; what it said before lay in the buffers of 1.
    let seen = vec![Seen { broker: BrokerId(3), lease: lease(3), evidence: Evidence::Missed }];
    world.step(1, Event::Tick);
    world.step(1, Event::Told { peer: BrokerId(2), seen });
    assert_eq!(world.distrusted, [1]);
    assert_eq!(world.dead(), [].into());
    world.now += 2 * INTERVAL;
    world.step(1, Event::Tick);
    assert_eq!(world.dead(), [].into(), "late again");
}

#[test]
fn what_another_one_said_long_ago_does_not_count() {
    let mut world = World::new(3);
    let seen = vec![Seen { broker: BrokerId(3), lease: lease(3), evidence: Evidence::Missed }];
    world.step(1, Event::Told { peer: BrokerId(2), seen });
    world.paused.insert(2);
    world.ticks(4);
    world.paths.insert((1, 3), Path::Silent);
    world.ticks(10);
    assert_eq!(world.dead(), [2].into());
}

#[test]
fn what_is_said_of_another_registration_does_not_count() {
    let mut world = World::new(3);
    world.paths.insert((1, 3), Path::Silent);
    world.ticks(5);
    let seen = vec![Seen { broker: BrokerId(3), lease: LeaseId(7), evidence: Evidence::Refused }];
    world.step(1, Event::Told { peer: BrokerId(2), seen });
    assert_eq!(world.dead(), [].into());
}

/// A wrong address is refused from the start.
#[test]
fn who_was_never_reached_is_not_dead_but_given_nothing() {
    let mut world = World::new(2);
    world.leases.insert(9, lease(9));
    world.set(9, Path::Refused);
    world.members();
    world.ticks(20);
    assert_eq!(world.dead(), [].into());
    assert!(!world.cores[&1].reached().contains_key(&BrokerId(9)));
}

#[test]
fn who_registers_again_is_reached_anew() {
    let mut world = World::new(2);
    assert_eq!(world.cores[&1].reached()[&BrokerId(2)], lease(2));
    world.set(2, Path::Silent);
    world.leases.insert(2, LeaseId(7));
    world.members();
    assert!(world.cores[&1].reached().is_empty());
    world.set(2, Path::Open);
    world.ticks(1);
    assert_eq!(world.cores[&1].reached()[&BrokerId(2)], LeaseId(7));
}

/// Several at once look like a fault of the network: one goes, the coordinator first, and the next when that one's
/// partitions have moved.
#[test]
fn one_goes_at_a_time() {
    let mut world = World::new(7);
    for dead in [2, 3, 7] {
        world.paused.insert(dead);
    }
    world.ticks(8);
    assert_eq!(world.dead(), [7].into());
    world.members();
    world.ticks(8);
    assert_eq!(world.dead(), [7].into(), "its partitions have not moved");
    world.leases.remove(&7);
    world.members();
    world.ticks(1);
    assert_eq!(world.dead(), [7].into(), "nor is the revocation over");
    let by: Vec<i32> = world.revoked.iter().map(|(by, _)| *by).collect();
    for by in by {
        world.step(by, Event::RevocationOver);
    }
    assert_eq!(world.dead(), [2, 7].into());
}

/// It is the one that would give the partitions of the one before to others.
#[test]
fn a_dead_coordinator_goes_while_partitions_have_not_moved() {
    let mut world = World::new(7);
    world.paused.extend([2, 3]);
    world.ticks(8);
    assert_eq!(world.dead(), [2].into());
    world.paused.insert(7);
    world.ticks(8);
    world.members();
    for dead in [&[2, 7][..], &[2, 7]] {
        for (by, _) in world.revoked.clone() {
            world.step(by, Event::RevocationOver);
        }
        assert_eq!(world.dead(), dead.iter().copied().collect(), "the third one waits");
        world.members();
    }
}

#[test]
fn a_revocation_that_failed_is_tried_again() {
    let mut world = World::new(3);
    world.kill(2);
    let by: Vec<i32> = world.revoked.drain(..).map(|(by, _)| by).collect();
    assert!(!by.is_empty());
    world.ticks(1);
    assert_eq!(world.dead(), [].into());
    world.step(by[0], Event::RevocationOver);
    assert_eq!(world.dead(), [2].into());
}

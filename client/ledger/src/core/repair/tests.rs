use std::collections::{BTreeMap, BTreeSet};

use geminga_metastore::record::{
    CloseKind, Custom, Digest, Fragment, Tier, TierObject, UnderReason,
};
use geminga_proto::ids::{Incarnation, LedgerId, SealEpoch};
use geminga_runtime::{Random, SeededRandom, holds_only_with};

use super::*;

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

fn ledger(state: LedgerState, last: Option<i64>, fragments: &[(i64, [u64; 3])]) -> LedgerMeta {
    let fragment = |(first, ensemble): &(i64, [u64; 3])| Fragment {
        first_entry: EntryId(*first),
        ensemble: ensemble.map(member).to_vec(),
    };
    LedgerMeta {
        id: LedgerId(1),
        state,
        seal_epoch: SealEpoch(0),
        qw: 3,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: fragments.iter().map(fragment).collect(),
        last_entry: last.map(EntryId),
        length: 0,
        entries_crc: None,
        close_kind: last.map(|_| CloseKind::Writer),
        recoverer: String::new(),
        last_op: 0,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
        tier: Tier::Local,
    }
}

/// Bookies, metadata and everybody else who changes it.
struct World {
    random: SeededRandom,
    meta: Option<LedgerMeta>,
    version: i64,
    mark: Option<Under>,
    mark_version: i64,
    /// What is on stable storage at each live member.
    held: BTreeMap<Member, BTreeSet<EntryId>>,
    rotten: BTreeSet<(Member, EntryId)>,
    copy: Option<Copy>,
    /// Who would spread an ensemble better.
    better: BTreeSet<Member>,
    /// Whether the object store answers.
    object: bool,
    /// Whether everything goes wrong now and then.
    faults: bool,
}

impl World {
    /// Everybody of these has all of the ledger, `spares` nothing.
    fn new(seed: u64, meta: LedgerMeta, spares: std::ops::Range<u64>) -> Self {
        let mut held: BTreeMap<Member, BTreeSet<EntryId>> = BTreeMap::new();
        for (index, fragment) in meta.fragments.iter().enumerate() {
            let end = meta.fragment_end(index).unwrap_or(fragment.first_entry);
            for member in &fragment.ensemble {
                let held = held.entry(member.clone()).or_default();
                held.extend((fragment.first_entry.0..=end.0).map(EntryId));
            }
        }
        held.extend(spares.map(|number| (member(number), BTreeSet::new())));
        Self {
            random: SeededRandom::new(seed),
            meta: Some(meta),
            version: 1,
            mark: None,
            mark_version: 1,
            held,
            rotten: BTreeSet::new(),
            copy: None,
            better: BTreeSet::new(),
            object: true,
            faults: false,
        }
    }

    fn mark(&mut self, number: u64, reason: UnderReason) {
        let new = || Under::new(LedgerId(1), reason, 0);
        self.mark.get_or_insert_with(new).add(&member(number), reason);
        self.mark_version += 1;
    }

    fn chance(&self, one_in: u64) -> bool {
        self.faults && self.random.below(one_in) == 0
    }

    fn tail(&self, member: &Member, first: EntryId) -> Tail {
        let Some(held) = self.held.get(member) else { return Tail::Unknown };
        let mut tail = first.prev();
        while held.contains(&tail.next()) {
            tail = tail.next();
        }
        Tail::Holds { tail, authoritative: true }
    }

    /// Copies of a fragment that are good, on the members that the metadata names.
    fn good(&self, meta: &LedgerMeta, index: usize) -> usize {
        let first = meta.fragments[index].first_entry;
        let Some(end) = meta.fragment_end(index) else { return 0 };
        let whole = |member: &&Member| matches!(self.tail(member, first), Tail::Holds { tail, .. } if tail >= end);
        meta.fragments[index].ensemble.iter().filter(whole).count()
    }

    /// Somebody else changes the ledger: its writer, or another repair.
    fn others(&mut self) {
        let Some(meta) = &mut self.meta else { return };
        match self.random.below(3) {
            0 if meta.state == LedgerState::Open => {
                let first = EntryId(meta.last_fragment().first_entry.0 + 5);
                let mut ensemble = meta.last_fragment().ensemble.clone();
                ensemble[0] = member(90 + self.random.below(1000));
                for kept in meta.last_fragment().ensemble.clone() {
                    // Its writer had it on all of them before it went on.
                    let held = self.held.entry(kept).or_default();
                    held.extend((first.0 - 5..first.0).map(EntryId));
                }
                meta.fragments.push(Fragment { first_entry: first, ensemble });
            }
            1 if meta.fragments.len() > 1 => {
                let end = meta.fragments[1].first_entry.prev();
                let new = member(2_000 + self.random.below(1000));
                self.held.insert(new.clone(), (0..=end.0).map(EntryId).collect());
                meta.fragments[0].ensemble[2] = new;
            }
            _ => return,
        }
        self.version += 1;
    }

    fn answer(&mut self, effect: Effect) -> Option<Event> {
        Some(match effect {
            Effect::Read => {
                let mark = self.mark.clone().map(|mark| (mark, Version(self.mark_version)));
                let meta = self.meta.clone();
                Event::Read { mark, meta: meta.map(|m| (Box::new(m), Version(self.version))) }
            }
            Effect::AskTails { first, members } => {
                let ask = |member| match self.chance(10) {
                    true => Tail::Unknown,
                    false => self.tail(member, first),
                };
                Event::Tails(members.iter().map(ask).collect())
            }
            Effect::ChooseTarget { ensemble, shunned, spreads, .. } => {
                // One of those is spread as well as can be.
                let done = spreads && ensemble.iter().any(|member| self.better.contains(member));
                let free = |spare: &&Member| {
                    let taken = ensemble.iter().chain(&shunned);
                    let better = !spreads || self.better.contains(*spare) && !done;
                    let new = taken.clone().all(|m| m.bookie != spare.bookie);
                    spare.incarnation.0 >= 10 && better && new
                };
                Event::Target(self.held.keys().find(free).cloned())
            }
            Effect::Copy(copy) => self.copy(copy),
            Effect::Swap { expected, meta } => self.swap(expected, *meta),
            Effect::RemoveMark(version) => {
                if self.chance(5) {
                    self.mark(1, UnderReason::Replaced);
                }
                let same = version == Version(self.mark_version);
                self.mark = self.mark.take().filter(|_| !same);
                Event::MarkRemoved(same)
            }
            Effect::Finish(_) => return None,
        })
    }

    fn copy(&mut self, copy: Copy) -> Event {
        assert!((copy.object || !copy.sources.is_empty()) && !copy.sources.contains(&copy.to));
        let Copy { sources, object, to, fragment_first, first, last } = copy.clone();
        for entry in (first.0..=last.0).map(EntryId) {
            let delivers = |source: &&Member| {
                self.held.get(*source).is_some_and(|held| held.contains(&entry))
                    && !self.rotten.contains(&((*source).clone(), entry))
            };
            let delivered = sources.iter().any(|source| delivers(&source));
            if !(delivered || object && self.object) {
                return Event::SourcesFailed { entry, lost: !object };
            }
            if self.chance(12) {
                return match self.random.below(3) {
                    0 => Event::SourcesFailed { entry, lost: false },
                    1 => Event::TargetFailed,
                    // It says less than it was sent.
                    _ => Event::Copied { tail: entry.prev() },
                };
            }
            self.rotten.remove(&(to.clone(), entry));
            if let Some(held) = self.held.get_mut(&to) {
                held.insert(entry);
            }
        }
        self.copy = Some(copy);
        match self.tail(&to, fragment_first) {
            Tail::Holds { tail, .. } => Event::Copied { tail },
            Tail::Unknown => Event::TargetFailed,
        }
    }

    fn swap(&mut self, expected: Version, new: LedgerMeta) -> Event {
        if self.chance(3) {
            self.others();
        }
        if expected != Version(self.version) {
            return Event::Swapped(CasResult::Lost);
        }
        if self.chance(5) {
            return Event::Swapped(CasResult::Unknown);
        }
        let old = self.meta.clone().expect("nobody deletes it under a swap");
        self.judge(&old, &new);
        self.version += 1;
        self.meta = Some(new);
        match self.chance(4) {
            true => Event::Swapped(CasResult::Unknown),
            false => Event::Swapped(CasResult::Applied(Version(self.version))),
        }
    }

    /// M5, H17, A2, A3, I15.
    fn judge(&self, old: &LedgerMeta, new: &LedgerMeta) {
        new.validate().expect("a valid value");
        assert_eq!(old.fragments.len(), new.fragments.len(), "fragments come or go");
        assert_eq!((old.state, old.last_entry), (new.state, new.last_entry));
        let mut changed = Vec::new();
        for (index, (was, is)) in old.fragments.iter().zip(&new.fragments).enumerate() {
            assert_eq!(was.first_entry, is.first_entry);
            for (was, is) in was.ensemble.iter().zip(&is.ensemble) {
                if was != is {
                    changed.push((index, was, is));
                }
            }
        }
        let [(index, was, is)] = changed[..] else { panic!("{} places changed", changed.len()) };
        let closed = old.state == LedgerState::Closed;
        assert!(closed || index + 1 < old.fragments.len(), "a writer's fragment is changed");
        let end = new.fragment_end(index).expect("immutable");
        let tail = self.tail(is, new.fragments[index].first_entry);
        // Nobody is asked for the entries of a trimmed one.
        let copied = matches!(tail, Tail::Holds { tail, .. } if tail >= end);
        assert!(copied || matches!(new.tier, Tier::Trimmed(_)), "swapped before copied");
        assert!(self.good(new, index) >= self.good(old, index), "fewer copies than before");
        let moved = self.mark.as_ref().is_some_and(|mark| !mark.replace.contains(was));
        assert!(!moved || self.good(old, index) == 3, "moved while a copy is missing");
        if let Some(copy) = self.copy.as_ref().filter(|copy| copy.to == *is) {
            assert!(!copy.sources.contains(was), "the source is dropped");
        }
    }

    fn run(&mut self, mutations: Mutations) -> Finish {
        let (mut repair, mut effects) = Repair::new(7, mutations);
        loop {
            assert_eq!(effects.len(), 1, "one thing at a time: {effects:?}");
            let effect = effects.remove(0);
            if let Effect::Finish(finish) = &effect {
                let finish = finish.clone();
                if finish == Finish::Clean {
                    let meta = self.meta.as_ref().expect("it is there");
                    let closed = meta.state == LedgerState::Closed;
                    let immutable = meta.fragments.len() - usize::from(!closed);
                    let of = |index| self.good(meta, index);
                    let all = |index: usize| meta.fragments[index].ensemble.len();
                    let clean = (0..immutable).all(|index| of(index) == all(index));
                    let trimmed = matches!(meta.tier, Tier::Trimmed(_));
                    assert!(clean || trimmed, "marked clean, and is not");
                }
                return finish;
            }
            let event = self.answer(effect).expect("not over");
            effects = repair.step(event);
        }
    }

    /// Until it is clean, the faults being over after a while.
    fn until_clean(&mut self, mutations: Mutations) {
        for round in 0..40 {
            self.faults = round < 20;
            match self.run(mutations) {
                Finish::Clean | Finish::Unmarked => return,
                Finish::Waits(_) => {}
                // Whoever has it, and is to be left, did not answer: tried again.
                Finish::Lost { .. } if self.faults => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("never clean: {:?} {:?}", self.mark, self.meta);
    }
}

fn closed() -> LedgerMeta {
    ledger(LedgerState::Closed, Some(19), &[(0, [1, 2, 3]), (8, [1, 2, 4]), (20, [1, 2, 5])])
}

fn open() -> LedgerMeta {
    ledger(LedgerState::Open, None, &[(0, [1, 2, 3]), (8, [4, 2, 3]), (14, [5, 2, 3])])
}

/// Two lives lost, one bookie that is left, one that lacks the end, one rotten copy; others work on the same ledger.
fn repairs(mutations: Mutations) {
    for seed in 0..150 {
        for meta in [closed(), open()] {
            let mut world = World::new(seed, meta, 10..16);
            world.held.remove(&member(1));
            world.mark(1, UnderReason::Lost);
            world.mark(3, UnderReason::Draining);
            world.held.get_mut(&member(2)).expect("a member").remove(&EntryId(6));
            world.mark(2, UnderReason::Damaged);
            world.rotten.insert((member(2), EntryId(2)));
            if world.meta.as_ref().is_some_and(|meta| meta.state == LedgerState::Open) {
                // Its writer has moved on from all of them.
                let last = world.meta.as_mut().expect("there").fragments.last_mut();
                last.expect("one").ensemble = [20, 21, 22].map(member).to_vec();
            }
            world.until_clean(mutations);
            assert!(!world.rotten.contains(&(member(2), EntryId(2))), "rot was left, seed {seed}");
        }
    }
}

#[test]
fn every_copy_comes_back_whoever_interferes() {
    repairs(Mutations::default());
}

/// 6.5 step 6: what rots behind the copy that puts it right is told again, and is put right as well.
#[test]
fn what_rots_again_while_it_is_repaired_is_repaired_again() {
    let mut world = World::new(1, closed(), 10..12);
    let rot = (member(2), EntryId(2));
    world.mark(2, UnderReason::Damaged);
    world.rotten.insert(rot.clone());
    let (mut repair, mut effects) = Repair::new(7, Mutations::default());
    let (mut copies, mut finish) = (0, None);
    while let Some(effect) = effects.pop() {
        let copied = matches!(effect, Effect::Copy(_));
        if let Effect::Finish(how) = &effect {
            finish = Some(how.clone());
            break;
        }
        let event = world.answer(effect).expect("not over");
        copies += u32::from(copied);
        if copied && copies == 1 {
            world.rotten.insert(rot.clone());
            world.mark(2, UnderReason::Damaged);
        }
        effects = repair.step(event);
    }
    assert_eq!(finish, Some(Finish::Clean));
    assert!(world.rotten.is_empty(), "marked clean, and is not");
}

/// A2.
#[test]
fn scenario_48_a_place_is_given_away_after_the_copy() {
    holds_only_with(Mutation::RepairSwapsFirst, repairs);
}

/// 6.5, A4: who dies between its copy and its swap leaves the mark, and a copy that no ledger names; the next does all that is to be done, with
/// somebody else where it must.
#[test]
fn scenario_48_what_a_dead_repair_copied_is_nobodys() {
    holds_only_with(Mutation::RepairSwapsFirst, |mutations| {
        let mut world = World::new(1, closed(), 10..12);
        world.held.remove(&member(1));
        world.mark(1, UnderReason::Lost);
        let before = world.meta.clone();
        let (mut repair, mut effects) = Repair::new(7, mutations);
        while !matches!(effects[0], Effect::Swap { .. }) {
            let event = world.answer(effects.remove(0)).expect("not over");
            effects = repair.step(event);
        }
        drop(repair);
        let orphan = member(10);
        let copied = world.tail(&orphan, EntryId(0));
        assert_eq!(copied, Tail::Holds { tail: EntryId(7), authoritative: true }, "all of it");
        assert_eq!(world.meta, before, "no place changed hands");
        assert!(world.mark.is_some(), "the mark is gone");
        // Whoever got the copy is away when the next one looks.
        world.held.remove(&orphan);
        assert_eq!(world.run(mutations), Finish::Clean);
        let meta = world.meta.as_ref().expect("it is there");
        let mut members = meta.fragments.iter().flat_map(|fragment| &fragment.ensemble);
        assert!(members.all(|one| *one != orphan && *one != member(1)), "{:?}", meta.fragments);
        assert!(world.mark.is_none(), "what is done is marked still");
    });
}

/// A3.
#[test]
fn whoever_is_left_is_not_the_source() {
    holds_only_with(Mutation::RepairDropsSource, repairs);
}

/// 6.5 step 4.
#[test]
fn a_copy_is_whole_when_its_tail_says_so() {
    holds_only_with(Mutation::RepairTrustsShortTail, repairs);
}

/// Two repairs of one ledger at a time, whose steps fall as `order` says; each gets the target that `choose` says. How many swaps were applied, and
/// how many met another change.
fn race(
    world: &mut World,
    mutations: Mutations,
    order: &SeededRandom,
    choose: impl Fn(usize, &Effect) -> Option<Member>,
) -> (u32, u32) {
    let mut workers = [0, 1].map(|_| Repair::new(7, mutations));
    let (mut applied, mut lost) = (0, 0);
    loop {
        let ended =
            |(_, effects): &(Repair, Vec<Effect>)| matches!(effects[..], [Effect::Finish(_)]);
        let number = match (ended(&workers[0]), ended(&workers[1])) {
            (true, true) => return (applied, lost),
            (true, false) => 1,
            (false, true) => 0,
            (false, false) => usize::from(order.below(2) == 1),
        };
        let (repair, effects) = &mut workers[number];
        let event = match effects.remove(0) {
            effect @ Effect::ChooseTarget { .. } => Event::Target(choose(number, &effect)),
            effect => world.answer(effect).expect("not over"),
        };
        applied += u32::from(matches!(event, Event::Swapped(CasResult::Applied(_))));
        lost += u32::from(matches!(event, Event::Swapped(CasResult::Lost)));
        *effects = repair.step(event);
    }
}

/// Scenario 49, and the merge rule: one of two repairs wins, and neither undoes the other.
#[test]
fn scenario_49_two_repairs_of_one_ledger() {
    holds_only_with(Mutation::RepairResendsOldValue, repairs);
}

/// 6.5 step 5, 6.9: two workers copy to two targets at once. However their steps fall, one swap is applied, no member is there twice, and what the
/// other copied is named by nobody.
#[test]
fn scenario_49_one_of_two_targets_gets_the_place() {
    holds_only_with(Mutation::RepairResendsOldValue, |mutations| {
        let targets = [member(10), member(11)];
        let mut lost = 0;
        for seed in 0..200 {
            let order = SeededRandom::new(seed);
            let one = ledger(LedgerState::Closed, Some(19), &[(0, [1, 2, 3])]);
            let mut world = World::new(seed, one, 10..12);
            world.held.remove(&member(1));
            world.mark(1, UnderReason::Lost);
            let own = |number: usize, _: &Effect| Some(targets[number].clone());
            let (applied, others) = race(&mut world, mutations, &order, own);
            lost += others;
            let ensemble = &world.meta.as_ref().expect("it is there").fragments[0].ensemble;
            let named = targets.iter().filter(|target| ensemble.contains(target)).count();
            assert_eq!((applied, named), (1, 1), "seed {seed}: {ensemble:?}");
            assert_eq!(ensemble[1..], [member(2), member(3)], "seed {seed}");
            assert!(world.mark.is_none(), "seed {seed}: it is marked still");
        }
        assert!(lost > 20, "{lost} swaps met another one");
    });
}

/// 6.5 step 5: one bookie is chosen for the places of two lost members, by two workers at once. Who comes second holds all of it as well, and leaves that
/// place to somebody else: nobody is a member twice.
#[test]
fn scenario_49_one_target_takes_one_of_two_places() {
    let mut lost = 0;
    for seed in 0..200 {
        let order = SeededRandom::new(seed);
        let one = ledger(LedgerState::Closed, Some(19), &[(0, [1, 2, 3])]);
        let mut world = World::new(seed, one, 10..12);
        for number in [1, 2] {
            world.held.remove(&member(number));
            world.mark(number, UnderReason::Lost);
        }
        // The first worker finds nobody for the first place, and goes on with the second one.
        let shared = |number: usize, effect: &Effect| {
            let Effect::ChooseTarget { ensemble, position, shunned, .. } = effect else {
                panic!("{effect:?}")
            };
            let free = |target: &Member| !ensemble.contains(target) && !shunned.contains(target);
            let place = number == 1 || *position != 0;
            [10, 11].map(member).into_iter().find(|target| place && free(target))
        };
        let (applied, others) = race(&mut world, Mutations::default(), &order, shared);
        lost += others;
        let ensemble = &world.meta.as_ref().expect("it is there").fragments[0].ensemble;
        let members: BTreeSet<Member> = ensemble.iter().cloned().collect();
        assert_eq!(members, [3, 10, 11].map(member).into(), "seed {seed}");
        assert_eq!(applied, 2, "seed {seed}");
        assert!(world.mark.is_none(), "seed {seed}: it is marked still");
    }
    assert!(lost > 20, "{lost} swaps met another one");
}

/// 3.4: what rotted at a member comes back from the others, in its place.
#[test]
fn scenario_32_rot_is_restored_from_the_others() {
    holds_only_with(Mutation::RepairForgetsRot, |mutations| {
        for rotten in [0, 7, 12, 19] {
            let mut world = World::new(1, closed(), 10..12);
            let before = world.meta.clone();
            world.rotten.insert((member(2), EntryId(rotten)));
            world.mark(2, UnderReason::Damaged);
            assert_eq!(world.run(mutations), Finish::Clean);
            assert!(world.rotten.is_empty(), "entry {rotten} is still rotten");
            assert_eq!(world.meta, before, "nobody leaves for it");
        }
    });
}

/// H17: what a writer may still change is its own.
#[test]
fn scenario_50_the_last_fragment_of_an_open_ledger_is_left_alone() {
    holds_only_with(Mutation::RepairOpenFragment, |mutations| {
        let mut world = World::new(1, open(), 10..12);
        world.held.remove(&member(5));
        world.mark(5, UnderReason::Lost);
        assert_eq!(world.run(mutations), Finish::Waits(Wait::Open));
        assert!(world.mark.is_some(), "it is looked at again");
    });
}

/// A writer leaves member 5 of its last fragment: in its place where nothing was acknowledged there, else by a fragment of its own.
fn left_by_its_writer(meta: &mut LedgerMeta, in_place: bool) {
    let first = meta.last_fragment().first_entry;
    let ensemble = [30, 2, 3].map(member).to_vec();
    if in_place {
        meta.fragments.last_mut().expect("one").ensemble = ensemble;
    } else {
        meta.fragments.push(Fragment { first_entry: EntryId(first.0 + 5), ensemble });
    }
}

/// M3, 1.4: whichever step of the repair the writer's change comes before, both are there in the end, each in its own fragment.
#[test]
fn scenario_50_a_repair_and_a_writers_change_are_both_applied() {
    holds_only_with(Mutation::RepairResendsOldValue, |mutations| {
        let (mut both, mut overtaken) = (0, 0);
        for (in_place, before) in (0..20).flat_map(|step| [(false, step), (true, step)]) {
            let mut world = World::new(1, open(), 10..12);
            // All that was acknowledged, also what the writer ends its fragment with.
            for number in [5, 2, 3] {
                world.held.entry(member(number)).or_default().extend((14..19).map(EntryId));
            }
            // Of the first fragment only.
            world.held.remove(&member(1));
            world.mark(1, UnderReason::Lost);
            let (mut repair, mut effects) = Repair::new(7, mutations);
            let (mut step, mut lost) = (0, 0);
            while let Some(effect) = effects.pop().filter(|e| !matches!(e, Effect::Finish(_))) {
                if step == before {
                    left_by_its_writer(world.meta.as_mut().expect("it is there"), in_place);
                    world.version += 1;
                }
                step += 1;
                let event = world.answer(effect).expect("not over");
                lost += u32::from(matches!(event, Event::Swapped(CasResult::Lost)));
                effects = repair.step(event);
            }
            let mut expected = open();
            expected.fragments[0].ensemble[0] = member(10);
            if step > before {
                left_by_its_writer(&mut expected, in_place);
                both += 1;
                overtaken += lost;
            }
            let meta = world.meta.as_ref().expect("it is there");
            assert_eq!(meta.fragments, expected.fragments, "the writer's before step {before}");
        }
        assert!(both > 10, "{both} runs with both changes");
        assert!(overtaken >= 2, "the repair's swap never lost to the writer's");
    });
}

/// A mark that only says who was gone has nothing left to say of an open ledger once that member is back; any other waits for the end.
#[test]
fn who_is_back_at_an_open_ledger_is_its_writers_to_fill() {
    for (reason, back, finish) in [
        (UnderReason::Gone, true, Finish::Clean),
        (UnderReason::Gone, false, Finish::Waits(Wait::Open)),
        (UnderReason::Replaced, true, Finish::Waits(Wait::Open)),
        (UnderReason::Damaged, true, Finish::Waits(Wait::Open)),
    ] {
        let mut world = World::new(1, open(), 10..12);
        world.mark(5, reason);
        if back {
            world.mark.as_mut().expect("it is marked").replace.clear();
        }
        assert_eq!(world.run(Mutations::default()), finish, "{reason:?}, back: {back}");
        assert_eq!(world.mark.is_none(), finish == Finish::Clean);
    }
    let mut world = World::new(1, open(), 10..12);
    world.mark(5, UnderReason::Gone);
    world.mark(5, UnderReason::Damaged);
    world.mark.as_mut().expect("it is marked").replace.clear();
    assert_eq!(world.run(Mutations::default()), Finish::Waits(Wait::Open), "what rotted stays so");
}

fn object() -> TierObject {
    TierObject {
        attempt: 1,
        bucket: String::new(),
        key: String::new(),
        size: 1,
        entries: 1,
        object_crc: 0,
        etag: String::new(),
        index_place: 0,
        at_ms: 0,
    }
}

/// T6: the one copy that no disk loses. Nobody has the first fragment, one has a part of the others, and one of these rotted there.
#[test]
fn scenario_67_what_no_peer_has_comes_from_the_object() {
    holds_only_with(Mutation::RepairForgetsObject, |mutations| {
        let mut world =
            World::new(1, LedgerMeta { tier: Tier::Offloaded(object()), ..closed() }, 10..16);
        for gone in [1, 3] {
            world.held.remove(&member(gone));
            world.mark(gone, UnderReason::Lost);
        }
        let held = world.held.get_mut(&member(2)).expect("a member");
        held.retain(|entry| entry.0 == 9);
        world.held.get_mut(&member(4)).expect("a member").retain(|entry| entry.0 < 10);
        world.mark(2, UnderReason::Behind);
        world.mark(4, UnderReason::Damaged);
        world.rotten.insert((member(4), EntryId(8)));
        world.object = false;
        assert_eq!(world.run(mutations), Finish::Waits(Wait::Object), "not lost while it is away");
        world.object = true;
        assert_eq!(world.run(mutations), Finish::Clean);
        assert!(world.rotten.is_empty());
    });
}

/// 6.7: copies move one by one, each after the place has its successor, and only of fragments that lack nothing.
#[test]
fn scenario_66_copies_move_when_none_is_missing() {
    holds_only_with(Mutation::RepairMovesShort, |mutations| {
        for seed in 0..60 {
            let mut world = World::new(seed, closed(), 10..16);
            world.better = [12, 13].map(member).into();
            for number in 1..=3 {
                world.mark(number, UnderReason::Misplaced);
            }
            // Somebody lacks something, and does not say so at once.
            world.held.get_mut(&member(2)).expect("a member").remove(&EntryId(6));
            world.mark(2, UnderReason::Behind);
            world.mark(3, UnderReason::Behind);
            let away = world.held.remove(&member(3)).expect("a member");
            assert_eq!(world.run(mutations), Finish::Waits(Wait::Member(member(3))), "{seed}");
            world.held.insert(member(3), away);
            world.until_clean(mutations);
            // Where faults were in the way it is asked for again.
            world.faults = false;
            for number in 1..=3 {
                world.mark(number, UnderReason::Misplaced);
            }
            assert_eq!(world.run(mutations), Finish::Clean);
            let ended = world.meta.as_ref().expect("there");
            for fragment in &ended.fragments {
                let better = fragment.ensemble.iter().filter(|m| world.better.contains(m)).count();
                assert_eq!(better, 1, "{:?}", fragment.ensemble);
            }
        }
    });
}

/// A move is a wish: without anybody to take it, or anybody else to copy from, everything stays, and nothing is lost or waited for.
#[test]
fn a_copy_that_cannot_move_stays_and_is_no_loss() {
    let mut world = World::new(1, closed(), 10..12);
    world.mark(1, UnderReason::Misplaced);
    let before = world.meta.clone();
    assert_eq!(world.run(Mutations::default()), Finish::Clean);
    assert_eq!((&world.meta, &world.mark), (&before, &None));
    world.better = [11].map(member).into();
    for number in [2, 3, 4] {
        world.rotten.insert((member(number), EntryId(9)));
    }
    world.mark(1, UnderReason::Misplaced);
    assert_eq!(world.run(Mutations::default()), Finish::Clean);
    let ended = world.meta.expect("there");
    assert_eq!(ended.fragments[1], before.expect("there").fragments[1], "its sources are rotten");
    assert!(ended.fragments[0].ensemble.contains(&member(11)));
}

/// Nobody else has it, so that nobody can be copied from: that is no loss.
#[test]
fn the_only_copy_does_not_move() {
    let mut meta = closed();
    (meta.qw, meta.qa) = (1, 1);
    // It has no entries, and so moves without a copy.
    meta.fragments.pop();
    for fragment in &mut meta.fragments {
        fragment.ensemble = vec![member(1)];
    }
    let mut world = World::new(1, meta, 10..12);
    world.better = [11].map(member).into();
    world.mark(1, UnderReason::Misplaced);
    let before = world.meta.clone();
    assert_eq!(world.run(Mutations::default()), Finish::Clean);
    assert_eq!((&world.meta, &world.mark), (&before, &None));
}

/// T6: bookies of a ledger that is in the object store only are neither whole nor lost, and a place is given away as it is.
#[test]
fn places_of_a_trimmed_ledger_are_given_away_without_a_copy() {
    let mut meta = closed();
    meta.tier = Tier::Trimmed(object());
    let mut world = World::new(1, meta, 10..12);
    for number in 1..=9 {
        world.held.remove(&member(number));
    }
    world.mark(2, UnderReason::Gone);
    assert_eq!(world.run(Mutations::default()), Finish::Clean);
    let meta = world.meta.as_ref().unwrap();
    assert!(meta.fragments.iter().all(|fragment| !fragment.ensemble.contains(&member(2))));
}

/// One copy is left, and it is of the bookie that is to be left: the others first.
#[test]
fn the_last_copy_is_left_last() {
    let mut world = World::new(1, closed(), 10..16);
    for gone in [2, 3, 4, 5] {
        world.held.remove(&member(gone));
        world.mark(gone, UnderReason::Gone);
    }
    world.mark(1, UnderReason::Draining);
    assert_eq!(world.run(Mutations::default()), Finish::Clean);
}

#[test]
fn what_nobody_has_is_named_and_never_swapped() {
    let mut world = World::new(1, closed(), 10..16);
    let before = world.meta.clone();
    for gone in [1, 2, 3] {
        world.held.remove(&member(gone));
        world.mark(gone, UnderReason::Lost);
    }
    let lost = Finish::Lost { fragment_first: EntryId(0), entry: EntryId(0) };
    assert_eq!(world.run(Mutations::default()), lost);
    let (now, before) = (world.meta.expect("there"), before.expect("there"));
    assert_eq!(now.fragments[0], before.fragments[0]);
    // What could be repaired was.
    assert_ne!(now.fragments[1], before.fragments[1]);
    // One that may come back is waited for.
    let mut world = World::new(1, closed(), 10..16);
    for gone in [1, 2, 3] {
        world.held.remove(&member(gone));
    }
    world.mark(1, UnderReason::Lost);
    assert_eq!(world.run(Mutations::default()), Finish::Waits(Wait::Member(member(2))));
}

#[test]
fn nobody_to_take_a_place_is_waited_for() {
    let mut world = World::new(1, closed(), 10..10);
    world.held.remove(&member(3));
    world.mark(3, UnderReason::Gone);
    assert_eq!(world.run(Mutations::default()), Finish::Waits(Wait::Target));
    world.held.insert(member(10), BTreeSet::new());
    assert_eq!(world.run(Mutations::default()), Finish::Clean);
    assert_eq!(world.mark, None);
}

/// 6.9: a ledger that is deleted is done, whatever its mark says.
#[test]
fn a_deleted_ledger_is_no_work() {
    for meta in [None, Some(LedgerMeta { state: LedgerState::Deleting, ..closed() })] {
        let mut world = World::new(1, closed(), 10..12);
        world.mark(1, UnderReason::Lost);
        world.meta = meta;
        assert_eq!(world.run(Mutations::default()), Finish::Gone);
        assert_eq!(world.mark, None);
    }
}

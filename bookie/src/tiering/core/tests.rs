//! The scenarios of tiering (fault matrix 52 to 58), and a seeded search: bookies, a register and a store that lose, repeat and
//! forget, with what must hold checked after every step (I14).

use std::collections::{BTreeMap, BTreeSet};

use geminga_metastore::record::{Custom, Digest, Fragment};
use geminga_proto::ids::{BookieId, Incarnation, LedgerId, SealEpoch};
use geminga_runtime::{Random, SeededRandom, holds_only_with};

use super::*;
use crate::tiering::garbage::{self, Fate};

const ENTRIES: u64 = 8;
const TIMING: Timing = Timing { look_ms: 10, take_over_ms: 1_000, pace: 1 << 20 };

fn member(number: usize) -> Member {
    let bookie: BookieId = format!("b-{number}").parse().unwrap();
    Member { bookie, incarnation: Incarnation(7) }
}

fn closed() -> LedgerMeta {
    LedgerMeta {
        id: LedgerId(3),
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw: 3,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: vec![Fragment {
            first_entry: EntryId(0),
            ensemble: (0..3).map(member).collect(),
        }],
        last_entry: Some(EntryId(ENTRIES as i64 - 1)),
        length: 100,
        entries_crc: Some(9),
        tier: Tier::Local,
        close_kind: None,
        recoverer: String::new(),
        last_op: 0,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    }
}

/// A ledger that has not been looked at, and one of which an upload came to nothing, if it is to have failed.
pub(in crate::tiering) fn offload(fails: bool) -> Offload {
    let (cluster, names) = (ClusterUuid::from_random(1), Names::of("memory://"));
    let mut offload = Offload::new(member(0), cluster, names, TIMING, Mutations::default());
    if fails {
        let (now, wanted) = (Now { ms: 100, fresh: 1 }, WANTED);
        offload.look();
        let claim = offload.step(now, Event::Read(Some((closed(), Version(1))), wanted));
        let Effect::Cas { meta, .. } = claim else { panic!("{claim:?}: it is its turn") };
        offload.step(now, Event::Cas(CasResult::Unknown));
        offload.step(now, Event::Read(Some((*meta, Version(2))), wanted));
        offload.step(now, Event::Streamed(None));
    }
    assert_eq!(offload.fails(), fails);
    offload
}

/// What all entries come to, or only some of them.
fn summary(entries: u64) -> Summary {
    Summary {
        entries,
        length: 100 * entries / ENTRIES,
        entries_crc: if entries == ENTRIES { 9 } else { 4 },
        size: 1000 + entries,
        object_crc: 5,
        index_place: 500,
    }
}

/// One bookie: its ledger's state machine, and what it is to do next.
struct Node {
    offload: Offload,
    effect: Effect,
    sent: Option<(u128, Summary)>,
    holds: bool,
}

/// What an effect meets.
#[derive(Debug, Clone, Copy, Default)]
struct Trouble {
    /// The swap takes place, or the call arrives, and nobody hears of it.
    reply_lost: bool,
    /// It does not take place at all.
    refused: bool,
    /// A peer delivers only a part.
    short: bool,
}

struct World {
    meta: Option<(LedgerMeta, Version)>,
    /// Published objects by attempt, and how many entries they hold.
    objects: BTreeMap<u128, u64>,
    nodes: Vec<Node>,
    now: i64,
    random: SeededRandom,
    mutations: Mutations,
    /// Whose disks fill up.
    hurried: BTreeSet<usize>,
}

const WANTED: Wanted = Wanted {
    upload_from_ms: Some(0),
    keep_local: KeepLocal::Ms(50),
    hurries: false,
    leaves: false,
};

impl World {
    fn new(seed: u64, mutations: Mutations) -> Self {
        let mut world = Self {
            meta: Some((closed(), Version(1))),
            objects: BTreeMap::new(),
            nodes: Vec::new(),
            now: 100,
            random: SeededRandom::new(seed),
            mutations,
            hurried: BTreeSet::new(),
        };
        world.nodes = (0..3).map(|number| world.node(number, true)).collect();
        world
    }

    fn node(&self, number: usize, holds: bool) -> Node {
        let names = Names::of("memory://");
        let cluster = ClusterUuid::from_random(1);
        let mut offload = Offload::new(member(number), cluster, names, TIMING, self.mutations);
        let effect = offload.look();
        Node { offload, effect, sent: None, holds }
    }

    /// The process stops, and starts again with what was durable.
    fn crash(&mut self, number: usize) {
        self.nodes[number] = self.node(number, self.nodes[number].holds);
    }

    fn tier(&self) -> Tier {
        self.meta.as_ref().map(|(meta, _)| meta.tier.clone()).unwrap_or_default()
    }

    fn fresh(&self) -> Now {
        Now { ms: self.now, fresh: self.random.next_u128() }
    }

    fn swap(&mut self, expected: Version, meta: LedgerMeta, trouble: Trouble) -> CasResult {
        if trouble.refused {
            return CasResult::Unknown;
        }
        match &mut self.meta {
            Some((now, version)) if *version == expected => {
                let next = Version(version.0 + 1);
                (*now, *version) = (meta, next);
                if trouble.reply_lost { CasResult::Unknown } else { CasResult::Applied(next) }
            }
            _ => CasResult::Lost,
        }
    }

    /// Carries out a bookie's effect.
    fn perform(&mut self, number: usize, trouble: Trouble) -> Event {
        let effect = self.nodes[number].effect.clone();
        let lost = trouble.refused || trouble.reply_lost;
        match effect {
            Effect::Read if lost => Event::Unreadable,
            Effect::Read => {
                let hurries = self.hurried.contains(&number);
                let wanted = Wanted { hurries, ..WANTED };
                Event::Read(self.meta.clone(), wanted)
            }
            Effect::Cas { expected, meta } => Event::Cas(self.swap(expected, *meta, trouble)),
            Effect::Stream { .. } if lost => Event::Streamed(None),
            Effect::Stream { attempt, .. } => {
                let sent = summary(if trouble.short { ENTRIES - 1 } else { ENTRIES });
                self.nodes[number].sent = Some((attempt, sent));
                Event::Streamed(Some(sent))
            }
            Effect::Complete => {
                let (attempt, sent) = self.nodes[number].sent.expect("something was sent");
                if !trouble.refused {
                    self.objects.insert(attempt, sent.entries);
                }
                Event::Completed(!lost)
            }
            Effect::Abort => {
                // What is given up may be gone.
                if let Some((attempt, _)) = self.nodes[number].sent.take() {
                    self.objects.remove(&attempt);
                }
                Event::Failed
            }
            Effect::ReadBack { .. } if lost => Event::ReadBack(None),
            Effect::ReadBack { object, .. } => Event::ReadBack(self.seen(object.attempt)),
            Effect::Head(_) if lost => Event::Head(Head::Unknown),
            Effect::Head(object) => {
                Event::Head(self.seen(object.attempt).map_or(Head::Gone, Head::There))
            }
            Effect::Drop { attempt, .. } => {
                let trimmed =
                    matches!(self.tier(), Tier::Trimmed(object) if object.attempt == attempt);
                assert!(trimmed, "a copy is dropped while metadata says {:?}", self.tier());
                let there = self.objects.get(&attempt);
                assert_eq!(there, Some(&ENTRIES), "a copy is dropped and the object has not all");
                self.nodes[number].holds = false;
                Event::Dropped
            }
            Effect::LookAt(at) | Effect::Alarm(at) => {
                self.now = self.now.max(at);
                self.nodes[number].effect = self.nodes[number].offload.look();
                self.perform(number, trouble)
            }
            Effect::Done => Event::Failed,
        }
    }

    fn seen(&self, attempt: u128) -> Option<Seen> {
        let entries = *self.objects.get(&attempt)?;
        Some(Seen { size: summary(entries).size, etag: format!("{attempt}") })
    }

    /// One effect of one bookie. False when it has nothing to do for ever.
    fn turn(&mut self, number: usize, trouble: Trouble) -> bool {
        if self.nodes[number].effect == Effect::Done {
            return false;
        }
        let event = self.perform(number, trouble);
        let now = self.fresh();
        let node = &mut self.nodes[number];
        node.effect = node.offload.step(now, event);
        self.check();
        true
    }

    /// I14, and that what metadata names is whole.
    fn check(&self) {
        if let Some(object) = self.tier().object() {
            let there = self.objects.get(&object.attempt);
            assert!(there.is_none_or(|entries| *entries == ENTRIES), "metadata names a part");
            assert_eq!(object.entries, ENTRIES);
        }
        let holders = self.nodes.iter().filter(|node| node.holds).count();
        let whole =
            self.tier().object().is_some_and(|object| self.objects.contains_key(&object.attempt));
        assert!(holders > 0 || whole, "nobody has the entries");
    }

    /// Until a bookie is about to do something, without trouble.
    fn until(&mut self, number: usize, test: impl Fn(&Effect) -> bool) {
        for _ in 0..1_000 {
            if test(&self.nodes[number].effect) {
                return;
            }
            assert!(self.turn(number, Trouble::default()), "it has nothing to do any more");
        }
        panic!("it never comes to that");
    }

    /// Until when a bookie waits, if it does.
    fn waits(&self, number: usize) -> Option<i64> {
        match self.nodes[number].effect {
            Effect::LookAt(at) | Effect::Alarm(at) => Some(at),
            Effect::Done => Some(i64::MAX),
            _ => None,
        }
    }

    /// Until all copies are gone. Time goes on when everybody waits.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let due = |at: &i64| *at <= self.now;
            let busy = (0..3).find(|number| self.waits(*number).is_none_or(|at| due(&at)));
            let next = (0..3).min_by_key(|number| self.waits(*number));
            self.turn(busy.or(next).expect("there are three"), Trouble::default());
            if self.nodes.iter().all(|node| !node.holds) {
                return;
            }
        }
        panic!("it does not end: {:?}", self.tier());
    }
}

#[test]
fn an_upload_without_trouble() {
    let mut world = World::new(1, Mutations::default());
    world.settle();
    let Tier::Trimmed(object) = world.tier() else { panic!("{:?}", world.tier()) };
    assert_eq!(world.objects.keys().collect::<Vec<_>>(), [&object.attempt]);
    assert_eq!(object.etag, format!("{}", object.attempt));
}

#[test]
fn scenario_52_an_uploader_may_die_at_any_step() {
    holds_only_with(Mutation::DropBeforeTrimmed, |mutations| {
        for steps in 0..12 {
            let mut world = World::new(steps, mutations);
            for _ in 0..steps {
                world.turn(0, Trouble::default());
            }
            world.crash(0);
            world.settle();
            assert!(matches!(world.tier(), Tier::Trimmed(_)), "after step {steps}");
        }
    });
}

/// 7.1: who cannot upload tries less and less often, and does not keep the others from it.
#[test]
fn who_fails_again_and_again_is_followed_by_another() {
    let mut world = World::new(1, Mutations::default());
    let mut streams = 0;
    let begun = world.now;
    for _ in 0..10_000 {
        let due = |at: &i64| *at <= world.now;
        let busy = (0..3).find(|number| world.waits(*number).is_none_or(|at| due(&at)));
        let next = busy.or((0..3).min_by_key(|number| world.waits(*number))).unwrap();
        let fails = next == 0 && matches!(world.nodes[0].effect, Effect::Stream { .. });
        streams += u32::from(fails);
        world.turn(next, Trouble { refused: fails, ..Trouble::default() });
        if world.tier().object().is_some() {
            assert!(world.now - begun < 2 * TIMING.take_over_ms, "after {} ms", world.now);
            assert!((2..=9).contains(&streams), "{streams} uploads that failed");
            return;
        }
    }
    panic!("nobody else takes over: {:?}", world.tier());
}

#[test]
fn scenario_53_two_uploaders_publish_under_their_own_claim_only() {
    holds_only_with(Mutation::PublishUnclaimed, |mutations| {
        let mut world = World::new(1, mutations);
        world.until(0, |effect| matches!(effect, Effect::Complete));
        // It is slow, and the next takes over.
        world.now += 100_000;
        world.until(1, |effect| matches!(effect, Effect::Complete));
        let Tier::Uploading { attempt, .. } = world.tier() else { panic!("{:?}", world.tier()) };
        let (late, _) = world.nodes[0].sent.expect("it was sent");
        assert_ne!(late, attempt, "T1: each has a key of its own");
        for _ in 0..5 {
            world.turn(0, Trouble::default());
        }
        let named = world.tier().object().map(|object| object.attempt);
        assert!(named.is_none_or(|named| named == attempt), "the first published after all");
        world.settle();
        let (meta, _) = world.meta.as_ref().unwrap();
        let named = meta.tier.object().map(|object| object.attempt);
        assert!(named.is_some_and(|named| named != late));
        assert!(world.objects.contains_key(&late), "T2: it is not for the one who lost to remove");
        for attempt in world.objects.keys() {
            let garbage = garbage::of_named(meta, *attempt, Mutations::default());
            assert_eq!(garbage == Fate::Superseded, named != Some(*attempt), "{attempt}");
        }
    });
}

#[test]
fn scenario_54_an_object_is_kept_whatever_came_of_its_publication() {
    holds_only_with(Mutation::AbortUnknown, |mutations| {
        let mut world = World::new(1, mutations);
        let publishes = |effect: &Effect| matches!(effect, Effect::Cas { meta, .. } if meta.tier.object().is_some());
        world.until(0, publishes);
        world.turn(0, Trouble { reply_lost: true, ..Trouble::default() });
        let Tier::Offloaded(object) = world.tier() else { panic!("{:?}", world.tier()) };
        world.turn(0, Trouble::default());
        world.crash(0);
        world.settle();
        assert_eq!(world.tier(), Tier::Trimmed(object.clone()), "the first attempt's");
        assert!(world.objects.contains_key(&object.attempt));
    });
}

#[test]
fn scenario_55_what_a_peer_did_not_deliver_is_not_published() {
    holds_only_with(Mutation::SkipVerify, |mutations| {
        let mut world = World::new(1, mutations);
        world.until(0, |effect| matches!(effect, Effect::Stream { .. }));
        world.turn(0, Trouble { short: true, ..Trouble::default() });
        assert_eq!(world.nodes[0].effect, Effect::Abort);
        world.settle();
    });
}

#[test]
fn scenario_56_an_object_that_was_deleted_by_hand_costs_no_copy() {
    holds_only_with(Mutation::DropUnseen, |mutations| {
        // Before the trim: uploaded again (T7).
        let mut world = World::new(1, mutations);
        world.until(0, |effect| matches!(effect, Effect::LookAt(_)));
        assert!(matches!(world.tier(), Tier::Offloaded(_)));
        world.objects.clear();
        world.settle();
        // After it: bookies keep what they have, and say so.
        let mut world = World::new(1, mutations);
        world.until(0, |effect| matches!(effect, Effect::Drop { .. }));
        world.crash(0);
        world.objects.clear();
        world.until(0, |effect| matches!(effect, Effect::Alarm(_)));
        assert!(world.nodes[0].holds);
    });
}

#[test]
fn scenario_58_a_ledger_that_is_deleted_during_its_upload_stays_deleted() {
    holds_only_with(Mutation::PublishDeleted, |mutations| {
        for steps in 0..12 {
            let mut world = World::new(steps, mutations);
            for _ in 0..steps {
                world.turn(0, Trouble::default());
            }
            let (meta, version) = world.meta.as_mut().unwrap();
            meta.state = LedgerState::Deleting;
            version.0 += 1;
            let before = world.tier();
            for _ in 0..40 {
                world.turn(0, Trouble::default());
            }
            assert_eq!(world.tier(), before, "after step {steps}");
            assert_eq!(world.nodes[0].effect, Effect::Done);
        }
    });
}

/// 5.8: whose disk fills up waits neither for the time that copies are kept, nor for its turn; nobody else drops anything sooner for it.
#[test]
fn a_disk_that_fills_up_waits_for_nobody() {
    let mut world = World::new(1, Mutations::default());
    // The first in turn; it is followed by its neighbour, and the last is the one before it.
    world.until(0, |effect| matches!(effect, Effect::LookAt(_)));
    assert!(matches!(world.tier(), Tier::Offloaded(_)));
    let (uploaded, number) = (world.now, 2);
    world.hurried.insert(number);
    while world.nodes[number].holds {
        world.turn(number, Trouble::default());
        assert_eq!(world.now, uploaded, "it waits");
    }
    assert!(matches!(world.tier(), Tier::Trimmed(_)));
    assert!(world.nodes[0].holds && world.nodes[1].holds);
    // What is not uploaded is sent at once as well: whose turn it is may hold nothing of it.
    let mut world = World::new(1, Mutations::default());
    world.hurried.insert(number);
    while world.nodes[number].holds {
        world.turn(number, Trouble::default());
        assert_eq!(world.now, 100, "it waits");
    }
    assert!(matches!(world.tier(), Tier::Trimmed(_)));
    // And so is what the object is missing of: until then it keeps its copy.
    let mut world = World::new(1, Mutations::default());
    world.until(0, |effect| matches!(effect, Effect::LookAt(_)));
    world.objects.clear();
    world.hurried.insert(number);
    world.until(number, |effect| matches!(effect, Effect::LookAt(_)));
    assert_eq!((world.tier(), world.nodes[number].holds), (Tier::Local, true));
    assert!(world.nodes[number].offload.fails(), "not at once");
    while world.nodes[number].holds {
        world.turn(number, Trouble::default());
    }
    let Tier::Trimmed(object) = world.tier() else { panic!("it was dropped") };
    assert!(world.objects.contains_key(&object.attempt));
}

/// All disks fill up: whoever comes second loses a swap, and one object is sent.
#[test]
fn disks_that_fill_up_together_send_one_object() {
    for seed in 0..200 {
        let mut world = World::new(seed, Mutations::default());
        let chaos = SeededRandom::new(seed);
        world.hurried = (0..3).collect();
        while world.nodes.iter().any(|node| node.holds) {
            let number = chaos.below(3) as usize;
            let waits = |node: &Node| matches!(node.effect, Effect::LookAt(_) | Effect::Done);
            // Time passes when all wait.
            if !waits(&world.nodes[number]) || world.nodes.iter().all(waits) {
                world.turn(number, Trouble::default());
            }
        }
        assert_eq!(world.objects.len(), 1, "seed {seed}");
    }
}

/// What is wanted at bookies for ever gives no space back: it waits for its turn.
#[test]
fn what_stays_for_ever_is_not_sent_out_of_turn() {
    for (keep_local, at_once) in [(KeepLocal::Ms(50), true), (KeepLocal::Always, false)] {
        let wanted = Wanted { keep_local, hurries: true, ..WANTED };
        let (cluster, names) = (ClusterUuid::from_random(1), Names::of("memory://"));
        // The last in turn.
        let mut offload = Offload::new(member(2), cluster, names, TIMING, Mutations::default());
        offload.look();
        let now = Now { ms: 100, fresh: 1 };
        let effect = offload.step(now, Event::Read(Some((closed(), Version(1))), wanted));
        assert_eq!(matches!(effect, Effect::Cas { .. }), at_once, "{effect:?}");
    }
}

/// Whoever was not there when the end was written, and has most of the rest, takes over as well where its disk fills up.
#[test]
fn a_claim_that_is_dead_is_taken_over_by_whose_disk_fills_up() {
    let (cluster, names) = (ClusterUuid::from_random(1), Names::of("memory://"));
    let mut offload = Offload::new(member(7), cluster, names, TIMING, Mutations::default());
    let tier = Tier::Uploading { attempt: 3, by: member(1), started_ms: 100 };
    let meta = LedgerMeta { tier, ..closed() };
    let mut look = |ms, hurries| {
        offload.look();
        let wanted = Wanted { hurries, ..WANTED };
        offload.step(Now { ms, fresh: 1 }, Event::Read(Some((meta.clone(), Version(1))), wanted))
    };
    let Effect::LookAt(at) = look(100, true) else { panic!("members of the last part come first") };
    assert!(at > 100 + 3 * TIMING.take_over_ms);
    assert!(matches!(look(at, false), Effect::LookAt(_)));
    assert!(matches!(look(at, true), Effect::Cas { .. }));
}

/// Whatever is lost, repeated or forgotten, in whatever order.
#[test]
fn nothing_is_lost_in_any_order() {
    for seed in 0..3_000 {
        let mut world = World::new(seed, Mutations::default());
        let chaos = SeededRandom::new(seed + 1_000_000);
        for _ in 0..chaos.below(120) {
            let number = chaos.below(3) as usize;
            match chaos.below(20) {
                0 => world.crash(number),
                1 => world.now += 5_000,
                2 if !matches!(world.tier(), Tier::Trimmed(_)) => world.objects.clear(),
                3 => world.now -= 2_000,
                4 => {
                    if !world.hurried.remove(&number) {
                        world.hurried.insert(number);
                    }
                }
                _ => {
                    let reply_lost = chaos.below(6) == 0;
                    let refused = chaos.below(6) == 0;
                    let short = chaos.below(6) == 0;
                    world.turn(number, Trouble { reply_lost, refused, short });
                }
            }
        }
        let gone = world.tier().object().is_some_and(|o| !world.objects.contains_key(&o.attempt));
        // Somebody saw the object before it was cleared away.
        let trims = world
            .nodes
            .iter()
            .any(|node| matches!(&node.effect, Effect::Cas { meta, .. } if meta.tier.is_trimmed()));
        if !(gone && (trims || world.tier().is_trimmed())) {
            println!("seed {seed}");
            world.now += 1_000_000;
            world.settle();
        }
    }
}

/// 6.6, T7: nobody copies a ledger's only copy from the bookie that is to leave, so whether the object is there is found out while that copy
/// is, however long it would be kept beside the object.
#[test]
fn whoever_is_to_leave_asks_for_the_object_beside_an_only_copy() {
    let object = TierObject {
        attempt: 1,
        bucket: "memory://".to_owned(),
        key: "k".to_owned(),
        size: 9,
        entries: ENTRIES,
        object_crc: 5,
        etag: "e".to_owned(),
        index_place: 5,
        at_ms: 90,
    };
    let (now, mut offload) = (Now { ms: 100, fresh: 1 }, offload(false));
    let mut look = |qw: u8, wanted: Wanted| {
        let ensemble = (0..usize::from(qw)).map(member).collect();
        let meta = LedgerMeta {
            qw,
            qa: 1,
            fragments: vec![Fragment { first_entry: EntryId(0), ensemble }],
            tier: Tier::Offloaded(object.clone()),
            ..closed()
        };
        offload.look();
        let effect = offload.step(now, Event::Read(Some((meta, Version(1))), wanted));
        (effect, offload.clone())
    };
    let heads = |effect: &Effect| matches!(effect, Effect::Head(_));
    let waits = |effect: &Effect| matches!(effect, Effect::LookAt(_));
    for keep_local in [KeepLocal::Always, KeepLocal::Ms(1_000)] {
        let stays = Wanted { keep_local, ..WANTED };
        let leaves = Wanted { leaves: true, ..stays };
        assert!(waits(&look(1, stays).0), "{keep_local:?}");
        assert!(waits(&look(2, leaves).0), "{keep_local:?}: it is copied from another bookie");
        let (effect, asking) = look(1, leaves);
        assert!(heads(&effect), "{keep_local:?}: {effect:?}");
        let after = |head| asking.clone().step(now, Event::Head(head));
        let there = Seen { size: object.size, etag: object.etag.clone() };
        assert!(waits(&after(Head::There(there.clone()))), "{keep_local:?}: kept for its time");
        assert!(waits(&after(Head::Unknown)), "{keep_local:?}: no answer says nothing");
        for lost in [Head::Gone, Head::There(Seen { size: 1, ..there })] {
            let Effect::Cas { meta, .. } = after(lost) else { panic!("{keep_local:?}: silence") };
            assert_eq!(meta.tier, Tier::Local, "{keep_local:?}");
        }
    }
}

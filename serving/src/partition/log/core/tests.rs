//! The core against a world of ledgers that fail at any moment, in any way that the ledger layer allows.

use proptest::prelude::*;

use super::*;

fn policy() -> Policy {
    Policy {
        roll_bytes: 2_000,
        snapshot_bytes: 1_500,
        snapshot_entries: 7,
        snapshot_often_entries: 7,
        write_quorum: 3,
        ack_quorum: 2,
        mutations: Mutations::default(),
    }
}

/// So many bookies in one zone.
fn live(bookies: usize) -> Input {
    live_in(bookies, 1)
}

fn live_in(bookies: usize, zones: usize) -> Input {
    Input::LiveBookies(Live { bookies, zones })
}

fn lacks(how: u8) -> Lacks {
    Lacks { copies: how.is_multiple_of(5), zones: how.is_multiple_of(7).then_some(1) }
}

/// One ledger as it really is.
#[derive(Debug, Default)]
struct Ledger {
    entries: Vec<Submission>,
    lac: i64,
    closed: bool,
}

impl Ledger {
    fn lap(&self) -> i64 {
        self.entries.len() as i64 - 1
    }
}

#[derive(Debug)]
struct World {
    core: Core,
    ledgers: Vec<Ledger>,
    /// The last ledger has a writer that works.
    writing: bool,
    op: Option<Effect>,
    asked: bool,
    checking: bool,
    /// The core waits, so often doubled.
    pause: Option<u32>,
    /// The parts of the snapshot that is being written are at hand.
    parts: bool,
    appended: u64,
    /// Number of the newest append that the owner was told of.
    told: u64,
    /// For each snapshot that was answered: the appends in it.
    states: Vec<u64>,
}

impl World {
    fn new() -> Self {
        let start = Start { next_offset: Offset(100), running_max_timestamp: -1 };
        Self {
            core: Core::new(policy(), start, Live { bookies: 3, zones: 1 }),
            ledgers: Vec::new(),
            writing: false,
            op: None,
            asked: false,
            checking: false,
            pause: None,
            parts: false,
            appended: 0,
            told: 0,
            states: Vec::new(),
        }
    }

    fn step(&mut self, input: Input) {
        let effects = self.core.step(input);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Create | Effect::Roll { .. } | Effect::Close { .. } | Effect::Settle => {
                    assert!(
                        self.op.is_none() || effect == Effect::Settle,
                        "{effect:?} while {:?}",
                        self.op
                    );
                    (self.asked, self.parts, self.checking) = (false, false, false);
                    self.op = Some(effect);
                }
                Effect::Check => {
                    assert!(!self.checking && self.op.is_none(), "one at a time");
                    self.checking = true;
                }
                Effect::AskSnapshot => {
                    let ledger = self.ledgers.last().unwrap();
                    assert_eq!(ledger.lac, ledger.lap(), "asked with entries in flight");
                    assert_eq!(
                        self.committed().len() as u64,
                        self.told,
                        "asked before it was told"
                    );
                    self.asked = true;
                }
                Effect::Acked { through, high_watermark } => {
                    assert!(through > self.told, "acknowledged twice");
                    assert!(self.committed().len() as u64 >= through, "not in the log");
                    self.told = through;
                    assert_eq!(high_watermark, self.core.high_watermark());
                }
                Effect::Pause { doubled } => self.pause = Some(doubled),
                Effect::RetryLater => {}
            }
        }
    }

    /// Numbers of the appends that a reader of the log finds.
    fn committed(&self) -> Vec<u64> {
        let mut numbers = Vec::new();
        for ledger in &self.ledgers {
            for entry in &ledger.entries[..usize::try_from(ledger.lac + 1).unwrap()] {
                if let Submit::Append(number) = entry.what {
                    numbers.push(number);
                }
            }
        }
        numbers
    }

    fn append(&mut self, bytes: usize) {
        let what = match bytes % 3 {
            0 => What::Batches { offset_count: 2, max_timestamp: bytes as i64 },
            1 => What::Command,
            _ => What::Barrier,
        };
        self.appended += 1;
        let (appended, effects) = self.core.append(what, bytes);
        assert_eq!(appended.number, self.appended);
        self.carry_out(effects);
    }

    fn submit(&mut self, most: usize) {
        for _ in 0..most {
            let Some(submission) = self.core.next() else { return };
            let is_part = matches!(submission.what, Submit::Part { .. });
            assert!(self.parts || !is_part, "a part of a snapshot that was given up");
            if !self.writing {
                self.step(Input::Health(Health::Dead));
                return;
            }
            let ledger = self.ledgers.last_mut().unwrap();
            ledger.entries.push(submission);
            let entry = EntryId(ledger.lap());
            self.step(Input::Submitted { entry });
        }
    }

    /// The current ledger acknowledges some more; the core hears of it unless `silent`.
    fn confirm(&mut self, some: u8, silent: bool) {
        let Some(ledger) = self.ledgers.last_mut().filter(|l| !l.closed) else { return };
        ledger.lac += (ledger.lap() - ledger.lac).min(i64::from(some));
        let lac = EntryId(ledger.lac);
        if !silent && self.writing {
            self.step(Input::Confirmed { lac });
        }
    }

    fn create(&mut self) {
        self.ledgers.push(Ledger { lac: -1, ..Ledger::default() });
        self.writing = true;
    }

    fn close(&mut self) -> Option<EntryId> {
        let ledger = self.ledgers.last_mut()?;
        ledger.closed = true;
        ledger.entries.truncate(usize::try_from(ledger.lac + 1).unwrap());
        self.writing = false;
        Some(EntryId(ledger.lac))
    }

    /// Ends the operation at work, one way or another.
    fn finish(&mut self, how: u8) {
        let Some(op) = self.op.take() else { return };
        let input = match (op, how % 4) {
            (Effect::Create, 0) => Input::NotCreated,
            // Refused, or done without an answer: an empty ledger that settling finds and closes.
            (Effect::Create, 1) => Input::Doubt,
            (Effect::Create, _) => {
                self.create();
                Input::Created { lacks: lacks(how) }
            }
            (Effect::Roll { .. }, 0) => Input::NotRolled,
            (Effect::Roll { .. }, 1) => {
                if how.is_multiple_of(2) {
                    self.close();
                }
                Input::Doubt
            }
            (Effect::Roll { drain }, _) => {
                self.confirm(if drain { 255 } else { how % 3 }, how.is_multiple_of(3));
                if !self.writing {
                    Input::Doubt
                } else {
                    let last = self.close().unwrap();
                    self.create();
                    Input::Rolled { last, lacks: lacks(how) }
                }
            }
            (Effect::Close { .. }, 0) => Input::Doubt,
            (Effect::Close { .. }, 1) => Input::NotRolled,
            (Effect::Settle, 0) => Input::NotSettled,
            (Effect::Close { .. } | Effect::Settle, _) => {
                // Recovery may keep entries that were never acknowledged.
                if self.ledgers.last().is_some_and(|l| !l.closed) {
                    self.confirm(how, true);
                }
                Input::Settled { last: self.close() }
            }
            (other, _) => panic!("{other:?} is no operation"),
        };
        self.step(input);
    }

    /// The metadata store answers, or does not.
    fn check(&mut self, answered: bool) {
        if std::mem::take(&mut self.checking) {
            self.step(Input::Checked(answered));
        }
    }

    fn answer(&mut self, parts: u32) {
        if std::mem::take(&mut self.asked) {
            self.states.push(self.told);
            self.parts = true;
            self.step(Input::SnapshotAnswered { parts, bytes: u64::from(parts) * 100 });
        }
    }

    /// The current ledger loses its quorum, and is left; after how many pauses, as long as the first.
    fn lost_after(&mut self) -> u32 {
        self.step(Input::Health(Health::QuorumLost));
        let mut waited = 0;
        while self.op.is_none() {
            waited += 1 << self.pause.take().expect("it is left after its pauses");
            self.step(Input::PauseOver);
        }
        assert_eq!(self.op, Some(Effect::Roll { drain: false }));
        waited
    }

    fn die(&mut self) {
        if self.op.is_none() && self.writing {
            self.writing = false;
            self.step(Input::Health(Health::Dead));
        }
    }

    fn act(&mut self, (what, how): (u8, u8)) {
        match what % 16 {
            0..=3 => self.append(usize::from(how) * 3),
            4..=6 => self.submit(usize::from(how % 8)),
            7 | 8 => self.confirm(how % 5, false),
            9 => self.confirm(how % 3, true),
            10 if self.checking => self.check(!how.is_multiple_of(3)),
            10 => self.finish(how),
            11 => self.answer(u32::from(how % 3) + 1),
            12 if how < 60 => self.die(),
            12 => self.step(Input::RetryDue),
            13 => self.step(Input::PauseOver),
            14 => {
                let health = [Health::Healthy, Health::Degraded, Health::QuorumLost, Health::Roll];
                self.step(Input::Health(health[usize::from(how % 4)]));
            }
            _ => match how % 4 {
                0 => self.step(Input::AgeReached),
                1 => self.step(Input::IdleReached),
                _ => self.step(live_in(usize::from(how % 4), usize::from(how / 4 % 3))),
            },
        }
        assert!(self.told <= self.appended);
    }

    /// Everything works from now on.
    fn heal(&mut self) {
        for _ in 0..1_000 {
            if self.told == self.appended && self.op.is_none() {
                return;
            }
            self.step(live(3));
            self.step(Input::RetryDue);
            self.check(true);
            self.finish(3);
            self.step(Input::Health(Health::Healthy));
            self.answer(2);
            self.submit(100);
            self.confirm(255, false);
        }
        panic!("does not come to rest: {self:#?}");
    }

    /// What a later owner finds.
    fn check_log(&self) {
        let expected: Vec<u64> = (1..=self.appended).collect();
        assert_eq!(self.committed(), expected, "order, no loss, no duplicate");
        let mut appends = 0;
        let mut offset = 100;
        let mut states = self.states.iter();
        for ledger in &self.ledgers {
            let (mut complete, mut first) = (None, 0);
            for (entry, submission) in ledger.entries.iter().enumerate() {
                let Submission { what, attributes } = *submission;
                let snapshot = complete.map_or(NO_SNAPSHOT, |first: usize| first as u64);
                assert_eq!(attributes.last_snapshot_entry, snapshot);
                assert_eq!(attributes.first_offset, offset, "offsets are dense");
                offset += i64::from(attributes.offset_count);
                match what {
                    Submit::Append(_) => {
                        assert!(complete.is_some(), "no append before the head snapshot (P4)");
                        appends += 1;
                    }
                    Submit::Part { index, total } => {
                        if index == 0 {
                            first = entry;
                        }
                        assert_eq!(entry - first, index as usize, "parts are consecutive");
                        if index + 1 == total {
                            complete = Some(first);
                            // Snapshots of which a part was lost are not in the log.
                            assert!(states.any(|state| *state == appends), "state of its place");
                        }
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Order kept, nothing lost or acknowledged twice, snapshots where they belong, whatever happens.
    #[test]
    fn every_append_is_in_the_log_once_and_in_order(
        actions in proptest::collection::vec((any::<u8>(), any::<u8>()), 0..300)
    ) {
        let mut world = World::new();
        for action in actions {
            world.act(action);
        }
        world.heal();
        world.check_log();
    }
}

#[test]
fn nothing_is_created_before_the_first_append() {
    let mut world = World::new();
    world.step(live(5));
    assert_eq!(world.op, None);
    world.append(1);
    assert_eq!(world.op, Some(Effect::Create));
}

#[test]
fn a_lost_quorum_rolls_only_onto_enough_bookies() {
    let mut world = World::new();
    world.append(3);
    world.finish(3);
    world.answer(1);
    world.submit(10);
    world.step(Input::PauseOver);
    world.step(live(1));
    world.step(Input::Health(Health::QuorumLost));
    assert_eq!(world.op, None, "one bookie cannot take it over");
    assert!(!world.core.is_writable());
    world.step(live(2));
    assert_eq!(world.op, Some(Effect::Roll { drain: false }));
}

#[test]
fn copies_are_restored_when_all_can_be_and_not_all_the_time() {
    let mut world = World::new();
    world.append(3);
    world.finish(3);
    world.answer(1);
    world.submit(10);
    world.confirm(10, false);
    world.step(live(2));
    world.step(Input::Health(Health::Degraded));
    world.step(Input::PauseOver);
    assert_eq!(world.op, None);
    world.append(3);
    world.step(live(3));
    world.check(true);
    assert_eq!(world.op, Some(Effect::Roll { drain: true }));
    world.finish(2);
    world.answer(1);
    world.append(3);
    world.step(Input::Health(Health::Degraded));
    assert_eq!(world.op, None, "a pause lies between two of them");
    world.step(Input::PauseOver);
    world.submit(10);
    assert!(!world.checking, "a longer one the second time");
    world.step(Input::PauseOver);
    world.check(true);
    assert_eq!(world.op, Some(Effect::Roll { drain: true }));
}

/// A world whose ledger has all its copies, in so many zones, and found its bookies.
fn in_zones(zones: Option<usize>) -> World {
    let mut world = World::new();
    world.append(3);
    world.op = None;
    world.create();
    world.step(Input::Created { lacks: Lacks { copies: false, zones } });
    world.answer(1);
    world.submit(10);
    world.confirm(10, false);
    world.append(3);
    world.submit(10);
    world.step(Input::PauseOver);
    world
}

/// 6.7: what it acknowledges is in one zone, whoever comes back, as long as it is written.
#[test]
fn a_ledger_of_too_few_zones_is_left_when_there_are_more() {
    let mut world = in_zones(Some(1));
    world.step(live(4));
    assert!(!world.checking, "more bookies of the one zone are none");
    world.step(live_in(3, 2));
    world.check(true);
    assert_eq!(world.op, Some(Effect::Roll { drain: true }));
    // As often as copies are restored, and no oftener.
    world.finish(7);
    for _ in 0..2 {
        world.answer(1);
        world.submit(10);
        assert!(!world.checking, "a pause, and a longer one");
        world.step(Input::PauseOver);
    }
    world.check(true);
    assert_eq!(world.op, Some(Effect::Roll { drain: true }));
    world.heal();
    world.check_log();
}

/// One that has what was asked for stays, and so does one whose copies cannot be in more zones.
#[test]
fn a_ledger_that_the_next_would_not_better_is_kept() {
    for (begun, zones) in [(None, 3), (Some(2), 2), (Some(2), 1), (Some(3), 4)] {
        let mut world = in_zones(begun);
        world.step(live_in(5, zones));
        assert!(!world.checking, "{begun:?} of {zones}");
    }
    // Nor for fewer copies.
    let mut world = in_zones(Some(1));
    world.step(live_in(2, 2));
    assert!(!world.checking);
    world.step(live_in(3, 2));
    assert!(world.checking);
}

/// 2.5: the ledger asks for it, whoever is live; and not again at once.
#[test]
fn a_ledger_that_asks_is_rolled() {
    let mut world = World::new();
    world.append(3);
    world.finish(3);
    world.answer(1);
    world.submit(10);
    world.step(live(2));
    world.step(Input::Health(Health::Roll));
    assert!(!world.checking, "a new ledger gets a moment");
    world.step(Input::PauseOver);
    world.check(true);
    assert_eq!(world.op, Some(Effect::Roll { drain: true }));
    world.finish(2);
    assert_eq!(world.core.health, Health::Healthy);
}

/// Or a partition that nobody writes to would gather empty ledgers for as long as a member stays away.
#[test]
fn a_quiet_ledger_that_lacks_copies_is_closed_without_a_successor() {
    let mut world = World::new();
    world.append(3);
    world.finish(3);
    world.answer(1);
    world.submit(10);
    world.confirm(10, false);
    world.step(Input::PauseOver);
    world.step(Input::Health(Health::Degraded));
    world.check(true);
    assert_eq!(world.op, Some(Effect::Close { drain: true }));
    world.finish(2);
    assert_eq!(world.op, None);
    world.append(3);
    assert_eq!(world.op, Some(Effect::Create));
}

/// While the quorum is away producers are refused, so waiting for the next append before leaving would be for ever.
#[test]
fn a_quiet_ledger_that_lost_its_quorum_is_left_too() {
    let mut world = World::new();
    world.append(3);
    world.finish(3);
    world.answer(1);
    world.submit(10);
    world.confirm(10, false);
    for _ in 1..policy().snapshot_entries {
        world.append(3);
        world.submit(10);
        world.confirm(10, false);
    }
    // A snapshot is on its way, and nothing else.
    world.answer(2);
    world.submit(1);
    world.step(Input::Health(Health::QuorumLost));
    assert!(!world.core.is_writable());
    world.step(Input::PauseOver);
    assert_eq!(world.op, Some(Effect::Close { drain: false }));
    // The store does not answer: the ledger goes on, and asks for its snapshot again.
    world.finish(1);
    world.step(Input::Health(Health::Healthy));
    world.confirm(10, false);
    assert!(world.asked);
    world.heal();
    world.check_log();
}

/// The pause before copies are restored doubles; a lost quorum does not wait for that.
#[test]
fn a_lost_quorum_does_not_wait_for_restored_copies() {
    let mut world = World::new();
    world.append(3);
    world.finish(3);
    for _ in 0..5 {
        world.answer(1);
        world.append(3);
        world.step(Input::Health(Health::Degraded));
        world.step(Input::PauseOver);
        world.step(Input::PauseOver);
        world.submit(10);
        world.check(true);
        assert_eq!(world.op, Some(Effect::Roll { drain: true }));
        world.finish(2);
    }
    world.answer(1);
    world.append(3);
    world.submit(10);
    world.step(live(2));
    world.step(Input::Health(Health::QuorumLost));
    assert_eq!(world.op, None, "a new ledger gets a moment");
    world.step(Input::PauseOver);
    assert_eq!(world.op, Some(Effect::Roll { drain: false }));
}

/// A world in which so many ledgers in a row were left as lost and acknowledged nothing, and the next one is open.
fn barren(ledgers: u32) -> World {
    let mut world = World::new();
    world.append(3);
    world.finish(3);
    for _ in 0..ledgers {
        world.answer(1);
        world.submit(10);
        world.lost_after();
        world.finish(3);
    }
    world.answer(1);
    world.submit(10);
    world
}

/// The first successor comes at once, or a failover would take longer.
#[test]
fn ledgers_that_acknowledge_nothing_come_later_and_later() {
    let waited = |ledgers| barren(ledgers).lost_after();
    assert_eq!([0, 1, 2, 3, 4, 5, 40].map(waited), [1, 2, 3, 5, 9, 9, 9]);
}

/// It shows that bookies are there; also an entry of a snapshot.
#[test]
fn an_acknowledgement_ends_the_pause_of_ledgers_without_one() {
    let mut world = barren(4);
    world.confirm(1, false);
    assert_eq!(world.told, 0, "it was a snapshot");
    assert_eq!(world.lost_after(), 1);
    world.finish(3);
    assert_eq!(world.lost_after(), 1, "the one before had acknowledged something");

    // While the pause goes on.
    let mut world = barren(4);
    world.step(Input::PauseOver);
    world.step(Input::Health(Health::QuorumLost));
    assert_eq!(world.op, None);
    world.step(Input::Health(Health::Healthy));
    world.confirm(255, false);
    assert_eq!((world.told, world.op), (1, None), "the ledger was kept, and goes on");
    world.append(3);
    world.submit(10);
    assert_eq!(world.lost_after(), 0);
    world.heal();
    world.check_log();
}

/// Where no member is left only another ledger helps.
#[test]
fn a_ledger_without_anybody_is_not_kept_for_those_before_it() {
    let mut world = barren(4);
    world.step(Input::Health(Health::NobodyLeft));
    assert_eq!(world.op, None, "it still looks for its bookies");
    world.step(Input::PauseOver);
    assert_eq!(world.op, Some(Effect::Roll { drain: false }));
}

/// One that comes or goes is a reason to try at once.
#[test]
fn a_change_of_bookies_ends_the_pause_of_ledgers_without_an_acknowledgement() {
    for bookies in [2, 4] {
        let mut world = barren(4);
        world.step(Input::PauseOver);
        world.step(Input::Health(Health::QuorumLost));
        world.step(live(3));
        assert_eq!(world.op, None, "these were live before");
        world.step(live(bookies));
        assert_eq!(world.op, Some(Effect::Roll { drain: false }));
        world.finish(3);
        assert_eq!(world.lost_after(), 2, "and counted anew");
    }
    // While the next one still looks for its bookies.
    let mut world = barren(4);
    world.step(live(4));
    assert_eq!(world.lost_after(), 1);
    // And while one is left.
    world.step(live(3));
    world.finish(3);
    assert_eq!(world.lost_after(), 1);
}

/// A roll that changed nothing is no ledger.
#[test]
fn a_lost_ledger_that_goes_on_is_counted_once() {
    let mut world = barren(1);
    for _ in 0..5 {
        world.lost_after();
        world.step(Input::NotRolled);
        world.op = None;
        world.step(Input::RetryDue);
    }
    world.finish(3);
    assert_eq!(world.lost_after(), 3);
}

/// A world whose ledger is large enough to roll, with an append that was not submitted.
fn large() -> World {
    let mut world = World::new();
    for _ in 0..8 {
        world.append(300);
    }
    world.finish(3);
    for _ in 0..2 {
        world.answer(1);
        world.submit(100);
        world.confirm(100, false);
    }
    world.answer(1);
    world.append(300);
    world
}

#[test]
fn a_roll_that_changed_nothing_goes_on_and_is_tried_again() {
    let mut world = large();
    world.submit(1);
    world.check(true);
    assert_eq!(world.op, Some(Effect::Roll { drain: true }), "by size");
    world.step(Input::NotRolled);
    world.op = None;
    assert!(world.core.outstanding().1 > 0, "held while the roll was tried");
    world.answer(1);
    world.submit(100);
    world.confirm(100, false);
    assert_eq!(world.core.outstanding(), (0, 0), "the old ledger takes more meanwhile");
    world.append(3);
    world.submit(10);
    assert!(!world.checking, "a pause comes first");
    world.step(Input::RetryDue);
    world.check(true);
    assert_eq!(world.op, Some(Effect::Roll { drain: true }));
}

/// 2.8 step 0: without metadata an open ledger is written past its limits, and nothing waits for the store meanwhile.
#[test]
fn appends_do_not_wait_for_the_store_to_answer() {
    let mut world = large();
    for _ in 0..20 {
        world.append(3);
        world.answer(1);
        world.submit(100);
        world.confirm(100, false);
        world.answer(1);
        world.submit(100);
        world.confirm(100, false);
        assert_eq!(world.core.outstanding(), (0, 0));
        assert_eq!(world.op, None);
        world.check(false);
        world.step(Input::RetryDue);
    }
    assert!(world.checking);
    world.check(true);
    assert_eq!(world.op, Some(Effect::Close { drain: true }), "nothing waits for a successor");
}

#[test]
fn a_create_that_is_refused_again_and_again_is_not_tried_in_a_tight_loop() {
    let mut world = World::new();
    world.append(3);
    world.step(Input::Doubt);
    assert_eq!(world.op, Some(Effect::Settle));
    world.step(Input::Settled { last: None });
    world.op = None;
    world.append(3);
    assert_eq!(world.op, None, "a pause comes first");
    assert!(!world.core.is_writable());
    world.step(Input::RetryDue);
    assert_eq!(world.op, Some(Effect::Create));
}

/// Small state is written often, so that a takeover has little to go through; large state seldom, or it would be most of the log.
#[test]
fn a_snapshot_is_due_by_what_it_costs() {
    let policy = Policy {
        snapshot_bytes: 32_000_000,
        snapshot_entries: 65_536,
        snapshot_often_entries: 4_096,
        ..policy()
    };
    let due = |snapshot_bytes, bytes_since_snapshot, entries_since_snapshot| {
        let since =
            Open { bytes_since_snapshot, entries_since_snapshot, ..Open::new(Lacks::default()) };
        Open { snapshot_bytes, ..since }.is_snapshot_due(&policy)
    };
    assert!(!due(100, 4_095 * 184, 4_095) && due(100, 4_096 * 184, 4_096));
    assert!(!due(1_000_000, 4_096 * 184, 4_096), "more than an eighth");
    assert!(!due(1_000_000, 7_999_999, 40_000) && due(1_000_000, 8_000_000, 40_000));
    assert!(due(1_000_000, 3_000_000, 65_536) && due(20_000_000, 32_000_000, 40));
}

//! How fast those who are behind may read while others produce. They would take every processor and disk there is, and whoever
//! waits for a millisecond's work would wait for theirs. So it is seen how long commits take while readers are at the floor; from
//! there they go faster bit by bit, and give way once commits take longer. Pure: the time and what was seen are passed in.
//!
//! ```text
//!   ──► Settling ──► Learning ──what commits take──► Giving way: faster ◄──► slower      at the floor: Settling, Learning
//!        ▲  ▲                                          │
//!        │  └───────────── every minute ───────────────┘      no commits for a while: ──► Alone ──others commit──► Settling
//! ```
//!
//! * Alone they read as fast as they can: nobody waits for them.
//! * Never slower than the floor, all of them together: whoever is behind gets on, however busy the broker is.
//! * What counts is what was read: what was asked for more is given back.
//! * What commits take by themselves changes with what is produced: it is learned anew, and at the floor it is what is seen.
//! * Where this broker commits little, what counts is what bookies add for others, who wait for the same disks: so they say with what is
//!   read from them. Nobody goes back and forth between the two for a moment's change.

use std::time::Duration;

/// How often it is looked at.
pub(super) const WINDOW: Duration = Duration::from_millis(100);
/// Commits that say something together, or those of so many windows if they are fewer.
const ENOUGH: u32 = 30;
const LONGEST: u32 = 10;
/// Windows without a commit that show whoever begins to read that nobody else is there; and judgements without one later.
const NOBODY: u32 = 2;
const NOBODY_ANY_MORE: u32 = 5;
/// Judgements at the floor whose mean is what commits take alone.
const LEARN: u32 = 3;
/// Windows until that is learned anew: a minute.
const LEARNED: u32 = 600;
/// What the slower of commits may take longer beside readers: a tenth, and what is no matter. So often in a row: once is chance.
const SLOWER: u32 = 10;
const NO_MATTER: Duration = Duration::from_micros(100);
const IN_A_ROW: u32 = 2;
/// What a read is taken for at least, before it is known what it brings.
const LEAST: u64 = 64 * 1024;
/// What was not used may be taken at once later, up to what takes so long.
const SLACK: Duration = Duration::from_millis(10);

/// See the module. Times are since any one moment.
#[derive(Debug)]
pub(super) struct Pace {
    phase: Phase,
    /// Bytes a second, all together; without effect alone.
    rate: u64,
    floor: u64,
    /// When everything that was taken is paid for.
    paid: Duration,
    /// What reads bring, about: of what they ask for that counts until they are done.
    usual: u64,
    /// Windows since commits were judged, bytes read in these, and whether anybody had to wait.
    windows: u32,
    read: u64,
    held: bool,
    /// Judgements without a commit.
    quiet: u32,
    by: By,
    /// Judgements in a row for which the other would have said more.
    better: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody else is there, so nobody waits.
    Alone,
    /// It is not known what commits take, and reads that were under way end.
    Settling,
    Learning {
        times: u32,
        sum: Duration,
    },
    GivingWay {
        /// What commits take with readers at the floor.
        alone: Duration,
        /// Windows since that was learned.
        age: u32,
        /// Judgements in a row that commits took longer.
        late: u32,
    },
}

/// What was done since commits were last judged.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    /// This broker's commits.
    pub(super) own: Done,
    /// What bookies added, for whomever.
    pub(super) added: Done,
    /// Something waits to be committed here.
    pub(super) waiting: bool,
}

/// So much of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Done {
    pub(super) count: u32,
    /// How long nine of ten took at most.
    pub(super) most: Duration,
}

/// By what it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Own,
    Added,
}

impl Seen {
    fn is_nothing(&self) -> bool {
        self.own.count == 0 && self.added.count == 0 && !self.waiting
    }

    /// What says most.
    fn best(&self) -> By {
        if self.own.count >= ENOUGH || self.added.count == 0 { By::Own } else { By::Added }
    }

    fn is_stuck(&self) -> bool {
        self.waiting && self.own.count == 0
    }

    fn by(&self, by: By) -> Done {
        match by {
            By::Added if !self.is_stuck() => self.added,
            By::Own | By::Added => self.own,
        }
    }
}

/// What a read costs until it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    cost: Duration,
    /// Of that time; none where nobody was held back.
    rate: Option<u64>,
}

impl Pace {
    /// One that nobody has read by. `floor`: bytes a second, more than none.
    pub(super) fn new(floor: u64) -> Self {
        let floor = floor.max(1);
        Self {
            phase: Phase::Settling,
            rate: floor,
            floor,
            paid: Duration::ZERO,
            usual: LEAST,
            windows: 0,
            read: 0,
            held: false,
            quiet: 0,
            by: By::Own,
            better: 0,
        }
    }

    /// Bytes a second that it lets through, if it holds anybody back.
    pub(super) fn rate(&self) -> Option<u64> {
        (self.phase != Phase::Alone).then_some(self.rate)
    }

    /// Nobody reads any more: what was seen until then says nothing of later.
    pub(super) fn rest(&mut self) {
        *self = Self::new(self.floor);
    }

    /// A read begins that asks for `bytes`; [`Pace::done`] is to follow. `waiting`: something waits to be committed, so that nobody
    /// is alone, whenever the next judgement is.
    ///
    /// # Errors
    /// For how long none may begin yet.
    pub(super) fn take(
        &mut self,
        bytes: u64,
        now: Duration,
        waiting: bool,
    ) -> Result<Taken, Duration> {
        if waiting && self.phase == Phase::Alone {
            self.phase = self.settle();
            (self.windows, self.quiet) = (0, 0);
        }
        let Some(rate) = self.rate() else { return Ok(Taken { cost: Duration::ZERO, rate: None }) };
        let start = self.paid.max(now.saturating_sub(SLACK));
        if let Some(wait) = start.checked_sub(now).filter(|wait| !wait.is_zero()) {
            self.held = true;
            return Err(wait);
        }
        let cost = cost(bytes.min(self.usual), rate);
        self.paid = start.saturating_add(cost);
        Ok(Taken { cost, rate: Some(rate) })
    }

    /// It brought so much.
    pub(super) fn done(&mut self, taken: Taken, read: u64) {
        self.read = self.read.saturating_add(read);
        self.usual = (self.usual - self.usual / 8).saturating_add(read / 8).max(LEAST);
        if let Some(rate) = taken.rate {
            self.paid = self.paid.saturating_sub(taken.cost).saturating_add(cost(read, rate));
        }
    }

    /// A window is over. Whether commits were judged, so that others are counted from here on.
    pub(super) fn window(&mut self, seen: Seen) -> bool {
        self.windows += 1;
        let nobody = seen.is_nothing();
        // Bookies say something once a second where they add little.
        let longest = match self.by {
            By::Added if !seen.is_stuck() => 3 * LONGEST,
            By::Own | By::Added => LONGEST,
        };
        let settling = matches!(self.phase, Phase::Alone | Phase::Settling);
        let enough = seen.by(self.by).count >= ENOUGH
            || self.windows >= longest
            || (nobody
                && self.phase == Phase::Settling
                && self.by == By::Own
                && self.windows >= NOBODY)
            || (settling && seen.by(seen.best()).count >= ENOUGH)
            || (!nobody && self.phase == Phase::Alone);
        if enough {
            self.quiet = if nobody { self.quiet + 1 } else { 0 };
            self.phase = match self.turn(seen) {
                true => self.settle(),
                false => self.judge(seen, nobody),
            };
            (self.windows, self.read, self.held) = (0, 0, false);
        }
        enough
    }

    /// Judges by the other from now on, if that says more for good, or as long as nothing is learned. Whether it does.
    fn turn(&mut self, seen: Seen) -> bool {
        let by = seen.best();
        self.better = if by == self.by || seen.is_nothing() { 0 } else { self.better + 1 };
        let learned = !matches!(self.phase, Phase::Alone | Phase::Settling);
        let turns = self.better >= if learned { NOBODY_ANY_MORE } else { 1 };
        if turns {
            (self.by, self.better) = (by, 0);
        }
        turns && learned
    }

    fn judge(&mut self, seen: Seen, nobody: bool) -> Phase {
        let done = seen.by(self.by);
        match self.phase {
            Phase::Alone if nobody => Phase::Alone,
            Phase::Alone => self.settle(),
            Phase::Settling if nobody => Phase::Alone,
            _ if self.quiet >= NOBODY_ANY_MORE => Phase::Alone,
            _ if nobody => self.phase,
            Phase::Settling | Phase::Learning { .. } if done.count == 0 => self.phase,
            Phase::Settling => Phase::Learning { times: 0, sum: Duration::ZERO },
            Phase::Learning { times, sum } => {
                let (times, sum) = (times + 1, sum.saturating_add(done.most));
                if times < LEARN {
                    Phase::Learning { times, sum }
                } else {
                    Phase::GivingWay { alone: sum / times, age: 0, late: 0 }
                }
            }
            Phase::GivingWay { age, .. } if age >= LEARNED && self.rate > self.floor => {
                self.settle()
            }
            Phase::GivingWay { alone, age, late } => {
                let age = age.saturating_add(self.windows);
                if done.count == 0 && !seen.is_stuck() {
                    // Nothing was said.
                    return Phase::GivingWay { alone, age, late };
                }
                self.give_way(done, alone, age, late)
            }
        }
    }

    fn settle(&mut self) -> Phase {
        self.rate = self.floor;
        Phase::Settling
    }

    /// The next rate, and what is known of commits from then on.
    fn give_way(&mut self, done: Done, mut alone: Duration, age: u32, late: u32) -> Phase {
        if done.count == 0 {
            // What was appended is stuck: whatever it is, nobody is to make it longer.
            self.rate = self.floor;
            return Phase::GivingWay { alone, age, late };
        }
        let most = alone.saturating_add(alone / SLOWER).saturating_add(NO_MATTER);
        let late = if done.most > most { late.saturating_add(1) } else { 0 };
        if late == 0 && self.held {
            let more = (self.rate / 32).saturating_mul(self.windows.min(LONGEST).into()).max(1);
            self.rate = self.rate.saturating_add(more);
        }
        if late >= IN_A_ROW {
            if self.rate == self.floor {
                // It is not for readers.
                alone += done.most.saturating_sub(alone) / 8;
            }
            let from = if self.held { self.rate } else { self.rate.min(self.reached()) };
            self.rate = (from - from / 4).max(self.floor);
        }
        Phase::GivingWay { alone, age, late }
    }

    /// Bytes a second that were read since commits were judged.
    fn reached(&self) -> u64 {
        let took = WINDOW * self.windows.max(1);
        u64::try_from(u128::from(self.read) * 1_000 / took.as_millis()).unwrap_or(u64::MAX)
    }
}

/// How long so many bytes take at a rate.
fn cost(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use geminga_runtime::{Random, SeededRandom};

    use super::*;

    const MIB: u64 = 1024 * 1024;
    const FLOOR: u64 = 32 * MIB;
    /// What readers could read.
    const MOST: u64 = 400 * MIB;

    /// Readers that read a MiB whenever they may, and producers whose commits take `commit(speed)`; `None`: there are none.
    struct World {
        pace: Pace,
        now: Duration,
        speed: u64,
        random: SeededRandom,
        /// They produce here, and bookies say so of whomever.
        here: bool,
        told: bool,
    }

    impl World {
        fn new() -> Self {
            let random = SeededRandom::new(7);
            let (pace, now) = (Pace::new(FLOOR), Duration::from_secs(1));
            Self { pace, now, speed: 0, random, here: true, told: false }
        }

        /// Bytes a second over so many windows.
        fn run(&mut self, windows: u32, commit: impl Fn(u64) -> Option<Duration>) -> u64 {
            let (began, mut all) = (self.now, 0);
            for _ in 0..windows {
                let (start, end, mut bytes) = (self.now, self.now + WINDOW, 0);
                while self.now < end {
                    match self.pace.take(MIB, self.now, false) {
                        Err(wait) => self.now += wait.min(end - self.now),
                        Ok(taken) => {
                            self.now += Duration::from_secs_f64(MIB as f64 / MOST as f64);
                            self.pace.done(taken, MIB);
                            bytes += MIB;
                        }
                    }
                }
                all += bytes;
                self.speed = (bytes as f64 / (self.now - start).as_secs_f64()) as u64;
                let most = commit(self.speed);
                let (count, waiting) = (most.map_or(0, |_| ENOUGH), most.is_some());
                let done = Done { count, most: most.unwrap_or_default() };
                let if_so = |so| if so { done } else { Done::default() };
                let (own, added) = (if_so(self.here), if_so(self.told));
                self.pace.window(Seen { own, added, waiting: waiting && self.here });
            }
            (all as f64 / (self.now - began).as_secs_f64()) as u64
        }

        /// The same with commits that are `most` times a chance, of about `sigma`.
        fn run_noisy(&mut self, windows: u32, sigma: f64, most: impl Fn(u64) -> Duration) -> u64 {
            let began = self.now;
            let mut all = 0.0;
            for _ in 0..windows {
                // The sum of twelve even chances is about normal.
                let even = |random: &SeededRandom| random.next_u128() as f64 / u128::MAX as f64;
                let normal: f64 = (0..12).map(|_| even(&self.random)).sum::<f64>() - 6.0;
                let start = self.now;
                let speed = self.run(1, |speed| Some(most(speed).mul_f64((sigma * normal).exp())));
                all += speed as f64 * (self.now - start).as_secs_f64();
            }
            (all / (self.now - began).as_secs_f64()) as u64
        }
    }

    fn own(count: u32, most: Duration) -> Seen {
        Seen { own: Done { count, most }, ..Seen::default() }
    }

    fn windows(pace: &mut Pace, times: u32, seen: Seen) {
        for _ in 0..times {
            pace.window(seen);
        }
    }

    /// Commits that readers make slower beyond 100 MiB a second.
    fn suffers(speed: u64) -> Option<Duration> {
        let over = speed.saturating_sub(100 * MIB) / MIB;
        Some(Duration::from_micros(5_000 + over * 100))
    }

    #[test]
    fn alone_they_read_as_fast_as_they_can() {
        let mut world = World::new();
        world.run(NOBODY, |_| None);
        assert_eq!(world.pace.rate(), None);
        assert!(world.run(50, |_| None) > MOST * 9 / 10);
        world.run(50, suffers);
        assert!(world.pace.rate().is_some());
        world.run(NOBODY_ANY_MORE * LONGEST, |_| None);
        assert_eq!(world.pace.rate(), None);
    }

    #[test]
    fn whoever_begins_to_produce_does_not_wait_for_the_next_judgement() {
        let mut world = World::new();
        world.run(50, |_| None);
        assert_eq!(world.pace.rate(), None);
        let taken = world.pace.take(MIB, world.now, true).expect("the first at the floor");
        assert_eq!(world.pace.rate(), Some(FLOOR));
        world.pace.done(taken, MIB);
        assert!(world.pace.take(MIB, world.now, true).is_err());
        // It was one record.
        world.run(NOBODY, |_| None);
        assert_eq!(world.pace.rate(), None);
    }

    #[test]
    fn those_who_produce_by_other_brokers_are_given_way_to() {
        let mut world = World::new();
        (world.here, world.told) = (false, true);
        world.run(50, |_| None);
        assert_eq!(world.pace.rate(), None, "alone");
        world.run(1, suffers);
        assert_eq!(world.pace.rate(), Some(FLOOR));
        world.run(300, suffers);
        let speed = world.run(2 * LEARNED, suffers);
        assert!((80 * MIB..120 * MIB).contains(&speed), "{}", speed / MIB);
        // Who begins to produce here is judged by that, once it is much for a while.
        world.here = true;
        let before = world.pace.rate();
        world.run(NOBODY_ANY_MORE - 1, suffers);
        assert!(world.pace.rate() > Some(FLOOR) && before > Some(FLOOR));
        world.run(1, suffers);
        assert_eq!((world.pace.rate(), world.pace.by), (Some(FLOOR), By::Own));
    }

    /// A commit here now and then says less than what bookies add for others all the time.
    #[test]
    fn a_few_commits_here_do_not_hide_those_elsewhere() {
        let mut pace = Pace::new(FLOOR);
        let most = Duration::from_millis(5);
        let seen = |own, added| Seen {
            own: Done { count: own, most },
            added: Done { count: added, most },
            waiting: false,
        };
        for _ in 0..200 {
            pace.window(seen(1, ENOUGH));
        }
        assert_eq!(pace.by, By::Added);
        assert!(matches!(pace.phase, Phase::GivingWay { .. }));
        // Stuck here, whatever others do.
        pace.rate = 2 * FLOOR;
        let stuck = Seen { waiting: true, ..seen(0, ENOUGH) };
        windows(&mut pace, LONGEST, stuck);
        assert_eq!(pace.rate(), Some(FLOOR));
    }

    /// Bookies tell of what they add in lumps: once they added thirty, or after a second.
    #[test]
    fn what_is_told_now_and_then_is_enough() {
        for every in [2, 3, 5, LONGEST, LONGEST + 1] {
            for own in [0, 1, 20] {
                let mut pace = Pace::new(FLOOR);
                let most = Duration::from_millis(5);
                let (mut unpaced, mut since) = (0, Seen::default());
                for window in 1..1_000 {
                    let told = if window % every == 0 { ENOUGH } else { 0 };
                    // What is counted is since the last judgement.
                    since.own = Done { count: since.own.count + own, most };
                    since.added = Done { count: since.added.count + told, most };
                    pace.held = true;
                    if pace.window(since) {
                        since = Seen::default();
                    }
                    unpaced += u32::from(window > 100 && pace.rate().is_none());
                }
                assert_eq!(unpaced, 0, "every {every}, own {own}");
                assert!(pace.rate() > Some(2 * FLOOR), "every {every}, own {own}: {pace:?}");
            }
        }
    }

    #[test]
    fn they_go_as_fast_as_commits_do_not_suffer() {
        let mut world = World::new();
        world.run(300, suffers);
        let speed = world.run(2 * LEARNED, suffers);
        assert!((80 * MIB..120 * MIB).contains(&speed), "{}", speed / MIB);
        // Also where they did before.
        let mut world = World::new();
        world.run(500, |_| Some(Duration::from_millis(5)));
        world.run(100, suffers);
        assert!(world.speed < 150 * MIB, "{}", world.speed / MIB);
    }

    #[test]
    fn nobody_is_held_back_for_long_where_nobody_suffers() {
        let fine = |_| Duration::from_millis(5);
        for (sigma, least) in [(0.0, 75), (0.1, 60), (0.15, 25)] {
            let mut world = World::new();
            let speed = world.run_noisy(3 * LEARNED, sigma, fine);
            assert!(speed > MOST * least / 100, "{sigma}: {}", speed / MIB);
        }
    }

    #[test]
    fn the_floor_is_kept_and_what_is_slow_for_another_reason_is_told_apart() {
        let mut world = World::new();
        world.run(20, |_| Some(Duration::from_millis(5)));
        // More is produced, and commits take longer whatever readers do.
        let slower = |_| Some(Duration::from_millis(50));
        world.run(10, slower);
        assert_eq!(world.pace.rate(), Some(FLOOR));
        let slowest = world.run(10, slower);
        assert!((30 * MIB..36 * MIB).contains(&slowest), "{}", slowest / MIB);
        world.run(500, slower);
        assert!(world.speed > MOST / 2, "{}", world.speed / MIB);
    }

    #[test]
    fn producers_that_are_stuck_are_there() {
        let mut world = World::new();
        world.run(200, |_| Some(Duration::from_millis(5)));
        assert!(world.speed > MOST / 2);
        let stuck = Seen { waiting: true, ..Seen::default() };
        windows(&mut world.pace, 10 * LONGEST, stuck);
        assert_eq!(world.pace.rate(), Some(FLOOR));
        // Also where they were stuck when reading began.
        let mut pace = Pace::new(FLOOR);
        windows(&mut pace, 10 * LONGEST, stuck);
        assert_eq!(pace.rate(), Some(FLOOR));
    }

    #[test]
    fn few_commits_are_judged_together() {
        let mut pace = Pace::new(FLOOR);
        let few = |count| own(count, Duration::from_millis(5));
        assert!((1..LONGEST).all(|n| !pace.window(few(n.min(ENOUGH - 1)))));
        assert!(pace.window(few(3)));
        assert!(pace.window(few(ENOUGH)));
    }

    #[test]
    fn what_was_asked_for_and_not_read_is_given_back() {
        let (mut pace, now) = (Pace::new(MIB), Duration::from_secs(10));
        // Reads that bring what they ask for are taken for that.
        for n in 0..100 {
            let taken = pace.take(MIB, now + Duration::from_secs(n), false).unwrap();
            pace.done(taken, MIB);
        }
        let now = now + Duration::from_secs(100);
        let taken = pace.take(MIB, now, false).unwrap();
        let wait = pace.take(MIB, now, false).unwrap_err();
        assert!(
            wait > Duration::from_millis(980) && wait <= Duration::from_millis(990),
            "{wait:?}"
        );
        pace.done(taken, 0);
        let taken = pace.take(MIB, now, false).expect("it brought nothing");
        pace.done(taken, 2 * MIB);
        assert_eq!(pace.take(1, now, false), Err(Duration::from_millis(1_990)));
    }

    /// Of small ones many may be under way, as far as they have been small lately.
    #[test]
    fn small_reads_do_not_wait_as_if_they_were_large() {
        let (mut pace, now) = (Pace::new(32 * MIB), Duration::from_secs(10));
        let under_way = (0..24).map_while(|_| pace.take(MIB, now, false).ok()).count();
        assert!(under_way > 4, "{under_way}");
    }

    #[test]
    fn the_largest_numbers_at_the_lowest_rate() {
        let mut pace = Pace::new(0);
        let seen = own(u32::MAX, Duration::MAX);
        windows(&mut pace, 20, seen);
        let taken = pace.take(u64::MAX, Duration::from_secs(1), false).unwrap();
        assert!(pace.take(1, Duration::from_secs(1), false).is_err());
        pace.done(taken, u64::MAX);
        pace.done(taken, 0);
        windows(&mut pace, 2 * LEARNED, seen);
        pace.window(own(1, Duration::ZERO));
    }
}

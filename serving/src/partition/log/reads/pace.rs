//! How fast those who are behind may read while others produce. They would take every processor and disk there is, and whoever
//! waits for a millisecond's work would wait for theirs. So it is seen how long commits take while readers are at the floor; from
//! there they go faster bit by bit, and give way once commits take longer. Pure: the time and what was seen are passed in.
//!
//! ```text
//!   ──► Settling ──► Learning ──what commits take──► Giving way: faster ◄──► slower      at the floor: Settling, Learning
//!        ▲  ▲                                          │
//!        │  └──────────── every half a minute ─────────┘      no commits for a while: ──► Alone ──others commit──► Settling
//! ```
//!
//! * Alone they read as fast as they can: nobody waits for them.
//! * Never slower than the floor, all of them together: whoever is behind gets on, however busy the broker is.
//! * What commits take by themselves changes with what is produced: it is learned anew, and at the floor it is what is seen.

use std::time::Duration;

/// How often it is looked at.
pub(super) const WINDOW: Duration = Duration::from_millis(100);
/// Commits that say something together, or those of so many windows if they are fewer.
const ENOUGH: u32 = 30;
const LONGEST: u32 = 10;
/// So many windows without any show whoever begins to read that nobody else is there.
const NOBODY: u32 = 2;
/// Times that commits are seen at the floor: what they take alone is the mean.
const LEARN: u32 = 5;
/// Times that they are seen until that is learned anew.
const LEARNED: u32 = 300;
/// What the slower of commits may take longer beside readers: a fifth, and what is no matter.
const SLOWER: u32 = 5;
const NO_MATTER: Duration = Duration::from_micros(200);
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
    /// Bytes taken since commits were judged, and windows.
    taken: u64,
    windows: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody else is there, so nobody waits.
    Alone,
    /// It is not known yet what commits take, and reads that were under way end.
    Settling,
    Learning {
        times: u32,
        sum: Duration,
    },
    GivingWay {
        /// What commits take with readers at the floor.
        alone: Duration,
        times: u32,
    },
}

/// Commits since the last ones were judged: how many, and how long nine of ten took at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) commits: u32,
    pub(super) most: Duration,
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
            taken: 0,
            windows: 0,
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

    /// Takes `bytes`, and says how long to wait before they are read.
    pub(super) fn take(&mut self, bytes: usize, now: Duration) -> Duration {
        let bytes = bytes as u64;
        self.taken = self.taken.saturating_add(bytes);
        let Some(rate) = self.rate() else { return Duration::ZERO };
        let start = self.paid.max(now.saturating_sub(SLACK));
        let cost = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let cost = Duration::from_nanos(u64::try_from(cost).unwrap_or(u64::MAX));
        self.paid = start.saturating_add(cost);
        start.saturating_sub(now)
    }

    /// A window is over. Whether its commits were judged, so that others are counted from here on.
    pub(super) fn window(&mut self, seen: Seen) -> bool {
        self.windows += 1;
        let nobody = self.phase == Phase::Settling && seen.commits == 0 && self.windows >= NOBODY;
        let enough = seen.commits >= ENOUGH || self.windows >= LONGEST || nobody;
        if enough {
            let window = WINDOW * self.windows;
            let reached = u128::from(self.taken) * 1_000 / window.as_millis();
            self.judge(seen, u64::try_from(reached).unwrap_or(u64::MAX));
            (self.taken, self.windows) = (0, 0);
        }
        enough
    }

    fn judge(&mut self, seen: Seen, reached: u64) {
        if seen.commits == 0 {
            self.phase = Phase::Alone;
            return;
        }
        self.phase = match self.phase {
            Phase::Alone => self.settle(),
            Phase::Settling => Phase::Learning { times: 0, sum: Duration::ZERO },
            Phase::Learning { times, sum } => {
                let (times, sum) = (times + 1, sum + seen.most);
                if times < LEARN {
                    Phase::Learning { times, sum }
                } else {
                    Phase::GivingWay { alone: sum / times, times: 0 }
                }
            }
            Phase::GivingWay { times, .. } if times >= LEARNED && self.rate > self.floor => {
                self.settle()
            }
            Phase::GivingWay { alone, times } => {
                let alone = self.give_way(alone, seen.most, reached);
                Phase::GivingWay { alone, times: times.saturating_add(1) }
            }
        };
    }

    fn settle(&mut self) -> Phase {
        self.rate = self.floor;
        Phase::Settling
    }

    /// The next rate; and what commits are now known to take alone.
    fn give_way(&mut self, alone: Duration, most: Duration, reached: u64) -> Duration {
        if most <= alone + alone / SLOWER + NO_MATTER {
            // Whoever does not use half of it is held up by something else.
            if reached >= self.rate / 2 {
                self.rate = self.rate.saturating_add(self.rate / 32 + 1);
            }
            return alone;
        }
        let at_floor = self.rate == self.floor;
        let from = self.rate.min(reached.max(self.floor));
        self.rate = (from - from / 4).max(self.floor);
        if at_floor { alone + (most - alone) / 8 } else { alone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const FLOOR: u64 = 32 * MIB;
    /// What readers could read.
    const MOST: u64 = 400 * MIB;

    /// Readers that take a MiB whenever they may, and producers whose commits take `commit(speed)`; `None`: there are none.
    struct World {
        pace: Pace,
        now: Duration,
        speed: u64,
    }

    impl World {
        fn new() -> Self {
            Self { pace: Pace::new(FLOOR), now: Duration::from_secs(1), speed: 0 }
        }

        /// Bytes a second over so many windows.
        fn run(&mut self, windows: u32, commit: impl Fn(u64) -> Option<Duration>) -> u64 {
            let (began, mut all) = (self.now, 0);
            for _ in 0..windows {
                let (start, end, mut bytes) = (self.now, self.now + WINDOW, 0);
                while self.now < end {
                    let wait = self.pace.take(MIB as usize, self.now);
                    self.now += wait + Duration::from_secs_f64(MIB as f64 / MOST as f64);
                    bytes += MIB;
                }
                all += bytes;
                self.speed = (bytes as f64 / (self.now - start).as_secs_f64()) as u64;
                let seen = match commit(self.speed) {
                    Some(most) => Seen { commits: ENOUGH, most },
                    None => Seen { commits: 0, most: Duration::ZERO },
                };
                self.pace.window(seen);
            }
            (all as f64 / (self.now - began).as_secs_f64()) as u64
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
        world.run(2 * LONGEST, |_| None);
        assert_eq!(world.pace.rate(), None);
    }

    #[test]
    fn they_go_as_fast_as_commits_do_not_suffer() {
        let mut world = World::new();
        world.run(300, suffers);
        let speed = world.run(300, suffers);
        assert!((80 * MIB..120 * MIB).contains(&speed), "{}", speed / MIB);
    }

    #[test]
    fn nobody_is_held_back_for_long_where_nobody_suffers() {
        let mut world = World::new();
        let fine = |_| Some(Duration::from_millis(5));
        world.run(150, fine);
        let speed = world.run(100, fine);
        assert!(speed > MOST * 9 / 10, "{}", speed / MIB);
        let reached = world.pace.rate().unwrap();
        assert!(
            reached < MOST * 3,
            "it grows no further than twice what is used: {}",
            reached / MIB
        );
    }

    #[test]
    fn the_floor_is_kept_and_what_is_slow_for_another_reason_is_told_apart() {
        let mut world = World::new();
        world.run(20, |_| Some(Duration::from_millis(5)));
        // More is produced, and commits take longer whatever readers do.
        let slower = |_| Some(Duration::from_millis(50));
        world.run(30, slower);
        assert_eq!(world.pace.rate(), Some(FLOOR));
        let slowest = world.run(20, slower);
        assert!((30 * MIB..36 * MIB).contains(&slowest), "{}", slowest / MIB);
        world.run(600, slower);
        assert!(world.speed > MOST / 2, "{}", world.speed / MIB);
    }

    #[test]
    fn what_commits_take_alone_is_learned_anew() {
        let mut world = World::new();
        // Readers that were there already, at a time when commits took long.
        world.run(20, |_| Some(Duration::from_millis(100)));
        world.run(LEARNED + 200, suffers);
        let speed = world.run(200, suffers);
        assert!(speed < 120 * MIB, "{}", speed / MIB);
    }

    #[test]
    fn few_commits_are_judged_together() {
        let mut pace = Pace::new(FLOOR);
        let few = |commits| Seen { commits, most: Duration::from_millis(5) };
        assert!((1..LONGEST).all(|n| !pace.window(few(n.min(ENOUGH - 1)))));
        assert!(pace.window(few(3)));
        assert!(pace.window(few(ENOUGH)));
    }

    #[test]
    fn the_largest_numbers_at_the_lowest_rate() {
        let mut pace = Pace::new(0);
        (0..20)
            .for_each(|_| drop(pace.window(Seen { commits: u32::MAX, most: Duration::MAX / 8 })));
        assert_eq!(pace.take(usize::MAX, Duration::from_secs(1)), Duration::ZERO);
        assert!(
            pace.take(usize::MAX, Duration::from_secs(1)) > Duration::from_secs(500 * 365 * 86_400)
        );
        pace.window(Seen { commits: 1, most: Duration::ZERO });
    }
}

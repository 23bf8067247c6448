//! How many entries are added for others, and how long that takes: told to those who read, which give way by it. Written by whoever answers,
//! summed up by who asks, so that it costs nothing where nobody reads.

use std::time::Duration;

use geminga_proto::bookie;
use geminga_runtime::{Counted, Latencies};
use parking_lot::Mutex;
use tokio::time::Instant;

/// What is told covers so long, or longer where there is little.
const WINDOW: Duration = Duration::from_millis(100);
/// So many say something together.
const ENOUGH: u32 = 30;
/// Nor does it reach further back than this: fewer have to do, and what was longer ago says nothing of now.
const LONGEST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Adds {
    latencies: Latencies,
    told: Mutex<Option<Told>>,
}

#[derive(Debug)]
struct Told {
    since: Instant,
    before: Counted,
    count: u32,
    most: Duration,
}

impl Adds {
    /// Entries were added for somebody.
    pub(crate) fn count(&self, took: Duration) {
        self.latencies.count(took);
    }

    /// What to tell now.
    pub(crate) fn told(&self) -> bookie::Adds {
        let now = Instant::now();
        let mut told = self.told.lock();
        let told = told.get_or_insert_with(|| Told {
            since: now,
            before: self.latencies.counted(),
            count: 0,
            most: Duration::ZERO,
        });
        let age = now.saturating_duration_since(told.since);
        if age >= WINDOW {
            let counted = self.latencies.counted();
            let (count, most) = counted.since(&told.before);
            if count >= ENOUGH || age >= LONGEST {
                // Nobody asked for a while: what was slow then is over.
                if age < 2 * LONGEST {
                    told.count = told.count.wrapping_add(count);
                    told.most = most;
                }
                (told.since, told.before) = (now, counted);
            }
        }
        bookie::Adds { count: told.count, most: told.most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_lately_is_told() {
        let adds = Adds::default();
        adds.count(Duration::from_secs(9));
        let none = bookie::Adds { count: 0, most: Duration::ZERO };
        assert_eq!(adds.told(), none, "nobody asked before");
        for _ in 0..ENOUGH {
            adds.count(Duration::from_millis(2));
        }
        assert_eq!(adds.told(), none, "not yet");
        tokio::time::advance(WINDOW).await;
        let told = adds.told();
        assert_eq!(told.count, ENOUGH);
        assert!((1_800..=2_000).contains(&told.most.as_micros()), "{told:?}");
        // A few only.
        adds.count(Duration::from_secs(1));
        tokio::time::advance(WINDOW).await;
        assert_eq!(adds.told(), told);
        tokio::time::advance(LONGEST).await;
        assert_eq!(adds.told().count, ENOUGH + 1);
        assert!(adds.told().most > Duration::from_millis(900));
        // What was slow while nobody asked.
        adds.count(Duration::from_secs(50));
        tokio::time::advance(10 * LONGEST).await;
        assert_eq!(adds.told().count, ENOUGH + 1);
    }
}

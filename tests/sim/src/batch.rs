//! Many seeds, spread over threads. Each run is on its own; only their counts come together.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;

use crate::coverage::Coverage;
use crate::run::{Outcome, run};
use crate::settings::Broken;

/// What came of a batch.
#[derive(Debug, Default)]
pub struct Report {
    /// Runs that took place.
    pub runs: u64,
    /// Events of all runs.
    pub events: u64,
    /// Faults of all runs.
    pub faults: u64,
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// What was reached.
    pub coverage: Coverage,
    /// The failed run with the lowest seed of those that were seen.
    pub failure: Option<Outcome>,
}

impl Report {
    fn take_in(&mut self, outcome: Outcome) {
        self.runs += 1;
        self.events += outcome.events;
        self.faults += outcome.faults;
        self.acknowledged += outcome.acknowledged as u64;
        self.coverage.merge(&outcome.coverage);
        let lower = self.failure.as_ref().is_none_or(|failure| outcome.seed < failure.seed);
        if outcome.violation.is_some() && lower {
            self.failure = Some(outcome);
        }
    }

    /// The table of what was reached.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{} runs, {} events, {} faults, {} records acknowledged\n",
            self.runs, self.events, self.faults, self.acknowledged
        );
        for (name, times) in self.coverage.iter() {
            table.push_str(&format!("{times:>12}  {name}\n"));
        }
        table
    }
}

/// Runs seeds `from..from + count` on `threads` threads, until one fails. `progress` is called after each run.
pub fn batch(
    from: u64,
    count: u64,
    threads: usize,
    broken: Option<Broken>,
    progress: impl Fn(u64) + Sync,
) -> Report {
    let next = AtomicU64::new(from);
    let failed = AtomicBool::new(false);
    let report = Mutex::new(Report::default());
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        return;
                    }
                    let outcome = run(seed, broken, false);
                    failed.fetch_or(outcome.violation.is_some(), Ordering::Relaxed);
                    let mut report = report.lock();
                    report.take_in(outcome);
                    progress(report.runs);
                }
            });
        }
    });
    report.into_inner()
}

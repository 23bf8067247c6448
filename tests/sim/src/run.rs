//! One seed from its first event to its verdict.

use crate::coverage::Coverage;
use crate::settings::Broken;
use crate::trace::Trace;
use crate::truth::Violation;
use crate::world::World;

/// Least number of faults of one run.
const LEAST_FAULTS: u64 = 3;

/// What became of a seed.
#[derive(Debug)]
pub struct Outcome {
    /// Which.
    pub seed: u64,
    /// Equal for equal executions.
    pub hash: u64,
    /// Events that took place.
    pub events: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// Records that were acknowledged.
    pub acknowledged: usize,
    /// What was reached.
    pub coverage: Coverage,
    /// The invariant that was broken, if one was.
    pub violation: Option<Violation>,
    /// The last lines of the trace, or all of them.
    pub trace: Vec<String>,
}

/// Runs a seed. `whole`: keep the whole trace.
pub fn run(seed: u64, broken: Option<Broken>, whole: bool) -> Outcome {
    let mut world = World::new(seed, broken, Trace::new(whole));
    let least = world.context.settings.events;
    let mut good = true;
    while good && (world.events < least || world.faults < LEAST_FAULTS) {
        good = world.step();
    }
    if good {
        world.finish();
    }
    let World { context, events, faults, .. } = world;
    Outcome {
        seed,
        hash: context.trace.hash(),
        events,
        faults,
        acknowledged: context.truth.acknowledged_count(),
        coverage: context.coverage,
        violation: context.truth.violation().cloned(),
        trace: context.trace.into_lines(),
    }
}

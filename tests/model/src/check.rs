//! One search, and what it came to.

use std::time::Duration;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::size::Size;
use crate::world::Action;

/// What a search came to.
#[derive(Debug)]
pub struct Report {
    /// Different states seen.
    pub states: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// Whether there are no others.
    pub exhaustive: bool,
    /// What does not always hold, and a shortest way to where it does not.
    pub violations: Vec<(&'static str, Vec<Action>)>,
    /// What was never reached; it says something only of an exhaustive search.
    pub unreached: Vec<&'static str>,
}

/// Explores a size breadth first, for at most so long.
pub fn explore(size: &Size, limit: Option<Duration>) -> Report {
    let mut builder = size.clone().checker().threads(threads());
    builder = builder.finish_when(HasDiscoveries::AnyFailures);
    if let Some(limit) = limit {
        builder = builder.timeout(limit);
    }
    let (checker, took) = timed(|| builder.spawn_bfs().join());
    let mut discovered = checker.discoveries();
    let (mut violations, mut unreached) = (Vec::new(), Vec::new());
    for property in size.properties() {
        let found = discovered.remove(property.name);
        match property.expectation {
            Expectation::Always | Expectation::Eventually => {
                violations.extend(found.map(|path| (property.name, path.into_actions())));
            }
            Expectation::Sometimes if found.is_none() => unreached.push(property.name),
            Expectation::Sometimes => {}
        }
    }
    Report {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        exhaustive: limit.is_none_or(|limit| took < limit) && violations.is_empty(),
        violations,
        unreached,
    }
}

/// The checker says nothing about a search that its limit ended.
#[expect(clippy::disallowed_methods, reason = "the checker measures its limit by the same clock")]
fn timed<T>(search: impl FnOnce() -> T) -> (T, Duration) {
    let began = std::time::Instant::now();
    (search(), began.elapsed())
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

//! One search, and what it came to.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::part::hash_of;
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
    /// How long it took.
    pub took: Duration,
    /// What does not always hold, and a shortest way to where it does not.
    pub violations: Vec<(&'static str, Vec<Action>)>,
    /// What was never reached; it says something only of an exhaustive search.
    pub unreached: Vec<&'static str>,
}

/// Explores a size: whole and breadth first, so that counterexamples are as short as can be; or with a limit, and depth first,
/// which needs little memory however long it takes.
pub fn explore(size: &Size, limit: Option<Duration>) -> Report {
    let builder = size.clone().checker().threads(threads());
    let builder = builder.finish_when(HasDiscoveries::AnyFailures);
    let (seen, took) = match limit {
        None => timed(|| Seen::by(&builder.spawn_bfs().join())),
        Some(limit) => timed(|| Seen::by(&builder.timeout(limit).spawn_dfs().join())),
    };
    let Seen { states, depth, mut discovered } = seen;
    let (mut violations, mut unreached) = (Vec::new(), Vec::new());
    for property in size.properties() {
        let found = discovered.remove(property.name);
        match property.expectation {
            Expectation::Always | Expectation::Eventually => {
                violations.extend(found.map(|actions| (property.name, actions)));
            }
            Expectation::Sometimes if found.is_none() => unreached.push(property.name),
            Expectation::Sometimes => {}
        }
    }
    let exhaustive = limit.is_none_or(|limit| took < limit) && violations.is_empty();
    Report { states, depth, exhaustive, took, violations, unreached }
}

/// How many states there are, and which of them are left where names of bookies make no difference.
pub fn classes(size: &Size) -> (usize, HashSet<u64>) {
    let mut open = size.init_states();
    let mut seen: HashSet<u64> = open.iter().map(hash_of).collect();
    let mut classes = HashSet::new();
    let mut actions = Vec::new();
    while let Some(state) = open.pop() {
        classes.insert(state.class());
        size.actions(&state, &mut actions);
        let next = actions.drain(..).filter_map(|action| size.next_state(&state, action));
        open.extend(next.filter(|next| seen.insert(hash_of(next))));
    }
    (seen.len(), classes)
}

/// What a checker has to say.
struct Seen {
    states: usize,
    depth: usize,
    discovered: HashMap<&'static str, Vec<Action>>,
}

impl Seen {
    fn by(checker: &impl Checker<Size>) -> Self {
        let discoveries = checker.discoveries().into_iter();
        Self {
            states: checker.unique_state_count(),
            depth: checker.max_depth(),
            discovered: discoveries.map(|(name, path)| (name, path.into_actions())).collect(),
        }
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

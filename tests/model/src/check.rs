//! One search, and what it came to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::time::Duration;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::part::hash_of;
use crate::properties::{self, End};
use crate::size::Size;
use crate::world::{Action, World};

/// What is explored.
pub trait Explored:
    Model<
        Action: Clone + PartialEq + Debug,
        State: Hash + Clone + PartialEq + Send + Sync + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl<M> Explored for M where
    M: Model<
            Action: Clone + PartialEq + Debug,
            State: Hash + Clone + PartialEq + Send + Sync + 'static,
        > + Clone
        + Send
        + Sync
        + 'static
{
}

/// What a search came to.
#[derive(Debug)]
pub struct Report<A = Action> {
    /// Different states seen.
    pub states: usize,
    /// The longest of the shortest ways to a state.
    pub depth: usize,
    /// Whether there are no others.
    pub exhaustive: bool,
    /// How long it took.
    pub took: Duration,
    /// What does not always hold, and a way to where it does not; the shortest one first.
    pub violations: Vec<(&'static str, Vec<A>)>,
    /// What was never reached; it says something only of an exhaustive search.
    pub unreached: Vec<&'static str>,
}

/// Explores a size: whole and breadth first, with a counterexample that is as short as can be; or with a limit, and depth
/// first, which needs little memory however long it takes.
pub fn explore<M: Explored>(size: &M, limit: Option<Duration>) -> Report<M::Action> {
    let mut report = search(size, limit, None);
    while limit.is_none()
        && let Some((_, actions)) = report.violations.first()
    {
        // The checker keeps the last that it found.
        let shorter = search(size, None, Some(actions.len()));
        if shorter.violations.is_empty() {
            break;
        }
        report.violations = shorter.violations;
    }
    report
}

/// Whether a search notices anything, however long the way to it is.
pub fn notices(size: &impl Explored) -> bool {
    !search(size, None, None).violations.is_empty()
}

/// One search, for ways of fewer actions than `below`.
fn search<M: Explored>(
    size: &M,
    limit: Option<Duration>,
    below: Option<usize>,
) -> Report<M::Action> {
    // Several threads do not keep to the order of the breadth.
    let builder = size.clone().checker().threads(if limit.is_none() { 1 } else { threads() });
    let builder = builder.finish_when(HasDiscoveries::AnyFailures);
    let (seen, took) = match (limit, below) {
        (None, None) => timed(|| Seen::by(&builder.spawn_bfs().join())),
        // The checker counts states, of which a way has one more.
        (None, Some(below)) => {
            timed(|| Seen::by(&builder.target_max_depth(below + 1).spawn_bfs().join()))
        }
        (Some(limit), _) => timed(|| Seen::by(&builder.timeout(limit).spawn_dfs().join())),
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
    violations.sort_by_key(|(_, actions)| actions.len());
    let exhaustive = limit.is_none_or(|limit| took < limit) && violations.is_empty();
    Report { states, depth, exhaustive, took, violations, unreached }
}

/// How many states there are, and which of them are left where names of bookies make no difference.
pub fn classes(size: &Size) -> (usize, HashSet<u64>) {
    let mut classes = HashSet::new();
    let on_state = |state: &World| {
        classes.insert(state.class());
    };
    (walk(size, on_state, |_, _| {}), classes)
}

/// In which ways ledgers end, and the most that their writer had acknowledged by then.
pub fn ends(size: &Size) -> BTreeMap<End, i64> {
    let mut ends = BTreeMap::new();
    let on_step = |before: &World, after: &World| {
        for (end, acked) in properties::ends(before, after) {
            let most = ends.entry(end).or_insert(acked);
            *most = acked.max(*most);
        }
    };
    walk(size, |_| {}, on_step);
    ends
}

/// Visits every state, and every step from one to another; returns how many states there are.
fn walk(
    size: &Size,
    mut on_state: impl FnMut(&World),
    mut on_step: impl FnMut(&World, &World),
) -> usize {
    let mut open = size.init_states();
    let mut seen: HashSet<u64> = open.iter().map(hash_of).collect();
    let mut actions = Vec::new();
    while let Some(state) = open.pop() {
        on_state(&state);
        size.actions(&state, &mut actions);
        for action in actions.drain(..) {
            let Some(next) = size.next_state(&state, action) else { continue };
            on_step(&state, &next);
            if seen.insert(hash_of(&next)) {
                open.push(next);
            }
        }
    }
    seen.len()
}

/// What a checker has to say.
struct Seen<A> {
    states: usize,
    depth: usize,
    discovered: HashMap<&'static str, Vec<A>>,
}

impl<A> Seen<A> {
    fn by<M: Explored<Action = A>>(checker: &impl Checker<M>) -> Self {
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

//! Who does not come back, or is to be left: pure (protocol 6.2).
//!
//! * A life of a disk that its bookie does not live any more is lost at once, and so is every life of a bookie that was decommissioned.
//! * A bookie that was away for long enough is gone, unless too many went together (A1): then it is the network or the metadata store
//!   that went. With three bookies one may go; who went long ago and alone counts for nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use geminga_metastore::record::{AbsentBookie, LiveBookie, UnderReason};
use geminga_proto::ids::{BookieId, Incarnation, Member};

use crate::ledger::{Mutation, Mutations};

/// More than so many percent of the bookies, and more than one, are a storm.
const STORM_PERCENT: usize = 20;

/// A bookie that the cluster knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bookie {
    /// Whether it is being decommissioned.
    pub(super) draining: bool,
    /// Since when it is not registered, and where it was.
    pub(super) away: Option<AbsentBookie>,
    /// The present lives of its disks.
    pub(super) lives: Vec<Incarnation>,
}

/// What is known about all bookies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct View {
    pub(super) now_ms: i64,
    pub(super) bookies: BTreeMap<BookieId, Bookie>,
    /// Who is registered, as far as that can be read.
    pub(super) live: Vec<LiveBookie>,
}

/// Who is not to be counted on any more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Judgement {
    /// The present lives of those that are registered, or may come back.
    kept: BTreeMap<BookieId, Vec<Incarnation>>,
    pub(super) draining: BTreeSet<BookieId>,
    gone: BTreeSet<BookieId>,
    /// Not registered, yet neither gone.
    pub(super) away: BTreeSet<BookieId>,
    /// Away for long enough, but with too many others.
    pub(super) braked: BTreeSet<BookieId>,
}

impl Judgement {
    /// Why somebody else is to take this member's places; `None`: nobody is.
    pub(super) fn of(&self, member: &Member) -> Option<UnderReason> {
        let lives = self.kept.get(&member.bookie);
        if lives.is_none_or(|lives| !lives.contains(&member.incarnation)) {
            Some(UnderReason::Lost)
        } else if self.draining.contains(&member.bookie) {
            Some(UnderReason::Draining)
        } else if self.gone.contains(&member.bookie) {
            Some(UnderReason::Gone)
        } else {
            None
        }
    }

    /// Whether the cluster knows this bookie.
    pub(super) fn knows(&self, bookie: &BookieId) -> bool {
        self.kept.contains_key(bookie)
    }

    /// Whether a copy there counts now.
    pub(super) fn counts(&self, member: &Member) -> bool {
        self.of(member).is_none() && !self.away.contains(&member.bookie)
    }

    /// Whether somebody is judged otherwise; who is merely away for a moment is not.
    pub(super) fn differs(&self, other: &Self) -> bool {
        let what = |judgement: &Self| {
            let Self { kept, draining, gone, braked, .. } = judgement.clone();
            (kept, draining, gone, braked)
        };
        what(self) != what(other)
    }

    /// Whether everybody who is not given up is there, and nobody leaves: what is seen will stay.
    pub(super) fn is_complete(&self) -> bool {
        self.away.is_empty() && self.draining.is_empty()
    }

    /// Whether nobody leaves or is gone.
    pub(super) fn is_quiet(&self) -> bool {
        self.draining.is_empty() && self.gone.is_empty()
    }
}

/// Judges what is seen.
pub(super) fn judge(view: &View, delay: Duration, mutations: Mutations) -> Judgement {
    let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
    let mut judgement = Judgement::default();
    let away = |bookie: &Bookie| bookie.away.clone().filter(|_| !bookie.draining);
    let allowed = (view.bookies.len() * STORM_PERCENT / 100).max(1);
    for (id, bookie) in &view.bookies {
        judgement.kept.insert(id.clone(), bookie.lives.clone());
        if bookie.draining {
            judgement.draining.insert(id.clone());
        }
        let Some(absence) = away(bookie) else { continue };
        let away_ms = view.now_ms.saturating_sub(absence.since_ms);
        if away_ms < delay_ms && !mutations.is(Mutation::IgnoreDelay) {
            judgement.away.insert(id.clone());
            continue;
        }
        // Who went within the same delay went together.
        let together = view.bookies.values().filter_map(away);
        let together: Vec<AbsentBookie> = together
            .filter(|other| other.since_ms.abs_diff(absence.since_ms) < delay.as_millis() as u64)
            .collect();
        let zones: BTreeSet<&str> = together.iter().map(|other| other.zone.as_str()).collect();
        let storm = together.len() > allowed || zones.len() > 1;
        if storm && !mutations.is(Mutation::IgnoreStorm) {
            judgement.away.insert(id.clone());
            judgement.braked.insert(id.clone());
        } else {
            judgement.gone.insert(id.clone());
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use geminga_runtime::holds_only_with;

    use super::*;

    const DELAY: Duration = Duration::from_secs(600);

    fn id(number: u64) -> BookieId {
        format!("b{number}").parse().unwrap()
    }

    fn member(number: u64) -> Member {
        Member { bookie: id(number), incarnation: Incarnation(number) }
    }

    fn view(count: u64, away: &[(u64, i64, &str)]) -> View {
        let bookie = |number: u64| {
            let absence = away.iter().find(|(who, ..)| *who == number);
            let away = absence.map(|(_, since, zone)| AbsentBookie {
                since_ms: since * 1000,
                zone: (*zone).to_owned(),
            });
            (id(number), Bookie { draining: false, away, lives: vec![Incarnation(number)] })
        };
        let bookies = (1..=count).map(bookie).collect();
        View { now_ms: 10_000_000, bookies, live: Vec::new() }
    }

    fn gone(view: &View, mutations: Mutations) -> Vec<u64> {
        let judgement = judge(view, DELAY, mutations);
        let numbers = 1..=view.bookies.len() as u64;
        numbers.filter(|n| judgement.of(&member(*n)) == Some(UnderReason::Gone)).collect()
    }

    const NOBODY: [u64; 0] = [];

    /// 6.2: who comes back in time costs nothing.
    #[test]
    fn scenario_46_a_bookie_is_gone_after_the_delay() {
        holds_only_with(Mutation::IgnoreDelay, |mutations| {
            assert_eq!(gone(&view(3, &[(2, 9_401, "")]), mutations), NOBODY);
            assert_eq!(gone(&view(3, &[(2, 9_400, "")]), mutations), [2]);
        });
    }

    /// A1: with three bookies one may go, and a fifth of many.
    #[test]
    fn scenario_47_many_at_once_are_a_storm() {
        holds_only_with(Mutation::IgnoreStorm, |mutations| {
            let gone = |count, away: &[(u64, i64, &str)]| gone(&view(count, away), mutations);
            assert_eq!(gone(3, &[(1, 9_000, ""), (2, 9_100, "")]), NOBODY);
            assert_eq!(gone(10, &[(1, 9_000, ""), (2, 9_100, "")]), [1, 2]);
            // Another failure domain.
            assert_eq!(gone(10, &[(1, 9_000, "a"), (2, 9_100, "b")]), NOBODY);
            // One after the other is no storm.
            assert_eq!(gone(3, &[(1, 5_000, "a"), (2, 9_100, "b")]), [1, 2]);
            // One that has just gone stops those that went shortly before it.
            assert_eq!(gone(3, &[(1, 9_400, ""), (2, 9_999, "")]), NOBODY);
        });
        let storm = view(3, &[(1, 9_000, ""), (2, 9_100, "")]);
        let judgement = judge(&storm, DELAY, Mutations::default());
        assert_eq!(judgement.braked.len(), 2);
        assert!(!judgement.is_complete(), "copies would be moved by half a view");
        assert!(!judgement.counts(&member(1)) && judgement.of(&member(1)).is_none());
    }

    #[test]
    fn lost_lives_and_those_that_leave_need_no_delay() {
        let mut view = view(4, &[(3, 9_999, "")]);
        view.bookies.get_mut(&id(1)).unwrap().lives = vec![Incarnation(77)];
        view.bookies.get_mut(&id(3)).unwrap().draining = true;
        let judgement = judge(&view, DELAY, Mutations::default());
        assert_eq!(judgement.of(&member(1)), Some(UnderReason::Lost));
        assert_eq!(judgement.of(&Member { incarnation: Incarnation(77), ..member(1) }), None);
        assert_eq!(judgement.of(&member(2)), None);
        assert_eq!(judgement.of(&member(3)), Some(UnderReason::Draining));
        assert_eq!(judgement.of(&member(9)), Some(UnderReason::Lost), "decommissioned");
    }
}

//! Which ledgers a cycle looks at, and in which order; pure.
//!
//! Three things end a wait: its time, a disk that fills up (5.8), and a bookie that is to leave and has to know what becomes of each
//! copy (6.6). What fails is paced, whatever else is due.

use std::collections::{BTreeMap, BTreeSet};

use geminga_proto::ids::{LedgerId, TopicId};

use super::work::Followed;

/// What failed is tried so long after its last look where a disk fills up, in milliseconds, if its own time is not before that: the store may
/// be well again, and who waits for space should not wait for the longest pause.
const PATIENCE_MS: i64 = 60_000;

/// What is so while a cycle lasts.
#[derive(Debug)]
pub(super) struct Round {
    /// When it began, in milliseconds since the Unix epoch.
    pub(super) now: i64,
    /// The topics whose segments are uploaded now.
    pub(super) tiered: BTreeSet<TopicId>,
    /// What disks hold that fill up.
    pub(super) hurried: BTreeSet<LedgerId>,
    /// Whether the bookie is to leave.
    pub(super) leaving: bool,
    /// The last that the cycle before looked at, if it ended before its end.
    pub(super) resume: Option<Place>,
}

/// A ledger's place in a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    class: Class,
    pub(super) ledger: LedgerId,
}

/// What is looked at first is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    /// It is to be sent from here, and a disk fills up: what only has to be dropped gives space back sooner.
    sent: bool,
    /// It may fail again.
    fails: bool,
}

impl Round {
    /// What is looked at: by class, in each of them what the cycle before did not come to, and then by age.
    pub(super) fn due(&self, offloads: &BTreeMap<LedgerId, Followed>) -> Vec<Place> {
        let due = offloads.iter().filter(|(ledger, followed)| self.is_due(**ledger, followed));
        let mut due: Vec<_> = due
            .map(|(ledger, followed)| {
                let (last, fails) = (&followed.last, followed.offload.fails());
                let sent = !self.hurried.is_empty() && !last.spare && !last.elsewhere;
                let place = Place { class: Class { sent, fails }, ledger: *ledger };
                let before = self.resume.is_some_and(|resume| {
                    resume.class == place.class && place.ledger <= resume.ledger
                });
                (place.class, before, place)
            })
            .collect();
        due.sort_unstable_by_key(|(class, before, place)| (*class, *before, place.ledger));
        due.into_iter().map(|(.., place)| place).collect()
    }

    fn is_due(&self, ledger: LedgerId, followed: &Followed) -> bool {
        self.is_asked(followed)
            || (self.is_time(followed) || self.hurries(ledger, followed)) && !self.is_idle(followed)
    }

    /// Whether a disk that fills up has it looked at before its time. Of what is done with nothing is to be had.
    fn hurries(&self, ledger: LedgerId, followed: &Followed) -> bool {
        let fails = followed.offload.fails();
        let waited = self.now.saturating_sub(followed.looked_at) >= PATIENCE_MS;
        followed.look_at < i64::MAX && (waited || !fails) && self.hurried.contains(&ledger)
    }

    /// Whether it is looked at even where the ledgers before it gave a disk what it needs.
    pub(super) fn is_certain(&self, followed: &Followed) -> bool {
        self.is_time(followed) || self.is_asked(followed) || !followed.last.spare
    }

    fn is_time(&self, followed: &Followed) -> bool {
        followed.look_at <= self.now
    }

    /// Whoever is to leave has to know that all here may go.
    fn is_asked(&self, followed: &Followed) -> bool {
        self.leaving && !followed.last.spared && !followed.offload.fails()
    }

    /// Nothing is to be done about it before its topic is tiered.
    fn is_idle(&self, followed: &Followed) -> bool {
        followed.last.untouched.is_some_and(|topic| !self.tiered.contains(&topic))
    }
}

#[cfg(test)]
mod tests {
    use super::super::core::tests::offload;
    use super::super::work::Last;
    use super::*;

    fn later(fails: bool) -> Followed {
        Followed { looked_at: 90, look_at: 200, offload: offload(fails), last: Last::default() }
    }

    fn round() -> Round {
        let (tiered, hurried) = Default::default();
        Round { now: 100, tiered, hurried, leaving: false, resume: None }
    }

    fn due(round: &Round, all: impl IntoIterator<Item = Followed>) -> Vec<u64> {
        let all = (1..).map(LedgerId).zip(all).collect();
        round.due(&all).into_iter().map(|place| place.ledger.0).collect()
    }

    fn of(ledgers: &[u64]) -> BTreeSet<LedgerId> {
        ledgers.iter().copied().map(LedgerId).collect()
    }

    #[test]
    fn what_has_waited_is_looked_at_by_age_and_from_where_the_last_cycle_ended() {
        let now = || Followed { look_at: 100, ..later(false) };
        assert_eq!(due(&round(), [now(), later(false), now(), now()]), [1, 3, 4]);
        let at =
            |sent, ledger| Place { class: Class { sent, fails: false }, ledger: LedgerId(ledger) };
        let resumed = Round { resume: Some(at(false, 3)), ..round() };
        assert_eq!(due(&resumed, [now(), later(false), now(), now()]), [4, 1, 3]);
        // Where it ended among others says nothing of these.
        let resumed = Round { resume: Some(at(true, 3)), ..round() };
        assert_eq!(due(&resumed, [now(), later(false), now(), now()]), [1, 3, 4]);
    }

    #[test]
    fn a_disk_that_fills_up_ends_waits_but_for_what_fails() {
        let hurried = Round { hurried: of(&[2, 3, 4]), ..round() };
        let spare = Followed { last: Last { spare: true, ..Last::default() }, ..later(false) };
        let all = [later(false), later(false), later(true), spare];
        // What only has to be dropped is first.
        assert_eq!(due(&hurried, all), [4, 2]);
        // So is what another bookie was sending: it may be in the object store by now.
        let elsewhere =
            Followed { last: Last { elsewhere: true, ..Last::default() }, ..later(false) };
        let all = [later(false), later(false), elsewhere];
        assert_eq!(due(&Round { hurried: of(&[1, 2, 3]), ..round() }, all), [3, 1, 2]);
        // What failed comes last at its time, or a minute after its last look.
        let failed = Followed { look_at: 100, ..later(true) };
        assert_eq!(due(&hurried, [failed, later(false)]), [2, 1]);
        let soon = Round { now: 90 + PATIENCE_MS, hurried: of(&[1]), ..round() };
        let failed = || Followed { look_at: i64::MAX - 1, ..later(true) };
        assert_eq!(due(&soon, [failed()]), [1]);
        assert_eq!(due(&Round { now: soon.now - 1, ..soon }, [failed()]), [] as [u64; 0]);
        // Of what is done with nothing is to be had.
        let done = Followed { look_at: i64::MAX, ..later(false) };
        assert_eq!(due(&Round { hurried: of(&[1]), ..round() }, [done]), [] as [u64; 0]);
        // There is room.
        assert_eq!(due(&round(), [later(false), later(true)]), [] as [u64; 0]);
    }

    #[test]
    fn what_no_topic_wants_uploaded_waits_for_nothing() {
        let topic = TopicId::from_random(1);
        let untouched = || Followed {
            look_at: 100,
            last: Last { untouched: Some(topic), ..Last::default() },
            ..later(false)
        };
        let idle = Round { hurried: of(&[1]), ..round() };
        assert_eq!(due(&idle, [untouched()]), [] as [u64; 0]);
        let tiered = Round { tiered: BTreeSet::from([topic]), ..round() };
        assert_eq!(due(&tiered, [untouched()]), [1]);
        // Not what whoever is to leave has to know, either.
        let leaving = Round { leaving: true, ..round() };
        assert_eq!(due(&leaving, [untouched()]), [1]);
    }

    #[test]
    fn whoever_is_to_leave_looks_at_all_but_what_it_knows_and_what_fails() {
        let leaving = Round { leaving: true, ..round() };
        let spared = Followed { last: Last { spared: true, ..Last::default() }, ..later(false) };
        assert_eq!(due(&leaving, [later(false), spared, later(true)]), [1]);
    }

    /// What a disk was given back by those before it keeps the copies behind them, and no upload.
    #[test]
    fn only_copies_beside_an_object_are_looked_at_for_want_of_space_alone() {
        let spare = Last { spare: true, ..Last::default() };
        assert!(!round().is_certain(&Followed { last: spare, ..later(false) }));
        assert!(round().is_certain(&later(false)));
        assert!(round().is_certain(&Followed { look_at: 100, last: spare, ..later(false) }));
    }
}

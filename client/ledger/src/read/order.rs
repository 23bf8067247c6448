//! Which replica is asked first (protocol 3.3, 6.7): one in the reader's own zone, then others that are registered, then those that lately
//! let a reader down, then those that are not registered. A preference and no more: every member is asked before an entry counts as unavailable.
//!
//! Among equals it goes by the ledger, so that ledgers spread over them and each is read from one member while that works: its
//! read-ahead pays then.

use geminga_metastore::record::LiveBookie;
use geminga_proto::ids::{LedgerId, Member};

/// How far a bookie is from a reader, the nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// Registered, in the zone that both name.
    SameZone,
    /// Registered.
    Registered,
    /// Registered, wherever it is; but it lately let a reader wait, or broke off.
    Late,
    /// Not registered: perhaps it is there all the same.
    Absent,
}

impl Distance {
    /// From a reader in `zone`, which is empty where it names none, to a bookie that is registered so, if it is.
    pub fn of(registered: Option<&LiveBookie>, zone: &str) -> Self {
        match registered {
            Some(bookie) if !zone.is_empty() && bookie.zone == zone => Self::SameZone,
            Some(_) => Self::Registered,
            None => Self::Absent,
        }
    }

    /// The same, of one that lately let a reader down.
    pub(super) fn late(self) -> Self {
        self.max(Self::Late)
    }
}

/// All members of an ensemble, in the order in which a reader of this ledger asks them.
pub(super) fn nearest_first(
    ledger: LedgerId,
    ensemble: &[Member],
    distance: impl Fn(&Member) -> Distance,
) -> Vec<&Member> {
    let mut order: Vec<(Distance, &Member)> =
        ensemble.iter().map(|member| (distance(member), member)).collect();
    order.sort_by_key(|(distance, _)| *distance);
    for equals in order.chunk_by_mut(|(one, _), (other, _)| one == other) {
        let first = usize::try_from(ledger.0 % equals.len() as u64).unwrap_or(0);
        equals.rotate_left(first);
    }
    order.into_iter().map(|(_, member)| member).collect()
}

#[cfg(test)]
mod tests {
    use geminga_metastore::LeaseId;
    use geminga_metastore::record::Features;
    use geminga_proto::ids::Incarnation;

    use super::*;

    fn registered(id: &str, zone: &str) -> LiveBookie {
        LiveBookie {
            id: id.parse().unwrap(),
            address: String::new(),
            http_address: String::new(),
            zone: zone.to_owned(),
            rack: String::new(),
            disks: Vec::new(),
            lease: LeaseId(1),
            started_ms: 0,
            repair_rate: 0,
            objects_missing: None,
            features: Features::ALL,
        }
    }

    /// Of members b1, b2, ...: their zones, as far as they are registered.
    fn order(ledger: u64, own: &str, zones: &[Option<&str>]) -> Vec<String> {
        let id = |index: usize| format!("b{}", index + 1);
        let live: Vec<LiveBookie> = (0..zones.len())
            .filter_map(|index| Some(registered(&id(index), zones[index]?)))
            .collect();
        let ensemble: Vec<Member> = (0..zones.len())
            .map(|index| Member { bookie: id(index).parse().unwrap(), incarnation: Incarnation(1) })
            .collect();
        let distance = |member: &Member| {
            Distance::of(live.iter().find(|bookie| bookie.id == member.bookie), own)
        };
        let order = nearest_first(LedgerId(ledger), &ensemble, distance);
        order.into_iter().map(|member| member.bookie.to_string()).collect()
    }

    #[test]
    fn the_own_zone_comes_first_whatever_the_ledger() {
        for ledger in 0..9 {
            let order = order(ledger, "b", &[Some("a"), Some("b"), Some("c")]);
            assert_eq!(order[0], "b2", "ledger {ledger}");
            assert_eq!(order.len(), 3, "the others are asked as well");
        }
    }

    #[test]
    fn ledgers_spread_over_those_that_are_as_near() {
        let first = |own: &str, zones: &[Option<&str>], member: &str| {
            (0..12).filter(|ledger| order(*ledger, own, zones)[0] == member).count()
        };
        let mixed = [Some("a"), Some("b"), Some("b")];
        assert_eq!(["b1", "b2", "b3"].map(|member| first("b", &mixed, member)), [0, 6, 6]);
        let elsewhere = [Some("a"), Some("b"), Some("c")];
        assert_eq!(["b1", "b2", "b3"].map(|member| first("d", &elsewhere, member)), [4, 4, 4]);
    }

    #[test]
    fn who_is_not_registered_comes_last_also_in_the_own_zone() {
        assert_eq!(order(0, "a", &[None, Some("b"), Some("c")]), ["b2", "b3", "b1"]);
        assert_eq!(order(1, "c", &[None, Some("b"), Some("c")]), ["b3", "b2", "b1"]);
    }

    /// Between those that are as near as they say, and those that are perhaps not there at all.
    #[test]
    fn who_was_late_comes_behind_all_that_are_registered() {
        use Distance::{Absent, Late, Registered, SameZone};
        let distances = [Absent, SameZone.late(), Registered, SameZone, Absent.late()];
        let ensemble: Vec<Member> = (0..distances.len())
            .map(|index| Member {
                bookie: format!("b{index}").parse().unwrap(),
                incarnation: Incarnation(1),
            })
            .collect();
        let at = |member: &Member| ensemble.iter().position(|other| other == member).unwrap();
        let order = nearest_first(LedgerId(0), &ensemble, |member| distances[at(member)]);
        let order: Vec<Distance> = order.into_iter().map(|member| distances[at(member)]).collect();
        assert_eq!(order, [SameZone, Registered, Late, Absent, Absent]);
    }

    /// Else all that name none would count as one zone.
    #[test]
    fn no_zone_is_nobodys_own() {
        let firsts = (0..3).map(|ledger| order(ledger, "", &[Some(""), Some(""), Some("a")]));
        let firsts: Vec<String> = firsts.map(|order| order[0].clone()).collect();
        assert_eq!(firsts, ["b1", "b2", "b3"]);
    }
}

//! Quorum arithmetic, in one place (protocol 0).

/// Members that must have a property so that every possible ack quorum contains one that has it: `Qw - Qa + 1`.
pub fn coverage(qw: u8, qa: u8) -> usize {
    usize::from(qw) - usize::from(qa) + 1
}

/// Whether `have` members of a write set of `n` meet every possible ack quorum of it.
pub fn covered(n: u8, qa: u8, have: usize) -> bool {
    have >= coverage(n, qa)
}

/// Whether `have` durable copies acknowledge an entry (W2).
pub fn acknowledged(qa: u8, have: usize) -> bool {
    have >= usize::from(qa)
}

/// Where a member is, by number; members in one zone share a fate, and those that name none are in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Zone(pub u16);

/// What acknowledges an entry of one ledger: so many durable copies (W2), in so many zones (6.7). The same rule says whether members
/// could acknowledge one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Copies.
    pub qa: u8,
    /// Zones that they are in at least.
    pub zones: usize,
}

impl Rule {
    /// Of a ledger that begins on members in these zones: `min_zones`, as far as it has so many.
    pub fn of(qa: u8, ensemble: &[Zone], min_zones: usize) -> Self {
        Self { qa, zones: min_zones.min(distinct(ensemble.iter().copied())) }
    }

    /// Whether members in these zones, one each, are enough.
    pub fn is_met(self, members: impl Iterator<Item = Zone> + Clone) -> bool {
        acknowledged(self.qa, members.clone().count())
            && (self.zones <= 1 || distinct(members) >= self.zones)
    }
}

/// How many different ones there are among a few.
fn distinct(zones: impl Iterator<Item = Zone> + Clone) -> usize {
    let again = zones.clone();
    let first = zones.enumerate().filter(|(at, zone)| again.clone().take(*at).all(|z| z != *zone));
    first.count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_in_one_zone_are_not_enough_where_two_are_asked_for() {
        let zones = |numbers: &[u16]| numbers.iter().copied().map(Zone).collect::<Vec<_>>();
        let met = |rule: Rule, members: &[u16]| rule.is_met(zones(members).into_iter());
        let rule = Rule::of(2, &zones(&[0, 0, 1]), 2);
        assert_eq!(rule, Rule { qa: 2, zones: 2 });
        for (members, enough) in [
            (vec![], false),
            (vec![1], false),
            (vec![0, 0], false),
            (vec![0, 1], true),
            (vec![0, 0, 1], true),
            (vec![7, 9], true),
        ] {
            assert_eq!(met(rule, &members), enough, "{members:?}");
        }
        // No more zones than the ledger began with, and more copies than zones where Qa says so.
        assert_eq!(Rule::of(2, &zones(&[4, 4, 4]), 3), Rule { qa: 2, zones: 1 });
        assert!(met(Rule::of(2, &zones(&[4, 4, 4]), 3), &[4, 4]));
        assert!(!met(Rule::of(3, &zones(&[0, 1, 2]), 2), &[0, 1]));
        // Three zones need three copies, whatever Qa is.
        assert!(!met(Rule::of(2, &zones(&[0, 1, 2]), 3), &[0, 1]));
    }

    /// The four equivalent statements of coverage, by counting subsets.
    #[test]
    fn coverage_meets_every_ack_quorum() {
        for qw in 1..=5u8 {
            for qa in 1..=qw {
                for have in 0..=u32::from(qw) {
                    let members: u32 = (1 << have) - 1;
                    let every_ack_quorum_meets_it = (0..1u32 << qw)
                        .filter(|s| s.count_ones() == u32::from(qa))
                        .all(|s| s & members != 0);
                    assert_eq!(
                        covered(qw, qa, have as usize),
                        every_ack_quorum_meets_it,
                        "{qw}/{qa}/{have}"
                    );
                }
            }
        }
    }
}

//! Numbers for the names of zones: the core only asks whether two members share one. Owned by the writer's task; a name keeps its
//! number as long as the ledger is written. Those that name no zone share one, whose name is empty.

use geminga_metastore::record::LiveBookie;
use geminga_proto::ids::Member;

use crate::core::quorum::Zone;
use crate::core::writer::Replacement;

/// The names that were met, in the order of their numbers: never more than members, of which a ledger takes few.
#[derive(Debug, Default)]
pub(super) struct Zones(Vec<String>);

impl Zones {
    pub(super) fn number(&mut self, name: &str) -> Zone {
        let at = self.0.iter().position(|known| known == name).unwrap_or_else(|| {
            self.0.push(name.to_owned());
            self.0.len() - 1
        });
        Zone(u16::try_from(at).expect("a ledger has fewer members than that, in 64 fragments"))
    }

    /// Who takes whose place, with where they are by `live`, of which they were chosen. One whose zone is not known takes no place:
    /// it might be counted as a zone of its own.
    pub(super) fn place(
        &mut self,
        found: Vec<(Member, Member)>,
        live: &[LiveBookie],
    ) -> Vec<Replacement> {
        let placed = found.into_iter().filter_map(|(lost, by)| {
            let bookie = live.iter().find(|bookie| bookie.id == by.bookie)?;
            Some(Replacement { lost, by, zone: self.number(&bookie.zone) })
        });
        placed.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number() {
        let mut zones = Zones::default();
        let numbers = ["a", "", "b", "a", "", "A"].map(|name| zones.number(name).0);
        assert_eq!(numbers, [0, 1, 2, 0, 1, 3]);
    }
}

//! For the model checker: the same recovery over bookies of other names. Positions come in the order of the new names: which
//! of several sources serves a copy is all that depends on their order. All sources hold the same, so none is told from
//! another.

use geminga_metastore::record::LedgerMeta;
use geminga_proto::ids::Member;

use super::Recovery;

impl Recovery {
    /// The same state with other names for members, over metadata that `meta` renames.
    #[must_use]
    pub fn renamed(
        &self,
        rename: &impl Fn(&Member) -> Member,
        meta: &impl Fn(&LedgerMeta) -> LedgerMeta,
    ) -> Self {
        let mut renamed = self.clone();
        if let Some((held, _)) = &mut renamed.meta {
            let old = held.last_fragment().ensemble.clone();
            *held = meta(held);
            if !self.positions.is_empty() {
                let ensemble = &held.last_fragment().ensemble;
                let position = |new: &Member| {
                    let old = old.iter().position(|member| rename(member) == *new);
                    self.positions[old.expect("renaming keeps members")].clone()
                };
                renamed.positions = ensemble.iter().map(position).collect();
            }
        }
        let any = renamed.meta.as_ref().map(|(meta, _)| meta.last_fragment().ensemble[0].clone());
        for position in &mut renamed.positions {
            position.rename(rename);
            if position.copying_from.is_some() {
                position.copying_from.clone_from(&any);
            }
        }
        let members = renamed.shunned.iter_mut().chain(&mut renamed.silent);
        members.for_each(|member| *member = rename(member));
        renamed.corrupt.iter_mut().for_each(|(member, _)| *member = rename(member));
        renamed
    }

    /// Whether it waits for seals, and has not fixed the end.
    pub fn seals(&self) -> bool {
        self.phase == super::Phase::Sealing
    }

    /// Whether a bookie's reply can still change what this attempt does.
    pub fn listens(&self) -> bool {
        use super::Phase;
        matches!(self.phase, Phase::Sealing | Phase::Copying | Phase::ReadingLength)
    }
}

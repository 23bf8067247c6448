//! For the model checker: the same writer over bookies of other names. Positions come in the order of the new names: nothing
//! that a writer does depends on their order, which is what the checker's symmetry rests on.

use geminga_proto::ids::Member;

use super::Writer;

impl Writer {
    /// The same state with other names for its members.
    #[must_use]
    pub fn renamed(&self, rename: &impl Fn(&Member) -> Member) -> Self {
        let mut renamed = self.clone();
        for position in &mut renamed.positions {
            position.member = rename(&position.member);
        }
        let mut order: Vec<usize> = (0..renamed.positions.len()).collect();
        order.sort_by(|a, b| renamed.positions[*a].member.cmp(&renamed.positions[*b].member));
        renamed.positions = order.iter().map(|old| renamed.positions[*old].clone()).collect();
        if let Some(change) = &mut renamed.change {
            change.rename(&order, rename);
        }
        renamed
    }
}

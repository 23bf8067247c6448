//! What bookies said that they add, up to a moment: what they have added since.

use std::collections::HashMap;

use geminga_proto::bookie::Adds;
use geminga_proto::ids::BookieId;

use super::pace::Done;

/// See the module.
#[derive(Debug)]
pub(super) struct Added(HashMap<BookieId, u32>);

impl From<Vec<(BookieId, Adds)>> for Added {
    fn from(adds: Vec<(BookieId, Adds)>) -> Self {
        Self(adds.into_iter().map(|(bookie, adds)| (bookie, adds.count)).collect())
    }
}

impl Added {
    /// All that was added since, and what the slowest of these bookies took. Of one that said nothing before, nothing is known.
    pub(super) fn until(&self, adds: &[(BookieId, Adds)]) -> Done {
        let mut all = Done::default();
        for (bookie, adds) in adds {
            let Some(before) = self.0.get(bookie) else { continue };
            let count = adds.count.wrapping_sub(*before);
            // One that started anew counts from nothing again.
            if count > 0 && count <= u32::MAX / 2 {
                all.count = all.count.saturating_add(count);
                all.most = all.most.max(adds.most);
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn adds(all: &[(&str, u32, u64)]) -> Vec<(BookieId, Adds)> {
        let one = |(id, count, ms): &(&str, u32, u64)| {
            let most = Duration::from_millis(*ms);
            (id.parse().unwrap(), Adds { count: *count, most })
        };
        all.iter().map(one).collect()
    }

    #[test]
    fn what_they_have_added_since() {
        let before = Added::from(adds(&[("a", u32::MAX, 9), ("b", 5, 9), ("c", 5, 9)]));
        let done = before.until(&adds(&[("a", 2, 1), ("b", 9, 2), ("c", 5, 7), ("d", 90, 8)]));
        assert_eq!((done.count, done.most), (3 + 4, Duration::from_millis(2)));
        let done = before.until(&adds(&[("b", 0, 1)]));
        assert_eq!(done.count, 0, "it started anew");
    }
}

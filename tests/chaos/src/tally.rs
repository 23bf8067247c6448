//! What was done to whom, kind by kind, and how often that was felt: a fault that nobody felt has tested nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cluster::Felt;

/// Of one kind of fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Toll {
    begun: u64,
    /// So many of them were felt,
    felt: u64,
    /// in all so many times,
    times: u64,
    /// which are these.
    what: &'static str,
}

/// Counts for all; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<String, Toll>>>);

impl Tally {
    /// A fault of this kind ended.
    pub(crate) fn add(&self, kind: &str, felt: Felt) {
        let mut tolls = self.0.lock();
        let toll = tolls.entry(kind.to_owned()).or_default();
        toll.begun += 1;
        toll.felt += u64::from(felt.times > 0);
        toll.times += felt.times;
        toll.what = felt.what;
    }

    /// Those of these kinds that nobody felt.
    pub fn unfelt(&self, kinds: &BTreeSet<String>) -> Vec<String> {
        let tolls = self.0.lock();
        let felt = |kind: &&String| tolls.get(*kind).is_some_and(|toll| toll.felt > 0);
        kinds.iter().filter(|kind| !felt(kind)).cloned().collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, Toll { begun, felt, times, what }) in &*self.0.lock() {
            writeln!(f, "{kind:<34}{begun:>4}, felt {felt:>3}: {times} {what}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_felt_is_told() {
        let tally = Tally::default();
        let felt = |times| Felt { times, what: "packets dropped" };
        tally.add("one way", felt(0));
        tally.add("partition", felt(0));
        tally.add("partition", felt(12));
        let kinds = ["kill", "one way", "partition"].map(str::to_owned);
        assert_eq!(tally.unfelt(&kinds.into()), ["kill", "one way"]);
        let text = tally.to_string();
        let row = text.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(row, "partition 2, felt 1: 12 packets dropped");
    }
}

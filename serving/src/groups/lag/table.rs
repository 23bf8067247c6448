//! What one look at the groups found: at most [`MAX_NAMED`] rows by name, those with the largest lag, and the sum of the others.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most rows with names: as many series of the metric at this broker, and one more.
pub(super) const MAX_NAMED: usize = 500;
/// Group and topic of the row that stands for the rest.
pub(super) const OTHER: &str = "other";

/// A row: lag, and by names where lags are the same, so that the same rows are named at every look.
type Row = (u64, Reverse<(Arc<str>, Arc<str>)>);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: BTreeSet<Row>,
    rest: Option<u64>,
    unknown: u64,
}

impl Table {
    /// A group is so many records behind in a topic. To be called once for each.
    pub(super) fn add(&mut self, group: &Arc<str>, topic: &Arc<str>, records: u64) {
        if (&**group, &**topic) == (OTHER, OTHER) {
            self.add_rest(records);
            return;
        }
        self.rows.insert((records, Reverse((group.clone(), topic.clone()))));
        if self.rows.len() > MAX_NAMED
            && let Some((records, _)) = self.rows.pop_first()
        {
            self.add_rest(records);
        }
    }

    fn add_rest(&mut self, records: u64) {
        self.rest = Some(self.rest.unwrap_or(0).saturating_add(records));
    }

    /// Of a partition it is not known where it ends.
    pub(super) fn add_unknown(&mut self) {
        self.unknown += 1;
    }

    /// The rows with names: group, topic, records.
    pub(super) fn named(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        self.rows.iter().map(|(records, Reverse((group, topic)))| (&**group, &**topic, *records))
    }

    /// The sum of all others; `None`: there are none.
    pub(super) fn rest(&self) -> Option<u64> {
        self.rest
    }

    /// Partitions of groups whose ends are not known.
    pub(super) fn unknown(&self) -> u64 {
        self.unknown
    }
}

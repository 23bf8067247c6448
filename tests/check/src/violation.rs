//! What can be wrong with a history.

use std::fmt;

use crate::history::Place;

/// What is promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// Every acknowledged record is in the log.
    Lost,
    /// No record is in the log twice.
    Duplicated,
    /// The log keeps the order of each producer, and readers the order of the log.
    Order,
    /// Offsets are dense: each is one above its predecessor.
    Dense,
    /// What is at an offset is what was sent, was acknowledged for it, and never changes.
    Content,
    /// What was refused for good is not in the log.
    Refused,
    /// A producer that lives is told of each record how it ended.
    Untold,
    /// Each group gets every record.
    Missed,
    /// A group gets a record again only after its partition was assigned anew, and not below the offset that was
    /// committed at that moment.
    Repeated,
    /// A member gets records only of partitions that are assigned to it.
    Unassigned,
    /// Committed offsets never go back, except by a reset.
    WentBack,
}

impl Property {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 11] = [
        Self::Lost,
        Self::Duplicated,
        Self::Order,
        Self::Dense,
        Self::Content,
        Self::Refused,
        Self::Untold,
        Self::Missed,
        Self::Repeated,
        Self::Unassigned,
        Self::WentBack,
    ];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Order => "order",
            Self::Dense => "dense",
            Self::Content => "content",
            Self::Refused => "refused",
            Self::Untold => "untold",
            Self::Missed => "missed",
            Self::Repeated => "repeated",
            Self::Unassigned => "unassigned",
            Self::WentBack => "went-back",
        }
    }

    /// What it promises, in one line.
    pub fn promise(self) -> &'static str {
        match self {
            Self::Lost => "every acknowledged record is in the log",
            Self::Duplicated => "no record is in the log twice",
            Self::Order => "the log keeps each producer's order, and readers the log's",
            Self::Dense => "each offset is one above its predecessor",
            Self::Content => "what is at an offset is what was sent, and never changes",
            Self::Refused => "what was refused for good is not in the log",
            Self::Untold => "a producer that lives is told how each record ended",
            Self::Missed => "each group gets every record",
            Self::Repeated => "again only after a new assignment, from its committed offset on",
            Self::Unassigned => "records only of partitions that the member has",
            Self::WentBack => "committed offsets go back only by a reset",
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub property: Property,
    /// What happened.
    pub what: String,
    /// The lines of the history that show it, counted from 1.
    pub lines: Vec<u64>,
}

impl Violation {
    pub(crate) fn new(
        property: Property,
        what: impl Into<String>,
        lines: impl IntoIterator<Item = u64>,
    ) -> Self {
        Self { property, what: what.into(), lines: lines.into_iter().collect() }
    }
    /// Says where it is.
    pub(crate) fn name(&mut self, place: &Place) {
        self.what = format!("{}/{}: {}", place.topic, place.partition, self.what);
    }
}

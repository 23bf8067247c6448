//! The lines of a history. Persisted: recorded histories are test data, so fields and events are only ever added, and what
//! changes their meaning raises [`FORMAT`].

use serde::{Deserialize, Serialize};

/// The version that this program writes and reads.
pub const FORMAT: u32 = 1;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Microseconds since the run began, of one clock that never goes back.
    pub t: u64,
    /// Who did it or was told. One that is started anew has a new name.
    pub client: String,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

impl Line {
    /// As it stands in a history, without the line's end.
    ///
    /// # Errors
    /// Never: all of it can be written.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Its topic.
    pub topic: String,
    /// Its number.
    pub partition: u32,
}

/// What identifies a record, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Who sent it.
    pub producer: String,
    /// Its number among those that this producer sent to this partition, from 0 on without a gap.
    pub seq: u64,
    /// A hash of its bytes, whatever hash the writer of the history took.
    pub hash: String,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The first line.
    Start {
        /// [`FORMAT`].
        format: u32,
        /// Which system, and how it was run: for people.
        about: String,
    },
    /// Something was broken or healed: for people.
    Fault {
        /// What.
        what: String,
    },
    /// This client was killed, and is gone: what it had on its way is open.
    Died {},
    /// A record is about to be sent.
    Produce {
        /// Where to.
        #[serde(flatten)]
        place: Place,
        /// Which.
        #[serde(flatten)]
        content: Content,
    },
    /// A record was acknowledged.
    Ack {
        /// Where it is.
        #[serde(flatten)]
        place: Place,
        /// Who sent it.
        producer: String,
        /// Which.
        seq: u64,
        /// Its offset; absent when the system does not know it any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
    },
    /// A record was given up.
    Fail {
        /// Where it was to be.
        #[serde(flatten)]
        place: Place,
        /// Who sent it.
        producer: String,
        /// Which.
        seq: u64,
        /// Whether it may be in the log all the same.
        in_doubt: bool,
        /// Why: for people.
        why: String,
    },
    /// A member is about to ask its group for partitions.
    Join {
        /// Which group.
        group: String,
    },
    /// A member of a group was given a partition, before it gets anything of it.
    Assign {
        /// Which group.
        group: String,
        /// Which partition.
        #[serde(flatten)]
        place: Place,
        /// Where it will start, when the member is told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        offset: Option<u64>,
    },
    /// A member lets a partition go, or hears that it lost it.
    Revoke {
        /// Which group.
        group: String,
        /// Which partition.
        #[serde(flatten)]
        place: Place,
    },
    /// A member of a group was given a record.
    Fetch {
        /// Which group.
        group: String,
        /// Where from.
        #[serde(flatten)]
        place: Place,
        /// At which offset.
        offset: u64,
        /// Which.
        #[serde(flatten)]
        content: Content,
    },
    /// A member is about to commit.
    Commit {
        /// Which group.
        group: String,
        /// Which partition.
        #[serde(flatten)]
        place: Place,
        /// The offset of the next record to read.
        offset: u64,
    },
    /// The member's last commit in this partition is durable. One that fails has no line: its outcome is open.
    Committed {
        /// Which group.
        group: String,
        /// Which partition.
        #[serde(flatten)]
        place: Place,
    },
    /// Somebody is about to ask for a group's committed offsets.
    Look {
        /// Which group.
        group: String,
    },
    /// The answer to this client's last `look`; one line for each partition.
    Seen {
        /// Which group.
        group: String,
        /// Which partition.
        #[serde(flatten)]
        place: Place,
        /// What is committed.
        offset: u64,
    },
    /// An operator is about to set the committed offset of a group without members.
    Reset {
        /// Which group.
        group: String,
        /// Which partition.
        #[serde(flatten)]
        place: Place,
        /// Where it is to go on.
        offset: u64,
    },
    /// The last reset of this partition was confirmed. One without this line may or may not have taken place.
    ResetDone {
        /// Which group.
        group: String,
        /// Which partition.
        #[serde(flatten)]
        place: Place,
    },
    /// The bounds of the log when all is over, before it is read.
    Log {
        /// Which partition.
        #[serde(flatten)]
        place: Place,
        /// The first offset that there is.
        start: u64,
        /// The offset after the last record.
        end: u64,
    },
    /// A record of the final reading of the log, in log order.
    Read {
        /// Which partition.
        #[serde(flatten)]
        place: Place,
        /// At which offset.
        offset: u64,
        /// Which.
        #[serde(flatten)]
        content: Content,
    },
}

impl Event {
    /// The partition that it is about.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Start { .. }
            | Self::Fault { .. }
            | Self::Died {}
            | Self::Join { .. }
            | Self::Look { .. } => None,
            Self::Produce { place, .. }
            | Self::Ack { place, .. }
            | Self::Fail { place, .. }
            | Self::Assign { place, .. }
            | Self::Revoke { place, .. }
            | Self::Fetch { place, .. }
            | Self::Commit { place, .. }
            | Self::Committed { place, .. }
            | Self::Seen { place, .. }
            | Self::Reset { place, .. }
            | Self::ResetDone { place, .. }
            | Self::Log { place, .. }
            | Self::Read { place, .. } => Some(place),
        }
    }
}

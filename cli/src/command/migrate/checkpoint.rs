//! How far a partition is copied, as it is kept at the target: the committed offset of a group with the bridge's name. The offset is
//! where the target's partition goes on; the metadata beside it say the rest.
//!
//! `v1 source=120 producer=5 sequence=117 topic=0a… cluster=abc`: the source's next offset; the idempotent producer and the number that
//! its next record has; whose records they are. What stands there was acknowledged; what was written since then has the numbers that
//! follow, so that a partition takes it once when it is sent again.

use std::fmt;
use std::time::Duration;

use geminga_records::sequence_after;

use super::pieces::Piece;

/// A partition forgets a producer that is silent for a day; long before that numbers are not relied on any more.
const TRUSTED: Duration = Duration::from_secs(12 * 3600);
const VERSION: &str = "v1";

/// Whose records they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// What the source calls itself, and the topic, whatever its name; empty where it does not say.
    pub(super) cluster: String,
    pub(super) topic: String,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// The source's offset to go on at.
    pub(super) source: i64,
    /// The target's offset after what is there of it.
    pub(super) target: i64,
    /// Whose numbers they are; its epoch is 0 for ever.
    pub(super) producer: i64,
    /// The number of the next record.
    pub(super) sequence: i32,
    /// Whose records they are.
    pub(super) origin: Origin,
}

impl Checkpoint {
    /// Reads what stands beside a committed offset.
    pub(super) fn parse(target: i64, metadata: &str) -> Option<Self> {
        let mut words = metadata.split(' ');
        if words.next() != Some(VERSION) {
            return None;
        }
        let mut word = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=');
        Some(Self {
            source: word("source")?.parse().ok()?,
            target,
            producer: word("producer")?.parse().ok()?,
            sequence: word("sequence")?.parse().ok()?,
            origin: Origin {
                topic: word("topic")?.to_owned(),
                cluster: word("cluster")?.to_owned(),
            },
        })
    }

    /// What follows when a piece is there, at the target's offset `at`.
    pub(super) fn written(&mut self, piece: &Piece, at: i64) {
        self.source = piece.next;
        self.target = at + i64::from(piece.count());
        self.sequence = sequence_after(self.sequence, piece.count());
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, target: _, producer, sequence, origin } = self;
        let Origin { cluster, topic } = origin;
        write!(
            f,
            "{VERSION} source={source} producer={producer} sequence={sequence} topic={topic} cluster={cluster}"
        )
    }
}

/// How a run begins where an earlier one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resume {
    /// With the numbers of the earlier run: what it had written since the checkpoint is recognised.
    SameNumbers,
    /// With a new producer: nothing was written since the checkpoint.
    NewProducer,
    /// So many records were written since, perhaps by the earlier run, and nobody knows any more which.
    InDoubt(i64),
    /// The target ends before the checkpoint: it is not the topic that was copied to.
    OtherTarget,
}

/// How to go on from a checkpoint of this age, where the target's partition ends at `end`.
pub(super) fn resume(checkpoint: &Checkpoint, age: Duration, end: i64) -> Resume {
    if end < checkpoint.target {
        Resume::OtherTarget
    } else if age < TRUSTED {
        Resume::SameNumbers
    } else if end == checkpoint.target {
        Resume::NewProducer
    } else {
        Resume::InDoubt(end - checkpoint.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint() -> Checkpoint {
        let origin = Origin { cluster: "abc=d".to_owned(), topic: String::new() };
        Checkpoint { source: 120, target: 90, producer: 5, sequence: 17, origin }
    }

    #[test]
    fn what_is_said_is_read() {
        let said = checkpoint().to_string();
        assert_eq!(Checkpoint::parse(90, &said), Some(checkpoint()));
        for wrong in ["", "v2 source=1", "v1 source=x producer=1 sequence=1 topic= cluster="] {
            assert_eq!(Checkpoint::parse(90, wrong), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_are_relied_on_while_they_are_remembered() {
        let (fresh, old) = (TRUSTED - Duration::from_secs(1), TRUSTED);
        for (age, end, expected) in [
            (fresh, 90, Resume::SameNumbers),
            (fresh, 95, Resume::SameNumbers),
            (old, 90, Resume::NewProducer),
            (old, 95, Resume::InDoubt(5)),
            (fresh, 89, Resume::OtherTarget),
            (old, 0, Resume::OtherTarget),
        ] {
            assert_eq!(resume(&checkpoint(), age, end), expected, "{age:?} {end}");
        }
    }
}

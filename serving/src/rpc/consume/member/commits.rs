//! The commits of a stream: made one after the other, those that wait meanwhile together in one call. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::consume_response::Event as Say;

use super::Effect;
use crate::groups::limits;
use crate::groups::types::{Committed, TopicPartition};

/// What a client commits.
pub(crate) type Offsets = Vec<(TopicPartition, Committed)>;

/// Commits that wait; above, the client's requests are not taken.
const MAX_WAITING: usize = 256;

/// One call of the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct CommitCall {
    /// In which generation.
    pub(crate) generation: i32,
    /// Rises with every call of a stream.
    pub(crate) sequence: u64,
    /// What to commit.
    pub(crate) offsets: Offsets,
}

/// Commits that wait and those that are being made.
#[derive(Debug, Default)]
pub(super) struct Commits {
    waiting: VecDeque<(u64, Offsets)>,
    waiting_bytes: usize,
    /// Ids of the commits in the call that is out.
    out: Option<Vec<u64>>,
    sequence: u64,
}

impl Commits {
    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING && self.waiting_bytes < limits::MAX_COMMIT_BYTES
    }

    /// Whether none waits and none is being made.
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.out.is_none()
    }

    /// Takes a commit, or says at once that it is above a limit.
    pub(super) fn push(&mut self, id: u64, offsets: Offsets) -> Option<Effect> {
        let bytes = bytes(&offsets);
        for (what, have, limit) in [
            ("the number of offsets in a commit", offsets.len(), limits::MAX_COMMIT_OFFSETS),
            ("bytes of names and metadata in a commit", bytes, limits::MAX_COMMIT_BYTES),
        ] {
            if have > limit {
                let error =
                    ApiError::new(Reason::LimitExceeded, format!("{what} is limited to {limit}"));
                return Some(Effect::Say(committed(id, Some(&error))));
            }
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back((id, offsets));
        None
    }

    /// The next call, unless one is out: as many commits as fit in one. Those of partitions that are not `assigned` are
    /// refused.
    pub(super) fn next(
        &mut self,
        generation: i32,
        assigned: &BTreeSet<TopicPartition>,
    ) -> (Vec<Effect>, Option<CommitCall>) {
        let (mut refused, mut ids) = (Vec::new(), Vec::new());
        let mut merged: BTreeMap<TopicPartition, Committed> = BTreeMap::new();
        let (mut count, mut size) = (0, 0);
        while self.out.is_none()
            && let Some((_, offsets)) = self.waiting.front()
        {
            let bytes = bytes(offsets);
            let fits = count + offsets.len() <= limits::MAX_COMMIT_OFFSETS
                && size + bytes <= limits::MAX_COMMIT_BYTES;
            if !fits && !ids.is_empty() {
                break;
            }
            let (id, offsets) = self.waiting.pop_front().expect("looked at above");
            self.waiting_bytes -= bytes;
            match offsets.iter().find(|(tp, _)| !assigned.contains(tp)) {
                Some((tp, _)) => refused.push(Effect::Say(committed(id, Some(&not_assigned(tp))))),
                None => {
                    (count, size) = (count + offsets.len(), size + bytes);
                    ids.push(id);
                    merged.extend(offsets);
                }
            }
        }
        if ids.is_empty() {
            return (refused, None);
        }
        self.sequence += 1;
        self.out = Some(ids);
        let offsets = merged.into_iter().collect();
        (refused, Some(CommitCall { generation, sequence: self.sequence, offsets }))
    }

    /// What to say of the call that was out.
    pub(super) fn answered(&mut self, error: Option<&ApiError>) -> impl Iterator<Item = Say> {
        self.out.take().into_iter().flatten().map(move |id| committed(id, error))
    }
}

fn bytes(offsets: &Offsets) -> usize {
    offsets.iter().map(|(tp, c)| tp.topic.len() + c.metadata.len()).sum()
}

fn committed(id: u64, error: Option<&ApiError>) -> Say {
    Say::Committed(v1::ConsumeCommitted { id, error: error.map(ApiError::to_proto) })
}

fn not_assigned(tp: &TopicPartition) -> ApiError {
    let why = format!(
        "{tp} is not assigned to this member now: its next reader goes on from the last commit"
    );
    ApiError::new(Reason::StaleGeneration, why)
}

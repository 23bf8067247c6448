//! What a topic's retention gives up: whole closed segments from the head of the log. Here is which, as a pure function; [`task`]
//! carries it out.
//!
//! * By time: a segment whose youngest record is older than `retention.ms`. A time in the future is a wrong clock's: then the
//!   records are as old as the end of their segment, so that no clock keeps data for ever.
//! * By size: the oldest segments while what is left is still `retention.bytes` or more.
//!
//! The open segment stays, as do all that follow one that stays; one whose records are all too old is closed, and goes then.
//! Nothing goes by time while [`dating`] does not believe the clock.

pub(super) mod dating;
pub(super) mod task;

use geminga_proto::ids::Offset;

use crate::topics::config::Settings;

/// How much is kept; `None` = everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) ms: Option<u64>,
    pub(super) bytes: Option<u64>,
}

impl Limits {
    /// Everything is kept.
    pub(super) const NONE: Self = Self { ms: None, bytes: None };

    /// As a topic says.
    pub(super) fn of(settings: &Settings) -> Self {
        Self { ms: settings.retention_ms, bytes: settings.retention_bytes }
    }

    /// Whether everything is kept.
    pub(super) fn is_unlimited(self) -> bool {
        self.ms.is_none() && self.bytes.is_none()
    }
}

/// A segment, in log order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// The offset after its last record.
    pub(super) end: Offset,
    /// When its youngest record was made, milliseconds since the Unix epoch; `None` when nobody knows, which keeps it.
    pub(super) youngest_ms: Option<i64>,
    /// Bytes that it holds.
    pub(super) bytes: u64,
    /// Whether it takes no more.
    pub(super) closed: bool,
}

/// When the youngest record of a segment was made, as far as it can be believed. `max_timestamp`: what the records say, -1 =
/// nothing. `ended_ms`: when the next segment was begun.
pub(super) fn believed(max_timestamp: i64, ended_ms: Option<i64>, now_ms: i64) -> Option<i64> {
    if (0..=now_ms).contains(&max_timestamp) {
        return Some(max_timestamp);
    }
    ended_ms.filter(|ended| *ended <= now_ms)
}

/// Where the log is to start: at `log_start` or later.
pub(super) fn log_start(
    pieces: &[Piece],
    limits: Limits,
    now_ms: i64,
    log_start: Offset,
) -> Offset {
    let closed = || pieces.iter().take_while(|piece| piece.closed);
    let expired = |piece: &&Piece| {
        let kept = limits.ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
        piece
            .youngest_ms
            .zip(kept)
            .is_some_and(|(youngest, kept)| now_ms.saturating_sub(youngest) > kept)
    };
    let by_time = closed().take_while(expired).last().map(|piece| piece.end);
    let mut left: u64 = pieces.iter().map(|piece| piece.bytes).sum();
    let surplus = |piece: &&Piece| {
        left -= piece.bytes;
        limits.bytes.is_some_and(|bytes| left >= bytes)
    };
    let by_size = closed().take_while(surplus).last().map(|piece| piece.end);
    [by_time, by_size].into_iter().flatten().fold(log_start, Offset::max)
}

#[cfg(test)]
mod tests;

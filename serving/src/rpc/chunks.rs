//! What one read of a partition brought, cut into pieces for the client, with the [room](crate::room) of each. A piece is not larger than
//! what is asked for, but for a single batch, or record, that is larger by itself.
//!
//! Batches go as they are, and take their room along. [Records](apart) are of batches that are taken apart one at a time.

mod apart;

use std::collections::VecDeque;
use std::fmt;

use bytes::{Bytes, BytesMut};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use geminga_proto::v1::partition_data::Data;
use geminga_records::{Batch, BatchError, Kind};

use self::apart::Apart;
use super::outgoing::Charged;
use super::way::Lease;
use crate::room::Held;

/// Largest piece that is not a single batch or record: well below what clients take as one message.
const CHUNK_BYTES: usize = 1024 * 1024;

/// One piece.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The records, as the client wants them.
    pub(super) data: Data,
    /// What they cost.
    pub(super) bytes: usize,
    /// Where the next piece begins.
    pub(super) next_offset: i64,
    /// Goes with it until it is written.
    pub(super) room: Option<Lease>,
}

/// What comes of asking for a piece.
#[derive(Debug)]
pub(super) enum Cut {
    /// This.
    Piece(Chunk),
    /// There was nothing for the reader in the rest.
    Nothing,
    /// So many bytes of room are needed, and not free. Who waits for them must hold none: it is to let go what it read, and read it
    /// [again](super::outgoing::Client::read).
    Short(usize),
}

/// What was read and not yet sent.
#[derive(Debug)]
pub(super) struct Chunks {
    rest: Rest,
    next_offset: i64,
    pub(super) high_watermark: i64,
    pub(super) log_start: i64,
}

#[derive(Debug)]
enum Rest {
    Whole(Whole),
    Apart(Box<Apart>),
}

impl Chunks {
    /// What was read for a reader that stands at `from`.
    pub(super) fn new(found: Charged, from: i64, format: v1::Format) -> Self {
        let Charged { read, room } = found;
        let batches = read.batches.into();
        let rest = match format {
            v1::Format::Records => Rest::Apart(Box::new(Apart::new(batches, room, from))),
            v1::Format::Batches => Rest::Whole(Whole { batches, room }),
        };
        Self {
            rest,
            next_offset: read.next_offset.0,
            high_watermark: read.high_watermark.0,
            log_start: read.log_start.0,
        }
    }

    /// Where the reader stands once all of it is sent.
    pub(super) fn end(&self) -> i64 {
        self.next_offset
    }

    /// Whether all of it is sent.
    pub(super) fn is_empty(&self) -> bool {
        match &self.rest {
            Rest::Whole(whole) => whole.batches.is_empty(),
            Rest::Apart(apart) => apart.is_empty(),
        }
    }

    /// Whether a batch is half sent: the next piece costs no decoding.
    pub(super) fn is_open(&self) -> bool {
        matches!(&self.rest, Rest::Apart(apart) if apart.is_open())
    }

    /// Whether there is no next piece until the last one is written.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(&self.rest, Rest::Apart(apart) if apart.is_waiting())
    }

    /// Forgets all but what the last piece was made of.
    pub(super) fn close(&mut self) {
        match &mut self.rest {
            Rest::Whole(whole) => *whole = Whole { batches: VecDeque::new(), room: None },
            Rest::Apart(apart) => apart.close(),
        }
    }

    /// The room of what is left, and of what the last piece was made of.
    pub(super) fn into_room(self) -> Option<Held> {
        match self.rest {
            Rest::Whole(whole) => whole.room,
            Rest::Apart(apart) => apart.into_room(),
        }
    }

    /// The next piece. What records are made of counts as taken until the next is asked for, or this is dropped.
    ///
    /// # Errors
    /// A stored batch that cannot be taken apart.
    pub(super) fn next(&mut self, most: usize) -> Result<Cut, BatchError> {
        let (most, end) = (most.min(CHUNK_BYTES), self.next_offset);
        match &mut self.rest {
            Rest::Whole(whole) => whole.next(most, end),
            Rest::Apart(apart) => apart.next(most, end),
        }
    }
}

/// Batches that go as they are, and their room.
#[derive(Debug)]
struct Whole {
    batches: VecDeque<Bytes>,
    room: Option<Held>,
}

impl Whole {
    fn next(&mut self, most: usize, read_end: i64) -> Result<Cut, BatchError> {
        let Some(first) = self.batches.front() else { return Ok(Cut::Nothing) };
        let (mut bytes, mut count) = (first.len(), 1);
        while let Some(next) = self.batches.get(count).filter(|next| bytes + next.len() <= most) {
            (bytes, count) = (bytes + next.len(), count + 1);
        }
        let joined = join(&self.batches.make_contiguous()[..count], self.room.as_mut());
        let end = self.batches.drain(..joined.count).next_back().map(|last| end_of(&last));
        let end = end.transpose()?.unwrap_or(read_end);
        let is_last = self.batches.is_empty();
        let next_offset = if is_last { read_end } else { end };
        let bytes = joined.bytes.len();
        let room = Held::part(&mut self.room, bytes, is_last).map(Lease::new);
        Ok(Cut::Piece(Chunk { data: Data::Batches(joined.bytes), bytes, next_offset, room }))
    }
}

/// Batches as stored, end to end.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) bytes: Bytes,
    /// How many they are, of those that there were.
    pub(super) count: usize,
}

/// Lays batches that have `room` end to end. Several are copied for that, and are there twice until they are let go: they have room for as
/// much again meanwhile. Where that is not free, it is the first one alone, as it is.
pub(super) fn join(batches: &[Bytes], mut room: Option<&mut Held>) -> Joined {
    let bytes = batches.iter().map(Bytes::len).sum::<usize>();
    match batches {
        [] => return Joined { bytes: Bytes::new(), count: 0 },
        [one] => return Joined { bytes: one.clone(), count: 1 },
        _ => {}
    }
    let before = room.as_ref().map_or(0, |room| room.bytes());
    if room.as_mut().is_some_and(|room| !room.cover(before + bytes)) {
        return Joined { bytes: batches[0].clone(), count: 1 };
    }
    let joined = copied(batches);
    if let Some(room) = room {
        room.keep(before);
    }
    joined
}

/// [`join`] of batches whose rest is let go, and read again: where no more room is free, as many as have room twice with the rest gone. They are
/// copied, also a single one: it may hold all that was read with it.
pub(super) fn join_or_less(batches: &[Bytes], mut room: Option<&mut Held>) -> Joined {
    let joined = join(batches, room.as_deref_mut());
    let Some(room) = room.filter(|_| joined.count < batches.len()) else { return joined };
    let (mut twice, most) = (0, room.bytes());
    let fits = |batch: &&Bytes| {
        twice += 2 * batch.len();
        twice <= most
    };
    let count = batches.iter().take_while(fits).count().max(1);
    copied(&batches[..count])
}

fn copied(batches: &[Bytes]) -> Joined {
    let mut all = BytesMut::with_capacity(batches.iter().map(Bytes::len).sum());
    batches.iter().for_each(|batch| all.extend_from_slice(batch));
    Joined { bytes: all.freeze(), count: batches.len() }
}

/// The offset behind a batch.
pub(super) fn end_of(batch: &Bytes) -> Result<i64, BatchError> {
    Ok(Batch::parse_stored(batch.clone())?.header().next_offset())
}

/// What a reader is told where `what` cannot be taken apart at an offset: it is damaged, or more than is taken apart here.
pub(super) fn unreadable(what: impl fmt::Display, at: i64, error: &BatchError) -> ApiError {
    if error.kind() == Kind::TooLarge {
        let why = format!(
            "{what} cannot be taken apart at offset {at} ({error}): ask for batches, give the broker more --memory, or go on after that batch"
        );
        return ApiError::new(Reason::LimitExceeded, why);
    }
    let why = format!(
        "{what} cannot be taken apart at offset {at} ({error}): go on after that batch, or ask for batches"
    );
    ApiError::new(Reason::DataLoss, why)
}

#[cfg(test)]
mod tests;

//! Reading frames off a socket: a length, and as many bytes. A frame of any size but a small one is charged before it is
//! read, so that clients who send much wait at their sockets, and the frames of all connections together stay bounded.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use geminga_proto::caps;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::OwnedSemaphorePermit;

use super::call::Hangup;
use super::codec::MAX_PLAIN_BYTES;
use super::pace::Pace;
use super::room::Room;
use crate::rpc::produce::{ProduceRoom, Taken};

/// Frames up to here are not charged: as many as are read ahead are a connection's own.
const SMALL_BYTES: usize = 4 * 1024;
/// Of a frame: its length.
const LENGTH_BYTES: usize = 4;
/// Of a frame: its length, and the key of its API.
const PREFIX_BYTES: usize = 6;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_mins(10);
/// How long a frame may take to arrive, once it began and has its room.
const ARRIVAL: Duration = Duration::from_mins(1);
/// In so long there must come [`PROGRESS_BYTES`] of it, or what is missing: it holds room that others wait for.
const PROGRESS: Duration = Duration::from_secs(5);
const PROGRESS_BYTES: usize = 64 * 1024;
/// Key of the API that carries records.
const PRODUCE: i16 = 0;

/// A frame without its length, and the room that it takes.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    pub(super) room: Charged,
}

/// Room that a frame takes for as long as this is kept.
#[derive(Debug)]
pub(super) enum Charged {
    /// It is too small to count.
    Nothing,
    /// That of records.
    Records { _room: Taken },
    /// That of all else.
    Plain { _room: OwnedSemaphorePermit },
}

/// The frames of one connection.
#[derive(Debug)]
pub(super) struct Frames<R> {
    from: R,
    buffer: BytesMut,
    /// For records, and for all else.
    rooms: (ProduceRoom, Room),
    pace: Pace,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Frames that take their room from `rooms`.
    pub(super) fn new(from: R, rooms: (ProduceRoom, Room), pace: Pace) -> Self {
        Self { from, buffer: BytesMut::new(), rooms, pace }
    }

    /// The next frame; `None` when the client has closed the connection.
    ///
    /// # Errors
    /// Why the connection must be closed. A socket that fails is a client that has gone.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Hangup> {
        while let Err(_silent) = tokio::time::timeout(IDLE, self.fill(LENGTH_BYTES)).await {
            // It waits for the broker, as it should.
            if !self.pace.owes() {
                return Err(Hangup::Idle);
            }
        }
        if self.buffer.len() < LENGTH_BYTES {
            return Ok(None);
        }
        // Who sends nothing but such a length waits for its end.
        self.said()?;
        match tokio::time::timeout(ARRIVAL, self.fill(PREFIX_BYTES)).await {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(_) => return Err(Hangup::Slow),
        }
        let (length, is_produce) = self.length()?;
        let room = if length <= SMALL_BYTES {
            Charged::Nothing
        } else if is_produce {
            // It could not be served while an earlier request waits, and would only keep room from others.
            self.pace.moving().await;
            // Records go nowhere from here but to the partitions of this broker.
            Charged::Records { _room: self.rooms.0.take(true, length).await }
        } else {
            Charged::Plain { _room: self.rooms.1.take(length).await }
        };
        self.buffer.advance(LENGTH_BYTES);
        match tokio::time::timeout(ARRIVAL, self.fill_steadily(length)).await {
            Ok(Ok(true)) => Ok(Some(Frame { bytes: self.take(length), room })),
            Ok(Ok(false)) => Ok(None),
            Ok(Err(hangup)) => Err(hangup),
            Err(_) => Err(Hangup::Slow),
        }
    }

    /// As [`Frames::fill`], for as long as it goes on.
    async fn fill_steadily(&mut self, bytes: usize) -> Result<bool, Hangup> {
        while self.buffer.len() < bytes {
            let step = bytes.min(self.buffer.len() + PROGRESS_BYTES);
            match tokio::time::timeout(PROGRESS, self.fill(step)).await {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(_) => return Err(Hangup::Slow),
            }
        }
        Ok(true)
    }

    /// The first `length` bytes of the buffer, which does not keep the memory of a large frame.
    fn take(&mut self, length: usize) -> Bytes {
        let frame = self.buffer.split_to(length);
        if length > SMALL_BYTES {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        frame.freeze()
    }

    /// What is said of the length of the frame that begins, as far as any may be that long.
    fn said(&self) -> Result<usize, Hangup> {
        // Handshake, version 3.x: what TLS begins with.
        if self.buffer[..2] == [0x16, 0x03] {
            return Err(Hangup::Tls);
        }
        let said =
            i32::from_be_bytes([self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]]);
        usize::try_from(said)
            .ok()
            .filter(|length| (PREFIX_BYTES..=caps::MAX_CLIENT_MESSAGE_BYTES).contains(length))
            .ok_or(Hangup::FrameSize)
    }

    /// The length of the frame that begins, as far as one of its kind may be that long, and whether it carries records.
    fn length(&self) -> Result<(usize, bool), Hangup> {
        let said = self.said()?;
        let is_produce = i16::from_be_bytes([self.buffer[4], self.buffer[5]]) == PRODUCE;
        let most = if is_produce { caps::MAX_CLIENT_MESSAGE_BYTES } else { MAX_PLAIN_BYTES };
        if said > most { Err(Hangup::FrameSize) } else { Ok((said, is_produce)) }
    }

    /// Reads until `bytes` are there; false when the connection ends before.
    async fn fill(&mut self, bytes: usize) -> bool {
        while self.buffer.len() < bytes {
            let missing = bytes - self.buffer.len();
            // Small frames that follow come along; more would not be charged.
            let most = missing.max(SMALL_BYTES);
            self.buffer.reserve(most);
            match self.from.read_buf(&mut (&mut self.buffer).limit(most)).await {
                Ok(0) | Err(_) => return false,
                Ok(_) => {}
            }
        }
        true
    }
}

#[cfg(test)]
mod tests;

//! Reading frames off a socket: a length, and as many bytes. A frame of any size but a small one is charged before it is
//! read, so that clients who send much wait at their sockets, and the frames of all connections together stay bounded.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use geminga_proto::caps;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::OwnedSemaphorePermit;

use super::call::Hangup;
use super::codec::MAX_PLAIN_BYTES;
use crate::rpc::produce::ProduceRoom;

/// Frames up to here are not charged: as many as are read ahead are a connection's own.
const SMALL_BYTES: usize = 4 * 1024;
/// Of a frame: its length, and the key of its API.
const PREFIX_BYTES: usize = 6;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_mins(10);
/// How long a frame may take to arrive, once it began and has its room.
const ARRIVAL: Duration = Duration::from_mins(1);
/// Key of the API that carries records.
const PRODUCE: i16 = 0;

/// A frame without its length, and the room that it takes.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// The frames of one connection.
#[derive(Debug)]
pub(super) struct Frames<R> {
    from: R,
    buffer: BytesMut,
    room: ProduceRoom,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Frames that take their room from `room`.
    pub(super) fn new(from: R, room: ProduceRoom) -> Self {
        Self { from, buffer: BytesMut::new(), room }
    }

    /// The next frame; `None` when the client has closed the connection.
    ///
    /// # Errors
    /// Why the connection must be closed. A socket that fails is a client that has gone.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Hangup> {
        match tokio::time::timeout(IDLE, self.fill(PREFIX_BYTES)).await {
            Ok(true) => {}
            Ok(false) => return Ok(None),
            Err(_) => return Err(Hangup::Idle),
        }
        let length = self.length()?;
        self.buffer.advance(4);
        let room = match length {
            0..=SMALL_BYTES => None,
            // Records go nowhere from here but to the partitions of this broker.
            _ => Some(self.room.take(true, length).await),
        };
        match tokio::time::timeout(ARRIVAL, self.fill(length)).await {
            Ok(true) => Ok(Some(Frame { bytes: self.take(length), room })),
            Ok(false) => Ok(None),
            Err(_) => Err(Hangup::Slow),
        }
    }

    /// The first `length` bytes of the buffer, which does not keep the memory of a large frame.
    fn take(&mut self, length: usize) -> Bytes {
        let frame = self.buffer.split_to(length);
        if length > SMALL_BYTES {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        frame.freeze()
    }

    /// The length of the frame that begins, as far as one may be that long.
    fn length(&self) -> Result<usize, Hangup> {
        let said =
            i32::from_be_bytes([self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]]);
        // Handshake, version 3.x: what TLS begins with.
        if self.buffer[..2] == [0x16, 0x03] {
            return Err(Hangup::Tls);
        }
        let most = match i16::from_be_bytes([self.buffer[4], self.buffer[5]]) {
            PRODUCE => caps::MAX_CLIENT_MESSAGE_BYTES,
            _ => MAX_PLAIN_BYTES,
        };
        usize::try_from(said)
            .ok()
            .filter(|length| (PREFIX_BYTES..=most).contains(length))
            .ok_or(Hangup::FrameSize)
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

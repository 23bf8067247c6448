//! Reading frames off a socket: a length, and as many bytes. What a frame asks, and whose it is, is known before any room is taken
//! for it, so that its client can be made to wait with nothing in its hands. A frame of any size but a small one is charged
//! before it is read, so that clients who send much wait at their sockets, and the frames of all connections together stay bounded.
//!
//! * A frame has room for its whole length from the beginning. One that stalls gives back the room of what is missing, and takes it
//!   again step by step, as more of it comes: what is announced and does not come keeps room from nobody. Of frames that have
//!   begun and find no more room one at a time may exceed it ([`Part::go_on`]).
//! * What follows a request is read ahead of its turn as far as it is small: while one is served, up to [`SMALL_BYTES`] of what
//!   comes behind it are taken off the socket, which are a connection's own and need no room. No more than that: a larger frame
//!   would hold its room for as long as the one before it waits, and gain nothing by it.

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::poll;
use geminga_proto::caps;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::coop;
use tokio::time::{Instant, timeout, timeout_at};

use super::call::Hangup;
use super::codec::MAX_PLAIN_BYTES;
use super::pace::Pace;
use crate::rpc::produce::{Part, Taken};

/// Frames up to here are not charged, and so many bytes of what follows may be read along: they are a connection's own.
const SMALL_BYTES: usize = 4 * 1024;
/// Of a frame: its length.
const LENGTH_BYTES: usize = 4;
/// Of a frame: its length, and the key of its API.
const PREFIX_BYTES: usize = 6;
/// Up to where it says how long the name of its client is, where that stands.
const NAME_AT: usize = 14;
/// How long a connection may be silent.
const IDLE: Duration = Duration::from_mins(10);
/// How long a frame may take to arrive, not counting waits for room.
const ARRIVAL: Duration = Duration::from_mins(1);
/// In so long there must come [`STEP_BYTES`] of it, or what is missing.
const PROGRESS: Duration = Duration::from_secs(5);
/// And if they do not come in so long, the room of what is missing is given back.
const STALLS: Duration = Duration::from_millis(500);
const STEP_BYTES: usize = 64 * 1024;
/// Key of the API that carries records.
const PRODUCE: i16 = 0;

/// What a frame says of itself before it is taken.
#[derive(Debug)]
pub(super) struct Head {
    /// Without the bytes that say it.
    length: usize,
    /// Which API is asked.
    pub(super) key: i16,
    /// What the client calls itself, as far as that counts; empty when it does not say.
    pub(super) client_id: String,
    /// The place where it begins ([`Pace`]).
    pub(super) begins: u64,
}

impl Head {
    /// Whether it carries records.
    pub(super) fn is_produce(&self) -> bool {
        self.key == PRODUCE
    }
}

/// A frame without its length, and the room that it takes: none if it is too small to count.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    pub(super) room: Taken,
}

/// The frames of one connection.
#[derive(Debug)]
pub(super) struct Frames<R> {
    from: R,
    buffer: BytesMut,
    pace: Pace,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Frames off a socket.
    pub(super) fn new(from: R, pace: Pace) -> Self {
        Self { from, buffer: BytesMut::new(), pace }
    }

    /// What the next frame says of itself; `None` when the client has closed the connection. Nothing is taken off before
    /// [`Frames::take`]. Cancel-safe.
    ///
    /// # Errors
    /// Why the connection must be closed. A socket that fails is a client that has gone.
    pub(super) async fn head(&mut self) -> Result<Option<Head>, Hangup> {
        while let Err(_silent) = timeout(IDLE, self.fill(LENGTH_BYTES)).await {
            // It waits for the broker, as it should.
            if !self.pace.owes() {
                return Err(Hangup::Idle);
            }
        }
        if self.buffer.len() < LENGTH_BYTES {
            return Ok(None);
        }
        // Who sends nothing but a length that none has waits for its end.
        self.said()?;
        if !self.fill_soon(PREFIX_BYTES).await? {
            return Ok(None);
        }
        let begins = self.pace.place().saturating_sub(self.buffer.len() as u64);
        let (length, key) = self.length()?;
        let name_at = NAME_AT.min(LENGTH_BYTES + length);
        if !self.fill_soon(name_at).await? {
            return Ok(None);
        }
        let said = self.buffer[..name_at].last_chunk().map_or(0, |said| i16::from_be_bytes(*said));
        let said = usize::try_from(said).unwrap_or(0).min(caps::MAX_CLIENT_ID_BYTES);
        let name_end = (name_at + said).min(LENGTH_BYTES + length);
        if !self.fill_soon(name_end).await? {
            return Ok(None);
        }
        let client_id = match self.buffer[name_at..name_end].utf8_chunks().next() {
            Some(chunk) => chunk.valid().to_owned(),
            None => String::new(),
        };
        Ok(Some(Head { length, key, client_id, begins }))
    }

    /// The frame that says this of itself, with room out of `part`; `None` when the client goes before it is whole.
    ///
    /// # Errors
    /// As [`Frames::head`].
    pub(super) async fn take(&mut self, head: &Head, part: &Part) -> Result<Option<Frame>, Hangup> {
        let length = head.length;
        let mut room = Taken::default();
        if length > SMALL_BYTES {
            room = part.take(length).await;
        }
        self.buffer.advance(LENGTH_BYTES);
        if !self.arrive(length, part, &mut room).await? {
            return Ok(None);
        }
        let bytes = self.buffer.split_to(length);
        if length > SMALL_BYTES {
            // The rest does not keep the memory of a large frame.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Ok(Some(Frame { bytes: bytes.freeze(), room }))
    }

    /// Does `work`, and takes off the socket what is small of what comes meanwhile.
    pub(super) async fn beside<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            done = work => done,
            never = self.ahead() => match never {},
        }
    }

    async fn ahead(&mut self) -> Infallible {
        self.gone().await;
        pending().await
    }

    /// Resolves when the client has closed its side. Of one that has sent more than a little meanwhile that is not seen, and it
    /// never resolves. Cancel-safe.
    pub(super) async fn gone(&mut self) {
        while self.buffer.len() < SMALL_BYTES {
            if !self.read(SMALL_BYTES - self.buffer.len()).await {
                return;
            }
        }
        pending().await
    }

    /// Reads until `length` bytes are there, for as long as they come; false when the client goes before.
    async fn arrive(
        &mut self,
        length: usize,
        part: &Part,
        room: &mut Taken,
    ) -> Result<bool, Hangup> {
        let (mut late, mut has_room) = (Instant::now() + ARRIVAL, length);
        while self.buffer.len() < length {
            if self.buffer.len() >= has_room {
                has_room = length.min(self.buffer.len() + STEP_BYTES);
                // The one that exceeds the room needs none, and would wait for itself.
                if !room.exceeds() {
                    let asked = Instant::now();
                    part.go_on(room, has_room).await;
                    late += asked.elapsed();
                }
            }
            let step = has_room.min(self.buffer.len() + STEP_BYTES);
            let begun = Instant::now();
            let arrived = match timeout_at(late.min(begun + STALLS), self.fill(step)).await {
                Ok(arrived) => arrived,
                Err(_stalls) => {
                    room.keep(step);
                    has_room = step;
                    let arrived = timeout_at(late.min(begun + PROGRESS), self.fill(step)).await;
                    arrived.map_err(|_| Hangup::Slow)?
                }
            };
            if !arrived {
                return Ok(false);
            }
        }
        Ok(true)
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

    /// The length of the frame that begins, as far as one of its kind may be that long, and the key of its API.
    fn length(&self) -> Result<(usize, i16), Hangup> {
        let (said, key) = (self.said()?, i16::from_be_bytes([self.buffer[4], self.buffer[5]]));
        let most = if key == PRODUCE { caps::MAX_CLIENT_MESSAGE_BYTES } else { MAX_PLAIN_BYTES };
        if said > most { Err(Hangup::FrameSize) } else { Ok((said, key)) }
    }

    /// As [`Frames::fill`], of a few bytes of a frame that has begun.
    async fn fill_soon(&mut self, bytes: usize) -> Result<bool, Hangup> {
        timeout(PROGRESS, self.fill(bytes)).await.map_err(|_| Hangup::Slow)
    }

    /// Reads until `bytes` are there; false when the connection ends before. Cancel-safe.
    async fn fill(&mut self, bytes: usize) -> bool {
        while self.buffer.len() < bytes {
            // Small frames that follow come along; more would not be charged.
            if !self.read((bytes - self.buffer.len()).max(SMALL_BYTES)).await {
                return false;
            }
        }
        true
    }

    /// Reads what there is, at most so many bytes, or waits for some; false at the end. Cancel-safe.
    async fn read(&mut self, most: usize) -> bool {
        let nothing_left = self.buffer.is_empty();
        self.buffer.reserve(most);
        let mut buffer = (&mut self.buffer).limit(most);
        let mut reading = pin!(self.from.read_buf(&mut buffer));
        // Without a budget nothing is looked at.
        let looks = coop::has_budget_remaining();
        let read = match poll!(&mut reading) {
            Poll::Ready(read) => read,
            Poll::Pending => {
                let _empty = (looks && nothing_left).then(|| self.pace.empty());
                reading.await
            }
        };
        let read = read.unwrap_or(0);
        self.pace.read(read);
        read > 0
    }
}

#[cfg(test)]
mod tests;

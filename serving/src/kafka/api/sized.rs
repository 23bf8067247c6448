//! Answers whose size shows only while they are put together: a small one takes no room, a larger one is put together again once
//! there is room for it, so that nothing large is made before it is charged, and nobody who holds some waits for more.

use super::super::call::{Call, Served};
use super::super::codec::messages::KafkaResponse;
use super::super::said::Says;
use crate::room::{Held, Room};

/// Answers up to here are a connection's own, as its small requests are.
const FREE_BYTES: usize = 4 * 1024;
/// Most bytes of one answer. What one group holds fits.
pub(super) const MAX_BYTES: usize = 48 * 1024 * 1024;
/// Room grows at least by this from one attempt to the next, so that there are few.
const GROWTH: usize = 8;

/// What an answer may take, and takes so far.
#[derive(Debug)]
pub(super) struct Size {
    most: usize,
    used: usize,
    /// With as much, what did not fit would.
    wanted: usize,
    of: Room,
    room: Option<Held>,
}

impl Size {
    /// For an answer that takes `least` bytes of a room.
    pub(super) async fn of(of: &Room, least: usize) -> Self {
        let most = least.clamp(FREE_BYTES, MAX_BYTES);
        let room = match most > FREE_BYTES {
            true => Some(of.take(most).await),
            false => None,
        };
        Self { most, used: 0, wanted: 0, of: of.clone(), room }
    }

    /// Counts bytes that are to be in the answer; whether they fit. What does not is to be left out.
    pub(super) fn add(&mut self, bytes: usize) -> bool {
        let used = self.used.saturating_add(bytes);
        let fits = used <= self.most;
        match fits {
            true => self.used = used,
            false => self.wanted = self.wanted.max(used),
        }
        fits
    }

    /// How much more fits.
    pub(super) fn left(&self) -> usize {
        self.most - self.used
    }

    /// Whether there is no use in adding to it: something did not fit already.
    pub(super) fn is_full(&self) -> bool {
        self.wanted > self.most
    }

    /// Whether something was left out that a larger answer could hold.
    pub(super) fn is_too_small(&self) -> bool {
        self.wanted > self.most && self.most < MAX_BYTES
    }

    /// For another attempt. What was put together is to be dropped before.
    pub(super) async fn larger(self) -> Self {
        let least = self.wanted.max(self.most.saturating_mul(GROWTH));
        let of = self.of.clone();
        drop(self);
        Self::of(&of, least).await
    }

    /// The answer, which keeps the room until it is written.
    ///
    /// # Errors
    /// As [`Call::answer`].
    pub(super) fn answer<M: KafkaResponse + Says>(self, call: &Call, message: &M) -> Served {
        match self.room {
            Some(room) => call.answer_in(room, message),
            None => call.answer(message),
        }
    }
}

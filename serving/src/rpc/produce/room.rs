//! How many bytes of elements all produce streams of a broker may have taken and not answered. A stream whose next
//! message does not fit is not read from, so slow storage ends at the clients' sockets and memory stays flat, however
//! many clients there are. Room is taken for what a message announces, before any of it is gathered.
//!
//! What other brokers forward has room of its own: it is served here and waits for nobody else, while what comes from
//! clients may wait for another broker. With one room for both, two brokers full of elements for each other would wait
//! for ever.
//!
//! Nobody waits for ever for room, since whoever holds some gives it back without more: elements are answered, or refused,
//! in time and never wait for room; what they cost beyond what their message announced is [owed](Held::owes), not waited
//! for, and the stream is not read until that is paid, which the answers to its own elements do. A message that arrives
//! holds what it has gathered and may wait for its rest, but one such message at a time may [exceed](ProduceRoom::go_on)
//! the room, so that it becomes whole, or fails when its time is over ([`super::gather`]).

use std::sync::Arc;

use geminga_proto::caps;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The room of one broker; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ProduceRoom {
    clients: Part,
    direct: Part,
}

/// Room of its own for messages of one kind; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    bytes: usize,
    room: Arc<Semaphore>,
    /// One message may exceed the room.
    excess: Arc<Semaphore>,
}

/// Room that a message holds.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    room: Option<OwnedSemaphorePermit>,
    /// What is missing is beyond the room.
    excess: Option<OwnedSemaphorePermit>,
}

impl Taken {
    /// Bytes of the room.
    pub(super) fn bytes(&self) -> usize {
        self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Whether it is the one that exceeds the room.
    pub(crate) fn exceeds(&self) -> bool {
        self.excess.is_some()
    }

    /// Both.
    pub(super) fn merge(&mut self, more: Taken) {
        match (&mut self.room, more.room) {
            (Some(room), Some(more)) => room.merge(more),
            (room @ None, more) => *room = more,
            (Some(_), None) => {}
        }
        self.excess = self.excess.take().or(more.excess);
    }

    /// Gives back all but `bytes`. What is there without having room stays the one that exceeds it.
    pub(crate) fn keep(&mut self, bytes: usize) {
        let spare = self.bytes().saturating_sub(bytes);
        if let Some(room) = &mut self.room {
            drop(room.split(spare));
        }
        if self.bytes() >= bytes {
            self.excess = None;
        }
    }
}

impl Part {
    /// Room for `bytes`.
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.clamp(1, Semaphore::MAX_PERMITS);
        Self { bytes, room: Arc::new(Semaphore::new(bytes)), excess: Arc::new(Semaphore::new(1)) }
    }

    /// Bytes that are taken.
    pub(crate) fn used(&self) -> usize {
        self.bytes.saturating_sub(self.room.available_permits())
    }

    /// Waits for room, in the order of asking. Whoever waits holds none. Cancel-safe.
    pub(crate) async fn take(&self, bytes: usize) -> Taken {
        let bytes = u32::try_from(bytes.min(self.bytes)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        Taken { room: Some(room.expect("room is never closed")), excess: None }
    }

    /// Waits until a message that holds some room may have `bytes` in all: with the missing ones, or as the one that exceeds
    /// the room. Cancel-safe.
    pub(crate) async fn go_on(&self, held: &mut Taken, bytes: usize) {
        let missing = bytes.saturating_sub(held.bytes());
        let more = tokio::select! {
            biased;
            more = self.take(missing) => more,
            excess = Arc::clone(&self.excess).acquire_owned() => {
                Taken { room: None, excess: Some(excess.expect("it is never closed")) }
            }
        };
        held.merge(more);
    }

    /// Of `bytes`, as many as are free now.
    fn take_free(&self, bytes: usize) -> Taken {
        loop {
            let free = u32::try_from(self.room.available_permits().min(bytes)).unwrap_or(u32::MAX);
            if free == 0 {
                return Taken::default();
            }
            if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(free) {
                return Taken { room: Some(room), excess: None };
            }
        }
    }
}

impl ProduceRoom {
    /// Room for `bytes` from clients, and for as many that come directly; at least for one message of each.
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.max(caps::MAX_CLIENT_MESSAGE_BYTES);
        Self { clients: Part::new(bytes), direct: Part::new(bytes) }
    }

    /// Bytes that are taken, from clients and directly.
    pub(crate) fn used(&self) -> (usize, usize) {
        (self.clients.used(), self.direct.used())
    }

    /// The room for what comes directly, or for all else.
    pub(crate) fn part(&self, direct: bool) -> &Part {
        if direct { &self.direct } else { &self.clients }
    }

    /// As [`Part::take`].
    pub(crate) async fn take(&self, direct: bool, bytes: usize) -> Taken {
        self.part(direct).take(bytes).await
    }

    /// As [`Part::go_on`].
    pub(super) async fn go_on(&self, direct: bool, held: &mut Taken, bytes: usize) {
        self.part(direct).go_on(held, bytes).await;
    }
}

/// What one stream holds, and owes.
#[derive(Debug)]
pub(super) struct Held {
    room: ProduceRoom,
    clients: Account,
    direct: Account,
}

/// Held and owed bytes are together what the elements in flight cost.
#[derive(Debug, Default)]
struct Account {
    held: Taken,
    owed: usize,
}

impl Held {
    pub(super) fn new(room: ProduceRoom) -> Self {
        Self { room, clients: Account::default(), direct: Account::default() }
    }

    fn of(&mut self, direct: bool) -> &mut Account {
        if direct { &mut self.direct } else { &mut self.clients }
    }

    /// Charges elements of a message that cost `bytes`, for which room was `taken` among what is `assumed` of them: too much is
    /// given back, and what is missing is taken as far as it is free, else owed.
    pub(super) fn charge(&mut self, assumed: bool, direct: bool, mut taken: Taken, bytes: usize) {
        if assumed != direct {
            taken = Taken::default();
        }
        let missing = bytes.saturating_sub(taken.bytes());
        if missing == 0 {
            taken.keep(bytes);
        } else {
            taken.merge(self.room.part(direct).take_free(missing));
        }
        let account = self.of(direct);
        account.owed += bytes - taken.bytes();
        account.held.merge(taken);
        account.settle();
    }

    /// An element that cost so much is answered. What is owed is paid first.
    pub(super) fn give_back(&mut self, direct: bool, bytes: usize) {
        let account = self.of(direct);
        let paid = bytes.min(account.owed);
        account.owed -= paid;
        if let Some(held) = &mut account.held.room {
            drop(held.split((bytes - paid).min(held.num_permits())));
        }
        account.settle();
    }

    /// Whether elements in flight have less room than they cost.
    pub(super) fn owes(&self) -> bool {
        self.clients.owed > 0 || self.direct.owed > 0
    }
}

impl Account {
    fn settle(&mut self) {
        if self.owed == 0 {
            self.held.excess = None;
        }
    }
}

#[cfg(test)]
mod tests;

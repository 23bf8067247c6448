//! How many bytes of elements all produce streams of a broker may have taken and not answered. A stream whose next
//! message does not fit is not read from, so slow storage ends at the clients' sockets and memory stays flat, however
//! many clients there are.
//!
//! What other brokers forward has room of its own: it is served here and waits for nobody else, while what comes from
//! clients may wait for another broker. With one room for both, two brokers full of elements for each other would wait
//! for ever.

use std::sync::Arc;

use geminga_proto::caps;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The room of one broker; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ProduceRoom {
    clients: Arc<Semaphore>,
    direct: Arc<Semaphore>,
    bytes: usize,
}

impl ProduceRoom {
    /// Room for `bytes` from clients, and for as many that come directly; at least for one message of each.
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.clamp(caps::MAX_CLIENT_MESSAGE_BYTES, Semaphore::MAX_PERMITS);
        let room = || Arc::new(Semaphore::new(bytes));
        Self { clients: room(), direct: room(), bytes }
    }

    /// Bytes that are taken, from clients and directly.
    pub(crate) fn used(&self) -> (usize, usize) {
        let used = |room: &Semaphore| self.bytes.saturating_sub(room.available_permits());
        (used(&self.clients), used(&self.direct))
    }

    /// Waits for room, in the order of asking. Cancel-safe.
    pub(crate) async fn take(&self, direct: bool, bytes: usize) -> OwnedSemaphorePermit {
        let room = if direct { &self.direct } else { &self.clients };
        let bytes = u32::try_from(bytes.min(self.bytes)).unwrap_or(u32::MAX);
        Arc::clone(room).acquire_many_owned(bytes).await.expect("room is never closed")
    }
}

/// What one stream holds.
#[derive(Debug, Default)]
pub(super) struct Held {
    clients: Option<OwnedSemaphorePermit>,
    direct: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn of(&mut self, direct: bool) -> &mut Option<OwnedSemaphorePermit> {
        if direct { &mut self.direct } else { &mut self.clients }
    }

    pub(super) fn add(&mut self, direct: bool, more: OwnedSemaphorePermit) {
        match self.of(direct) {
            Some(held) => held.merge(more),
            none => *none = Some(more),
        }
    }

    pub(super) fn give_back(&mut self, direct: bool, bytes: usize) {
        if let Some(held) = self.of(direct) {
            drop(held.split(bytes.min(held.num_permits())));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_full_room_is_waited_for_and_what_is_answered_makes_room() {
        let room = ProduceRoom::new(0);
        let all = caps::MAX_CLIENT_MESSAGE_BYTES;
        let mut held = Held::default();
        held.add(false, room.take(false, all - 10).await);
        held.add(false, room.take(false, 10).await);
        let mut waiting = Box::pin(room.take(false, 100));
        assert!((&mut waiting).now_or_never().is_none(), "there is no room");
        held.add(true, room.take(true, all).await);
        held.give_back(false, 60);
        assert!((&mut waiting).now_or_never().is_none(), "there is not enough");
        held.give_back(false, 40);
        drop(waiting.await);
        drop(held);
        assert_eq!(room.take(false, usize::MAX).await.num_permits(), all);
    }
}

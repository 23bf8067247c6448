//! Bytes that something of all connections together may take. Who finds no room waits for it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A bound; cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    bytes: usize,
    free: Arc<Semaphore>,
}

impl Room {
    /// Room for so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let bytes = bytes.clamp(1, Semaphore::MAX_PERMITS);
        Self { bytes, free: Arc::new(Semaphore::new(bytes)) }
    }

    /// Most bytes.
    pub(super) fn limit(&self) -> usize {
        self.bytes
    }

    /// Waits for room, in the order of asking; more than there ever is counts as all of it. Cancel-safe.
    pub(super) async fn take(&self, bytes: usize) -> OwnedSemaphorePermit {
        let bytes = u32::try_from(bytes.min(self.bytes)).unwrap_or(u32::MAX);
        Arc::clone(&self.free).acquire_many_owned(bytes).await.expect("room is never closed")
    }

    /// Bytes that are taken.
    pub(crate) fn used(&self) -> usize {
        self.bytes.saturating_sub(self.free.available_permits())
    }
}

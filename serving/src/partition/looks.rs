//! Looks into compressed batches, away from threads that serve others: what a batch decompresses to is memory, and here is all that there is
//! for it. One batch at a time before it is taken and one of those in the log, so that neither kind waits for the other; each
//! may have half of the part.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinError;

/// A batch gets no more, however much memory there is.
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// Nor less: batches of ordinary sizes have room in the smallest broker.
const LEAST_BYTES: usize = 4 * 1024 * 1024;

/// The part; cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Looks {
    most_bytes: usize,
    new: Arc<Semaphore>,
    kept: Arc<Semaphore>,
}

impl Looks {
    /// A part of so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let [new, kept] = [(); 2].map(|()| Arc::new(Semaphore::new(1)));
        Self { most_bytes: (bytes / 2).clamp(LEAST_BYTES, MOST_BYTES), new, kept }
    }

    /// Looks into a batch that is not taken yet; `look` is told how much that may decompress to. Where nobody waits for it any more, it is
    /// done all the same, once it began.
    ///
    /// # Errors
    /// `look` panicked.
    pub(super) async fn at_new<T: Send + 'static>(
        &self,
        look: impl FnOnce(usize) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        self.one_of(&self.new, look).await
    }

    /// The same of a batch in the log.
    ///
    /// # Errors
    /// `look` panicked.
    pub(super) async fn at_kept<T: Send + 'static>(
        &self,
        look: impl FnOnce(usize) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        self.one_of(&self.kept, look).await
    }

    async fn one_of<T: Send + 'static>(
        &self,
        turns: &Arc<Semaphore>,
        look: impl FnOnce(usize) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let turn = Arc::clone(turns).acquire_owned().await.expect("never closed");
        let most_bytes = self.most_bytes;
        tokio::task::spawn_blocking(move || {
            let _turn = turn;
            look(most_bytes)
        })
        .await
    }

    /// Bytes that those who look may have now.
    pub(super) fn used(&self) -> usize {
        let turns = [&self.new, &self.kept];
        turns.map(|turns| 1 - turns.available_permits().min(1)).iter().sum::<usize>()
            * self.most_bytes
    }
}

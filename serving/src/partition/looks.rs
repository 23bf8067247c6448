//! Looks into compressed batches, away from threads that serve others: what a batch decompresses to is memory, and here is all that there is
//! for it. One batch at a time before it is taken and one of those in the log, so that neither kind waits for the other; each
//! may have half of the part, and a decoder half of that. Those that are to be taken are memory, too, while they wait: few do, and not for long.

use std::sync::Arc;

use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinError;
use tokio::time::timeout;

/// A batch gets no more, however much memory there is.
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// Nor less: batches of ordinary sizes have room in the smallest broker.
const LEAST_BYTES: usize = 2 * 1024 * 1024;
/// So many batches that are to be taken wait for the one that is looked into.
const WAITING: usize = 3;
/// How long they do.
const WAIT: Duration = Duration::from_secs(1);

/// The part; cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Looks {
    most_bytes: usize,
    new: Arc<Semaphore>,
    /// Those that are looked into before they are taken, and those that wait for that.
    queue: Arc<Semaphore>,
    kept: Arc<Semaphore>,
}

/// Why nothing was seen.
#[derive(Debug)]
pub(super) enum NotSeen {
    /// Too many wait, or it took too long.
    Busy,
    /// The look panicked.
    Failed(JoinError),
}

impl Looks {
    /// A part of so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let [new, kept, queue] = [1, 1, 1 + WAITING].map(|turns| Arc::new(Semaphore::new(turns)));
        Self { most_bytes: (bytes / 4).clamp(LEAST_BYTES, MOST_BYTES), new, queue, kept }
    }

    /// Looks into a batch that is not taken yet; `look` is told how much that may decompress to. Where nobody waits for it any more, it is
    /// done all the same, once it began.
    ///
    /// # Errors
    /// See [`NotSeen`].
    pub(super) async fn at_new<T: Send + 'static>(
        &self,
        look: impl FnOnce(usize) -> T + Send + 'static,
    ) -> Result<T, NotSeen> {
        let _waits = self.queue.try_acquire().map_err(|_| NotSeen::Busy)?;
        let turn = timeout(WAIT, Arc::clone(&self.new).acquire_owned());
        let turn = turn.await.map_err(|_| NotSeen::Busy)?.expect("never closed");
        self.during(turn, look).await.map_err(NotSeen::Failed)
    }

    /// The same of a batch in the log.
    ///
    /// # Errors
    /// `look` panicked.
    pub(super) async fn at_kept<T: Send + 'static>(
        &self,
        look: impl FnOnce(usize) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let turn = Arc::clone(&self.kept).acquire_owned().await.expect("never closed");
        self.during(turn, look).await
    }

    async fn during<T: Send + 'static>(
        &self,
        turn: OwnedSemaphorePermit,
        look: impl FnOnce(usize) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
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
            * 2
            * self.most_bytes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures::FutureExt;

    use super::*;

    /// Whoever sends many that take long to look into keeps nobody waiting for long, nor those who look records up.
    #[tokio::test(start_paused = true)]
    async fn few_wait_to_be_taken_and_not_for_long() {
        let looks = Looks::new(1 << 30);
        let (done, wait) = mpsc::sync_channel::<()>(1);
        let mut first = Box::pin(looks.at_new(move |_| wait.recv()));
        assert!((&mut first).now_or_never().is_none());
        let mut others: Vec<_> =
            (0..WAITING).map(|_| Box::pin(looks.at_new(|most| most))).collect();
        for other in &mut others {
            assert!(other.now_or_never().is_none());
        }
        assert!(matches!(looks.at_new(|_| ()).await, Err(NotSeen::Busy)), "too many");
        // Nothing moves the clock by itself while a thread waits.
        tokio::time::advance(WAIT).await;
        for other in others {
            assert!(matches!(other.await, Err(NotSeen::Busy)), "too long");
        }
        assert_eq!(looks.used(), 2 * MOST_BYTES);
        assert_eq!(looks.at_kept(|most| most).await.expect("it has its own turn"), MOST_BYTES);
        done.send(()).expect("it waits");
        first.await.expect("it is done").expect("it was told");
        assert_eq!(looks.at_new(|most| most).await.expect("nobody else looks"), MOST_BYTES);
        assert_eq!(looks.used(), 0);
    }
}

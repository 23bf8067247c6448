//! How much is short of copies, for whoever asks: read from the metadata store by one caller at a time, for a bounded time, and not
//! again for a moment. What is asked often, or while very much is marked, so costs the store no more than that.

use std::time::Duration;

use geminga_ledger::{UnderSummary, summarize_under};
use geminga_metastore::MetaStore;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

/// So long one summary stands for all who ask.
const FRESH: Duration = Duration::from_secs(2);
/// So long marks are read for one.
const READ: Duration = Duration::from_secs(1);
/// A read that was begun in time is waited for so much longer.
const LAST_READ: Duration = Duration::from_secs(1);

/// The last one.
#[derive(Debug, Default)]
pub(super) struct Summary(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// `None` also when the store did not answer.
    summary: Option<UnderSummary>,
    /// When somebody read it last, or began to.
    asked: Option<Instant>,
}

impl Summary {
    /// `None` when it is not known now. Cancel-safe: the next caller reads a moment later.
    pub(super) async fn get(&self, store: &dyn MetaStore) -> Option<UnderSummary> {
        let begun = Instant::now();
        {
            let mut known = self.0.lock();
            if known.asked.is_some_and(|asked| begun - asked < FRESH) {
                return known.summary.clone();
            }
            known.asked = Some(begun);
        }
        let read = summarize_under(store, begun + READ);
        let summary = match timeout(READ + LAST_READ, read).await {
            Ok(Ok(summary)) => Some(summary),
            Ok(Err(error)) => {
                tracing::warn!(%error, "what is short of copies could not be read");
                None
            }
            Err(_) => {
                tracing::warn!("what is short of copies could not be read in time");
                None
            }
        };
        self.0.lock().summary.clone_from(&summary);
        summary
    }
}

#[cfg(test)]
mod tests {
    use geminga_ledger::mark_under;
    use geminga_metastore::MemoryStore;
    use geminga_metastore::record::UnderReason;
    use geminga_proto::ids::{Incarnation, LedgerId, Member};

    use super::*;
    use crate::partition::testing::{Fault, FaultyStore};

    #[tokio::test(start_paused = true)]
    async fn the_store_is_asked_once_in_a_while_and_waited_for_as_long() {
        let memory = MemoryStore::new();
        let (store, summary) = (FaultyStore::new(memory.clone()), Summary::default());
        let ledgers = async || summary.get(&store).await.map(|found| found.ledgers);
        assert_eq!(ledgers().await, Some(0));
        let lost = [Member { bookie: "b1".parse().unwrap(), incarnation: Incarnation(1) }];
        mark_under(&memory, LedgerId(1), &lost, UnderReason::Lost, 1).await.unwrap();
        assert_eq!(ledgers().await, Some(0), "it was asked again at once");
        tokio::time::advance(FRESH).await;
        assert_eq!(ledgers().await, Some(1));
        tokio::time::advance(FRESH).await;
        store.set(Fault::Hang);
        let begun = Instant::now();
        assert_eq!(ledgers().await, None, "what is not known is not told");
        assert!(begun.elapsed() <= READ + LAST_READ, "{:?}", begun.elapsed());
    }
}

//! How long commits take lately, and what waits to be committed: written by every log of a broker and read by one task.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use geminga_runtime::{Counted, Latencies};
use tokio::time::Instant;

/// See the module. Cloning shares it.
#[derive(Clone, Default)]
pub(super) struct Commits(Arc<Counts>);

#[derive(Default)]
struct Counts {
    took: Latencies,
    waiting: AtomicUsize,
}

impl fmt::Debug for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commits").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

/// Something that was appended and waits to be committed, until this is dropped.
#[derive(Debug)]
pub(in crate::partition::log) struct Append {
    commits: Commits,
    at: Instant,
}

impl Append {
    /// When it was appended.
    pub(in crate::partition::log) fn at(&self) -> Instant {
        self.at
    }

    /// It is committed.
    pub(in crate::partition::log) fn committed(self) {
        self.commits.0.took.count(self.at.elapsed());
    }
}

impl Drop for Append {
    fn drop(&mut self) {
        self.commits.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Commits {
    /// Something is appended now.
    pub(super) fn append(&self) -> Append {
        self.0.waiting.fetch_add(1, Ordering::Relaxed);
        Append { commits: self.clone(), at: Instant::now() }
    }

    /// How much waits.
    pub(super) fn waiting(&self) -> usize {
        self.0.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn counted(&self) -> Counted {
        self.0.took.counted()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_appended_waits_until_it_is_committed_or_given_up() {
        let commits = Commits::default();
        let (before, first, second) = (commits.counted(), commits.append(), commits.append());
        tokio::time::sleep(Duration::from_millis(64)).await;
        assert_eq!(commits.waiting(), 2);
        first.committed();
        assert_eq!(commits.waiting(), 1);
        drop(second);
        assert_eq!(commits.waiting(), 0);
        assert_eq!(commits.counted().since(&before).0, 1);
    }
}

//! What the stores of one process share: watches that read a tree's history, and lease numbers.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::unfold;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::store::{Revision, WatchEvent, WatchStream};

/// Stands for a time that does not come.
const FAR: Duration = Duration::from_secs(3600);

/// What a source answers a watch that asks.
pub(crate) enum Next {
    /// The next event; the watch has seen this revision then.
    Event(WatchEvent, Revision),
    /// Nothing up to this revision; look again when it moves, or at this time, when a lease may end.
    Nothing(Revision, Option<Instant>),
}

/// Where a watch gets its events.
pub(crate) trait Source: Send + Sync + 'static {
    /// The event after `seen`.
    fn next_event(&self, prefix: &str, seen: Option<Revision>) -> Next;

    /// Changes with every revision.
    fn changed(&self) -> watch::Receiver<Revision>;
}

/// A watch that owns its place and needs no task: it looks again whenever the revision moves or a lease ends.
pub(crate) fn watch<S: Source>(source: S, prefix: &str, from: Option<Revision>) -> WatchStream {
    let changed = source.changed();
    let start = (source, prefix.to_owned(), from, changed);
    unfold(start, |(source, prefix, mut seen, mut changed)| async move {
        loop {
            changed.mark_unchanged();
            match source.next_event(&prefix, seen) {
                Next::Event(event, now) => {
                    seen = Some(now);
                    return Some((event, (source, prefix, seen, changed)));
                }
                Next::Nothing(now, expiry) => {
                    // So that no revision is looked at twice.
                    seen = Some(now);
                    let far = Instant::now() + FAR;
                    tokio::select! {
                        moved = changed.changed() => moved.ok()?,
                        () = tokio::time::sleep_until(expiry.unwrap_or(far)) => {}
                    }
                }
            }
        }
    })
    .boxed()
}

/// Lease numbers of this process. Keys of a former process are dropped before the first is handed out, so
/// numbers may begin again.
pub(crate) fn next_lease() -> i64 {
    static NEXT: AtomicI64 = AtomicI64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

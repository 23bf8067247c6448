//! What the stores of one process share: watches that read a tree's history, and lease numbers.

use std::sync::atomic::{AtomicI64, Ordering};

use futures::StreamExt;
use futures::stream::unfold;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::store::{Revision, WatchEvent, WatchStream};

/// Where a watch gets its events.
pub(crate) trait Source: Send + Sync + 'static {
    /// The event after `seen`, with what has been seen then; otherwise when a lease ends next.
    fn next_event(
        &self,
        prefix: &str,
        seen: Option<Revision>,
    ) -> Result<(WatchEvent, Revision), Option<Instant>>;

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
                Ok((event, now)) => {
                    seen = Some(now);
                    return Some((event, (source, prefix, seen, changed)));
                }
                Err(expiry) => {
                    let far = Instant::now() + std::time::Duration::from_secs(3600);
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

//! What the writer waits for. Every wait is cancel-safe: what has happened is either still there or was taken and handled.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::OptionFuture;
use geminga_ledger::{AppendRefused, Health, Writer};
use geminga_metastore::record::LedgerMeta;
use geminga_proto::ids::EntryId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Current, LogWriter};
use crate::partition::log::HeadError;
use crate::partition::log::ledgers::Done;

/// What happened.
pub(super) enum Woke {
    /// The process stops.
    Stopped,
    /// The current ledger's LAC moved.
    Confirmed(EntryId),
    /// The current ledger's health changed.
    Health(Health),
    /// The current ledger has other members.
    Members(Arc<LedgerMeta>),
    /// The current ledger's writer is gone.
    Gone,
    /// The step under way, or the check before it, is done.
    Done(Box<Done>),
    /// Dead segments were removed, or not.
    Swept(Result<usize, HeadError>),
    /// The owner gave its state; `None` = it never will.
    Answered(Option<Vec<Bytes>>),
    /// The current ledger may take more.
    Ready,
    /// Bookies came or went.
    Live,
    /// The metadata store fell silent, or answers again.
    Silence(bool),
    /// Something is due.
    Due,
}

impl LogWriter {
    /// Waits for whatever comes first. Cancel-safe.
    pub(super) async fn wake(&mut self) -> Woke {
        let due = self.due_at();
        let blocked = self.blocked;
        let Self { current, step, check, sweep, answer, live, silence, stopped, .. } = self;
        let (mut lac, mut health, mut meta, mut writer) = (None, None, None, None);
        if let Some(Current { lac: l, health: h, meta: m, writer: w, gone: false, .. }) = current {
            (lac, health, meta, writer) = (Some(l), Some(h), Some(m), w.as_deref());
        }
        tokio::select! {
            biased;
            () = stopped => Woke::Stopped,
            health = changed(health) => health.map_or(Woke::Gone, Woke::Health),
            // Before a step that closes the ledger: what is known of it then is newer.
            Some(meta) = changed(meta) => Woke::Members(meta),
            Some(done) = OptionFuture::from(step.as_mut()) => {
                *step = None;
                Woke::Done(Box::new(done))
            }
            Some(done) = OptionFuture::from(check.as_mut()) => {
                *check = None;
                Woke::Done(Box::new(done))
            }
            Some(swept) = OptionFuture::from(sweep.as_mut()) => {
                *sweep = None;
                Woke::Swept(swept)
            }
            Some(parts) = OptionFuture::from(answer.as_mut()) => {
                *answer = None;
                Woke::Answered(parts.ok())
            }
            ready = has_room(writer, blocked) => ready.map_or(Woke::Gone, |()| Woke::Ready),
            Ok(()) = live.changed() => Woke::Live,
            Ok(()) = silence.changed() => Woke::Silence(*silence.borrow_and_update()),
            () = tokio::time::sleep_until(due) => Woke::Due,
            // Last: under load it is always ready, and nothing else may wait for that to end.
            lac = changed(lac) => lac.map_or(Woke::Gone, Woke::Confirmed),
        }
    }

    fn due_at(&self) -> Instant {
        let old_at = self.current.as_ref().and_then(|current| current.old_at);
        let timers = [self.retry_at, self.pause_at, self.verify_at, old_at].into_iter().flatten();
        timers.fold(self.idle_at, Instant::min)
    }
}

/// The new value; `None` when there will be no other.
async fn changed<T: Clone>(watched: Option<&mut watch::Receiver<T>>) -> Option<T> {
    match watched {
        Some(watched) => {
            watched.changed().await.ok()?;
            Some(watched.borrow_and_update().clone())
        }
        None => std::future::pending().await,
    }
}

/// Resolves when a ledger that refused an entry takes it.
async fn has_room(writer: Option<&Writer>, blocked: Option<usize>) -> Option<()> {
    let (Some(writer), Some(bytes)) = (writer, blocked) else {
        return std::future::pending().await;
    };
    match writer.ready(bytes).await {
        Ok(()) => Some(()),
        Err(AppendRefused::Ended | AppendRefused::Full | AppendRefused::TooLarge) => None,
    }
}

//! What the loops of one connection tell each other, so that none runs ahead of the others further than memory allows.

use tokio::sync::watch;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Now {
    /// A request waits for something to happen, perhaps for long.
    waits: bool,
    /// Requests that were read.
    read: u64,
    /// Requests that were read and are not answered.
    owed: usize,
    /// Bytes of answers that are not written.
    unwritten: usize,
    /// No further request is read; nothing is to wait any more.
    ending: bool,
}

/// A handle; cloning shares it.
#[derive(Debug, Clone)]
pub(super) struct Pace(watch::Sender<Now>);

impl Default for Pace {
    fn default() -> Self {
        Self(watch::Sender::new(Now::default()))
    }
}

impl Pace {
    /// A request was read.
    pub(super) fn read(&self) {
        self.0.send_modify(|now| {
            now.read += 1;
            now.owed += 1;
        });
    }

    /// The number of the newest request that was read; the first is 1.
    pub(super) fn last_read(&self) -> u64 {
        self.0.borrow().read
    }

    /// A request was answered, or never will be.
    pub(super) fn answered(&self) {
        self.0.send_modify(|now| now.owed = now.owed.saturating_sub(1));
    }

    /// Whether the client waits for the broker.
    pub(super) fn owes(&self) -> bool {
        self.0.borrow().owed > 0
    }

    /// A request begins to wait, or has ended to.
    pub(super) fn set_waits(&self, waits: bool) {
        self.0.send_modify(|now| now.waits = waits);
    }

    /// Resolves when no request waits. Cancel-safe.
    pub(super) async fn moving(&self) {
        self.until(|now| !now.waits || now.ending).await;
    }

    /// So many bytes more of answers are to be written.
    pub(super) fn queued(&self, bytes: usize) {
        self.0.send_modify(|now| now.unwritten += bytes);
    }

    /// So many bytes were written.
    pub(super) fn written(&self, bytes: usize) {
        self.0.send_modify(|now| now.unwritten = now.unwritten.saturating_sub(bytes));
    }

    /// Resolves when no more than so many bytes wait to be written. Cancel-safe.
    pub(super) async fn caught_up(&self, bytes: usize) {
        self.until(|now| now.unwritten <= bytes).await;
    }

    /// Nothing is to wait any more.
    pub(super) fn end(&self) {
        self.0.send_modify(|now| now.ending = true);
    }

    /// Resolves when nothing is to wait any more. Cancel-safe.
    pub(super) async fn ending(&self) {
        self.until(|now| now.ending).await;
    }

    async fn until(&self, true_of: impl FnMut(&Now) -> bool) {
        let mut now = self.0.subscribe();
        // The sender lives as long as this handle.
        let _now = now.wait_for(true_of).await.is_err();
    }
}

//! What the loops of one connection tell each other: what is owed to the client, and how far what it sends was read.
//!
//! A place in what a client sends is counted in bytes. What lies in the socket was sent before the client could read an answer
//! that is written now, and comes up later all the same: so [`Pace::sent`] is further on than what was read, by as much as
//! sockets hold, until the socket was found empty.

use tokio::sync::watch;

/// More than a socket holds of what was sent and not read.
const SOCKET_BYTES: u64 = 16 * 1024 * 1024;

/// Where a connection stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Now {
    /// Requests that were read and are not answered.
    owed: usize,
    /// Bytes of answers that are not written.
    unwritten: usize,
    /// The place that was read up to.
    read: u64,
    /// No earlier than the place that was sent up to when somebody asked last.
    sent: u64,
    /// Whoever reads waits at an empty socket, and has read everything.
    empty: bool,
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
    pub(super) fn asked(&self) {
        self.0.send_modify(|now| now.owed += 1);
    }

    /// A request was answered, or never will be.
    pub(super) fn answered(&self) {
        self.0.send_modify(|now| now.owed = now.owed.saturating_sub(1));
    }

    /// Whether the client waits for the broker.
    pub(super) fn owes(&self) -> bool {
        self.0.borrow().owed > 0
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
        let mut now = self.0.subscribe();
        // The sender lives as long as this handle.
        let _now = now.wait_for(|now| now.unwritten <= bytes).await.is_err();
    }

    /// So many bytes more were read.
    pub(super) fn read(&self, bytes: usize) {
        self.quietly(|now| now.read += bytes as u64);
    }

    /// The socket is empty, and what came is all taken, for as long as this is kept.
    pub(super) fn empty(&self) -> Empty<'_> {
        self.quietly(|now| {
            now.read = now.read.max(now.sent);
            now.empty = true;
        });
        Empty(self)
    }

    /// The place that was read up to.
    pub(super) fn place(&self) -> u64 {
        self.0.borrow().read
    }

    /// Whatever the client has sent by now begins before this place, and what it sends when it has read what is written now
    /// does not, or does so by chance only.
    pub(super) fn sent(&self) -> u64 {
        self.quietly(|now| {
            let more = if now.empty { 0 } else { SOCKET_BYTES };
            now.sent = now.sent.max(now.read + more);
        });
        self.0.borrow().sent
    }

    /// Of no interest to those who wait.
    fn quietly(&self, change: impl FnOnce(&mut Now)) {
        self.0.send_if_modified(|now| {
            change(now);
            false
        });
    }
}

/// See [`Pace::empty`].
#[derive(Debug)]
pub(super) struct Empty<'a>(&'a Pace);

impl Drop for Empty<'_> {
    fn drop(&mut self) {
        self.0.quietly(|now| now.empty = false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_lie_in_the_socket_was_sent() {
        let pace = Pace::default();
        pace.read(100);
        assert!(pace.sent() > 10_000_000, "who knows");
        pace.read(50);
        assert_eq!(pace.place(), 150);
        let told = pace.sent();
        drop(pace.empty());
        assert!(pace.place() >= told, "what comes now was sent later");
        let (empty, place) = (pace.empty(), pace.place());
        assert_eq!(pace.sent(), place, "it is empty");
        drop(empty);
        assert!(pace.sent() > place, "and may not be any more");
        // Whoever is never seen to pause is believed to have read its answers at last.
        let told = pace.sent();
        for _ in 0..20 {
            pace.read(1 << 20);
        }
        assert!(pace.place() >= told);
    }
}

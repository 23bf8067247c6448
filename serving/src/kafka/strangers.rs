//! Connections of whom nothing is known yet: those in a handshake, and those that have not asked for anything. There is no login by
//! password, so a client is known once its handshake is done, where there is one, and the head of its first request is there.
//!
//! * Each is a stranger for so long at most ([`INTRODUCTION`]), then it is closed.
//! * There may be so many. One that comes when there are takes the place of the one that is a stranger for longest, if that had its
//!   chance ([`CHANCE`]); otherwise it is refused. So whoever connects and says nothing keeps nobody out for long who does.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// How long a connection may be one of whom nothing is known.
const INTRODUCTION: Duration = Duration::from_mins(1);
/// So long it is left alone however many come: many handshakes at a time take a while.
const CHANCE: Duration = Duration::from_secs(3);

/// All of them.
#[derive(Debug)]
pub(super) struct Strangers {
    most: usize,
    waiting: Mutex<Waiting>,
}

/// By the order in which they came.
#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_number: BTreeMap<u64, (Instant, oneshot::Sender<()>)>,
}

/// One of them, until it is dropped: then it is known.
#[derive(Debug)]
pub(super) struct Stranger {
    of: Arc<Strangers>,
    number: u64,
}

impl Strangers {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, waiting: Mutex::default() })
    }

    /// One more, and what resolves when it is to be closed: never, once it is known. `None`: there are too many.
    pub(super) fn admit(
        self: &Arc<Self>,
    ) -> Option<(Stranger, impl Future<Output = ()> + Send + use<>)> {
        let now = Instant::now();
        let (close, closed) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.by_number.len() >= self.most {
            let first = waiting.by_number.first_entry()?;
            if now.duration_since(first.get().0) < CHANCE {
                return None;
            }
            let (_, close) = first.remove();
            // It may be gone already.
            let _ = close.send(());
        }
        let number = waiting.next;
        waiting.next += 1;
        waiting.by_number.insert(number, (now, close));
        drop(waiting);
        let over = async move {
            // Its end goes without a word once the client is known.
            if let Ok(Err(_known)) = timeout_at(now + INTRODUCTION, closed).await {
                pending::<()>().await;
            }
        };
        Some((Stranger { of: Arc::clone(self), number }, over))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.of.waiting.lock().by_number.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_makes_room_for_others() {
        let strangers = Strangers::new(2);
        let (_first, mut first_over) = {
            let (stranger, over) = strangers.admit().unwrap();
            (stranger, Box::pin(over))
        };
        tokio::time::advance(CHANCE - Duration::from_millis(1)).await;
        let (_second, second_over) = strangers.admit().unwrap();
        let mut second_over = Box::pin(second_over);
        assert!(strangers.admit().is_none(), "each has its chance");
        tokio::time::advance(Duration::from_millis(1)).await;
        let third = strangers.admit();
        assert!(third.is_some());
        assert_eq!((&mut first_over).now_or_never(), Some(()), "the oldest goes");
        assert_eq!((&mut second_over).now_or_never(), None);
        assert!(strangers.admit().is_none(), "the next had no chance yet");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_known_is_no_stranger_any_more() {
        let strangers = Strangers::new(1);
        let (known, over) = strangers.admit().unwrap();
        let mut over = Box::pin(over);
        drop(known);
        tokio::time::advance(2 * INTRODUCTION).await;
        assert_eq!((&mut over).now_or_never(), None);
        let (_stranger, over) = strangers.admit().expect("it takes no place");
        let mut over = Box::pin(over);
        tokio::time::advance(INTRODUCTION - Duration::from_millis(1)).await;
        assert_eq!((&mut over).now_or_never(), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((&mut over).now_or_never(), Some(()), "nobody stays one for ever");
    }
}

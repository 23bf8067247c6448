//! How many members the ledgers of one process ask in a second whether they are there. A bookie that is away may be a member of
//! very many ledgers that nothing is written to; each that it does not answer reads and changes metadata. One for all writers of a
//! [`crate::LedgerClient`].

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Most in a second: far more than idle ledgers are opened, and what any metadata store bears.
const PER_SECOND: u32 = 100;

/// The second that runs, and who asked in it.
#[derive(Debug, Default)]
pub(crate) struct Asks(Mutex<Option<(Instant, u32)>>);

impl Asks {
    /// Whether one more might; costs nothing.
    pub(crate) fn might(&self) -> bool {
        let second = self.0.lock();
        second.is_none_or(|(since, asked)| {
            asked < PER_SECOND || since.elapsed() >= Duration::from_secs(1)
        })
    }

    /// Whether one more may ask now; who may not tries again after a second or so.
    pub(crate) fn take(&self) -> bool {
        let now = Instant::now();
        let mut second = self.0.lock();
        let (since, asked) = match *second {
            Some((since, asked)) if now - since < Duration::from_secs(1) => (since, asked),
            _ => (now, 0),
        };
        *second = Some((since, asked.saturating_add(1)));
        asked < PER_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn so_many_ask_in_a_second_and_others_later() {
        let asks = Asks::default();
        let allowed = |tries: u32| (0..tries).filter(|_| asks.take()).count();
        assert_eq!(allowed(250), 100);
        tokio::time::advance(Duration::from_millis(999)).await;
        assert!(allowed(1) == 0 && !asks.might());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(asks.might());
        assert_eq!(allowed(250), 100);
    }
}

//! Calls that got no answer are made again, a few times, each after a longer pause than the one before: for whoever copies, and whoever
//! seals.

use std::time::Duration;

use crate::config::Config;

/// What is left of the attempts at one thing.
#[derive(Debug)]
pub(crate) struct Attempts {
    /// Before the next one.
    pause: Duration,
    longest: Duration,
    /// `None`: as many as it takes; who began it ends it.
    left: Option<u32>,
}

impl Attempts {
    /// So many, the one that is under way included.
    pub(crate) fn of(config: &Config, count: u32) -> Self {
        let left = Some(count.saturating_sub(1));
        Self { pause: config.retry_min, longest: config.retry_max, left }
    }

    /// As many as it takes. For calls that are dropped when their time is over.
    pub(crate) fn endless(config: &Config) -> Self {
        Self { pause: config.retry_min, longest: config.retry_max, left: None }
    }

    /// Waits for the next attempt; false, at once, when there is none. Cancel-safe: an attempt whose pause was dropped counts.
    pub(crate) async fn again(&mut self) -> bool {
        match &mut self.left {
            Some(0) => return false,
            Some(left) => *left -= 1,
            None => {}
        }
        tokio::time::sleep(self.pause).await;
        self.pause = self.longest.min(self.pause * 2);
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_double_and_attempts_end() {
        let config = Config {
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_millis(50),
            ..Config::default()
        };
        let begun = Instant::now();
        let mut few = Attempts::of(&config, 4);
        for after in [20, 60, 110] {
            assert!(few.again().await);
            assert_eq!(begun.elapsed(), Duration::from_millis(after));
        }
        assert!(!few.again().await && begun.elapsed() == Duration::from_millis(110));
        let mut endless = Attempts::endless(&config);
        for _ in 0..100 {
            assert!(endless.again().await);
        }
    }
}

//! How fast copies may go: bytes a second that everybody who has the throttle shares (protocol 6.5).

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(200);

/// Shared by all copies of a process.
#[derive(Debug)]
pub struct Throttle {
    /// 0 = as fast as it goes.
    bytes_per_second: u64,
    /// When the next bytes may go.
    next: Mutex<Option<Instant>>,
}

impl Throttle {
    /// Lets so many bytes a second through; 0 = all.
    pub fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, next: Mutex::new(None) }
    }

    /// Waits until so many bytes may go; who asks first goes first. Cancel-safe: at worst they count although they never went.
    pub async fn take(&self, bytes: usize) {
        if self.bytes_per_second == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let at = {
            let now = Instant::now();
            let mut next = self.next.lock();
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            let at = next.unwrap_or(earliest).max(earliest);
            *next = Some(at + cost);
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_go_at_their_pace() {
        let throttle = Throttle::new(1_000);
        let begun = Instant::now();
        for _ in 0..10 {
            throttle.take(500).await;
        }
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(4) && took <= Duration::from_secs(5), "{took:?}");
        Throttle::new(0).take(usize::MAX).await;
        assert_eq!(begun.elapsed(), took);
    }
}

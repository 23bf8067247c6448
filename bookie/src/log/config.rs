//! What can be set about a log. Data only.

use std::time::Duration;

/// Sizes and times of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of one segment file. Default 64 MiB, minimum 64 KiB.
    pub segment_bytes: u64,
    /// Bytes of the first segment after opening, zero-filled before the log takes appends; the next one is made in the
    /// background meanwhile. Default 16 MiB.
    pub prefill_bytes: u64,
    /// Most bytes that are appended and not yet durable; whoever wants to append more waits. Default 64 MiB.
    pub queue_bytes: usize,
    /// Bytes of recent entries that are served from memory. Default 64 MiB.
    pub window_bytes: usize,
    /// An idle log vouches for its last frame after this time (K8). Default 1 s.
    pub idle_mark: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            prefill_bytes: 16 << 20,
            queue_bytes: 64 << 20,
            window_bytes: 64 << 20,
            idle_mark: Duration::from_secs(1),
        }
    }
}

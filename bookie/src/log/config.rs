//! What can be set about a log. Data only.

use std::time::Duration;

use super::mutation::Mutations;

/// Sizes and times of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Bytes of one segment file, 16 KiB to 1 GiB; a larger record gets a file of its own size. Default 64 MiB.
    pub segment_bytes: u64,
    /// Bytes of the first segment after opening, zero-filled before the log takes appends; the next one is made in the
    /// background meanwhile. At least 16 KiB. Default 16 MiB.
    pub prefill_bytes: u64,
    /// Segments that are set aside for seals and tombstones on a full disk (K10). Default 2.
    pub reserve_segments: usize,
    /// Most bytes that are appended and not yet durable; whoever wants to append more waits. Default 64 MiB.
    pub queue_bytes: usize,
    /// Bytes of recent entries that are served from memory. Default 64 MiB.
    pub window_bytes: usize,
    /// Bytes of blocks of full segments that are kept for readers that are behind. Default 32 MiB.
    pub read_ahead_bytes: usize,
    /// Bytes of memory for the index of entries, at least 1 KiB: an extent takes 24, and the oldest go to an unnamed file of the
    /// disk where they do not fit. It is kept to once a second, and while a log is opened after each segment. What stays in memory
    /// of them is some 60 bytes for each 255 extents and some 300 for each ledger, however much that is: where it leaves less than a
    /// quarter, the index takes a quarter more than that, and the operator is told. Default 128 MiB.
    pub index_bytes: usize,
    /// Bytes a second that are read to look for rot. Default 8 MiB.
    pub scrub_bytes: u64,
    /// An idle log vouches for its last frame after this time (K8). Default 1 s.
    pub idle_mark: Duration,
    /// The log is known to have had this frame on stable storage: one that ends before was rolled back (5.7). Default 0.
    pub known_frame: u64,
    /// Rules broken on purpose; none in production.
    pub mutations: Mutations,
}

impl Config {
    /// Why these settings cannot be used.
    pub(super) fn validate(&self) -> Result<(), &'static str> {
        let sizes = 16 << 10..=1 << 30;
        if !sizes.contains(&self.segment_bytes) || !sizes.contains(&self.prefill_bytes) {
            return Err("segment-bytes and prefill-bytes must be from 16 KiB to 1 GiB");
        }
        if self.index_bytes < 1 << 10 {
            return Err("index-bytes must be at least 1 KiB");
        }
        if self.queue_bytes == 0 {
            return Err("queue-bytes must be above 0");
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            prefill_bytes: 16 << 20,
            reserve_segments: 2,
            queue_bytes: 64 << 20,
            window_bytes: 64 << 20,
            read_ahead_bytes: 32 << 20,
            index_bytes: 128 << 20,
            scrub_bytes: 8 << 20,
            idle_mark: Duration::from_secs(1),
            known_frame: 0,
            mutations: Mutations::default(),
        }
    }
}

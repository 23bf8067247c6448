//! What an operator may tune in the ledger layer (protocol 2.6, 4.3).

use std::time::Duration;

/// Limits and timeouts of writers, readers and recoverers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Most bytes that one ledger holds unacknowledged or not yet on every member; beyond it appends wait.
    /// Default 32 MiB, minimum one entry.
    pub outstanding_bytes: usize,
    /// How long a position may be without a connection before it is left out. Default 2 s.
    pub reconnect_grace: Duration,
    /// How long an add may stay without an answer before its position is left out. Default 5 s.
    pub add_timeout: Duration,
    /// How far a position may fall behind the ledger's LAC before it is left out, while others are healthy. Default 3 s.
    pub lag_limit: Duration,
    /// LAC is told to bookies on its own when nothing was sent for so long. Default 10 ms.
    pub idle_lac: Duration,
    /// First pause before another attempt at a bookie; doubles up to `retry_max`. Default 20 ms.
    pub retry_min: Duration,
    /// Longest pause between attempts. Default 500 ms.
    pub retry_max: Duration,
    /// How long one recovery attempt waits for missing members. Default 30 s.
    pub recovery_deadline: Duration,
    /// How long a recovery waits for the rest once coverage is reached. Default 100 ms.
    pub recovery_grace: Duration,
    /// How long a reader waits for one replica before it asks the next. Default 2 s.
    pub read_timeout: Duration,
    /// Most bytes asked for in one read. Default 1 MiB.
    pub read_bytes: u32,
    /// Most bytes of entries in one add request. Default 1 MiB.
    pub add_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            outstanding_bytes: 32 * 1024 * 1024,
            reconnect_grace: Duration::from_secs(2),
            add_timeout: Duration::from_secs(5),
            lag_limit: Duration::from_secs(3),
            idle_lac: Duration::from_millis(10),
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_millis(500),
            recovery_deadline: Duration::from_secs(30),
            recovery_grace: Duration::from_millis(100),
            read_timeout: Duration::from_secs(2),
            read_bytes: 1024 * 1024,
            add_bytes: 1024 * 1024,
        }
    }
}

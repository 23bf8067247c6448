//! What a load came to.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told from a longer one, microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;

/// For latencies in microseconds.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(LONGEST, 3)?)
}

/// Counts, and latencies in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) records: u64,
    pub(crate) seconds: f64,
    pub(crate) records_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

impl Report {
    /// Of latencies in microseconds, all within so many seconds.
    pub(crate) fn new(micros: &Histogram<u64>, seconds: f64) -> Self {
        let ms = |micros: u64| micros as f64 / 1000.0;
        Self {
            records: micros.len(),
            seconds,
            records_per_second: micros.len() as f64 / seconds.max(1e-9),
            p50_ms: ms(micros.value_at_quantile(0.5)),
            p99_ms: ms(micros.value_at_quantile(0.99)),
            max_ms: ms(micros.max()),
        }
    }

    /// As one line of JSON.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        println!("{}", serde_json::to_string(self)?);
        Ok(())
    }
}

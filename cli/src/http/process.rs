//! Metrics of every server process. `version` is that of the program.

use geminga_runtime::{SystemClock, WallClock};
use metrics::gauge;

/// The process has begun: since when it runs, in seconds since the Unix epoch, and which version. To be called once.
pub(super) fn started() {
    gauge!("process_start_time_seconds").set(SystemClock.now_ms() as f64 / 1000.0);
    gauge!("geminga_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// What `/readyz` says now.
pub(super) fn observe_ready(ready: bool) {
    gauge!("geminga_ready").set(f64::from(u8::from(ready)));
}

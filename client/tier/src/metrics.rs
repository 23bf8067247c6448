//! What is counted. Labels: `op` is what was asked for (head, get, put, delete, list, begin, part, complete, abort), `outcome`
//! done, not_found, failed or timeout.

use std::time::Duration;

use metrics::histogram;

/// The object store was asked, and what came of it.
pub(crate) fn asked(op: &'static str, outcome: &'static str, took: Duration) {
    histogram!("geminga_object_store_request_seconds", "op" => op, "outcome" => outcome)
        .record(took);
}

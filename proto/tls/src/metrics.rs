//! What is counted. Labels: `listener` is the name that a [`Security`](crate::Security) was given (grpc, kafka, http,
//! bookie); `why` one of [`Trouble::label`](crate::Trouble::label); `outcome` is `done` or `failed`; `certificate` what a
//! certificate is shown for (own, etcd).

use metrics::{counter, gauge};

/// A connection that was closed in, or for want of, a handshake.
pub(crate) fn count_refused(listener: &'static str, why: &'static str) {
    counter!("geminga_tls_refused_total", "listener" => listener, "why" => why).increment(1);
}

/// New files were found.
pub(crate) fn count_reload(done: bool) {
    let outcome = if done { "done" } else { "failed" };
    counter!("geminga_tls_reloads_total", "outcome" => outcome).increment(1);
}

/// When a certificate in force expires, in seconds since the Unix epoch.
#[allow(clippy::cast_precision_loss, reason = "seconds are far below 2^52")]
pub(crate) fn set_expiry(certificate: &'static str, seconds: u64) {
    gauge!("geminga_tls_certificate_expires_timestamp_seconds", "certificate" => certificate)
        .set(seconds as f64);
}

//! Metrics of the bookie's service. Sizes in bytes, times in seconds.
//!
//! Labels: `op` is one of hello, add, recovery_add, seal, advance_lac, closed, repair_add, tail,
//! read, wait_lac, inventory; `code` is a reply code in lower case;
//! `stream` is one of write, query; `of` is one of ledgers, leftovers.

use geminga_proto::bookie::{Code, QueryOp, WriteOp};

/// The name of a write's operation.
pub(crate) fn write_op(op: &WriteOp) -> &'static str {
    match op {
        WriteOp::Hello => "hello",
        WriteOp::Add { .. } => "add",
        WriteOp::RecoveryAdd { .. } => "recovery_add",
        WriteOp::Seal => "seal",
        WriteOp::AdvanceLac(_) => "advance_lac",
        WriteOp::Closed(_) => "closed",
        WriteOp::RepairAdd { .. } => "repair_add",
        WriteOp::Tail => "tail",
    }
}

/// The name of a query's operation.
pub(crate) fn query_op(op: &QueryOp) -> &'static str {
    match op {
        QueryOp::Read { .. } => "read",
        QueryOp::WaitLac { .. } => "wait_lac",
        QueryOp::Inventory { .. } => "inventory",
    }
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::NoSuchEntry => "no_such_entry",
        Code::NoSuchLedger => "no_such_ledger",
        Code::Sealed => "sealed",
        Code::StaleEpoch => "stale_epoch",
        Code::Unauthorised => "unauthorised",
        Code::WrongIncarnation => "wrong_incarnation",
        Code::Limbo => "limbo",
        Code::Trimmed => "trimmed",
        Code::Deleted => "deleted",
        Code::Busy => "busy",
        Code::ReadOnly => "read_only",
        Code::OutOfOrder => "out_of_order",
        Code::Conflict => "conflict",
        Code::Corrupt => "corrupt",
        Code::IoError => "io_error",
        Code::Invalid => "invalid",
    }
}

/// Segments were folded.
pub(crate) fn folded(segments: usize) {
    metrics::counter!("geminga_tier_folded_total").increment(segments as u64);
}

/// What manifests list, and in how many objects, as the bookie that folds saw it last.
pub(crate) fn folded_now(segments: usize, parts: usize) {
    metrics::gauge!("geminga_tier_folded_segments").set(segments as f64);
    metrics::gauge!("geminga_tier_manifest_objects").set(parts as f64);
}

/// A write request arrived.
pub(crate) fn write_asked(op: &WriteOp) {
    metrics::counter!("geminga_bookie_requests_total", "op" => write_op(op)).increment(1);
}

/// A query arrived.
pub(crate) fn query_asked(op: &QueryOp) {
    metrics::counter!("geminga_bookie_requests_total", "op" => query_op(op)).increment(1);
}

/// A request was answered.
pub(crate) fn answered(code: Code) {
    metrics::counter!("geminga_bookie_replies_total", "code" => code_name(code)).increment(1);
}

/// A request was answered that waits for nobody, so long after it came.
pub(crate) fn observe_request(op: &'static str, took: std::time::Duration) {
    metrics::histogram!("geminga_bookie_request_seconds", "op" => op).record(took.as_secs_f64());
}

/// Entry bytes went to a reader.
pub(crate) fn read_bytes(bytes: usize) {
    metrics::counter!("geminga_bookie_read_bytes_total").increment(bytes as u64);
}

/// A stored entry failed its digest, or the same id came with other content (D3).
pub(crate) fn damaged() {
    metrics::counter!("geminga_bookie_damaged_entries_total").increment(1);
}

/// A request met a ledger whose step panicked.
pub(crate) fn ledger_broken() {
    metrics::counter!("geminga_bookie_broken_ledger_requests_total").increment(1);
}

/// Entries that had rotted were stored again.
pub(crate) fn restored() {
    metrics::counter!("geminga_bookie_restored_extents_total").increment(1);
}

/// Whether a breaker keeps deleted ledgers (G2), and whether it keeps only what is left of ledgers whose entries were dropped for an object.
pub(crate) fn gc_stopped(ledgers: bool, leftovers: bool) {
    for (of, yes) in [("ledgers", ledgers), ("leftovers", leftovers)] {
        metrics::gauge!("geminga_bookie_gc_stopped", "of" => of).set(if yes { 1.0 } else { 0.0 });
    }
}

/// Ledgers that only this bookie knows since the metadata was restored.
pub(crate) fn quarantined(ledgers: usize) {
    metrics::gauge!("geminga_bookie_quarantined_ledgers").set(ledgers as f64);
}

/// Deleted ledgers were dropped.
pub(crate) fn dropped(ledgers: usize) {
    metrics::counter!("geminga_bookie_dropped_ledgers_total").increment(ledgers as u64);
}

/// The fullest disk: 0 normal, 1 warn, 2 read-only, 3 seals and deletions only.
pub(crate) fn fullness(level: u8) {
    metrics::gauge!("geminga_bookie_disk_fullness").set(f64::from(level));
}

/// Disks that take no new data: too full, or of a bookie that leaves.
pub(crate) fn unwritable(disks: usize) {
    metrics::gauge!("geminga_bookie_unwritable_disks").set(disks as f64);
}

/// Ledgers that a disk has records of.
pub(crate) fn ledgers(delta: f64) {
    metrics::gauge!("geminga_bookie_ledgers").increment(delta);
}

/// A stream was ended because of what came in on it.
pub(crate) fn stream_refused(stream: &'static str) {
    metrics::counter!("geminga_bookie_streams_refused_total", "stream" => stream).increment(1);
}

/// Streams opened and ended.
pub(crate) fn streams(stream: &'static str, delta: f64) {
    metrics::gauge!("geminga_bookie_streams", "stream" => stream).increment(delta);
}

/// Whether the registration stands.
pub(crate) fn registered(yes: bool) {
    metrics::gauge!("geminga_bookie_registered").set(if yes { 1.0 } else { 0.0 });
}

/// A keep-alive of the registration was answered, or not in time.
pub(crate) fn kept_alive(answered: bool) {
    let outcome = if answered { "answered" } else { "unanswered" };
    metrics::counter!("geminga_metadata_keep_alives_total", "outcome" => outcome).increment(1);
}

/// How full the disks are, all together.
pub(crate) fn space(free: u64, total: u64) {
    metrics::gauge!("geminga_bookie_disk_free_bytes").set(free as f64);
    metrics::gauge!("geminga_bookie_disk_total_bytes").set(total as f64);
}

/// A ledger was sent to the object store.
pub(crate) fn uploaded(bytes: u64) {
    metrics::counter!("geminga_tier_uploads_total").increment(1);
    metrics::counter!("geminga_tier_uploaded_bytes_total").increment(bytes);
}

/// Whether the object store is another than the cluster's, as far as anybody could ask.
pub(crate) fn store_refused(yes: bool) {
    metrics::gauge!("geminga_tier_store_refused").set(if yes { 1.0 } else { 0.0 });
}

/// Something about the object store failed, and is tried again.
pub(crate) fn tiering_failed() {
    metrics::counter!("geminga_tier_failures_total").increment(1);
}

/// A ledger's entries were dropped here, since an object has them.
pub(crate) fn trimmed() {
    metrics::counter!("geminga_tier_trimmed_total").increment(1);
}

/// The object of a trimmed ledger is not there.
pub(crate) fn object_missing() {
    metrics::counter!("geminga_tier_objects_missing_total").increment(1);
}

/// An object that nothing refers to was removed.
pub(crate) fn swept() {
    metrics::counter!("geminga_tier_swept_total").increment(1);
}

/// So many files of uploads that never ended were removed.
pub(crate) fn unfinished_removed(files: usize) {
    metrics::counter!("geminga_tier_unfinished_removed_total").increment(files as u64);
}

/// Ledgers that are to be uploaded and are not yet: how many, their bytes, and since when the oldest is due.
pub(crate) fn waiting(ledgers: usize, bytes: u64, oldest: std::time::Duration) {
    metrics::gauge!("geminga_tier_waiting_ledgers").set(ledgers as f64);
    metrics::gauge!("geminga_tier_waiting_bytes").set(bytes as f64);
    metrics::gauge!("geminga_tier_oldest_due_seconds").set(oldest.as_secs_f64());
}

/// The office of the janitor. What its gauges say is true of whoever has it: with it goes what they said, however that ends.
#[derive(Debug)]
pub(crate) struct Janitor;

impl Drop for Janitor {
    fn drop(&mut self) {
        sweep_stopped(false);
        folded_now(0, 0);
    }
}

/// Whether a breaker keeps objects from being removed.
pub(crate) fn sweep_stopped(stopped: bool) {
    metrics::gauge!("geminga_tier_sweep_stopped").set(if stopped { 1.0 } else { 0.0 });
}

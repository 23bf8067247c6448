//! Reading a partition: whole stored batches from an offset on, waiting for more when asked to (a long poll). Runs in the
//! caller, so that a slow read of old data never holds up the partition's writer. Only committed data (P1).

mod cut;

use std::time::Duration;

use futures::FutureExt;
use geminga_proto::ids::Offset;
use geminga_proto::reason::{ApiError, Reason};
use tokio::time::Instant;

pub(super) use cut::Cut;

use super::log::{Ends, LogReader, ReadError};
use super::manager::Handle;
use super::metrics;
use crate::router::{Read, ReadSpec};

/// Most bytes of one read, whatever is asked for.
const MAX_READ_BYTES: usize = 32 * 1024 * 1024;
/// Longest wait, whatever is asked for.
const MAX_WAIT: Duration = Duration::from_secs(300);

/// Reads as `spec` says. Cancel-safe.
pub(super) async fn read(handle: &Handle, spec: ReadSpec) -> Result<Read, ApiError> {
    let deadline = Instant::now() + spec.max_wait.min(MAX_WAIT);
    let mut cut = Cut::new(spec.offset, spec.max_bytes.min(MAX_READ_BYTES));
    let mut high_watermark = handle.reader.watch();
    check_range(spec.offset, handle.reader.ends())?;
    loop {
        high_watermark.mark_unchanged();
        match fill(&handle.reader, &mut cut, spec.min_bytes.max(1)).await {
            Ok(()) => {}
            // What was read is good; the error comes again with the next read.
            Err(_) if cut.bytes() > 0 => break,
            Err(error) => return Err(error),
        }
        if cut.is_full() || cut.bytes() >= spec.min_bytes.max(1) || Instant::now() >= deadline {
            break;
        }
        tokio::select! {
            biased;
            error = handle.gone() => {
                if cut.bytes() == 0 {
                    return Err(error);
                }
                break;
            }
            changed = high_watermark.changed() => if changed.is_err() { break },
            () = tokio::time::sleep_until(deadline) => break,
        }
    }
    metrics::count_fetched(cut.len(), cut.bytes());
    let Ends { log_start, high_watermark } = handle.reader.ends();
    let next_offset = cut.next();
    Ok(Read { batches: cut.into_batches(), next_offset, high_watermark, log_start })
}

/// Reads on until nothing more fits or is there. What there is `enough` of waits for nothing more: who is answered later may give up,
/// and what was read would be read again; what follows is on its way then.
async fn fill(reader: &LogReader, cut: &mut Cut, enough: usize) -> Result<(), ApiError> {
    while !cut.is_full() && cut.next() < reader.ends().high_watermark {
        let read = reader.read(cut.next(), cut.room());
        let entries = if cut.bytes() < enough {
            read.await
        } else if let Some(read) = read.now_or_never() {
            read
        } else {
            break;
        };
        let entries = entries.map_err(|e| read_error(&e))?;
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            cut.take(&entry)?;
        }
    }
    Ok(())
}

fn check_range(asked: Offset, ends: Ends) -> Result<(), ApiError> {
    if (ends.log_start..=ends.high_watermark).contains(&asked) {
        return Ok(());
    }
    Err(read_error(&ReadError::OutOfRange { asked, ends }))
}

/// What a reader is told.
pub(super) fn read_error(error: &ReadError) -> ApiError {
    let reason = match error {
        ReadError::OutOfRange { .. } => Reason::OffsetOutOfRange,
        ReadError::Unavailable(_) => Reason::NotReady,
        ReadError::Damaged(_) => Reason::DataLoss,
    };
    ApiError::new(reason, error.to_string())
}

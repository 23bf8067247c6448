//! What a source's records are to become here. Pure: the bytes of a fetch in, batches to be written out.
//!
//! * A batch whose offsets have no gaps goes on with the bytes that its records have, compressed as they are; only its header is
//!   made anew, since numbers, terms and transactions are each cluster's own.
//! * A batch with gaps in it, that begins before what is wanted, or that the source's broker dated, is taken apart and put together
//!   again with the same codec: offsets are dense here, and dates are those that readers of the source see.
//! * Markers of transactions and records of aborted ones are passed over.
//!
//! The same bytes become the same batches whenever that is done: so a batch that is written again has the numbers it had.

use std::collections::BTreeSet;

use bytes::Bytes;
use geminga_records::{Batch, BatchError, Builder, Record, decode, split};

/// Most that a batch may hold when it has to be taken apart, decompressed.
const MOST_BYTES: usize = 128 * 1024 * 1024;

/// A batch to be written, and where its records come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// At base offset 0, of no producer.
    pub(super) batch: Batch,
    /// Records of it, by how many there are before: from the one at this source offset on they follow each other.
    pub(super) runs: Vec<(u32, i64)>,
    /// The source offset to go on at when this is written.
    pub(super) next: i64,
}

impl Piece {
    /// How many records.
    pub(super) fn count(&self) -> u32 {
        self.batch.header().record_count.cast_unsigned()
    }
}

/// What there is of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pieces {
    /// In order.
    pub(super) pieces: Vec<Piece>,
    /// Where to read on: behind what is passed over as well.
    pub(super) next: i64,
}

/// What cannot be copied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    /// Bytes that are no batch that can be stored here.
    #[error("the source's batch at offset {offset}: {why}")]
    Batch {
        /// Where.
        offset: i64,
        /// What is wrong.
        why: BatchError,
    },
    /// Kafka's formats of before version 0.11.
    #[error(
        "the source's batch at offset {offset} has message format {magic}: have the source write it anew in format 2, with \
         message.format.version of 0.11 or later"
    )]
    Old {
        /// Where.
        offset: i64,
        /// Which.
        magic: i8,
    },
}

/// What records from offset `from` on become. `aborted`: transactions, by producer id and first offset. An answer may begin before
/// what was asked for, and end in the middle of a batch.
///
/// # Errors
/// The first batch that cannot be copied. What came before it can, when asked for up to there.
pub(super) fn pieces(
    batches: Bytes,
    from: i64,
    aborted: &[(i64, i64)],
) -> (Pieces, Option<Unusable>) {
    let mut found = Pieces { pieces: Vec::new(), next: from };
    let mut transactions = Aborted::new(aborted);
    for batch in split(batches) {
        let taken = match batch {
            // The rest comes with the next answer, which has the first batch whole.
            Err(BatchError::Truncated { .. }) => return (found, None),
            Err(BatchError::Magic(magic)) => Err(Unusable::Old { offset: found.next, magic }),
            Err(why) => Err(Unusable::Batch { offset: found.next, why }),
            Ok(batch) => {
                let offset = batch.header().base_offset;
                take(&batch, &mut found, &mut transactions)
                    .map_err(|why| Unusable::Batch { offset, why })
            }
        };
        if let Err(why) = taken {
            return (found, Some(why));
        }
    }
    (found, None)
}

fn take(batch: &Batch, found: &mut Pieces, aborted: &mut Aborted) -> Result<(), BatchError> {
    let header = batch.header();
    let (from, next) = (found.next, header.next_offset());
    if next <= from {
        return Ok(());
    }
    batch.check_sum()?;
    if !aborted.hide(batch)? && header.record_count > 0 {
        let dense = i64::from(header.record_count) == header.offset_count();
        if dense && header.base_offset >= from && !header.is_log_append_time() {
            let runs = vec![(0, header.base_offset)];
            found.pieces.push(Piece { batch: batch.anew(), runs, next });
        } else {
            apart(batch, from, &mut found.pieces)?;
        }
    }
    found.next = next;
    Ok(())
}

/// The records from `from` on in batches of their own.
fn apart(batch: &Batch, from: i64, pieces: &mut Vec<Piece>) -> Result<(), BatchError> {
    let codec = batch.header().compression()?;
    let records = decode(batch, MOST_BYTES)?;
    let (mut builder, mut runs) = (Builder::new(codec), Vec::new());
    let mut expected = None;
    let mut end = |builder: Builder, runs: Vec<(u32, i64)>, next: i64| {
        pieces.push(Piece { batch: builder.finish()?, runs, next });
        Ok::<(), BatchError>(())
    };
    for record in records.iter().filter(|record| record.offset >= from) {
        let full = |error: &BatchError| {
            matches!(error, BatchError::TooLarge { .. } | BatchError::TooManyRecords)
        };
        let place = match builder.push(record) {
            Err(error) if full(&error) && !builder.is_empty() => {
                let done = std::mem::replace(&mut builder, Builder::new(codec));
                end(done, std::mem::take(&mut runs), record.offset)?;
                expected = None;
                builder.push(record)?
            }
            other => other?,
        };
        if expected != Some(record.offset) {
            runs.push((place, record.offset));
        }
        expected = Some(record.offset.saturating_add(1));
    }
    if !builder.is_empty() {
        end(builder, runs, batch.header().next_offset())?;
    }
    Ok(())
}

/// Whose records are those of aborted transactions, as one goes on: a transaction begins at its first offset and ends with its
/// marker.
struct Aborted {
    /// By first offset, the last one first.
    ahead: Vec<(i64, i64)>,
    now: BTreeSet<i64>,
}

impl Aborted {
    fn new(aborted: &[(i64, i64)]) -> Self {
        let mut ahead: Vec<_> =
            aborted.iter().map(|(producer, first)| (*first, *producer)).collect();
        ahead.sort_unstable_by(|a, b| b.cmp(a));
        Self { ahead, now: BTreeSet::new() }
    }

    /// Whether nobody is to see the records of the next batch.
    fn hide(&mut self, batch: &Batch) -> Result<bool, BatchError> {
        let header = batch.header();
        // Before markers too: an answer may begin behind the records of a transaction, whose marker then ends it all the same.
        while let Some((_, producer)) =
            self.ahead.pop_if(|(first, _)| *first < header.next_offset())
        {
            self.now.insert(producer);
        }
        if header.is_control() {
            if let Some(Record { key: Some(key), .. }) = decode(batch, MOST_BYTES)?.first()
                && key.get(2..4) == Some(&[0, 0])
            {
                self.now.remove(&header.producer_id);
            }
            return Ok(true);
        }
        if !header.is_transactional() {
            return Ok(false);
        }
        Ok(self.now.contains(&header.producer_id))
    }
}

#[cfg(test)]
mod tests;

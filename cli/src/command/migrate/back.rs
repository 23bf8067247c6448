//! What an earlier try wrote here behind a checkpoint, read back: before a partition goes on, its source has to have the same batches
//! still. A number alone does not show that: where the source compacted or deleted meanwhile, other records have it now.

use std::collections::VecDeque;

use geminga_client::{Client, OffsetAt, ReaderConfig};
use geminga_records::{Batch, Header};

use super::checkpoint::Checkpoint;
use super::copying::Copying;
use super::lane::PATIENCE;
use crate::exit::Failure;

/// Why a partition does not go on, where that has to be asked.
pub(super) const IN_DOUBT: &str = "behind the checkpoint there are records here that the source does not have so any more, since it compacted \
     or deleted meanwhile: what is copied, nobody knows. --accept-repeats goes on, and copies what comes behind the checkpoint once more";

/// What is behind a checkpoint.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Back {
    /// The migration's own batches, in order.
    pub(super) batches: VecDeque<Header>,
    /// Everything below this offset was looked at.
    pub(super) end: i64,
}

impl Back {
    /// Takes the header of a stored batch, in the order of offsets; it may come again.
    pub(super) fn take(&mut self, header: &Header, checkpoint: &Checkpoint) {
        let ours = header.sequence().is_some_and(|of| of.producer_id == checkpoint.producer);
        let is_new = self.batches.back().is_none_or(|last| last.base_offset < header.base_offset);
        if ours && is_new && header.base_offset >= checkpoint.target {
            self.batches.push_back(*header);
        }
    }
}

/// Whether a stored batch is this one: the numbers, how many records, and the sum of all that is in it.
pub(super) fn is_same(stored: &Header, batch: &Batch) -> bool {
    let dated;
    let sent = match stored.is_log_append_time() {
        true => {
            dated = batch.with_log_append_time(stored.max_timestamp);
            dated.header()
        }
        false => batch.header(),
    };
    stored.sequence() == sent.sequence()
        && stored.record_count == sent.record_count
        && stored.crc == sent.crc
}

/// Reads it.
pub(super) async fn read_back(client: &Client, copying: &Copying) -> Result<Back, Failure> {
    let (topic, partition) = (&*copying.topic, copying.partition);
    let bound = |offsets: Vec<(u32, i64)>| offsets.first().map_or(0, |(_, offset)| *offset);
    let admin = client.admin();
    let end = bound(admin.list_offsets(topic, &[partition], OffsetAt::Latest).await?);
    let start = bound(admin.list_offsets(topic, &[partition], OffsetAt::Earliest).await?);
    let start = start.max(copying.checkpoint.target);
    let mut back = Back { batches: VecDeque::new(), end };
    if start >= end {
        return Ok(back);
    }
    let config = ReaderConfig { retry_timeout: PATIENCE, ..ReaderConfig::default() };
    let mut reader = client.reader(topic, [(partition, start)], config);
    while reader.positions().get(&partition).is_none_or(|at| *at < end) {
        for header in reader.next().await?.batches {
            back.take(&header, &copying.checkpoint);
        }
    }
    Ok(back)
}

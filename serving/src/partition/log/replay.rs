//! The replay of an opening: the parts of the newest complete snapshot, then what follows it in the same ledger. Payloads
//! are read only where they are commands; of batches the headers are enough, with their indexes.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use geminga_ledger::{LedgerClient, Reader};
use geminga_metastore::record::LedgerMeta;
use geminga_proto::entry::{Entry, Kind};
use geminga_proto::ids::{EntryId, Offset};

use super::takeover::not_read;
use super::{OpenError, Replay, part};

/// Bytes asked for at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// How much of an index is read with a header at first: that of entries of some batches. Where one is longer, as much of those
/// after it is read as well.
const FIRST_PREFIX_BYTES: u32 = 256;

/// Where to start.
#[derive(Debug)]
pub(super) struct From {
    /// The closed ledger.
    pub(super) meta: Arc<LedgerMeta>,
    /// First part of the newest complete snapshot.
    pub(super) snapshot: EntryId,
    /// The ledger's last entry.
    pub(super) last: EntryId,
}

/// What is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The snapshot's part with this index.
    Parts(u32),
    /// Headers, until a command shows up.
    Headers,
    /// Commands, until batches show up.
    Commands,
}

struct Cursor {
    reader: Reader,
    next: EntryId,
    last: EntryId,
    stage: Stage,
    /// Bytes read behind a header.
    prefix_bytes: u32,
    ready: VecDeque<Replay>,
}

/// The replay as a stream; empty when nothing was ever written.
pub(super) fn stream(
    ledgers: LedgerClient,
    from: Option<From>,
) -> BoxStream<'static, Result<Replay, OpenError>> {
    let Some(From { meta, snapshot, last }) = from else { return stream::empty().boxed() };
    let cursor = Cursor {
        reader: ledgers.reader(meta),
        next: snapshot,
        last,
        stage: Stage::Parts(0),
        prefix_bytes: FIRST_PREFIX_BYTES,
        ready: VecDeque::new(),
    };
    stream::try_unfold(cursor, |mut cursor| async move {
        Ok(cursor.step().await?.map(|step| (step, cursor)))
    })
    .into_stream()
    .boxed()
}

impl Cursor {
    async fn step(&mut self) -> Result<Option<Replay>, OpenError> {
        loop {
            if let Some(step) = self.ready.pop_front() {
                return Ok(Some(step));
            }
            if self.next > self.last {
                return match self.stage {
                    Stage::Parts(_) => Err(self.damaged("its snapshot has no end")),
                    Stage::Headers | Stage::Commands => Ok(None),
                };
            }
            let prefix = (self.stage == Stage::Headers).then_some(self.prefix_bytes);
            let read = self.reader.read(self.next, self.last, CHUNK_BYTES, prefix).await;
            for entry in read.map_err(not_read)? {
                let (stage, prefix_bytes) = (self.stage, self.prefix_bytes);
                self.take(entry)?;
                if (stage == Stage::Headers) != (self.stage == Stage::Headers)
                    || prefix_bytes < self.prefix_bytes
                {
                    // The rest of the chunk was read with the wrong length.
                    break;
                }
            }
        }
    }

    fn take(&mut self, entry: Entry) -> Result<(), OpenError> {
        let attributes = entry.attributes;
        if let Stage::Parts(index) = self.stage {
            let decoded = part::decode(&entry.payload);
            let (place, bytes) = decoded.map_err(|error| self.damaged(&error.to_string()))?;
            if attributes.kind != Kind::Snapshot || place.index != index {
                return Err(self.damaged("its snapshot has a gap"));
            }
            self.ready.push_back(Replay::SnapshotPart(bytes));
            self.stage = if place.is_end() { Stage::Headers } else { Stage::Parts(index + 1) };
            self.next = self.next.next();
            return Ok(());
        }
        match (attributes.kind, self.stage) {
            (Kind::Command, Stage::Headers) => {
                self.stage = Stage::Commands;
                return Ok(());
            }
            (Kind::Command, _) => self.ready.push_back(Replay::Command(entry.payload)),
            (Kind::Batches, _) if entry.index.len() < entry.index_len as usize => {
                self.prefix_bytes = entry.index_len;
                return Ok(());
            }
            (Kind::Batches, _) => {
                self.ready.push_back(Replay::Batches {
                    first_offset: Offset(attributes.first_offset),
                    offset_count: attributes.offset_count,
                    max_timestamp: attributes.max_timestamp,
                    index: entry.index,
                });
                self.stage = Stage::Headers;
            }
            // A snapshot that was begun and not finished holds nothing that counts.
            (Kind::Snapshot | Kind::Barrier, _) => {}
        }
        self.next = self.next.next();
        Ok(())
    }

    fn damaged(&self, why: &str) -> OpenError {
        let ledger = self.reader.meta().id;
        OpenError::Damaged(format!("entry {} of ledger {ledger}: {why}", self.next))
    }
}

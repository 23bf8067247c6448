//! The ledgers of a log as a reader asks bookies for them, with the metadata that says where their entries are.

use std::sync::Arc;

use geminga_ledger::{LedgerClient, Reader};
use geminga_metastore::record::Tier;
use geminga_proto::entry::Entry;
use geminga_proto::ids::{EntryId, Offset};

use super::ReadError;
use crate::partition::log::folded::Folded;
use crate::partition::log::segments::{After, Segment, Segments};

/// Reads what is stored. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) ledgers: LedgerClient,
    pub(super) segments: Arc<Segments>,
    pub(super) folded: Arc<Folded>,
}

/// One segment's ledger, ready to be read. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) segment: Segment,
    pub(super) reader: Reader,
    /// The last entry that may be read (RD1).
    pub(super) last: EntryId,
}

impl Stored {
    /// A segment's ledger, its metadata read if it was not yet.
    pub(super) async fn source(&self, segment: Segment) -> Result<Source, ReadError> {
        if let (Some(meta), Some(last)) = (&segment.meta, segment.readable) {
            let reader = self.ledgers.reader(Arc::clone(meta));
            return Ok(Source { reader, last, segment });
        }
        self.refresh(segment).await
    }

    /// The same by its present metadata.
    pub(super) async fn refresh(&self, mut segment: Segment) -> Result<Source, ReadError> {
        let ledger = segment.ledger;
        let read = self.ledgers.metadata(ledger).await;
        let read = read.map_err(|error| ReadError::Unavailable(error.to_string()))?;
        let Some((meta, _)) = read else { return self.refresh_without_key(segment).await };
        let meta = Arc::new(meta);
        self.segments.refreshed(ledger, Arc::clone(&meta));
        segment.readable = segment.readable.or(meta.last_entry);
        let Some(last) = segment.readable else {
            return Err(ReadError::Damaged(format!("ledger {ledger} of an old segment is open")));
        };
        let reader = self.ledgers.reader(Arc::clone(&meta));
        segment.meta = Some(meta);
        Ok(Source { reader, last, segment })
    }

    /// A ledger that has no key any more was folded or deleted.
    async fn refresh_without_key(&self, segment: Segment) -> Result<Source, ReadError> {
        let Segment { seq, ledger, .. } = segment;
        self.folded.refresh().await?;
        // Of those only the manifest tells from now on.
        if let Some(last) = self.folded.last_seq() {
            self.segments.folded(last);
        }
        let folded = self.folded.numbered(seq).await?.filter(|folded| folded.ledger == ledger);
        let Some(Segment { meta: Some(meta), readable: Some(last), .. }) = &folded else {
            return Err(ReadError::Unavailable(format!("ledger {ledger} was deleted")));
        };
        let reader = self.ledgers.reader(Arc::clone(meta));
        let last = *last;
        Ok(Source { reader, last, segment: folded.unwrap_or(segment) })
    }

    /// The segment that contains `offset`, folded or not.
    pub(super) async fn containing(&self, offset: Offset) -> Result<Option<Segment>, ReadError> {
        match self.segments.containing(offset) {
            Some(segment) => Ok(Some(segment)),
            None => self.folded.containing(offset).await,
        }
    }

    /// The segment after `seq`, folded or not. Of one that is in memory so is all that follows, and no list is fetched.
    pub(super) async fn after(&self, seq: u32) -> Result<Option<Segment>, ReadError> {
        match self.segments.after(seq) {
            After::Next(next) => Ok(next),
            After::Behind(first) => Ok(self.folded.after(seq).await?.or(first)),
        }
    }

    /// The segment with this number, folded or not.
    pub(super) async fn numbered(&self, seq: u32) -> Result<Option<Segment>, ReadError> {
        match self.segments.numbered(seq) {
            Some(segment) => Ok(Some(segment)),
            None => self.folded.numbered(seq).await,
        }
    }

    /// Entries of one ledger. Members may have been replaced by a repair, and copies dropped for an object: what those of old
    /// metadata do not deliver, or say that they never had, is asked for by the present one before it counts (RD3, M8).
    pub(super) async fn entries(
        &self,
        source: &Source,
        from: EntryId,
        to: EntryId,
        max_bytes: usize,
        prefix: Option<u32>,
    ) -> Result<Vec<Entry>, ReadError> {
        match source.reader.read(from, to, max_bytes, prefix).await {
            Ok(entries) => return Ok(entries),
            // There is no newer place than the object.
            Err(error @ geminga_ledger::ReadError::Unavailable { .. })
                if matches!(source.reader.meta().tier, Tier::Trimmed(_)) =>
            {
                return Err(unreadable(error));
            }
            Err(_) => {}
        }
        let again = self.refresh(source.segment.clone()).await?;
        let read = again.reader.read(from, to, max_bytes, prefix).await;
        read.map_err(unreadable)
    }
}

/// What a reader of the log is told of an error of the ledger layer.
pub(super) fn unreadable(error: geminga_ledger::ReadError) -> ReadError {
    use geminga_ledger::ReadError as Error;
    match error {
        Error::Unavailable { .. } => ReadError::Unavailable(error.to_string()),
        Error::DataLoss { .. } => {
            tracing::error!(%error, "committed entries are lost");
            ReadError::Damaged(error.to_string())
        }
        // Told where the object was asked for.
        Error::ObjectLost { .. } => ReadError::Damaged(error.to_string()),
    }
}

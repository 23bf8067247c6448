//! Makes an object's bytes from a ledger's entries in order. Holds one block, and what was not taken yet; whoever feeds it takes
//! parts as they fill up, so that memory stays bounded.
//!
//! Nothing gets in that is not the entry that is due (D1, T3), and nothing is finished that is not all of the ledger (7.4 step 4).

use bytes::{BufMut, Bytes, BytesMut};
use geminga_proto::entry;
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId};

use crate::error::FormatError;
use crate::format::{
    self, BLOCK_BYTES, BLOCK_HEAD_BYTES, FOOTER_BYTES, Footer, Header, Placed, encode_block,
    put_placed,
};

/// What was written, to be held against metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Summary {
    /// How many entries.
    pub entries: u64,
    /// Payload bytes.
    pub length: u64,
    /// Rolling digest of the entries.
    pub entries_crc: u64,
    /// Bytes of the object.
    pub size: u64,
    /// Checksum of all of it but the footer.
    pub object_crc: u32,
    /// Where the index begins.
    pub index_place: u64,
}

/// Entries that are not the ledger that metadata describes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("what was read is not the ledger that metadata describes: {what} {have}, expected {want}")]
pub struct Mismatch {
    /// Which number.
    pub what: &'static str,
    /// As read.
    pub have: u64,
    /// As recorded.
    pub want: u64,
}

/// Writes one object.
#[derive(Debug)]
pub struct SegmentWriter {
    cluster: ClusterUuid,
    ledger: LedgerId,
    last_entry: EntryId,
    /// The entry that is due.
    next: EntryId,
    length: u64,
    entries_crc: u64,
    /// Entries of the block that is being filled, and the first's offset.
    body: BytesMut,
    block_first: EntryId,
    block_offset: i64,
    newest: i64,
    blocks: Vec<Placed>,
    /// What was not taken yet.
    out: BytesMut,
    /// Bytes so far, taken or not, and their checksum.
    written: u64,
    crc: u32,
}

impl SegmentWriter {
    /// A writer that has written the header.
    pub fn new(header: &Header) -> Self {
        let mut writer = Self {
            cluster: header.cluster,
            ledger: header.ledger,
            last_entry: header.last_entry,
            next: EntryId(0),
            length: 0,
            entries_crc: 0,
            body: BytesMut::new(),
            block_first: EntryId(0),
            block_offset: 0,
            newest: -1,
            blocks: Vec::new(),
            out: BytesMut::new(),
            written: 0,
            crc: 0,
        };
        writer.put(&header.encode());
        writer
    }

    /// The entry that is due.
    pub fn next(&self) -> EntryId {
        self.next
    }

    /// Adds the entry that is due, as bookies hold it.
    ///
    /// # Errors
    /// [`FormatError`] when it is damaged or another one; the object cannot be finished then.
    pub fn push(&mut self, stored: &Bytes) -> Result<(), FormatError> {
        let entry = entry::decode_expecting(self.cluster, self.ledger, self.next, stored)?;
        let damaged = |why| FormatError::Damaged { what: "an entry", why };
        if self.next > self.last_entry {
            return Err(damaged("it is behind the ledger's end"));
        }
        let length = self.length + u64::from(entry.payload_len);
        if entry.position.cumulative_length != length {
            return Err(damaged("its length does not follow from those before it"));
        }
        if self.body.is_empty() {
            (self.block_first, self.block_offset) = (self.next, entry.attributes.first_offset);
        }
        let digest = entry::stored_digest(stored).ok_or(damaged("it has no digest"))?;
        self.length = length;
        self.entries_crc = entry::roll_digest(self.entries_crc, digest);
        self.newest = entry.attributes.running_max_timestamp;
        self.next = self.next.next();
        self.body.put_u32(u32::try_from(stored.len()).expect("an entry is at most 16 MiB"));
        self.body.put_slice(stored);
        if self.body.len() >= BLOCK_BYTES {
            self.close_block();
        }
        Ok(())
    }

    /// Takes exactly `bytes` off the front of what is ready, once there is so much.
    pub fn take(&mut self, bytes: usize) -> Option<Bytes> {
        (self.out.len() >= bytes).then(|| self.out.split_to(bytes).freeze())
    }

    /// Bytes in memory, about.
    pub fn held(&self) -> usize {
        self.out.len() + self.body.len() + self.blocks.len() * size_of::<Placed>()
    }

    /// Ends the object: what was not taken yet, and what the whole comes to (T3, 7.4 step 4).
    ///
    /// # Errors
    /// [`Mismatch`] when entries are missing.
    pub fn finish(mut self) -> Result<(Bytes, Summary), Mismatch> {
        if self.next != self.last_entry.next() {
            let number = |entry: EntryId| u64::try_from(entry.0).unwrap_or(0);
            let (have, want) = (number(self.next), number(self.last_entry.next()));
            return Err(Mismatch { what: "entries", have, want });
        }
        if !self.body.is_empty() {
            self.close_block();
        }
        let index_place = self.written;
        let mut index = BytesMut::new();
        for placed in &self.blocks {
            put_placed(&mut index, placed);
        }
        self.put(&index);
        let entries = u64::try_from(self.next.0).expect("ids rise from 0");
        let footer = Footer {
            index_place,
            index_length: u32::try_from(index.len()).expect("one item a MiB"),
            index_crc: format::crc(&index),
            entries,
            last_entry: self.last_entry,
            length: self.length,
            entries_crc: self.entries_crc,
            object_crc: self.crc,
        };
        let summary = Summary {
            entries,
            length: self.length,
            entries_crc: self.entries_crc,
            size: self.written + FOOTER_BYTES as u64,
            object_crc: self.crc,
            index_place,
        };
        self.out.extend_from_slice(&footer.encode());
        Ok((self.out.freeze(), summary))
    }

    fn close_block(&mut self) {
        let count = u32::try_from(self.next.0 - self.block_first.0).expect("of a few MiB");
        let body = std::mem::take(&mut self.body);
        self.blocks.push(Placed {
            first_entry: self.block_first,
            first_offset: self.block_offset,
            place: self.written,
            length: u32::try_from(BLOCK_HEAD_BYTES + body.len()).expect("of a few MiB"),
            count,
            running_max_timestamp: self.newest,
        });
        self.put(&encode_block(self.block_first, count, &body));
    }

    fn put(&mut self, bytes: &[u8]) {
        self.crc = crc32c::crc32c_append(self.crc, bytes);
        self.written += bytes.len() as u64;
        self.out.extend_from_slice(bytes);
    }
}

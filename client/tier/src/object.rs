//! One object as a reader has it: its index in memory, and its blocks by one ranged read each.

use std::sync::Arc;

use bytes::Bytes;
use geminga_metastore::record::TierObject;
use geminga_proto::ids::LedgerId;

use crate::error::{FormatError, ObjectError};
use crate::format::{Block, FOOTER_BYTES, Footer, Header, Index, Placed};
use crate::store::Store;

/// An index is 40 bytes a MiB of its ledger: larger ones are none.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Bytes that a header fits in, with names of the usual lengths.
const HEADER_READ_BYTES: u64 = 1 << 10;

/// An object whose footer and index were read and agree with metadata.
#[derive(Debug, Clone)]
pub struct Object {
    ledger: LedgerId,
    at: Arc<TierObject>,
    footer: Footer,
    index: Arc<Index>,
}

impl Object {
    /// Reads the end of an object: one ranged read. It must be what metadata says that it is, bytes and sums.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn open(
        store: &Store,
        ledger: LedgerId,
        at: Arc<TierObject>,
    ) -> Result<Self, ObjectError> {
        let damaged =
            |why| ObjectError::from(FormatError::Damaged { what: "the object's metadata", why });
        let tail = at.size.checked_sub(at.index_place);
        let Some(tail) = tail.filter(|tail| *tail > FOOTER_BYTES as u64) else {
            return Err(damaged("the index does not fit in it"));
        };
        if tail > MAX_INDEX_BYTES {
            return Err(damaged("the index is too large"));
        }
        let bytes = store.read(&at, at.index_place..at.size).await?;
        let (index, footer) = bytes.split_at(bytes.len() - FOOTER_BYTES);
        let footer = Footer::decode(footer, at.size)?;
        if footer.object_crc != at.object_crc
            || footer.entries != at.entries
            || footer.index_place != at.index_place
        {
            return Err(damaged("it is not of the object that is there"));
        }
        let index = Arc::new(Index::decode(index, &footer)?);
        Ok(Self { ledger, at, footer, index })
    }

    /// The upload that made it.
    pub fn attempt(&self) -> u128 {
        self.at.attempt
    }

    /// What the whole comes to.
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Where its blocks are.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// What it takes in memory, about.
    pub fn bytes(&self) -> usize {
        self.index.bytes() + self.at.key.len() + size_of::<Self>()
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn header(&self, store: &Store) -> Result<Header, ObjectError> {
        let end = self.index.blocks().first().map_or(HEADER_READ_BYTES, |block| block.place);
        let bytes = store.read(&self.at, 0..end.min(self.at.size)).await?;
        let header = Header::decode(&bytes)?;
        if header.ledger != self.ledger || header.attempt != self.at.attempt {
            let why = "it is another ledger's, or another upload";
            return Err(FormatError::Damaged { what: "the header", why }.into());
        }
        Ok(header)
    }

    /// One of its blocks, by its place in the index.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn block(&self, store: &Store, number: usize) -> Result<Block, ObjectError> {
        let bytes = self.block_bytes(store, number).await?;
        Ok(self.decode(number, &bytes)?)
    }

    /// The bytes of one block, for [`Object::decode`], which judges them. Cancel-safe.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn block_bytes(&self, store: &Store, number: usize) -> Result<Bytes, ObjectError> {
        let placed = self.placed(number)?;
        let end = placed.place + u64::from(placed.length);
        store.read(&self.at, placed.place..end).await
    }

    /// One block from its bytes, wherever these were kept.
    ///
    /// # Errors
    /// [`FormatError`] when they are not those of the block that the index tells of.
    pub fn decode(&self, number: usize, bytes: &Bytes) -> Result<Block, FormatError> {
        Block::decode(bytes, &self.placed(number)?)
    }

    fn placed(&self, number: usize) -> Result<Placed, FormatError> {
        let missing = FormatError::Damaged { what: "the index", why: "there is no such block" };
        self.index.blocks().get(number).copied().ok_or(missing)
    }
}

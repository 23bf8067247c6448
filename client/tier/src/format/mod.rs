//! Bytes of a ledger's object (protocol 7.3). Big-endian throughout.
//!
//! ```text
//! object   header | block | block | … | index | footer, the last 96 bytes
//! header   u64 magic | u16 version | u16 0 | u32 length, crc included | [16] cluster | [16] attempt | u64 ledger
//!          | u8 qw | u8 qa | u8 digest kind | u8 0 | i64 last entry | [16] topic | u32 partition | i64 first offset
//!          | i32 term | u16 length, namespace | u16 length, name | u32 crc32c of all of it
//! block    u32 magic | u32 crc32c of what follows | i64 first entry | u32 count | u8 codec (0: as it is) | 3 × 0
//!          | u32 length of what follows | entries, each u32 length and its bytes as bookies hold them (D2)
//! index    40 bytes a block: i64 first entry | i64 first offset | u64 place | u32 length | u32 count
//!          | i64 running max timestamp of its last entry
//! footer   u64 magic | u16 version | 6 × 0 | u64 index place | u32 index length | u32 crc32c of the index
//!          | u64 entries | i64 last entry | u64 length | u64 entries_crc | u32 crc32c of everything before the footer
//!          | zeros | u32 crc32c of the footer
//! ```
//!
//! A block is about 1 MiB and holds at least one entry. Entries carry digests of their own, so a reader trusts neither the store
//! nor the block. An object is whole or it is none: the footer stands at its end, and metadata says where that is.

mod block;
mod footer;
mod header;
mod index;

pub use block::Block;
pub use footer::{FOOTER_BYTES, Footer};
pub use header::Header;
pub use index::{Index, Placed};

pub(crate) use block::{BLOCK_HEAD_BYTES, encode as encode_block};
pub(crate) use index::put as put_placed;

/// The version written today.
pub const VERSION: u16 = 1;
/// A block is closed when its entries take so much.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Checksum of a part.
pub(crate) fn crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

#[cfg(test)]
mod tests;

//! Kafka's codecs. Decompression reads at most one byte more than its limit, whatever the bytes promise.

use std::io::{Read, Write};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use crate::error::BatchError;
use crate::lz4;

/// How a batch's records are compressed. The numbers are Kafka's and on the wire: keep stable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Compression {
    /// Not at all.
    #[default]
    None = 0,
    /// RFC 1952.
    Gzip = 1,
    /// Snappy, in the framing of snappy-java on write; raw blocks are read as well.
    Snappy = 2,
    /// The LZ4 frame format.
    Lz4 = 3,
    /// RFC 8878.
    Zstd = 4,
}

/// snappy-java's magic.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
/// Its header: the magic, then its version and the oldest that can read it.
const XERIAL_HEADER_BYTES: usize = 16;
/// Its default block.
const XERIAL_BLOCK_BYTES: usize = 32 * 1024;
/// What the reference encoder never exceeds; a larger window would make us reserve more memory than any batch needs.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
const ZSTD_LEVEL: i32 = 3;

impl Compression {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// Kafka's number for it.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// The codec of that number.
    pub fn from_id(id: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.id() == id)
    }

    /// Kafka's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Appends `input`, compressed, to `out`.
    pub(crate) fn compress(self, input: &[u8], out: &mut BytesMut) {
        const MEMORY: &str = "writing into memory does not fail";
        match self {
            Self::None => out.extend_from_slice(input),
            Self::Gzip => {
                let level = flate2::Compression::default();
                let mut encoder = flate2::write::GzEncoder::new(out.writer(), level);
                encoder.write_all(input).expect(MEMORY);
                encoder.finish().expect(MEMORY);
            }
            Self::Snappy => compress_xerial(input, out),
            Self::Lz4 => {
                let info = FrameInfo::new()
                    .block_size(BlockSize::Max64KB)
                    .block_mode(BlockMode::Independent);
                let mut encoder = FrameEncoder::with_frame_info(info, out.writer());
                encoder.write_all(input).expect(MEMORY);
                encoder.finish().expect(MEMORY);
            }
            Self::Zstd => {
                let mut encoder =
                    zstd::stream::write::Encoder::new(out.writer(), ZSTD_LEVEL).expect(MEMORY);
                encoder.set_pledged_src_size(Some(input.len() as u64)).expect(MEMORY);
                encoder.write_all(input).expect(MEMORY);
                encoder.finish().expect(MEMORY);
            }
        }
    }

    /// The whole of `input`, decompressed.
    pub(crate) fn decompress(self, input: Bytes, limit: usize) -> Result<Bytes, BatchError> {
        match self {
            Self::None if input.len() > limit => Err(BatchError::Inflated(limit)),
            Self::None => Ok(input),
            Self::Gzip => {
                read_bounded(flate2::read::MultiGzDecoder::new(&input[..]), &input, limit)
            }
            Self::Snappy => decompress_snappy(&input, limit),
            Self::Lz4 => lz4::decompress(&input, limit),
            Self::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(&input[..]).map_err(broken)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(broken)?;
                read_bounded(decoder, &input, limit)
            }
        }
    }
}

pub(crate) fn broken(error: impl std::fmt::Display) -> BatchError {
    // Codecs' own messages may have line breaks; ours are one line.
    BatchError::Decompress(error.to_string().replace('\n', " "))
}

fn read_bounded(reader: impl Read, input: &Bytes, limit: usize) -> Result<Bytes, BatchError> {
    let mut out = Vec::with_capacity(input.len().saturating_mul(3).min(limit));
    reader.take(limit as u64 + 1).read_to_end(&mut out).map_err(broken)?;
    if out.len() > limit {
        return Err(BatchError::Inflated(limit));
    }
    // Whoever counts what it takes counts its length.
    out.shrink_to_fit();
    Ok(Bytes::from(out))
}

fn compress_xerial(input: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(XERIAL_MAGIC);
    out.put_i32(1);
    out.put_i32(1);
    let mut encoder = snap::raw::Encoder::new();
    for block in input.chunks(XERIAL_BLOCK_BYTES) {
        let packed = encoder.compress_vec(block).expect("a block of 32 KiB is within its limit");
        out.put_u32(u32::try_from(packed.len()).expect("a packed block is small"));
        out.extend_from_slice(&packed);
    }
}

fn decompress_snappy(input: &[u8], limit: usize) -> Result<Bytes, BatchError> {
    let mut out = Vec::new();
    if !input.starts_with(XERIAL_MAGIC) {
        append_block(input, limit, &mut out)?;
        return Ok(Bytes::from(out));
    }
    let mut rest =
        input.get(XERIAL_HEADER_BYTES..).ok_or_else(|| broken("the snappy header is cut short"))?;
    while rest.has_remaining() {
        let cut = || broken("a snappy block is cut short");
        if rest.remaining() < 4 {
            return Err(cut());
        }
        let len = usize::try_from(rest.get_u32()).map_err(broken)?;
        let (block, after) = rest.split_at_checked(len).ok_or_else(cut)?;
        append_block(block, limit, &mut out)?;
        rest = after;
    }
    Ok(Bytes::from(out))
}

fn append_block(block: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    let more = snap::raw::decompress_len(block).map_err(broken)?;
    let from = out.len();
    if more > limit.saturating_sub(from) {
        return Err(BatchError::Inflated(limit));
    }
    // A block promises its size: snappy packs at most 64 bytes into 3, so an impossible promise costs nothing.
    if more / 22 > block.len() {
        return Err(broken("a snappy block promises more than it can hold"));
    }
    out.resize(from + more, 0);
    let mut decoder = snap::raw::Decoder::new();
    let written = decoder.decompress(block, &mut out[from..]).map_err(broken)?;
    out.truncate(from + written);
    Ok(())
}

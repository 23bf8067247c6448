//! The LZ4 frame format, decompressed block by block into what it comes to. No buffer is as large as a frame says that its blocks may
//! be, which costs nothing to say: only as large as the bytes that are there can become.
//!
//! ```text
//!   magic 4 | flags 1 | sizes 1 | content size 8? | header checksum 1
//!   { block length 4, highest bit: stored as it is | block | block checksum 4? } … | 0 4 | content checksum 4?
//! ```

use bytes::Bytes;
use lz4_flex::block::{DecompressError, decompress_into_with_dict};
use xxhash_rust::xxh32::xxh32;

use crate::compression::broken;
use crate::error::BatchError;

const MAGIC: u32 = 0x184D_2204;
/// So far back a block may refer to the ones before it, where they are linked.
const WINDOW_BYTES: usize = 64 * 1024;
/// One byte of a block stands for so many at most: a step of a match's length.
const MOST_RATIO: usize = 255;
/// Of a block's length: the block is not compressed.
const STORED: u32 = 1 << 31;

/// All of `input`, which is any number of frames. At most `limit` bytes and as many again are reserved.
pub(crate) fn decompress(input: &[u8], limit: usize) -> Result<Bytes, BatchError> {
    let mut out = Vec::with_capacity(input.len().saturating_mul(3).min(limit));
    let mut rest = input;
    while !rest.is_empty() {
        append_frame(&mut rest, limit, &mut out)?;
    }
    // Whoever counts what it takes counts its length.
    out.shrink_to_fit();
    Ok(Bytes::from(out))
}

/// What a frame says of itself.
#[derive(Debug)]
struct Header {
    linked: bool,
    block_checksums: bool,
    content_checksum: bool,
    content_bytes: Option<u64>,
    /// Most that a block decompresses to.
    block_bytes: usize,
}

impl Header {
    fn take(rest: &mut &[u8]) -> Result<Self, BatchError> {
        if take_u32(rest)? != MAGIC {
            return Err(broken("no LZ4 frame"));
        }
        let described = *rest;
        let [flags, sizes] = take_array(rest)?;
        let has = |bit: u8| flags >> bit & 1 == 1;
        if flags >> 6 != 1 || has(1) || sizes & 0b1000_1111 != 0 {
            return Err(broken("an LZ4 frame of another version"));
        }
        if has(0) {
            return Err(broken("an LZ4 frame that needs a dictionary"));
        }
        let content_bytes = has(3).then(|| take_array(rest).map(u64::from_le_bytes)).transpose()?;
        let described = &described[..described.len() - rest.len()];
        let [checksum] = take_array(rest)?;
        if checksum != xxh32(described, 0).to_le_bytes()[1] {
            return Err(broken("the header of an LZ4 frame does not match its checksum"));
        }
        let block_bytes = match sizes >> 4 {
            class @ 4..=7 => (64 * 1024) << (2 * (class - 4)),
            _ => return Err(broken("an LZ4 frame with blocks of no size that there is")),
        };
        Ok(Self {
            linked: !has(5),
            block_checksums: has(4),
            content_checksum: has(2),
            content_bytes,
            block_bytes,
        })
    }
}

/// Takes one frame off `rest`.
fn append_frame(rest: &mut &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    let header = Header::take(rest)?;
    let begin = out.len();
    loop {
        let length = take_u32(rest)?;
        if length == 0 {
            break;
        }
        let bytes = usize::try_from(length & !STORED).map_err(broken)?;
        if bytes > header.block_bytes {
            return Err(broken("an LZ4 block is larger than its frame says"));
        }
        let block = take(rest, bytes)?;
        if header.block_checksums && take_u32(rest)? != xxh32(block, 0) {
            return Err(broken("an LZ4 block does not match its checksum"));
        }
        if length & STORED == 0 {
            append_block(block, &header, begin, limit, out)?;
        } else if block.len() > limit - out.len() {
            return Err(BatchError::Inflated(limit));
        } else {
            out.extend_from_slice(block);
        }
    }
    let content = &out[begin..];
    if header.content_bytes.is_some_and(|bytes| bytes != content.len() as u64) {
        return Err(broken("an LZ4 frame is not as long as it says"));
    }
    if header.content_checksum && take_u32(rest)? != xxh32(content, 0) {
        return Err(broken("an LZ4 frame does not match its checksum"));
    }
    Ok(())
}

/// Appends what a block decompresses to. `begin`: where its frame's content begins.
fn append_block(
    block: &[u8],
    header: &Header,
    begin: usize,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), BatchError> {
    let (from, left) = (out.len(), limit - out.len());
    let most = header.block_bytes.min(block.len() * MOST_RATIO);
    out.resize(from + most.min(left), 0);
    let (before, into) = out.split_at_mut(from);
    let window = if header.linked { begin.max(from.saturating_sub(WINDOW_BYTES)) } else { from };
    let written = match decompress_into_with_dict(block, into, &before[window..]) {
        Ok(written) => written,
        Err(DecompressError::OutputTooSmall { .. }) if most > left => {
            return Err(BatchError::Inflated(limit));
        }
        Err(error) => return Err(broken(error)),
    };
    out.truncate(from + written);
    Ok(())
}

fn take<'a>(rest: &mut &'a [u8], bytes: usize) -> Result<&'a [u8], BatchError> {
    let cut = || broken("an LZ4 frame is cut short");
    let (taken, after) = rest.split_at_checked(bytes).ok_or_else(cut)?;
    *rest = after;
    Ok(taken)
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BatchError> {
    Ok(take(rest, N)?.try_into().expect("as many as were asked for"))
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, BatchError> {
    take_array(rest).map(u32::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use proptest::prelude::*;

    use super::*;

    const SIZES: [BlockSize; 4] =
        [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB];

    fn pack(info: FrameInfo, plain: &[u8]) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    /// Frames of every kind, and what they are of: some of it repeats itself.
    fn frames() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let words = proptest::collection::vec((any::<u8>(), 1usize..5_000), 0..60);
        let kinds = (0..SIZES.len(), any::<[bool; 4]>());
        (words, kinds).prop_map(|(words, (size, [linked, blocks, content, length]))| {
            let word = |(byte, count): (u8, usize)| {
                let noise = (0..count).map(move |at| u8::try_from(at % 251).unwrap() ^ byte);
                if byte % 2 == 0 { vec![byte; count] } else { noise.collect() }
            };
            let plain: Vec<u8> = words.into_iter().flat_map(word).collect();
            let mode = if linked { BlockMode::Linked } else { BlockMode::Independent };
            let info = FrameInfo::new()
                .block_size(SIZES[size])
                .block_mode(mode)
                .block_checksums(blocks)
                .content_checksum(content)
                .content_size(length.then_some(plain.len() as u64));
            (pack(info, &plain), plain)
        })
    }

    proptest! {
        /// Whatever another writer of frames writes is read within its very length, and not within less; two frames are read as one.
        #[test]
        fn frames_of_another_writer_are_read((packed, plain) in frames()) {
            let whole = decompress(&packed, plain.len());
            prop_assert_eq!(whole, Ok(Bytes::from(plain.clone())));
            if let Some(less) = plain.len().checked_sub(1) {
                prop_assert_eq!(decompress(&packed, less), Err(BatchError::Inflated(less)));
            }
            let twice = decompress(&packed.repeat(2), 2 * plain.len());
            prop_assert_eq!(twice, Ok(Bytes::from(plain.repeat(2))));
        }

        /// Nothing is read beyond its end or the limit, whatever is changed.
        #[test]
        fn damaged_frames_do_no_harm(
            (mut packed, plain) in frames(),
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
            cut in any::<prop::sample::Index>(),
        ) {
            let limit = plain.len() / 2 + 100;
            prop_assert!(packed.is_empty() || decompress(&packed[..cut.index(packed.len())], plain.len()).map_or(true, |read| read.is_empty()));
            let at = at.index(packed.len());
            packed[at] ^= flip;
            prop_assert!(decompress(&packed, limit).map_or(true, |read| read.len() <= limit));
        }
    }

    /// A frame that says that its blocks may be of 4 MiB and has a few bytes takes what these can become.
    #[test]
    fn what_a_frame_announces_costs_nothing() {
        for mode in [BlockMode::Linked, BlockMode::Independent] {
            let info = FrameInfo::new().block_size(BlockSize::Max4MB).block_mode(mode);
            let packed = pack(info, &[7; 1_000]);
            let mut out = Vec::new();
            append_frame(&mut &packed[..], usize::MAX, &mut out).unwrap();
            assert_eq!(out, [7; 1_000]);
            assert!(out.capacity() <= packed.len() * MOST_RATIO, "{}", out.capacity());
        }
        // A block that is not there.
        let head = pack(FrameInfo::new().block_size(BlockSize::Max4MB), &[]);
        let mut claims = head[..head.len() - 4].to_vec();
        claims.extend_from_slice(&(4u32 << 20).to_le_bytes());
        let mut out = Vec::new();
        assert!(append_frame(&mut &claims[..], usize::MAX, &mut out).is_err());
        assert_eq!(out.capacity(), 0);
    }

    #[test]
    fn frames_that_are_not_read_are_told_apart() {
        let good = pack(FrameInfo::new().content_checksum(true), b"geminga");
        let changed = |at: usize, to: u8| {
            let mut bad = good.clone();
            bad[at] = to;
            decompress(&bad, 1_000).expect_err("it is changed").to_string()
        };
        let told = [
            (0, 0, "no LZ4 frame"),
            (4, 0, "another version"),
            (4, 0b0100_0001, "dictionary"),
            (6, good[6] ^ 1, "header"),
            (good.len() - 1, good[good.len() - 1] ^ 1, "match its checksum"),
        ];
        for (at, to, why) in told {
            assert!(changed(at, to).contains(why), "{}", changed(at, to));
        }
    }
}

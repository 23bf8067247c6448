//! Writes around the page cache (`O_DIRECT`). The kernel takes whole blocks from aligned memory only, so what is written is
//! gathered in a buffer of the file's own, which is the one copy that the page cache would have made, too.
//!
//! The buffer is as large as the largest write so far, up to [`MAX_BUFFER`]; larger writes go in steps.

use std::fs::File;
use std::io::{self, IoSlice};

use rustix::io::{pwrite, retry_on_intr};

/// Writes begin and end at multiples of this; what a log's frames are made of.
const BLOCK: usize = 512;
/// Memory is aligned to this, which suits every disk.
const PAGE: usize = 4096;
/// Most bytes in one call: a whole group commit but for the rarest.
const MAX_BUFFER: usize = 4 << 20;

/// One file's way around the page cache.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    /// Larger than what is used of it by a page, to be cut at an aligned address.
    buffer: Vec<u8>,
}

impl Direct {
    /// `file` was opened for direct writes.
    pub(super) fn new(file: File) -> Self {
        Self { file, buffer: Vec::new() }
    }

    /// Whether it can write so many bytes there: whole blocks, at a block's beginning.
    pub(super) fn takes(offset: u64, bytes: usize) -> bool {
        bytes > 0 && bytes.is_multiple_of(BLOCK) && offset.is_multiple_of(BLOCK as u64)
    }

    /// Writes all parts, end to end.
    ///
    /// # Errors
    /// What the system says; a short write.
    pub(super) fn write(&mut self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        let Self { file, buffer } = self;
        let buffer = aligned(buffer, bytes.min(MAX_BUFFER));
        let mut at = offset;
        let mut filled = 0;
        for part in parts {
            let mut rest: &[u8] = part;
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(buffer.len() - filled));
                buffer[filled..filled + now.len()].copy_from_slice(now);
                filled += now.len();
                rest = later;
                if filled == buffer.len() {
                    write_block(file, buffer, at)?;
                    at += filled as u64;
                    filled = 0;
                }
            }
        }
        write_block(file, &buffer[..filled], at)
    }

    /// Writes zeros; the range is one that it takes.
    ///
    /// # Errors
    /// As [`Direct::write`].
    pub(super) fn write_zeros(&mut self, offset: u64, bytes: usize) -> io::Result<()> {
        let Self { file, buffer } = self;
        let zeros = aligned(buffer, bytes.min(MAX_BUFFER));
        zeros.fill(0);
        for step in (0..bytes).step_by(zeros.len().max(1)) {
            let length = zeros.len().min(bytes - step);
            write_block(file, &zeros[..length], offset + step as u64)?;
        }
        Ok(())
    }
}

fn write_block(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    if !bytes.is_empty() && retry_on_intr(|| pwrite(file, bytes, at))? != bytes.len() {
        return Err(io::Error::new(io::ErrorKind::WriteZero, "the disk took a part only"));
    }
    Ok(())
}

/// So many bytes of the buffer, at an aligned address.
fn aligned(buffer: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    if buffer.len() < bytes + PAGE {
        *buffer = vec![0; bytes.next_power_of_two() + PAGE];
    }
    let start = buffer.as_ptr().align_offset(PAGE);
    &mut buffer[start..start + bytes]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks() {
        let takes = Direct::takes;
        assert!(takes(1024, 512));
        assert!(!takes(1024, 100) && !takes(1000, 512) && !takes(0, 0));
    }

    #[test]
    fn memory_is_aligned_whatever_its_size() {
        let mut buffer = Vec::new();
        for bytes in [512, 5_120, 4_096, MAX_BUFFER, 512] {
            let cut = aligned(&mut buffer, bytes);
            assert_eq!((cut.len(), cut.as_ptr().align_offset(PAGE)), (bytes, 0));
        }
    }
}

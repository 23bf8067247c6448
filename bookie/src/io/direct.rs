//! Writes around the page cache (`O_DIRECT`). The kernel takes whole blocks from aligned memory only, so what is written is
//! gathered in a buffer, which is the one copy that the page cache would have made, too.
//!
//! A disk's files share a few buffers of [`MAX_BUFFER`]; larger writes go in steps. They are of huge pages where the system
//! has some: a request to a disk names so many pieces of memory at most, and a buffer of ordinary pages is that many
//! requests more.

use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;

use memmap2::{Advice, MmapMut};
use parking_lot::Mutex;
use rustix::io::{pwrite, retry_on_intr};

/// Writes begin and end at multiples of this; what a log's frames are made of.
const BLOCK: usize = 512;
/// Memory is aligned to this: a huge page, which suits every disk.
const ALIGNMENT: usize = 2 << 20;
/// Most bytes in one call: a whole group commit but for the rarest.
const MAX_BUFFER: usize = 4 << 20;
/// Buffers that are kept for the next write: the log's, and that of the segment that is made meanwhile.
const KEPT: usize = 2;

/// The buffers of one disk; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Arc<Mutex<Vec<Buffer>>>);

impl Buffers {
    fn take(&self) -> io::Result<Buffer> {
        let kept = self.0.lock().pop();
        kept.map_or_else(Buffer::new, Ok)
    }

    fn give(&self, buffer: Buffer) {
        let mut kept = self.0.lock();
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }
}

/// Aligned memory; what was not used of it takes none.
#[derive(Debug)]
struct Buffer(MmapMut);

impl Buffer {
    fn new() -> io::Result<Self> {
        let memory = MmapMut::map_anon(MAX_BUFFER + ALIGNMENT)?;
        // Where it cannot be had, it is slower and nothing else.
        if let Err(error) = memory.advise(Advice::HugePage) {
            tracing::debug!(%error, "no huge pages for writes");
        }
        Ok(Self(memory))
    }

    fn bytes(&mut self) -> &mut [u8] {
        let start = self.0.as_ptr().align_offset(ALIGNMENT);
        &mut self.0[start..start + MAX_BUFFER]
    }
}

/// One file's way around the page cache.
#[derive(Debug)]
pub(super) struct Direct {
    file: File,
    buffers: Buffers,
}

impl Direct {
    /// `file` was opened for direct writes.
    pub(super) fn new(file: File, buffers: Buffers) -> Self {
        Self { file, buffers }
    }

    /// Whether it can write so many bytes there: whole blocks, at a block's beginning.
    pub(super) fn takes(offset: u64, bytes: usize) -> bool {
        bytes > 0 && bytes.is_multiple_of(BLOCK) && offset.is_multiple_of(BLOCK as u64)
    }

    /// Writes all parts, end to end.
    ///
    /// # Errors
    /// What the system says; a short write.
    pub(super) fn write(&self, offset: u64, parts: &[IoSlice<'_>]) -> io::Result<()> {
        self.with_buffer(|buffer| {
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
                        write_block(&self.file, buffer, at)?;
                        at += filled as u64;
                        filled = 0;
                    }
                }
            }
            write_block(&self.file, &buffer[..filled], at)
        })
    }

    /// Writes zeros; the range is one that it takes.
    ///
    /// # Errors
    /// As [`Direct::write`].
    pub(super) fn write_zeros(&self, offset: u64, bytes: usize) -> io::Result<()> {
        self.with_buffer(|buffer| {
            let zeros = &mut buffer[..bytes.min(MAX_BUFFER)];
            zeros.fill(0);
            for step in (0..bytes).step_by(zeros.len().max(1)) {
                let length = zeros.len().min(bytes - step);
                write_block(&self.file, &zeros[..length], offset + step as u64)?;
            }
            Ok(())
        })
    }

    fn with_buffer(&self, write: impl FnOnce(&mut [u8]) -> io::Result<()>) -> io::Result<()> {
        let mut buffer = self.buffers.take()?;
        let written = write(buffer.bytes());
        self.buffers.give(buffer);
        written
    }
}

fn write_block(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    if !bytes.is_empty() && retry_on_intr(|| pwrite(file, bytes, at))? != bytes.len() {
        return Err(io::Error::new(io::ErrorKind::WriteZero, "the disk took a part only"));
    }
    Ok(())
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
    fn memory_is_aligned_and_shared() {
        let buffers = Buffers::default();
        let mut held: Vec<_> = (0..3).map(|_| buffers.take().unwrap()).collect();
        for buffer in &mut held {
            let bytes = buffer.bytes();
            assert_eq!((bytes.len(), bytes.as_ptr().align_offset(ALIGNMENT)), (MAX_BUFFER, 0));
        }
        held.into_iter().for_each(|buffer| buffers.give(buffer));
        assert_eq!(buffers.0.lock().len(), KEPT);
    }
}

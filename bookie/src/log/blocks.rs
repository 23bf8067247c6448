//! Read-ahead for readers that are behind: what is read of a full segment is read in large blocks, which stay for a while. Where
//! ledgers alternate in a segment, a block holds what the next read of this one wants, and what the readers of the others
//! do: they come for it at the same time, and one of them reads it. Meanwhile the system fetches the next. Bounded; the
//! oldest go first.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

use crate::io::DiskFile;

/// Bytes of a block; they begin at multiples of it.
pub(super) const BLOCK_BYTES: u64 = 1024 * 1024;

/// Blocks of segments that do not change any more.
#[derive(Debug)]
pub(super) struct Blocks {
    /// Most of them.
    limit: usize,
    kept: Mutex<Kept>,
}

/// A block, once somebody has read it; locked while one does.
type Slot = Arc<Mutex<Option<Bytes>>>;

#[derive(Debug, Default)]
struct Kept {
    blocks: HashMap<(u64, u64), Slot>,
    order: VecDeque<(u64, u64)>,
}

impl Blocks {
    /// Keeps up to so many bytes; below one block, nothing.
    pub(super) fn new(bytes: usize) -> Self {
        Self { limit: bytes / BLOCK_BYTES as usize, kept: Mutex::default() }
    }

    /// Whether it keeps any.
    pub(super) fn is_in_use(&self) -> bool {
        self.limit > 0
    }

    /// `bytes` of a segment's file from `offset` on. Blocks.
    ///
    /// # Errors
    /// What the disk says; `UnexpectedEof` when the file ends before.
    pub(super) fn read(
        &self,
        segment: u64,
        file: &dyn DiskFile,
        offset: u64,
        bytes: usize,
    ) -> io::Result<Bytes> {
        let end = offset + bytes as u64;
        let mut read = BytesMut::with_capacity(bytes);
        let mut at = offset;
        while at < end {
            let number = at / BLOCK_BYTES;
            let block = self.block(segment, file, number)?;
            let from = usize::try_from(at - number * BLOCK_BYTES).expect("within a block");
            let part = block.get(from..).filter(|part| !part.is_empty());
            let part = part.ok_or(io::ErrorKind::UnexpectedEof)?;
            let part = &part[..part.len().min(bytes - read.len())];
            if part.len() == bytes {
                return Ok(block.slice(from..from + bytes));
            }
            read.extend_from_slice(part);
            at += part.len() as u64;
        }
        Ok(read.freeze())
    }

    fn block(&self, segment: u64, file: &dyn DiskFile, number: u64) -> io::Result<Bytes> {
        let slot = self.slot((segment, number));
        let mut read = slot.lock();
        if let Some(block) = &*read {
            return Ok(block.clone());
        }
        file.will_read((number + 1) * BLOCK_BYTES, BLOCK_BYTES);
        let block = read_block(file, number)?;
        *read = Some(block.clone());
        Ok(block)
    }

    /// Where a block is, or will be. One that could not be read stays empty: the next who wants it tries again.
    fn slot(&self, key: (u64, u64)) -> Slot {
        let mut kept = self.kept.lock();
        if let Some(slot) = kept.blocks.get(&key) {
            return Arc::clone(slot);
        }
        let slot = Slot::default();
        kept.blocks.insert(key, Arc::clone(&slot));
        kept.order.push_back(key);
        while kept.order.len() > self.limit
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.blocks.remove(&oldest);
        }
        slot
    }

    /// Drops a segment's.
    pub(super) fn forget(&self, segment: u64) {
        let mut kept = self.kept.lock();
        kept.order.retain(|(one, _)| *one != segment);
        kept.blocks.retain(|(one, _), _| *one != segment);
    }
}

/// A whole block, or what the file has of it.
fn read_block(file: &dyn DiskFile, number: u64) -> io::Result<Bytes> {
    let mut buffer = BytesMut::zeroed(BLOCK_BYTES as usize);
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(number * BLOCK_BYTES + filled as u64, &mut buffer[filled..])? {
            0 => break,
            some => filled += some,
        }
    }
    buffer.truncate(filled);
    Ok(buffer.freeze())
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::io::{Disk, FaultyDisk, MemoryDisk, Op};

    #[test]
    fn reads_across_blocks_and_up_to_the_end() {
        let disk = MemoryDisk::new();
        let file = disk.create("a").unwrap();
        let block = BLOCK_BYTES as usize;
        let content: Vec<u8> = (0..2 * block + 1000).map(|i| (i % 251) as u8).collect();
        file.write_all_at(0, &[IoSlice::new(&content)]).unwrap();
        let blocks = Blocks::new(block);
        for (from, bytes) in [(0, 10), (block - 5, 10), (5, 2 * block), (2 * block, 1000), (7, 0)] {
            let read = blocks.read(1, &*file, from as u64, bytes).unwrap();
            assert_eq!(read, content[from..from + bytes], "{from} {bytes}");
        }
        assert_eq!(blocks.kept.lock().blocks.len(), 1, "bounded");
        let behind = blocks.read(1, &*file, 2 * BLOCK_BYTES + 990, 11).unwrap_err();
        assert_eq!(behind.kind(), io::ErrorKind::UnexpectedEof);
        blocks.forget(1);
        assert!(blocks.kept.lock().blocks.is_empty() && blocks.kept.lock().order.is_empty());
    }
    /// Readers that come for the same block at the same time cost one read.
    #[test]
    fn one_reads_for_all() {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let file = disk.create("a").unwrap();
        file.write_all_at(0, &[IoSlice::new(&[7; 1000])]).unwrap();
        let blocks = Blocks::new(BLOCK_BYTES as usize);
        disk.hold(Op::Read);
        std::thread::scope(|scope| {
            let read = || blocks.read(1, &*file, 0, 1000).unwrap();
            let readers = [scope.spawn(read), scope.spawn(read), scope.spawn(read)];
            disk.wait_held(Op::Read);
            // All three are on their way to it: the map, this one, one that reads, two that wait.
            let slot = blocks.slot((1, 0));
            while Arc::strong_count(&slot) < 5 {
                std::thread::yield_now();
            }
            // One call finds the block and one the end of the file; a third is too many.
            disk.fail(Op::Read, 2, io::ErrorKind::Other);
            disk.release(Op::Read);
            for reader in readers {
                assert_eq!(reader.join().unwrap(), [7; 1000][..]);
            }
        });
    }
}

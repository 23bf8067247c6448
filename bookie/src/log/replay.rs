//! Opening a log: reads all segments, rebuilds ledgers and index, and tells a torn tail from corruption (K5, K8).
//!
//! Frames are numbered densely from 1 over all segments, and a segment ends where the first frame of the next begins.
//! The scan stops at frame `k`, the first that is not there. Frames behind it that are whole decide: if one says that
//! frame `k` was durable when it was built, `k` may have been acknowledged, and opening is refused without a change to
//! the disk. Otherwise `k` and everything behind it was in flight when the process or the machine stopped, nobody was
//! told of it, and it is removed: [`Repair`] cuts the segment after frame `k - 1` and removes later ones, so that what
//! is left of frames that were in flight can never be taken for frames of the log as it goes on.
//!
//! A frame that was found is not durable for that reason alone: after a killed process it may stand in the page cache
//! only, and where a sync failed the cache may call it clean. So frames that no later frame vouches for are written
//! again before anything is reported (K5, K6).

use std::collections::BTreeMap;
use std::io::{self, IoSlice};

use bytes::{Bytes, BytesMut};
use geminga_proto::ids::LedgerId;

use super::error::OpenError;
use super::format::{self, BadHeader, Frame, HEADER_BYTES, Item, Seed};
use super::index::{Index, Place};
use super::mutation::{Mutation, Mutations};
use super::segment::{self, Named};
use super::{Identity, io_error};
use crate::io::Disk;
use crate::ledger::{LedgerState, Record};

/// Number of the first frame of a log.
pub(super) const FIRST_FRAME: u64 = 1;
/// Larger than any segment that was ever written: a file is read into memory only below it.
const MAX_SEGMENT_BYTES: u64 = 2 << 30;

/// What a log's segments say.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) ledgers: BTreeMap<LedgerId, LedgerState>,
    pub(super) index: Index,
    /// Where the log goes on.
    pub(super) next_frame: u64,
    /// Above every segment's number, unfinished ones included.
    pub(super) next_segment: u64,
    /// What must be done to the disk first.
    pub(super) repair: Repair,
    /// Segments that stay.
    pub(super) segments: usize,
}

/// How to bring the disk to the state that was found; repeating a part of it does no harm.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Files to remove, in this order: later segments first.
    remove: Vec<String>,
    /// Frames that nothing vouches for: segment, offset, bytes.
    rewrite: Vec<(u64, u64, Bytes)>,
    /// The last segment and its new length.
    cut: Option<(u64, u64)>,
}

impl Repair {
    /// Changes the disk. After an error the next opening finds the same log, or one with less to repair.
    pub(super) fn run(&self, disk: &dyn Disk, mutations: Mutations) -> Result<(), OpenError> {
        if !mutations.is(Mutation::KeepStaleTail) {
            for name in &self.remove {
                disk.remove(name).map_err(io_error("remove", name))?;
                // One by one: a later segment must never survive an earlier one.
                disk.sync_dir().map_err(io_error("sync the directory after removing", name))?;
            }
            if let Some((seq, bytes)) = self.cut {
                let name = segment::file_name(seq);
                let cut = disk.open(&name).and_then(|file| file.set_len(bytes));
                cut.map_err(io_error("cut", &name))?;
            }
        }
        if mutations.is(Mutation::TrustFoundTail) {
            return Ok(());
        }
        for (seq, offset, bytes) in &self.rewrite {
            let name = segment::file_name(*seq);
            let file = disk.open(&name).map_err(io_error("open", &name))?;
            let written = file.write_all_at(*offset, &[IoSlice::new(bytes)]);
            written.map_err(io_error("write", &name))?;
            file.sync_data().map_err(io_error("sync", &name))?;
        }
        Ok(())
    }
}

/// One segment's file in memory.
#[derive(Debug)]
struct Loaded {
    seq: u64,
    bytes: Bytes,
}

impl Loaded {
    fn read(disk: &dyn Disk, identity: &Identity, seq: u64) -> Result<Self, OpenError> {
        let name = segment::file_name(seq);
        let read = || -> io::Result<Option<Bytes>> {
            let file = disk.open(&name)?;
            let size = file.size()?;
            if size > MAX_SEGMENT_BYTES {
                return Ok(None);
            }
            let size = usize::try_from(size).expect("a segment fits in memory");
            let mut buffer = BytesMut::zeroed(size);
            file.read_exact_at(0, &mut buffer)?;
            Ok(Some(buffer.freeze()))
        };
        let bytes = read().map_err(io_error("read", &name))?;
        let bytes = bytes.ok_or_else(|| corrupt(seq, 0, "the file is larger than any segment"))?;
        format::check_header(&bytes, identity, seq).map_err(|bad| match bad {
            BadHeader::Damaged => corrupt(seq, 0, "its header is not whole"),
            BadHeader::Version(version) => OpenError::Version { segment: seq, version },
            BadHeader::Foreign(what) => OpenError::Foreign { segment: seq, what },
        })?;
        Ok(Self { seq, bytes })
    }

    fn frame(&self, offset: usize, seed: Seed) -> Option<Frame> {
        format::decode_frame(&self.bytes, offset, self.seq, seed)
    }

    /// Whether a whole frame at or behind `offset` vouches for frame `lost`.
    fn vouches_for(&self, lost: u64, offset: usize, seed: Seed) -> bool {
        let mut at = offset;
        while at < self.bytes.len() {
            match self.frame(at, seed) {
                Some(frame) if frame.head.durable_upto >= lost => return true,
                Some(frame) => at = frame.end,
                None => at += format::ALIGNMENT,
            }
        }
        false
    }
}

/// Reads the whole log. Changes nothing.
pub(super) fn scan(
    disk: &dyn Disk,
    identity: &Identity,
    mutations: Mutations,
) -> Result<Found, OpenError> {
    let (segments, mut remove) = list(disk)?;
    let highest =
        remove.iter().filter_map(|name| segment::parse_name(name)).map(|named| match named {
            Named::Segment(seq) | Named::Unfinished(seq) => seq,
        });
    let next_segment = highest.chain(segments.iter().copied()).max().map_or(1, |seq| seq + 1);

    let mut scan = Scan::new(disk, identity);
    let stop = scan.frames(&segments)?;
    if !mutations.is(Mutation::SkipLookAhead) {
        scan.look_ahead(&segments, &stop)?;
    }
    // A segment without a frame of the log goes as a whole.
    let keep = if stop.offset > HEADER_BYTES { stop.index + 1 } else { stop.index };
    let keep = keep.min(segments.len());
    remove.extend(segments[keep..].iter().rev().map(|seq| segment::file_name(*seq)));
    let cut = (keep > stop.index).then(|| (segments[stop.index], stop.offset as u64));
    Ok(Found {
        ledgers: scan.ledgers,
        index: scan.index,
        next_frame: scan.expected,
        next_segment,
        repair: Repair { remove, rewrite: scan.unvouched, cut },
        segments: keep,
    })
}

/// Segments in order, and files that were never finished.
fn list(disk: &dyn Disk) -> Result<(Vec<u64>, Vec<String>), OpenError> {
    let (mut segments, mut unfinished) = (Vec::new(), Vec::new());
    for name in disk.list().map_err(io_error("list", "the data directory"))? {
        match segment::parse_name(&name) {
            Some(Named::Segment(seq)) => segments.push(seq),
            Some(Named::Unfinished(_)) => unfinished.push(name),
            None => {}
        }
    }
    segments.sort_unstable();
    Ok((segments, unfinished))
}

/// Where the first frame is missing.
#[derive(Debug)]
struct Stop {
    /// Of the segment in the list; its length when there is none.
    index: usize,
    offset: usize,
}

struct Scan<'a> {
    disk: &'a dyn Disk,
    identity: &'a Identity,
    seed: Seed,
    expected: u64,
    /// Highest frame that a later one vouches for.
    durable_upto: u64,
    unvouched: Vec<(u64, u64, Bytes)>,
    ledgers: BTreeMap<LedgerId, LedgerState>,
    index: Index,
}

impl<'a> Scan<'a> {
    fn new(disk: &'a dyn Disk, identity: &'a Identity) -> Self {
        Self {
            disk,
            identity,
            seed: Seed::of(identity),
            expected: FIRST_FRAME,
            durable_upto: FIRST_FRAME - 1,
            unvouched: Vec::new(),
            ledgers: BTreeMap::new(),
            index: Index::default(),
        }
    }

    fn load(&self, seq: u64) -> Result<Loaded, OpenError> {
        Loaded::read(self.disk, self.identity, seq)
    }

    /// Applies frames in order until one is missing.
    fn frames(&mut self, segments: &[u64]) -> Result<Stop, OpenError> {
        let mut stop = Stop { index: 0, offset: HEADER_BYTES };
        let Some(&first) = segments.first() else { return Ok(stop) };
        let mut current = self.load(first)?;
        loop {
            let next = segments.get(stop.index + 1).map(|seq| self.load(*seq)).transpose()?;
            let begins = |segment: &Loaded| Some(segment.frame(HEADER_BYTES, self.seed)?.head.seq);
            let until = next.as_ref().and_then(begins);
            if let (Some(next), Some(until)) = (&next, until)
                && (until < self.expected || begins(&current) == Some(until))
            {
                // No crash leaves this, and neither of the two may be dropped.
                return Err(corrupt(next.seq, HEADER_BYTES, "it repeats the segment before it"));
            }
            stop.offset = self.segment(&current, until)?;
            match next {
                Some(next) if until == Some(self.expected) => current = next,
                _ => return Ok(stop),
            }
            stop.index += 1;
        }
    }

    /// Applies a segment's frames up to frame `until`, or as many as there are; where they end.
    fn segment(&mut self, segment: &Loaded, until: Option<u64>) -> Result<usize, OpenError> {
        let mut offset = HEADER_BYTES;
        while until != Some(self.expected) {
            let Some(frame) = segment.frame(offset, self.seed) else { break };
            if frame.head.seq != self.expected {
                break;
            }
            self.apply(segment, offset, &frame)?;
            offset = frame.end;
            self.expected += 1;
        }
        Ok(offset)
    }

    fn apply(&mut self, segment: &Loaded, offset: usize, frame: &Frame) -> Result<(), OpenError> {
        if frame.head.durable_upto > self.durable_upto {
            self.durable_upto = frame.head.durable_upto;
            // What is left was in flight together with this frame.
            let in_flight = frame.head.seq - 1 - frame.head.durable_upto;
            let vouched = self.unvouched.len().saturating_sub(in_flight as usize);
            self.unvouched.drain(..vouched);
        }
        let end = frame.end.min(segment.bytes.len());
        self.unvouched.push((segment.seq, offset as u64, segment.bytes.slice(offset..end)));

        let body = offset + format::FRAME_HEAD_BYTES;
        let placed = format::decode_body(&frame.body, self.seed)
            .map_err(|malformed| corrupt(segment.seq, offset, malformed.0))?;
        for placed in placed {
            let Item::Ledger { ledger, record } = placed.item else { continue };
            let state = self.ledgers.entry(ledger).or_insert_with(|| LedgerState::unknown(ledger));
            state.apply(&record);
            match record {
                Record::Entries { first, entries, .. } if !entries.is_empty() => {
                    let head = format::entries_head_bytes(entries.len());
                    let place = Place {
                        segment: segment.seq,
                        offset: (body + placed.offset) as u64,
                        length: u32::try_from(placed.length).expect("a record fits in a frame"),
                        head: u32::try_from(head).expect("a record fits in a frame"),
                    };
                    self.index.insert(ledger, first, entries.len(), place);
                }
                Record::Tombstone => self.index.remove(ledger),
                Record::Entries { .. }
                | Record::RunStart { .. }
                | Record::Seal { .. }
                | Record::Closed { .. } => {}
            }
        }
        Ok(())
    }

    /// K8: refuses when a frame behind the stop says that the missing one had been durable.
    fn look_ahead(&self, segments: &[u64], stop: &Stop) -> Result<(), OpenError> {
        let mut offset = stop.offset;
        for &seq in segments.get(stop.index..).unwrap_or_default() {
            if self.load(seq)?.vouches_for(self.expected, offset, self.seed) {
                let why = "a frame is missing that later frames say was on stable storage";
                return Err(corrupt(segments[stop.index], stop.offset, why));
            }
            offset = HEADER_BYTES;
        }
        Ok(())
    }
}

fn corrupt(segment: u64, offset: usize, why: &'static str) -> OpenError {
    OpenError::Corrupt { segment, offset: offset as u64, why }
}

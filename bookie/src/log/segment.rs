//! Segment files: names, creation, and a supply of them made ahead of need.
//!
//! A segment is made under another name: header, then zeros up to its size, synced; only then it gets its name, and
//! the directory is synced (K7). So a file with a segment's name always has a whole header, and appends overwrite
//! blocks that were written before, which is what makes a sync cheap.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use super::format::{self, HEADER_BYTES};
use super::mutation::{Mutation, Mutations};
use super::spares::{self, Spares};
use super::{Config, Identity};
use crate::io::{Disk, DiskFile};

/// Zeros are synced in steps, so that they never pile up in front of a group commit.
const SYNC_BYTES: u64 = 8 << 20;

/// No log comes this far; a file with a larger number is none of ours.
const MAX_SEQ: u64 = u32::MAX as u64 - 1;

/// A segment's number as the index keeps it.
pub(super) fn short(seq: u64) -> u32 {
    u32::try_from(seq).expect("names and the supply keep to MAX_SEQ")
}

/// A segment that takes appends.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) seq: u64,
    pub(super) file: Arc<dyn DiskFile>,
    /// Bytes up to which it is filled.
    pub(super) bytes: u64,
}

/// What a file of the directory is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// A segment.
    Segment(u64),
    /// One that was being made.
    Unfinished(u64),
    /// One that segments can be made of.
    Spare,
}

/// The file of a segment.
pub(super) fn file_name(seq: u64) -> String {
    format!("{seq:016x}.log")
}

/// Its file while it is being made.
pub(super) fn unfinished_name(seq: u64) -> String {
    format!("{seq:016x}.new")
}

/// A file that is set aside.
pub(super) fn spare_name(number: u64) -> String {
    format!("{number:016x}.spare")
}

/// The number of the spare file of this name.
pub(super) fn parse_spare(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(".spare")?, 16).ok()
}

/// What a name says; `None` for files of others.
pub(super) fn parse_name(name: &str) -> Option<Named> {
    let (digits, extension) = name.split_once('.')?;
    let seq = u64::from_str_radix(digits, 16).ok()?;
    let named = match extension {
        "log" => Named::Segment(seq),
        "new" => Named::Unfinished(seq),
        "spare" => Named::Spare,
        _ => return None,
    };
    if seq > MAX_SEQ {
        return None;
    }
    let canonical =
        digits.len() == 16 && !digits.bytes().any(|b| b.is_ascii_uppercase() || b == b'+');
    canonical.then_some(named)
}

/// Makes segments of one log.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) identity: Identity,
    pub(super) spares: Arc<Spares>,
    pub(super) mutations: Mutations,
}

impl Maker {
    /// A new segment of `bytes`, or more; gives up when `stop` is set. Made of a spare file where there is one, of the reserve
    /// where the disk is full.
    pub(super) fn make(&self, seq: u64, bytes: u64, stop: &AtomicBool) -> io::Result<Segment> {
        if bytes == self.spares.bytes()
            && let Some(file) = self.spares.take(seq, false)?
        {
            return self.make_of(file, seq);
        }
        match self.make_new(seq, bytes, stop) {
            Err(error) if spares::is_full(&error) => {
                // What was begun takes room that is missing.
                self.disk.remove(&unfinished_name(seq)).or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                })?;
                match self.spares.take(seq, true)? {
                    Some(file) => self.make_of(file, seq),
                    None => Err(error),
                }
            }
            made => made,
        }
    }

    /// Only the header is new: what is behind it belongs to another segment's number.
    fn make_of(&self, file: Arc<dyn DiskFile>, seq: u64) -> io::Result<Segment> {
        let header = format::encode_header(&self.identity, seq);
        file.write_all_at(0, &[IoSlice::new(&header)])?;
        let bytes = file.size()?;
        self.finish(file, seq, bytes)
    }

    fn make_new(&self, seq: u64, bytes: u64, stop: &AtomicBool) -> io::Result<Segment> {
        let file = self.disk.create(&unfinished_name(seq))?;
        let header = format::encode_header(&self.identity, seq);
        file.write_all_at(0, &[IoSlice::new(&header)])?;
        let mut at = HEADER_BYTES as u64;
        while at < bytes {
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if at > HEADER_BYTES as u64 {
                file.sync_data()?;
            }
            let step = (bytes - at).min(SYNC_BYTES);
            file.write_zeros_at(at, step)?;
            at += step;
        }
        self.finish(file, seq, bytes)
    }

    fn finish(&self, file: Arc<dyn DiskFile>, seq: u64, bytes: u64) -> io::Result<Segment> {
        file.sync_data()?;
        self.disk.rename(&unfinished_name(seq), &file_name(seq))?;
        if !self.mutations.is(Mutation::SkipDirSync) {
            self.disk.sync_dir()?;
        }
        Ok(Segment { seq, file, bytes })
    }
}

/// Where the next segment comes from.
#[derive(Debug)]
pub(super) enum Supply {
    /// A thread keeps one ready.
    Ahead(Ahead),
    /// It is made when it is asked for.
    #[cfg(feature = "simulation")]
    OnDemand(OnDemand),
}

impl Supply {
    /// The next segment; waits while it is being made.
    pub(super) fn next(&mut self) -> io::Result<Segment> {
        match self {
            Self::Ahead(ahead) => ahead.next(),
            #[cfg(feature = "simulation")]
            Self::OnDemand(on_demand) => on_demand.next(),
        }
    }
}

/// Makes segments on the thread that asks, for a log that is stepped.
#[cfg(feature = "simulation")]
#[derive(Debug)]
pub(super) struct OnDemand {
    maker: Maker,
    bytes: u64,
    next: u64,
    ready: Option<Segment>,
}

#[cfg(feature = "simulation")]
impl OnDemand {
    /// Starts with segment `first`.
    pub(super) fn new(maker: Maker, config: &Config, first: u64) -> Self {
        Self { maker, bytes: config.segment_bytes, next: first, ready: None }
    }

    /// Makes the next segment, as the thread would have done meanwhile.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        if self.ready.is_none() {
            let seq = self.next;
            self.next += 1;
            self.ready = Some(self.maker.make(seq, self.bytes, &AtomicBool::new(false))?);
        }
        Ok(())
    }

    fn next(&mut self) -> io::Result<Segment> {
        self.prepare()?;
        self.ready.take().ok_or_else(|| io::Error::other("no segment was made"))
    }
}

/// A thread that keeps one segment ready.
#[derive(Debug)]
pub(super) struct Ahead {
    ready: Option<Receiver<io::Result<Segment>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Starts with segment `first`.
    pub(super) fn start(maker: Maker, config: &Config, first: u64) -> io::Result<Self> {
        // No room in the channel: one is made, and the next once that one is taken.
        let (give, ready) = sync_channel(0);
        let stop = Arc::new(AtomicBool::new(false));
        let (bytes, stopped) = (config.segment_bytes, Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("log-supply".to_owned())
            .spawn(move || keep_ready(&maker, bytes, first, &stopped, &give))?;
        Ok(Self { ready: Some(ready), stop, thread: Some(thread) })
    }

    fn next(&self) -> io::Result<Segment> {
        match self.receive() {
            // That was when it was made: there may be room now.
            Err(error) if spares::is_full(&error) => self.receive(),
            received => received,
        }
    }

    fn receive(&self) -> io::Result<Segment> {
        let gone = || io::Error::other("the thread that makes segments ended");
        let ready = self.ready.as_ref().ok_or_else(gone)?;
        ready.recv().map_err(|_| gone())?
    }
}

impl Drop for Ahead {
    /// Ends the thread and waits for it. A segment that is ready stays on the disk, empty.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.ready = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that makes log segments panicked");
        }
    }
}

fn keep_ready(
    maker: &Maker,
    bytes: u64,
    first: u64,
    stop: &AtomicBool,
    give: &SyncSender<io::Result<Segment>>,
) {
    let mut seq = first;
    while seq <= MAX_SEQ {
        let made = maker.make(seq, bytes, stop);
        let (done, full) = (made.is_ok(), made.as_ref().is_err_and(spares::is_full));
        if give.send(made).is_err() || !(done || full) {
            return;
        }
        seq += u64::from(done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(parse_name(&file_name(0x2a)), Some(Named::Segment(0x2a)));
        assert_eq!(parse_name(&unfinished_name(MAX_SEQ)), Some(Named::Unfinished(MAX_SEQ)));
        assert_eq!(parse_name(&file_name(MAX_SEQ + 1)), None);
        for other in
            ["cookie", "lock", "2a.log", "000000000000002A.log", "+00000000000002a.log", ".log"]
        {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}

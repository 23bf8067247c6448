//! Segment files: names, creation, and a supply of them made ahead of need.
//!
//! A segment is made under another name: header, then room up to its size, synced; only then it gets its name, and
//! the directory is synced (K7). So a file with a segment's name always has a whole header.
//!
//! The blocks of the one that is ready are filled with zeros while nobody waits for it, at a small pace: appends to blocks
//! that were written before make a sync cheap, which counts where few bytes are synced at a time. A log that is written
//! faster than that takes its segments as they are, for the zeros would take half of the disk from it, and at once.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::format::{self, HEADER_BYTES};
use super::mutation::{Mutation, Mutations};
use super::spares::{self, Spares};
use super::{Config, Identity};
use crate::io::{Disk, DiskFile};

/// Zeros are synced in steps, so that they never pile up in front of a group commit.
const SYNC_BYTES: u64 = 8 << 20;
/// So many zeros are written at a time,
const STEP_BYTES: u64 = 1 << 20;
/// with such a pause after them: 16 MiB/s.
const PAUSE: Duration = Duration::from_millis(62);

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
    /// No blocks of its file were written before.
    fresh: bool,
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
    /// A new segment of `bytes`, or more. Made of a spare file where there is one, of the reserve where the disk is full.
    fn make(&self, seq: u64, bytes: u64) -> io::Result<Segment> {
        if bytes == self.spares.bytes()
            && let Some(file) = self.spares.take(seq, false)?
        {
            return self.make_of(file, seq);
        }
        match self.make_new(seq, bytes) {
            Err(error) if spares::is_full(&error) => {
                // What was begun takes room that is missing.
                self.remove_unfinished(seq)?;
                match self.spares.take(seq, true)? {
                    Some(file) => self.make_of(file, seq),
                    None => Err(error),
                }
            }
            made => made,
        }
    }

    /// [`Maker::make`], and then filled as [`Segment::fill`] says. Where the room that was set aside turns out not to be
    /// there, as on a volume that promises more than it has, a file of the reserve takes the segment's place: it has its blocks.
    pub(super) fn make_filled(
        &self,
        seq: u64,
        bytes: u64,
        goes_on: impl Fn() -> io::Result<bool>,
    ) -> io::Result<Segment> {
        let segment = self.make(seq, bytes)?;
        match segment.fill(goes_on) {
            Err(error) if spares::is_full(&error) => {
                let spare = self.spares.take(seq, true)?;
                spare.map_or(Err(error), |file| self.make_of(file, seq))
            }
            filled => filled.map(|()| segment),
        }
    }

    /// [`Maker::make`] after an attempt that failed. What that left is removed, or has its name taken.
    fn make_again(&self, seq: u64, bytes: u64) -> io::Result<Segment> {
        self.remove_unfinished(seq)?;
        self.make(seq, bytes)
    }

    fn remove_unfinished(&self, seq: u64) -> io::Result<()> {
        match self.disk.remove(&unfinished_name(seq)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Only the header is new: what is behind it belongs to another segment's number.
    fn make_of(&self, file: Arc<dyn DiskFile>, seq: u64) -> io::Result<Segment> {
        let bytes = file.size()?;
        self.finish(Segment { seq, file, bytes, fresh: false })
    }

    fn make_new(&self, seq: u64, bytes: u64) -> io::Result<Segment> {
        let file = self.disk.create(&unfinished_name(seq))?;
        file.allocate(bytes)?;
        self.finish(Segment { seq, file, bytes, fresh: true })
    }

    fn finish(&self, segment: Segment) -> io::Result<Segment> {
        let Segment { seq, file, .. } = &segment;
        let header = format::encode_header(&self.identity, *seq);
        file.write_all_at(0, &[IoSlice::new(&header)])?;
        file.sync_data()?;
        self.disk.rename(&unfinished_name(*seq), &file_name(*seq))?;
        if !self.mutations.is(Mutation::SkipDirSync) {
            self.disk.sync_dir()?;
        }
        Ok(segment)
    }
}

impl Segment {
    /// Fills a new file with zeros behind the header, before anything is appended, for as long as `goes_on` says so; it
    /// is asked before each step.
    fn fill(&self, goes_on: impl Fn() -> io::Result<bool>) -> io::Result<()> {
        let mut at = HEADER_BYTES as u64;
        while self.fresh && at < self.bytes && goes_on()? {
            let step = (self.bytes - at).min(STEP_BYTES);
            self.file.write_zeros_at(at, step)?;
            at += step;
            if at % SYNC_BYTES < STEP_BYTES || at == self.bytes {
                self.file.sync_data()?;
            }
        }
        Ok(())
    }
}

/// What the thread that makes segments is told.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    told: Mutex<Told>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Told {
    wish: Wish,
    /// Segments that were taken, or refusals.
    taken: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// Take your time.
    #[default]
    None,
    /// Somebody waits for the segment.
    Segment,
    /// Make no more.
    End,
}

impl Wishes {
    /// Waits a moment, less when told something; whether there is still time.
    fn pause(&self) -> io::Result<bool> {
        let mut told = self.told.lock();
        if told.wish == Wish::None {
            self.changed.wait_for(&mut told, PAUSE);
        }
        match told.wish {
            Wish::None => Ok(true),
            Wish::Segment => Ok(false),
            Wish::End => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    /// The end is final.
    fn tell(&self, new: Wish) {
        let mut told = self.told.lock();
        if told.wish != Wish::End {
            told.wish = new;
        }
        drop(told);
        self.changed.notify_all();
    }

    /// What was wished for is there.
    fn take(&self) {
        self.told.lock().taken += 1;
        self.tell(Wish::None);
    }

    /// Waits until somebody waits for a segment; false when none is wanted any more.
    fn wait_wanted(&self) -> bool {
        let mut told = self.told.lock();
        while told.wish == Wish::None {
            self.changed.wait(&mut told);
        }
        told.wish == Wish::Segment
    }

    /// Waits until so many were taken, so that the wish for one is not taken for that for the next, which then would not be
    /// filled at leisure.
    fn wait_taken(&self, given: u64) {
        let mut told = self.told.lock();
        while told.taken < given && told.wish != Wish::End {
            self.changed.wait(&mut told);
        }
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
            self.ready = Some(self.maker.make_filled(seq, self.bytes, || Ok(true))?);
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
    wishes: Arc<Wishes>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Starts with segment `first`.
    pub(super) fn start(maker: Maker, config: &Config, first: u64) -> io::Result<Self> {
        // No room in the channel: one is made, and the next once that one is taken.
        let (give, ready) = sync_channel(0);
        let wishes = Arc::new(Wishes::default());
        let (bytes, told) = (config.segment_bytes, Arc::clone(&wishes));
        let thread = std::thread::Builder::new()
            .name("log-supply".to_owned())
            .spawn(move || keep_ready(&maker, bytes, first, &told, &give))?;
        Ok(Self { ready: Some(ready), wishes, thread: Some(thread) })
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
        self.wishes.tell(Wish::Segment);
        let made = ready.recv().map_err(|_| gone());
        self.wishes.take();
        made?
    }
}

impl Drop for Ahead {
    /// Ends the thread and waits for it. A segment that is ready stays on the disk, empty.
    fn drop(&mut self) {
        self.wishes.tell(Wish::End);
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
    wishes: &Wishes,
    give: &SyncSender<io::Result<Segment>>,
) {
    let (mut seq, mut given) = (first, 0);
    while seq <= MAX_SEQ {
        let made = make_ahead(maker, seq, bytes, wishes);
        let (done, full) = (made.is_ok(), made.as_ref().is_err_and(spares::is_full));
        if give.send(made).is_err() || !(done || full) {
            return;
        }
        given += 1;
        wishes.wait_taken(given);
        seq += u64::from(done);
    }
}

/// Makes a segment while there is time. What fails then has touched nothing of the log, and is no reason to stop it (K6 is about what
/// the log itself writes and syncs): it is made once more when somebody needs it.
fn make_ahead(maker: &Maker, seq: u64, bytes: u64, wishes: &Wishes) -> io::Result<Segment> {
    match maker.make_filled(seq, bytes, || wishes.pause()) {
        Err(error) if !spares::is_full(&error) && wishes.wait_wanted() => {
            tracing::warn!(segment = %file_name(seq), %error, "a log segment could not be made ahead; trying again");
            maker.make_again(seq, bytes)
        }
        made => made,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{FaultyDisk, MemoryDisk, Op};

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

    /// A volume that promises more room than it has: what was set aside earlier has its blocks.
    #[test]
    fn a_segment_without_room_for_its_zeros_comes_out_of_the_reserve() {
        let disk = FaultyDisk::new(MemoryDisk::new());
        let bytes = 16 << 10;
        let spares = Spares::found(Arc::new(disk.clone()), bytes, 1, Vec::new()).unwrap();
        spares.refill().unwrap();
        let identity = super::super::tests::identity();
        let maker = Maker {
            disk: Arc::new(disk.clone()),
            identity,
            spares: Arc::new(spares),
            mutations: Mutations::default(),
        };
        // After the room and the header.
        disk.fail(Op::Write, 2, io::ErrorKind::StorageFull);
        let segment = maker.make_filled(1, bytes, || Ok(true)).unwrap();
        assert!(!segment.fresh && maker.spares.is_scarce());
        assert_eq!(disk.list().unwrap(), [file_name(1)]);
        disk.fail(Op::Write, 2, io::ErrorKind::StorageFull);
        assert!(maker.make_filled(2, bytes, || Ok(true)).is_err(), "the reserve is used up");
    }

    /// The wish for a segment is not taken for one for the next: that is filled at leisure.
    #[test]
    fn the_next_segment_is_begun_when_nobody_waits() {
        let disk = MemoryDisk::new();
        let bytes = 16 << 10;
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let spares = Arc::new(Spares::found(Arc::clone(&shared), bytes, 0, Vec::new()).unwrap());
        let identity = super::super::tests::identity();
        let maker = Maker { disk: shared, identity, spares, mutations: Mutations::default() };
        let (give, ready) = sync_channel(0);
        let wishes = Wishes::default();
        std::thread::scope(|scope| {
            scope.spawn(|| keep_ready(&maker, bytes, 1, &wishes, &give));
            wishes.tell(Wish::Segment);
            ready.recv().unwrap().unwrap();
            // Until the segment is taken the thread waits: then it can be woken.
            let alone = || disk.list().unwrap() == [file_name(1)];
            let mut begun = false;
            while !begun && wishes.changed.notify_all() == 0 {
                begun = !alone();
                std::thread::yield_now();
            }
            wishes.take();
            // Takes what is ready, or ends the thread where nothing is.
            wishes.tell(Wish::End);
            drop(ready);
            assert!(!begun, "the next one is begun before this one is taken");
        });
    }
}

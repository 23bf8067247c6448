//! One ledger's runs, sorted and never overlapping, in chunks of up to 255: those in memory can be changed, those on the disk are only
//! known by what they span. A change that meets one of these is put off until it is in memory again, in order with all
//! that overlap it.

use std::collections::{HashMap, VecDeque};

use geminga_proto::ids::LedgerId;

use super::live::{Count, Segments};
use super::run::{self, Run};
use super::spill::{MAX_RUNS, Stored};

/// Chunks that were read from the disk, by their ids.
pub(super) type Loaded = HashMap<u64, Vec<Run>>;

/// What an answer takes.
#[derive(Debug)]
pub(super) enum Lookup<T> {
    /// This is it.
    Found(T),
    /// This chunk is to be read first.
    Stored(Stored),
    /// Changes that were put off are to be made first.
    Unsettled,
}

/// What is shared by the chunks of all ledgers.
#[derive(Debug, Default)]
pub(super) struct Common {
    pub(super) segments: Segments,
    /// Chunks in memory, the oldest first; some are gone.
    pub(super) order: VecDeque<Queued>,
    /// How many are in memory.
    pub(super) resident: usize,
    /// Bytes of memory that runs take, and changes that were put off.
    pub(super) bytes: usize,
    /// Bytes that chunks take for what they span, in memory or not.
    pub(super) spans: usize,
    ids: u64,
}

/// How far the changes of a ledger that were put off are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// All of them.
    All,
    /// There are more; others may want the table meanwhile.
    Some,
    /// The next needs this chunk in memory; whether one was made before.
    Needs(Stored, bool),
}

/// Most changes that are made at a time.
const MAX_CHANGES: usize = 256;

impl Common {
    pub(super) fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }
}

/// A chunk in memory as it was when it was queued.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queued {
    pub(super) ledger: LedgerId,
    pub(super) first: i64,
    pub(super) id: u64,
    /// How many runs it had.
    pub(super) runs: usize,
}

#[derive(Debug)]
pub(super) enum Body {
    Memory(Vec<Run>),
    Disk(Stored),
}

/// Runs that follow each other.
#[derive(Debug)]
pub(super) struct Chunk {
    /// Says what a copy on the disk holds: a chunk that changes while there is one becomes another.
    pub(super) id: u64,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) body: Body,
}

impl Chunk {
    pub(super) fn runs<'a>(&'a self, loaded: &'a Loaded) -> Result<&'a [Run], Stored> {
        match &self.body {
            Body::Memory(runs) => Ok(runs),
            Body::Disk(stored) => loaded.get(&self.id).map(Vec::as_slice).ok_or(*stored),
        }
    }

    fn into_runs(self) -> Option<Vec<Run>> {
        match self.body {
            Body::Memory(runs) => Some(runs),
            Body::Disk(_) => None,
        }
    }

    /// Bytes of its runs in memory.
    pub(super) fn memory(&self) -> usize {
        match &self.body {
            Body::Memory(runs) => runs.capacity() * size_of::<Run>(),
            Body::Disk(_) => 0,
        }
    }
}

/// What happens to a ledger's runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    /// A record was written.
    Insert(Run),
    /// Entries were copied, which counts as far as they are still in segment `from`.
    Move { run: Run, from: u32 },
    /// What a segment holds of some entries is given up.
    Forget { from: i64, to: i64, segment: u32 },
}

impl Change {
    pub(super) fn range(&self) -> (i64, i64) {
        match self {
            Self::Insert(run) | Self::Move { run, .. } => (run.first, run.last()),
            Self::Forget { from, to, .. } => (*from, *to),
        }
    }

    /// The run that it adds.
    fn run(&self) -> Option<&Run> {
        match self {
            Self::Insert(run) | Self::Move { run, .. } => Some(run),
            Self::Forget { .. } => None,
        }
    }
}

/// The runs of one ledger.
#[derive(Debug)]
pub(super) struct Chunks {
    ledger: LedgerId,
    /// In order.
    pub(super) chunks: Vec<Chunk>,
    /// Bytes of the records that the runs point at. Of a change that was put off, the whole of what it adds counts, and
    /// nothing of what it takes away.
    pub(super) bytes: u64,
    pub(super) put_off: VecDeque<Change>,
    /// What those span together, of which all that is between them is taken to wait, too: there may be a hundred thousand, and they
    /// are not looked through for each change. No use when there are none.
    waiting: (i64, i64),
}

impl Chunks {
    pub(super) fn new(ledger: LedgerId) -> Self {
        Self { ledger, chunks: Vec::new(), bytes: 0, put_off: VecDeque::new(), waiting: (0, 0) }
    }

    /// Makes a change, or puts it off; whether it was made.
    pub(super) fn change(&mut self, change: Change, common: &mut Common) -> bool {
        let (from, to) = change.range();
        let now = !self.waits(from, to) && self.on_disk(from, to).is_none();
        let before = self.overhead();
        if now {
            self.make(change, common);
        } else {
            if let Some(run) = change.run() {
                // What it points at is needed from now on (K9).
                self.count(&mut common.segments).add(run);
            }
            self.waiting = match self.put_off.is_empty() {
                true => (from, to),
                false => (self.waiting.0.min(from), self.waiting.1.max(to)),
            };
            self.put_off.push_back(change);
        }
        self.account(before, common);
        now
    }

    /// Makes changes that were put off, until one needs a chunk that is on the disk, and no more than a few at a time.
    pub(super) fn settle(&mut self, common: &mut Common) -> Settled {
        let before = self.overhead();
        let (mut made, mut needed) = (0, None);
        while let Some(change) = self.put_off.front().copied().filter(|_| made < MAX_CHANGES) {
            let (from, to) = change.range();
            needed = self.on_disk(from, to);
            if needed.is_some() {
                break;
            }
            self.make(change, common);
            if let Some(run) = change.run() {
                self.count(&mut common.segments).take(run);
            }
            self.put_off.pop_front();
            made += 1;
        }
        if self.put_off.is_empty() {
            self.put_off.shrink_to_fit();
        }
        self.account(before, common);
        match needed {
            Some(stored) => Settled::Needs(stored, made > 0),
            None if self.put_off.is_empty() => Settled::All,
            None => Settled::Some,
        }
    }

    fn make(&mut self, change: Change, common: &mut Common) {
        match change {
            Change::Insert(run) => self.put(run, common),
            Change::Move { run, from } => {
                for part in self.resident_parts(run.first, run.last(), from) {
                    self.put(Run { place: run.place, ..part }, common);
                }
            }
            Change::Forget { from, to, segment } => {
                for part in self.resident_parts(from, to, segment) {
                    let (start, end) = self.overlapped(part.first, part.last());
                    self.rework(start, end, common, |runs, count| run::cut(runs, part, count));
                }
            }
        }
    }

    /// Chunks that overlap `from..=to`.
    fn overlapped(&self, from: i64, to: i64) -> (usize, usize) {
        if self.chunks.last().is_none_or(|last| last.last < from) {
            return (self.chunks.len(), self.chunks.len());
        }
        let start = self.chunks.partition_point(|chunk| chunk.last < from);
        let end = self.chunks.partition_point(|chunk| chunk.first <= to);
        (start, end.max(start))
    }

    /// The first chunk on the disk that overlaps `from..=to`.
    fn on_disk(&self, from: i64, to: i64) -> Option<Stored> {
        let (start, end) = self.overlapped(from, to);
        self.chunks[start..end].iter().find_map(|chunk| match chunk.body {
            Body::Disk(stored) => Some(stored),
            Body::Memory(_) => None,
        })
    }

    /// Whether changes of `from..=to` were put off, or may have been.
    pub(super) fn waits(&self, from: i64, to: i64) -> bool {
        let (first, last) = self.waiting;
        !self.put_off.is_empty() && first <= to && from <= last
    }

    fn put(&mut self, new: Run, common: &mut Common) {
        let (start, end) = self.overlapped(new.first, new.last());
        if start < end {
            return self.rework(start, end, common, |runs, count| run::put(runs, new, count));
        }
        self.count(&mut common.segments).add(&new);
        if let Some(chunk) = start.checked_sub(1).and_then(|before| self.chunks.get_mut(before))
            && let Body::Memory(runs) = &mut chunk.body
            && runs.len() < MAX_RUNS
        {
            let before = runs.capacity();
            if runs.len() == before {
                runs.reserve_exact(before.max(4).min(MAX_RUNS - before));
            }
            common.bytes += (runs.capacity() - before) * size_of::<Run>();
            chunk.last = new.last();
            runs.push(new);
            return;
        }
        self.add(start, vec![new], common);
    }

    /// Changes the runs of chunks that are all in memory.
    fn rework(
        &mut self,
        start: usize,
        end: usize,
        common: &mut Common,
        change: impl FnOnce(&mut Vec<Run>, &mut Count<'_>),
    ) {
        let mut runs = Vec::new();
        for chunk in self.chunks.drain(start..end) {
            common.bytes -= chunk.memory();
            common.resident -= 1;
            runs.extend(chunk.into_runs().expect("a change that meets a chunk on the disk waits"));
        }
        change(&mut runs, &mut self.count(&mut common.segments));
        let parts = runs.len().div_ceil(MAX_RUNS).max(1);
        let each = runs.len().div_ceil(parts).max(1);
        for (number, part) in runs.chunks(each).enumerate() {
            self.add(start + number, part.to_vec(), common);
        }
    }

    /// Adds a chunk in memory.
    fn add(&mut self, at: usize, runs: Vec<Run>, common: &mut Common) {
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return };
        let (id, first, last) = (common.next_id(), first.first, last.last());
        common.order.push_back(Queued { ledger: self.ledger, first, id, runs: runs.len() });
        common.resident += 1;
        if self.chunks.len() == self.chunks.capacity() {
            self.chunks.reserve_exact((self.chunks.len() / 4).max(1));
        }
        let chunk = Chunk { id, first, last, body: Body::Memory(runs) };
        common.bytes += chunk.memory();
        self.chunks.insert(at, chunk);
    }

    /// A chunk that was read from the disk is in memory again. False when it is not there any more.
    pub(super) fn restore(&mut self, stored: Stored, runs: Vec<Run>, common: &mut Common) -> bool {
        let Some(first) = runs.first() else { return false };
        let at = self.chunks.partition_point(|chunk| chunk.first < first.first);
        if !self.holds(at, stored) {
            return false;
        }
        let before = self.overhead();
        self.chunks.remove(at);
        self.add(at, runs, common);
        self.account(before, common);
        true
    }

    /// Whether this stored chunk is the one at `at`.
    pub(super) fn holds(&self, at: usize, stored: Stored) -> bool {
        let chunk = self.chunks.get(at);
        chunk.is_some_and(|chunk| matches!(chunk.body, Body::Disk(here) if here == stored))
    }

    /// The parts of runs that lie in `from..=to` and in a segment; all overlapped chunks are in memory.
    fn resident_parts(&self, from: i64, to: i64, segment: u32) -> Vec<Run> {
        let (start, end) = self.overlapped(from, to);
        let resident = self.chunks[start..end].iter().filter_map(|chunk| match &chunk.body {
            Body::Memory(runs) => Some(runs),
            Body::Disk(_) => None,
        });
        resident.flat_map(|runs| run::parts(runs, from, to, segment)).collect()
    }

    /// The parts of runs that lie in `from..=to` and in a segment.
    pub(super) fn parts(
        &self,
        from: i64,
        to: i64,
        segment: u32,
        loaded: &Loaded,
    ) -> Lookup<Vec<Run>> {
        if self.waits(from, to) {
            return Lookup::Unsettled;
        }
        let (start, end) = self.overlapped(from, to);
        let mut found = Vec::new();
        for chunk in &self.chunks[start..end] {
            match chunk.runs(loaded) {
                Ok(runs) => found.extend(run::parts(runs, from, to, segment)),
                Err(stored) => return Lookup::Stored(stored),
            }
        }
        Lookup::Found(found)
    }

    pub(super) fn count<'a>(&'a mut self, segments: &'a mut Segments) -> Count<'a> {
        Count { segments, bytes: &mut self.bytes }
    }

    /// Bytes of memory beside runs: for what chunks span, and for changes that were put off.
    pub(super) fn overhead(&self) -> (usize, usize) {
        let spans = self.chunks.capacity() * size_of::<Chunk>();
        (spans, self.put_off.capacity() * size_of::<Change>())
    }

    /// Accounts for what has changed since the overhead was `before`.
    fn account(&self, before: (usize, usize), common: &mut Common) {
        let now = self.overhead();
        common.spans = common.spans + now.0 - before.0;
        common.bytes = common.bytes + now.1 - before.1;
    }
}

//! Reads of entries that are not in memory any more, of all partitions of a broker together. Each is a task of its own that
//! takes room first, then asks the bookies, and keeps what came until nobody wants it: readers that stop, and streams
//! that nobody polls, hold up no other's. Recent entries are read without any of this.
//!
//! ```text
//!   its turn ──► one of the few that ask ──► room for its bytes ──► the pace ──► bookies ──► kept: while it is used, for [`KEPT`] at most
//!   its turn ──► one of the few that ask objects ──► room ──► the pace ──► object store ──► kept
//! ```
//!
//! * What is on its way and what is kept stay within the room, but for one entry each that is larger than was asked for.
//! * Room is given in the order asked. Reading ahead takes it only while half of it is free, and whoever waits for room
//!   gets that of everything that is merely kept.
//! * Those who ask the object store are few, apart from the others, and take room only then: a store that does not answer holds up
//!   nobody who reads from bookies.
//! * Few ask at a time, so that a bookie's stream has room for those who look for the end of a log meanwhile.
//! * They give way to producers ([`pace`]): while there are any, a task looks how long commits take. One at a time waits for
//!   room and for the pace; what those behind it wait for is not charged yet, and not read when nobody wants it any more.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use geminga_ledger::Bookies;
use geminga_proto::entry::Entry;
use geminga_proto::ids::{EntryId, LedgerId};
use geminga_runtime::Tasks;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::reader::ReadError;
use crate::partition::metrics;
use added::Added;
pub(super) use commits::Append;
use commits::Commits;
use pace::{Done, Pace, Seen, Taken};

mod added;
mod commits;
mod pace;

/// Most bytes of one read, but for a single larger entry.
pub(super) const MAX_PIECE_BYTES: usize = 1024 * 1024;
/// A read counts for so much at least.
const MIN_PIECE_BYTES: usize = 64 * 1024;
/// Most reads that wait for bookies at a time: with the largest ones there is room left in the 32 MiB of a bookie's stream.
const ASKING: usize = 24;
/// Most that wait for the object store at a time, where half of the room is enough for them.
const ASKING_COLD: usize = 8;
/// How long what was read is kept for whoever reads on.
const KEPT: Duration = Duration::from_secs(10);
/// So many windows without a read end the looking.
const IDLE_WINDOWS: u32 = 20;
/// What nobody waits for any more is not read after so long, and what was read makes room for others after this.
const ABANDONED: Duration = Duration::from_secs(2);
const SPARED: Duration = Duration::from_millis(100);
/// Whoever is held back asks again after so long at most.
const HELD: Duration = Duration::from_millis(5);

/// The room; cloning shares it.
#[derive(Clone)]
pub struct Reads(Arc<Shared>, Whom);

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    Bookies,
    Objects,
}

struct Shared {
    max_bytes: usize,
    room: Arc<Semaphore>,
    from_bookies: Door,
    from_objects: Door,
    /// How many wait for room.
    short: watch::Sender<usize>,
    pace: Mutex<Pace>,
    /// Reads that are not done yet.
    reading: AtomicUsize,
    /// A task looks how long commits take.
    looking: AtomicBool,
    commits: Commits,
    /// They say what they add for others.
    bookies: Arc<dyn Bookies>,
    /// What times of the pace are counted from.
    began: Instant,
    tasks: Tasks,
}

/// Where those who ask the same wait for their turn.
struct Door {
    /// The next one waits for the rest here, and those behind it for this.
    turn: Semaphore,
    /// Those who ask.
    asking: Semaphore,
}

impl Door {
    fn new(asking: usize) -> Self {
        Self { turn: Semaphore::new(1), asking: Semaphore::new(asking) }
    }
}

impl fmt::Debug for Reads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reads")
            .field("bytes", &self.bytes())
            .field("max_bytes", &self.0.max_bytes)
            .finish_non_exhaustive()
    }
}

/// What asks the bookies.
pub(super) type Call = BoxFuture<'static, Result<Vec<Entry>, ReadError>>;

/// Consecutive entries of one ledger that are being read, or are here. Cloning shares them; when the last clone goes, so do they.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub(super) ledger: LedgerId,
    /// The first entry.
    pub(super) first: EntryId,
    state: watch::Receiver<State>,
    wanted: Arc<Wanted>,
}

/// Who waits for a piece, and when somebody last did.
#[derive(Debug)]
struct Wanted {
    now: AtomicUsize,
    began: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
}

impl Wanted {
    fn new() -> Self {
        Self { now: AtomicUsize::new(0), began: Instant::now(), last: AtomicU64::new(0) }
    }

    /// Nobody has waited for so long.
    fn is_abandoned(&self, long: Duration) -> bool {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.now.load(Ordering::Relaxed) == 0 && self.began.elapsed().saturating_sub(last) >= long
    }
}

/// One that waits for a piece.
struct Wanting<'a>(&'a Wanted);

impl<'a> Wanting<'a> {
    fn new(wanted: &'a Wanted) -> Self {
        wanted.now.fetch_add(1, Ordering::Relaxed);
        Self(wanted)
    }
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(now, Ordering::Relaxed);
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone)]
enum State {
    Asked,
    Here(Arc<Vec<Entry>>),
    Failed(ReadError),
    /// Given up since nobody came for it, or somebody needed its room.
    Dropped,
}

impl Reads {
    /// Room for `max_bytes` of what is read, at `floor` bytes a second at least where commits take longer for it, here or, as `bookies` say,
    /// at other brokers; its reads end with `tasks`.
    pub fn new(max_bytes: usize, floor: u64, bookies: Arc<dyn Bookies>, tasks: Tasks) -> Self {
        let max_bytes = max_bytes.clamp(MIN_PIECE_BYTES, Semaphore::MAX_PERMITS);
        let cold = (max_bytes / 2 / MAX_PIECE_BYTES).clamp(1, ASKING_COLD);
        let shared = Shared {
            max_bytes,
            room: Arc::new(Semaphore::new(max_bytes)),
            from_bookies: Door::new(ASKING),
            from_objects: Door::new(cold),
            short: watch::Sender::new(0),
            pace: Mutex::new(Pace::new(floor)),
            reading: AtomicUsize::new(0),
            looking: AtomicBool::new(false),
            commits: Commits::default(),
            bookies,
            began: Instant::now(),
            tasks,
        };
        Self(Arc::new(shared), Whom::Bookies)
    }

    /// The same room, for what is asked of the object store.
    pub(super) fn cold(&self) -> Self {
        Self(Arc::clone(&self.0), Whom::Objects)
    }

    /// Bytes on their way or kept.
    pub fn bytes(&self) -> usize {
        self.0.max_bytes - self.0.room.available_permits().min(self.0.max_bytes)
    }

    /// Whether somebody waits for room, so that nothing is to be kept.
    pub(super) fn is_short(&self) -> bool {
        *self.0.short.borrow() > 0
    }

    /// Reads about `bytes` by `call`, once there is room.
    pub(super) fn begin(
        &self,
        ledger: LedgerId,
        first: EntryId,
        bytes: usize,
        call: Call,
    ) -> Piece {
        self.start(ledger, first, bytes, None, call)
    }

    /// The same ahead of whoever will want it, and only while there is room to spare.
    pub(super) fn ahead(
        &self,
        ledger: LedgerId,
        first: EntryId,
        bytes: usize,
        call: Call,
    ) -> Option<Piece> {
        let wanted = self.0.cost(bytes) as usize;
        // Blocks of objects are fetched ahead where they are cached.
        if self.1 == Whom::Objects
            || self.is_short()
            || self.0.room.available_permits() < self.0.max_bytes / 2 + wanted
        {
            return None;
        }
        let room = Arc::clone(&self.0.room).try_acquire_many_owned(self.0.cost(bytes)).ok()?;
        Some(self.start(ledger, first, bytes, Some(room), call))
    }

    fn start(
        &self,
        ledger: LedgerId,
        first: EntryId,
        bytes: usize,
        room: Option<OwnedSemaphorePermit>,
        call: Call,
    ) -> Piece {
        let (tell, state) = watch::channel(State::Asked);
        let wanted = Arc::new(Wanted::new());
        let piece = Piece { ledger, first, state, wanted: Arc::clone(&wanted) };
        let (shared, whom, stop) = (Arc::clone(&self.0), self.1, self.0.tasks.cancelled());
        self.look();
        self.0.tasks.spawn("read", async move {
            tokio::select! {
                biased;
                () = stop => {}
                () = tell.closed() => {}
                () = shared.read(&tell, &wanted, bytes, (whom, room), call) => {}
            }
        });
        piece
    }

    /// A log appends something.
    pub(super) fn append(&self) -> Append {
        self.0.commits.append()
    }

    /// How many commits were seen, and what waits to be one.
    #[cfg(test)]
    pub(super) fn seen(&self) -> (u32, usize) {
        let none = Commits::default().counted();
        (self.0.commits.counted().since(&none).0, self.0.commits.waiting())
    }

    /// Has a task look how long commits take, if none does.
    fn look(&self) {
        if self.0.looking.swap(true, Ordering::AcqRel) {
            return;
        }
        let (shared, stop) = (Arc::clone(&self.0), self.0.tasks.cancelled());
        self.0.tasks.spawn("pace of reads", async move {
            tokio::select! {
                biased;
                () = stop => {}
                () = shared.keep_pace() => {}
            }
        });
    }
}

impl Shared {
    /// Looks how long commits take until nothing was read for a while.
    async fn keep_pace(&self) {
        loop {
            self.keep_pace_of_reads().await;
            self.looking.store(false, Ordering::Release);
            // One that began meanwhile found that somebody looked.
            if self.reading.load(Ordering::Acquire) == 0
                || self.looking.swap(true, Ordering::AcqRel)
            {
                return;
            }
        }
    }

    async fn keep_pace_of_reads(&self) {
        let (mut idle, mut before) = (0, self.commits.counted());
        let mut added = Added::from(self.bookies.adds());
        while idle < IDLE_WINDOWS {
            let read = self.reading.load(Ordering::Relaxed) > 0;
            tokio::time::sleep(pace::WINDOW).await;
            let counted = self.commits.counted();
            let (count, most) = counted.since(&before);
            let adds = self.bookies.adds();
            let seen = Seen {
                own: Done { count, most },
                added: added.until(&adds),
                waiting: self.commits.waiting() > 0,
            };
            let (judged, rate) = {
                let mut pace = self.pace.lock();
                (pace.window(seen), pace.rate())
            };
            if judged {
                (before, added) = (counted, Added::from(adds));
            }
            metrics::observe_pace(rate);
            let reads = read || self.reading.load(Ordering::Relaxed) > 0;
            idle = if reads { 0 } else { idle + 1 };
        }
        self.pace.lock().rest();
        metrics::observe_pace(None);
    }

    /// Waits until so many bytes may be read. Takes nothing when it is cancelled.
    async fn keep_to_pace(&self, bytes: u64) -> Paced<'_> {
        let mut held = false;
        loop {
            let waiting = self.commits.waiting() > 0;
            let wait = match self.pace.lock().take(bytes, self.began.elapsed(), waiting) {
                Ok(taken) => return Paced { pace: &self.pace, taken, read: 0 },
                Err(wait) => wait,
            };
            if !std::mem::replace(&mut held, true) {
                metrics::count_paced();
            }
            // What others give back, and a pace that changes, shorten it.
            tokio::time::sleep(wait.min(HELD)).await;
        }
    }

    fn cost(&self, bytes: usize) -> u32 {
        let cost = bytes.clamp(MIN_PIECE_BYTES, MAX_PIECE_BYTES).min(self.max_bytes);
        u32::try_from(cost).expect("a piece is far below 4 GiB")
    }

    /// Reads one piece and keeps it as long as it may be.
    async fn read(
        &self,
        tell: &watch::Sender<State>,
        wanted: &Wanted,
        bytes: usize,
        (whom, room): (Whom, Option<OwnedSemaphorePermit>),
        call: Call,
    ) {
        let never = "the semaphore is never closed";
        let reading = Counted::new(&self.reading);
        let door = match whom {
            Whom::Bookies => &self.from_bookies,
            Whom::Objects => &self.from_objects,
        };
        let turn = door.turn.acquire().await.expect(never);
        let asking = door.asking.acquire().await.expect(never);
        let mut room = match room {
            Some(room) => room,
            None => self.wait_for_room(self.cost(bytes)).await,
        };
        if wanted.is_abandoned(ABANDONED) {
            // Whoever asked went away while it waited for its turn.
            metrics::count_dropped_read();
            tell.send_replace(State::Dropped);
            return;
        }
        let mut paced = self.keep_to_pace(room.num_permits() as u64).await;
        drop(turn);
        let read = call.await;
        let size = |entries: &Vec<Entry>| entries.iter().map(|entry| entry.payload.len()).sum();
        let bytes: usize = read.as_ref().map_or(0, size);
        paced.read = bytes as u64;
        drop((asking, reading, paced));
        match read {
            Ok(entries) => {
                self.settle(&mut room, bytes);
                tell.send_replace(State::Here(Arc::new(entries)));
            }
            Err(error) => {
                tell.send_replace(State::Failed(error));
                return;
            }
        }
        self.keep(wanted).await;
        metrics::count_dropped_read();
        tell.send_replace(State::Dropped);
    }

    /// Until it is to go: after a while, or when somebody needs its room and nobody wants it, or did just now.
    async fn keep(&self, wanted: &Wanted) {
        let until = Instant::now() + KEPT;
        let mut short = self.short.subscribe();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                Ok(_) = short.wait_for(|waiting| *waiting > 0) => {}
            }
            if wanted.is_abandoned(SPARED) {
                return;
            }
            // Whoever waits for it keeps it no longer than needed, and then asks for the next.
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = tokio::time::sleep(SPARED / 4) => {}
            }
        }
    }

    async fn wait_for_room(&self, cost: u32) -> OwnedSemaphorePermit {
        let closed = "the semaphore is never closed";
        if let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(cost) {
            return room;
        }
        self.short.send_modify(|waiting| *waiting += 1);
        let _waiting = Waiting(&self.short);
        Arc::clone(&self.room).acquire_many_owned(cost).await.expect(closed)
    }

    /// Gives back what was taken too much, and takes what is there of what was taken too little.
    fn settle(&self, room: &mut OwnedSemaphorePermit, bytes: usize) {
        let taken = room.num_permits();
        if let Some(more) = bytes.checked_sub(taken)
            && let Ok(more) = u32::try_from(more)
            && let Ok(more) = Arc::clone(&self.room).try_acquire_many_owned(more)
        {
            room.merge(more);
        }
        drop(room.split(taken.saturating_sub(bytes)));
    }
}

/// One that waits for room.
struct Waiting<'a>(&'a watch::Sender<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl Piece {
    /// Whether it has this entry, or will.
    pub(super) fn covers(&self, entry: EntryId) -> bool {
        match &*self.state.borrow() {
            State::Asked => entry == self.first,
            State::Here(entries) => entries
                .last()
                .is_some_and(|last| (self.first..=last.position.entry).contains(&entry)),
            State::Failed(_) | State::Dropped => false,
        }
    }

    /// Whether somebody waits for it.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.now.load(Ordering::Relaxed) > 0
    }

    /// Whether this is the same read.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.wanted, &other.wanted)
    }

    /// Whether something may still come of it.
    pub(super) fn is_good(&self) -> bool {
        let dropped = matches!(&*self.state.borrow(), State::Failed(_) | State::Dropped);
        !dropped && self.state.has_changed().is_ok()
    }

    /// Whether it ends right before this entry.
    pub(super) fn ends_before(&self, entry: EntryId) -> bool {
        let State::Here(entries) = &*self.state.borrow() else { return false };
        entries.last().is_some_and(|last| last.position.entry.next() == entry)
    }

    /// Its entries; `None` when they were given up meanwhile. Cancel-safe.
    ///
    /// # Errors
    /// What kept them from being read.
    pub(super) async fn wait(&self) -> Result<Option<Arc<Vec<Entry>>>, ReadError> {
        let _wanting = Wanting::new(&self.wanted);
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Asked)).await;
        match settled.as_deref() {
            Ok(State::Here(entries)) => Ok(Some(Arc::clone(entries))),
            Ok(State::Failed(error)) => Err(error.clone()),
            Ok(State::Asked | State::Dropped) => Ok(None),
            Err(_) => Err(ReadError::Unavailable("the broker is stopping".to_owned())),
        }
    }
}

/// A read that is under way. One that brings nothing is not paid for.
struct Paced<'a> {
    pace: &'a Mutex<Pace>,
    taken: Taken,
    read: u64,
}

impl Drop for Paced<'_> {
    fn drop(&mut self) {
        self.pace.lock().done(self.taken, self.read);
    }
}

/// One more, until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(of: &'a AtomicUsize) -> Self {
        of.fetch_add(1, Ordering::Relaxed);
        Self(of)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

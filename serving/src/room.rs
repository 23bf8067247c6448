//! Bytes of answers that were made and are not written, of all connections of a face together. Who finds no room waits for it.
//!
//! Nobody takes most of it: an answer that may be shorter is given a part of what is free, so that the fuller the room, the shorter
//! the answers, and those who do not read theirs leave something to the others. And who holds some can tell whether somebody
//! [waits](Held::is_wanted) for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of what is free, one answer is given this part at most, unless it asks for no more than [`LEAST_BYTES`].
const PART: usize = 8;
/// Nobody is given less than this who asks for more.
const LEAST_BYTES: usize = 256 * 1024;

/// Room for answers that were made, until they are written: apart, so that none waits for those of another kind.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    /// For records that were in memory: half of all.
    pub(crate) recent: Room,
    /// For those that came from bookies: a quarter.
    pub(crate) older: Room,
    /// For descriptions of topics: an eighth.
    pub(crate) topics: Room,
    /// For what is said of groups: the rest.
    pub(crate) groups: Room,
}

impl Answers {
    /// Rooms of so many bytes together.
    pub(crate) fn new(bytes: usize) -> Self {
        let (recent, older, topics) = (bytes / 2, bytes / 4, bytes / 8);
        let groups = bytes - recent - older - topics;
        let [recent, older, topics, groups] = [recent, older, topics, groups].map(Room::new);
        Self { recent, older, topics, groups }
    }

    /// Bytes that are taken.
    pub(crate) fn used(&self) -> usize {
        self.recent.used() + self.older.used() + self.topics.used() + self.groups.used()
    }
}

/// Room for what gRPC streams are given: apart for batches that are short of room to be taken apart, which may need nearly all
/// of it, and must not keep those waiting who need little.
#[derive(Debug, Clone)]
pub(crate) struct Streams {
    /// Half of all.
    pub(crate) plain: Room,
    /// The other half.
    pub(crate) apart: Room,
}

impl Streams {
    /// Rooms of so many bytes together.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { plain: Room::new(bytes / 2), apart: Room::new(bytes / 2) }
    }

    /// Bytes that are taken.
    pub(crate) fn used(&self) -> usize {
        self.plain.used() + self.apart.used()
    }

    /// Whether somebody waits for either.
    pub(crate) fn is_wanted(&self) -> bool {
        self.plain.is_wanted() || self.apart.is_wanted()
    }
}

/// A bound; cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    bytes: usize,
    free: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// Bytes of the room.
#[derive(Debug)]
pub(crate) struct Held {
    permit: OwnedSemaphorePermit,
    room: Room,
    /// What is given back with it and is of other rooms.
    beside: Vec<Self>,
}

impl Room {
    /// Room for so many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = bytes.clamp(1, Semaphore::MAX_PERMITS);
        Self { bytes, free: Arc::new(Semaphore::new(bytes)), waiting: Arc::default() }
    }

    /// Waits for room, in the order of asking; more than there ever is counts as all of it. Cancel-safe.
    pub(crate) async fn take(&self, bytes: usize) -> Held {
        let bytes = u32::try_from(bytes.min(self.bytes)).unwrap_or(u32::MAX);
        if let Ok(permit) = Arc::clone(&self.free).try_acquire_many_owned(bytes) {
            return Held { permit, room: self.clone(), beside: Vec::new() };
        }
        let _waiting = Waiting::new(&self.waiting);
        let permit = Arc::clone(&self.free).acquire_many_owned(bytes).await;
        let permit = permit.expect("room is never closed");
        Held { permit, room: self.clone(), beside: Vec::new() }
    }

    /// As [`Room::take`], for as much of `bytes` as is one answer's part of what is free.
    pub(crate) async fn take_part(&self, bytes: usize) -> Held {
        let mut held = self.take(bytes.min(LEAST_BYTES)).await;
        let part = self.free.available_permits() / PART;
        held.cover(bytes.min(part));
        held
    }

    /// How large it is.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// One answer's part of what is free.
    pub(crate) fn part(&self) -> usize {
        (self.free.available_permits() / PART).max(LEAST_BYTES)
    }

    /// Takes so many bytes, if they are free and nobody waits.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<Held> {
        let bytes = u32::try_from(bytes).ok()?;
        let permit = Arc::clone(&self.free).try_acquire_many_owned(bytes).ok()?;
        Some(Held { permit, room: self.clone(), beside: Vec::new() })
    }

    /// Whether somebody waits for room.
    pub(crate) fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Bytes that are taken.
    pub(crate) fn used(&self) -> usize {
        self.bytes.saturating_sub(self.free.available_permits())
    }
}

impl Held {
    /// How many bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.permit.num_permits()
    }

    /// Gives back all but so many bytes.
    pub(crate) fn keep(&mut self, bytes: usize) {
        let spare = self.bytes().saturating_sub(bytes);
        drop(self.permit.split(spare));
    }

    /// Takes what is missing of so many bytes, if it is free; whether there are as many now.
    pub(crate) fn cover(&mut self, bytes: usize) -> bool {
        let missing = bytes.saturating_sub(self.bytes());
        let more = u32::try_from(missing)
            .ok()
            .and_then(|missing| Arc::clone(&self.room.free).try_acquire_many_owned(missing).ok());
        let covered = more.is_some();
        if let Some(more) = more {
            self.permit.merge(more);
        }
        covered
    }

    /// How large the room is that they are of.
    pub(crate) fn whole(&self) -> usize {
        self.room.bytes()
    }

    /// Takes so many of them, or all, apart from the others.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let permit = self.permit.split(bytes.min(self.bytes())).expect("no more than there are");
        Self { permit, room: self.room.clone(), beside: Vec::new() }
    }

    /// What a piece of so many bytes takes along of the room of a whole: all that is left with the last one.
    pub(crate) fn part(whole: &mut Option<Self>, bytes: usize, is_last: bool) -> Option<Self> {
        match is_last {
            true => whole.take(),
            false => whole.as_mut().map(|whole| whole.split(bytes)),
        }
    }

    /// What is given back together from now on. Of one room they are one; of several, all but the first are only kept.
    pub(crate) fn both(one: Option<Self>, other: Option<Self>) -> Option<Self> {
        match (one, other) {
            (Some(mut one), Some(mut other)) => {
                one.beside.append(&mut other.beside);
                if Arc::ptr_eq(&one.room.free, &other.room.free) {
                    one.permit.merge(other.permit);
                } else {
                    one.beside.push(other);
                }
                Some(one)
            }
            (one, other) => one.or(other),
        }
    }

    /// Whether somebody waits for room.
    pub(crate) fn is_wanted(&self) -> bool {
        self.room.is_wanted()
    }
}

/// Counts one who waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const MIB: usize = 1 << 20;

    /// Those who ask for much and never give it back leave something to many others.
    #[tokio::test]
    async fn the_fuller_the_room_the_less_one_is_given() {
        let room = Room::new(64 * MIB);
        let mut all: Vec<Held> = Vec::new();
        while let Some(held) = room.take_part(8 * MIB).now_or_never() {
            let before = all.last().map_or(usize::MAX, Held::bytes);
            assert!(held.bytes() <= before && held.bytes() >= LEAST_BYTES);
            all.push(held);
        }
        assert!(all.len() > 30, "{}", all.len());
        assert!(!all[0].is_wanted());
        let mut waiting = Box::pin(room.take_part(8 * MIB));
        assert!((&mut waiting).now_or_never().is_none());
        assert!(all[0].is_wanted(), "somebody waits");
        all[0].keep(MIB);
        assert!(waiting.now_or_never().is_some());
        assert!(!all[0].is_wanted(), "and waits no more");
        drop(all);
        assert_eq!(room.used(), 0);
        // A little is all given, and what is more than there ever is counts as all of it.
        assert_eq!(room.take_part(1_000).await.bytes(), 1_000);
        assert_eq!(room.take(usize::MAX).await.bytes(), 64 * MIB);
    }

    #[tokio::test]
    async fn what_is_of_several_rooms_is_given_back_together() {
        let (first, second) = (Room::new(100), Room::new(100));
        let all = [
            first.take(10).await,
            second.take(20).await,
            first.take(5).await,
            second.take(1).await,
        ];
        let all = all.into_iter().fold(None, |all, held| Held::both(all, Some(held)));
        assert_eq!((first.used(), second.used()), (15, 21));
        assert_eq!(all.as_ref().map(Held::bytes), Some(15));
        drop(all);
        assert_eq!((first.used(), second.used()), (0, 0));
    }

    #[tokio::test]
    async fn what_is_missing_is_taken_if_it_is_free() {
        let room = Room::new(1_000);
        let (mut one, two) = (room.take(400).await, room.take(500).await);
        assert!(one.cover(500) && !one.cover(501));
        assert_eq!((one.bytes(), room.used()), (500, 1_000));
        drop(two);
        assert!(one.cover(501) && one.cover(7));
        assert_eq!(one.bytes(), 501);
    }
}

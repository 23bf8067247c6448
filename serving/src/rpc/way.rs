//! Answers of one stream on their way out of the broker: given by its task, taken by the face, made frames of, and written. The room of
//! their records goes with the frames, until the connection has written them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::room::Held;

/// Slower than that no client reads that is not stuck.
const BYTES_A_SECOND: usize = 64 * 1024;

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Way(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    answers: Mutex<Answers>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Answers {
    /// Given, and in no frame.
    given: usize,
    /// Of these, taken: they are in the next frame.
    taken: usize,
    room: Option<Held>,
    /// In frames that are not written, and the bytes of these.
    framed: usize,
    bytes: usize,
    /// Since when none was written, where some should be.
    since: Option<Instant>,
}

impl Way {
    /// The task gives an answer.
    pub(super) fn given(&self) {
        let mut answers = self.0.answers.lock();
        answers.given += 1;
        answers.since.get_or_insert_with(Instant::now);
    }

    /// The face takes one, to make a frame of it.
    pub(super) fn taken(&self, room: Option<Held>) {
        let mut answers = self.0.answers.lock();
        answers.taken += 1;
        answers.room = Held::both(answers.room.take(), room);
    }

    /// The face takes none any more: what it did not make a frame of never becomes one.
    pub(super) fn ended(&self) {
        let mut answers = self.0.answers.lock();
        answers.given = 0;
        answers.taken = 0;
        answers.room = None;
        answers.settle();
        self.0.changed.notify_waiters();
    }

    /// A frame with all that was taken: what is given back with it is given back once it was written.
    pub(super) fn frame(&self, bytes: Bytes) -> Bytes {
        let mut answers = self.0.answers.lock();
        let count = std::mem::take(&mut answers.taken);
        if count == 0 {
            return bytes;
        }
        answers.given = answers.given.saturating_sub(count);
        answers.framed += count;
        answers.bytes += bytes.len();
        let room = answers.room.take();
        drop(answers);
        Bytes::from_owner(Framed { bytes, count, _room: room, way: self.clone() })
    }

    /// Whether nothing was written for so long, where something should be; a frame has a second more for each 64 KiB.
    pub(super) fn is_stuck(&self, patience: Duration) -> bool {
        let answers = self.0.answers.lock();
        let for_bytes = Duration::from_secs((answers.bytes / BYTES_A_SECOND) as u64);
        answers.since.is_some_and(|since| since.elapsed() >= patience + for_bytes)
    }

    /// Whether there are frames that are not written.
    pub(super) fn is_anything_left(&self) -> bool {
        self.0.answers.lock().framed > 0
    }

    /// Resolves at the next change after this call.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + '_ {
        let mut changed = Box::pin(self.0.changed.notified());
        changed.as_mut().enable();
        changed.map(|()| ())
    }

    fn written(&self, count: usize, bytes: usize) {
        let mut answers = self.0.answers.lock();
        answers.framed -= count;
        answers.bytes -= bytes;
        answers.since = Some(Instant::now());
        answers.settle();
        self.0.changed.notify_waiters();
    }
}

impl Answers {
    fn settle(&mut self) {
        if self.given + self.framed == 0 {
            self.since = None;
        }
    }
}

/// A frame that is not written yet.
#[derive(Debug)]
struct Framed {
    bytes: Bytes,
    /// Answers in it.
    count: usize,
    _room: Option<Held>,
    way: Way,
}

impl AsRef<[u8]> for Framed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Framed {
    fn drop(&mut self) {
        self.way.written(self.count, self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::Room;

    #[tokio::test]
    async fn room_goes_with_the_frame_until_it_is_written() {
        let (room, way) = (Room::new(1000), Way::default());
        way.given();
        way.given();
        assert!(way.is_stuck(Duration::ZERO));
        way.taken(Some(room.take(100).await));
        way.taken(Some(room.take(200).await));
        let frame = way.frame(Bytes::from_static(b"two answers"));
        assert_eq!((&frame[..], room.used()), (&b"two answers"[..], 300));
        let more = way.frame(Bytes::from_static(b"their rest"));
        drop(more);
        assert!(way.is_anything_left() && way.is_stuck(Duration::ZERO));
        let part = frame.slice(..3);
        drop(frame);
        assert_eq!(room.used(), 300, "not all is written");
        drop(part);
        assert!(room.used() == 0 && !way.is_stuck(Duration::ZERO) && !way.is_anything_left());
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_frame_has_more_time() {
        let way = Way::default();
        way.given();
        way.taken(None);
        let frame = way.frame(Bytes::from(vec![0; 10 * BYTES_A_SECOND]));
        let patience = Duration::from_secs(10);
        tokio::time::advance(2 * patience - Duration::from_millis(1)).await;
        assert!(!way.is_stuck(patience));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(way.is_stuck(patience));
        // From what was written last it counts anew.
        way.given();
        drop(frame);
        assert!(!way.is_stuck(patience));
    }

    #[tokio::test]
    async fn an_end_leaves_what_is_in_frames() {
        let (room, way) = (Room::new(1000), Way::default());
        for bytes in [100, 200] {
            way.given();
            way.taken(Some(room.take(bytes).await));
            if bytes == 100 {
                let frame = way.frame(Bytes::from_static(b"one"));
                way.given();
                way.ended();
                assert_eq!(room.used(), 100);
                assert!(way.is_anything_left() && way.is_stuck(Duration::ZERO));
                drop(frame);
                assert!(room.used() == 0 && !way.is_stuck(Duration::ZERO));
            }
        }
        way.ended();
        assert!(room.used() == 0 && !way.is_stuck(Duration::ZERO));
    }
}

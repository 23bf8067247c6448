//! Answers of one stream on their way out of the broker: given by its task, taken by the face as a frame each, and written. The room of
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

/// Room that is given back when the last has gone who has a part in it.
pub(super) type Lease = Arc<Held>;

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Way(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    answers: Mutex<Answers>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Answers {
    /// Given, and not taken.
    given: usize,
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

    /// The face takes none any more: what it did not make a frame of never becomes one.
    pub(super) fn ended(&self) {
        let mut answers = self.0.answers.lock();
        answers.given = 0;
        answers.settle();
        self.0.changed.notify_waiters();
    }

    /// The face takes one, as a frame: its room is given back once that was written.
    pub(super) fn frame(&self, bytes: Bytes, room: Option<Lease>) -> Bytes {
        let mut answers = self.0.answers.lock();
        answers.given = answers.given.saturating_sub(1);
        answers.framed += 1;
        answers.bytes += bytes.len();
        drop(answers);
        Bytes::from_owner(Framed { bytes, room, way: self.clone() })
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

    /// Waits until all that was given is written, or nobody takes it any more. Cancel-safe.
    pub(super) async fn until_written(&self) {
        loop {
            let changed = self.changed();
            if self.0.answers.lock().is_idle() {
                return;
            }
            changed.await;
        }
    }

    /// Resolves at the next change after this call.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + '_ {
        let mut changed = Box::pin(self.0.changed.notified());
        changed.as_mut().enable();
        changed.map(|()| ())
    }

    fn written(&self, bytes: usize) {
        let mut answers = self.0.answers.lock();
        answers.framed -= 1;
        answers.bytes -= bytes;
        answers.since = Some(Instant::now());
        answers.settle();
        self.0.changed.notify_waiters();
    }
}

impl Answers {
    fn is_idle(&self) -> bool {
        self.given + self.framed == 0
    }

    fn settle(&mut self) {
        if self.is_idle() {
            self.since = None;
        }
    }
}

/// A frame that is not written yet.
#[derive(Debug)]
struct Framed {
    bytes: Bytes,
    room: Option<Lease>,
    way: Way,
}

impl AsRef<[u8]> for Framed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Framed {
    fn drop(&mut self) {
        // Whoever hears that all is written finds the room free.
        drop(self.room.take());
        self.way.written(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::Room;

    async fn lease(room: &Room, bytes: usize) -> Option<Lease> {
        Some(Arc::new(room.take(bytes).await))
    }

    #[tokio::test]
    async fn room_goes_with_the_frame_until_it_is_written() {
        let (room, way) = (Room::new(1000), Way::default());
        way.given();
        way.given();
        assert!(way.is_stuck(Duration::ZERO));
        let frame = way.frame(Bytes::from_static(b"one answer"), lease(&room, 100).await);
        assert_eq!((&frame[..], room.used()), (&b"one answer"[..], 100));
        let more = way.frame(Bytes::from_static(b"another"), lease(&room, 200).await);
        drop(more);
        assert!(way.is_anything_left() && way.is_stuck(Duration::ZERO));
        assert!(way.until_written().now_or_never().is_none());
        let part = frame.slice(..3);
        drop(frame);
        assert_eq!(room.used(), 100, "not all is written");
        drop(part);
        assert!(room.used() == 0 && !way.is_stuck(Duration::ZERO) && !way.is_anything_left());
        assert!(way.until_written().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_frame_has_more_time() {
        let way = Way::default();
        way.given();
        let frame = way.frame(Bytes::from(vec![0; 10 * BYTES_A_SECOND]), None);
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
        way.given();
        let frame = way.frame(Bytes::from_static(b"one"), lease(&room, 100).await);
        way.given();
        way.ended();
        assert!(way.is_anything_left() && way.is_stuck(Duration::ZERO));
        drop(frame);
        assert!(room.used() == 0 && !way.is_stuck(Duration::ZERO));
        way.given();
        way.ended();
        assert!(!way.is_stuck(Duration::ZERO));
    }
}

//! What a stream gives its client, one answer after the other, from the stream's own task. Records take [room](crate::room) from when they are
//! read until the client's side asks for what comes after them, so that all streams together hold no more than there is room for.
//!
//! Reads go on while a client takes nothing: one that is forwarded would fill what this broker may receive of the owner, for everybody. And
//! a client that takes nothing for a while, when others wait for the room, is cut off: its connection ends.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use geminga_proto::reason::ApiError;
use geminga_tls::{Caller, Cut};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::room::{Held, Room};
use crate::router::{Read, ReadSpec};

/// A client that takes nothing for so long is cut off once somebody waits for the room.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between looks whether somebody waits.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Who takes what a stream gives, and the room for that.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) room: Room,
    cut: Cut,
}

impl Client {
    /// Who sent a request.
    pub(super) fn of<T>(request: &Request<T>, room: &Room) -> Self {
        let caller = request.extensions().get::<Caller>();
        Self {
            room: room.clone(),
            cut: caller.map(|caller| caller.cut.clone()).unwrap_or_default(),
        }
    }

    /// One of whom nothing is known.
    #[cfg(test)]
    pub(super) fn unknown(room: Room) -> Self {
        Self { room, cut: Cut::default() }
    }
}

/// What was read, and its room.
#[derive(Debug)]
pub(super) struct Charged {
    pub(super) read: Read,
    pub(super) room: Option<Held>,
}

impl From<Read> for Charged {
    fn from(read: Read) -> Self {
        Self { read, room: None }
    }
}

/// Reads, and takes room for what came. Where there is none what was read is let go; if it may be waited for, it is read again once there
/// is room. Who holds room already must not wait for more: two of these could wait for each other. Cancel-safe.
///
/// # Errors
/// Those of `read`.
pub(super) async fn read<F>(
    room: &Room,
    spec: ReadSpec,
    waits: bool,
    read: impl Fn(ReadSpec) -> F,
) -> Result<Option<Charged>, ApiError>
where
    F: Future<Output = Result<Read, ApiError>>,
{
    let found = read(spec).await?;
    let bytes = bytes_of(&found);
    if let Some(held) = room.try_part(bytes) {
        return Ok(Some(Charged { read: found, room: Some(held) }));
    }
    drop(found);
    if !waits {
        return Ok(None);
    }
    let mut held = room.take_part(bytes).await;
    let max_bytes = held.bytes().min(spec.max_bytes);
    let again = ReadSpec { max_bytes, min_bytes: 1, max_wait: Duration::ZERO, ..spec };
    let found = read(again).await?;
    // A single batch may be larger than what was to be had.
    held.cover(bytes_of(&found));
    held.keep(bytes_of(&found));
    Ok(Some(Charged { read: found, room: Some(held) }))
}

fn bytes_of(read: &Read) -> usize {
    read.batches.iter().map(Bytes::len).sum()
}

type Answer<T> = (Result<T, Status>, Option<Held>);

/// Since when a client was given something beyond which it asks for nothing.
type Unasked = Arc<Mutex<Option<Instant>>>;

/// A stream of so many answers that wait: what its task gives to, and what its client takes from.
pub(super) fn channel<T>(answers: usize, client: Client) -> (Giver<T>, Taker<T>) {
    let (to, from) = mpsc::channel(answers);
    let unasked = Unasked::default();
    let giver = Giver { to, client, unasked: Arc::clone(&unasked) };
    (giver, Taker { from, last: None, unasked })
}

/// The task's end.
#[derive(Debug)]
pub(super) struct Giver<T> {
    to: mpsc::Sender<Answer<T>>,
    client: Client,
    unasked: Unasked,
}

impl<T> Giver<T> {
    /// Waits until the client takes one more; whether it is still there. Cancel-safe.
    pub(super) async fn is_taking(&self) -> bool {
        self.to.reserve().await.is_ok()
    }

    /// Gives an answer, of which it is known that it is taken.
    pub(super) fn give(&self, answer: T, room: Option<Held>) {
        self.unasked.lock().get_or_insert_with(Instant::now);
        let sent = self.to.try_send((Ok(answer), room));
        debug_assert!(!matches!(sent, Err(mpsc::error::TrySendError::Full(_))));
    }

    /// The last that it is told, however long it takes nothing. Cancel-safe.
    pub(super) async fn end(&self, status: Status) {
        let _gone = self.to.send((Err(status), None)).await;
    }

    /// Waits until the client has gone; meanwhile one that takes nothing while others wait for the room is cut off, so this is to be waited
    /// for all the time. Cancel-safe.
    pub(super) async fn gone(&self) {
        loop {
            self.look();
            tokio::select! {
                biased;
                () = self.to.closed() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    fn look(&self) {
        let patient = self.unasked.lock().is_none_or(|since| since.elapsed() < PATIENCE);
        if !patient && self.is_room_wanted() && !self.client.cut.is_cut() {
            tracing::info!(
                "a client that takes nothing of its stream is cut off: others wait for the memory"
            );
            self.client.cut.cut();
        }
    }

    /// Whether somebody waits for the room that this client's answers take.
    pub(super) fn is_room_wanted(&self) -> bool {
        self.client.room.is_wanted()
    }
}

/// The client's end.
#[derive(Debug)]
pub(crate) struct Taker<T> {
    from: mpsc::Receiver<Answer<T>>,
    /// Of what it took last: it may be on its way until it asks for more.
    last: Option<Held>,
    unasked: Unasked,
}

impl<T> Stream for Taker<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.last = None;
        *self.unasked.lock() = None;
        let next = std::task::ready!(self.from.poll_recv(cx));
        *self.unasked.lock() = Some(Instant::now());
        Poll::Ready(next.map(|(answer, room)| {
            self.last = room;
            answer
        }))
    }
}

#[cfg(test)]
mod tests;

//! What a stream gives its client, one answer after the other, from the stream's own task. Records take [room](crate::room) from when they are
//! read until the connection has written them, so that all streams together hold no more than there is room for.
//!
//! * Reads go on while a client takes nothing: one that another broker answers would fill what this one may receive of it, for everybody.
//! * A client of which nothing was written for a while, when others wait for the room, is cut off: its connection ends.
//! * What another broker forwards takes no room: that broker's client has it there, and two brokers would wait for each other.

mod taker;

use std::convert::Infallible;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use geminga_proto::ids::Offset;
use geminga_proto::reason::{ApiError, Reason};
use geminga_records::Batch;
use geminga_tls::{Caller, Cut};
use metrics::counter;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tonic::{Request, Status};

pub(crate) use self::taker::{Body, Taker};
use super::way::{Lease, Way};
use crate::room::{Held, Room, Streams};
use crate::router::{Read, ReadSpec};

/// A client of which nothing was written for so long, and a second for each 64 KiB that are to be, is cut off once somebody waits for the room.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between looks whether somebody waits.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Who takes what a stream gives, and the room for that.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// None for another broker.
    room: Option<Streams>,
    address: Option<SocketAddr>,
    cut: Cut,
}

impl Client {
    /// Who sent a request, which may be what another broker asks for one of its clients.
    pub(super) fn of<T>(request: &Request<T>, room: &Streams, is_hop: bool) -> Self {
        let caller = request.extensions().get::<Caller>();
        let is_broker = is_hop && caller.is_some_and(|caller| caller.peer.is_component());
        Self {
            room: (!is_broker).then(|| room.clone()),
            address: caller.and_then(|caller| caller.peer.address),
            cut: caller.map(|caller| caller.cut.clone()).unwrap_or_default(),
        }
    }

    /// One of whom nothing is known.
    #[cfg(test)]
    pub(super) fn unknown(room: Room) -> Self {
        let room = Some(Streams { plain: room.clone(), apart: room });
        Self { room, address: None, cut: Cut::default() }
    }

    /// Whether somebody waits for the room that its answers take.
    pub(super) fn is_room_wanted(&self) -> bool {
        self.room.as_ref().is_some_and(Streams::is_wanted)
    }

    /// Most that one stream should have read and not given.
    pub(super) fn most_bytes(&self, most: usize) -> usize {
        self.room.as_ref().map_or(most, |room| most.min(room.plain.bytes() / 4))
    }

    /// Reads one answer's part of what is free at most, and takes room for what came. Where there is none what was read is let go; if it
    /// may be waited for, it is read again once there is room, and else nothing comes of it. Who holds room already must not wait for more: two
    /// of these could wait for each other. Of what [`needs`](super::chunks::Cut::Short) room to be taken apart, so many bytes, the first batch
    /// alone is read, and read again once that room is there. Cancel-safe.
    ///
    /// # Errors
    /// Those of `read`; NOT_READY where that takes long while others wait for the room.
    pub(super) async fn read<F>(
        &self,
        spec: ReadSpec,
        needs: usize,
        waits: Waits,
        read: impl Fn(ReadSpec) -> F,
    ) -> Result<Option<Charged>, ApiError>
    where
        F: Future<Output = Result<Read, ApiError>>,
    {
        let Some(Streams { plain: room, apart }) = &self.room else {
            return Ok(Some(read(spec).await?.into()));
        };
        if needs > 0 {
            let one = ReadSpec { max_bytes: 1, min_bytes: 1, max_wait: Duration::ZERO, ..spec };
            // Whoever has it may take long, or fail: nobody waits for room meanwhile. Then it is at hand.
            drop(read(one).await?);
            let Some(mut held) = waits.for_room(apart.take(needs)).await else { return Ok(None) };
            let again = tokio::time::timeout(LOOK, read(one)).await;
            let found = first_of(again.map_err(|_| late())??);
            held.cover(bytes_of(&found));
            return Ok(Some(Charged { read: found, room: Some(held) }));
        }
        let at_most = |spec: ReadSpec, max_bytes: usize| {
            let max_bytes = spec.max_bytes.min(max_bytes);
            ReadSpec { max_bytes, min_bytes: spec.min_bytes.min(max_bytes), ..spec }
        };
        let found = read(at_most(spec, room.part())).await?;
        if let Some(held) = room.try_take(bytes_of(&found)) {
            return Ok(Some(Charged { read: found, room: Some(held) }));
        }
        let (bytes, batch) = (bytes_of(&found), found.batches.first().map_or(0, Bytes::len));
        drop(found);
        let took = waits.for_room(take(room, bytes, batch)).await;
        let Some(mut held) = took else { return Ok(None) };
        let again = ReadSpec { max_wait: Duration::ZERO, ..at_most(spec, held.bytes()) };
        let found = read(again).await?;
        held.cover(bytes_of(&found));
        held.keep(bytes_of(&found));
        Ok(Some(Charged { read: found, room: Some(held) }))
    }
}

fn late() -> ApiError {
    let why = "what was read a moment ago could not be read again in time: try again";
    ApiError::new(Reason::NotReady, why)
}

/// Room for what is read again: one answer's part of what is free. A batch is read whole however little that is, and a very large one must not
/// keep all others waiting until everything is written.
async fn take(room: &Room, bytes: usize, batch: usize) -> Held {
    let held = room.take_part(bytes).await;
    let least = batch.min(room.bytes() / 4);
    if held.bytes() >= least {
        return held;
    }
    drop(held);
    room.take(least).await
}

/// Whether a read may wait for room.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waits {
    Not,
    Until(Instant),
    Always,
}

impl Waits {
    /// What `room` resolves to, if it may be waited for so long.
    async fn for_room(self, room: impl Future<Output = Held>) -> Option<Held> {
        match self {
            Self::Always => Some(room.await),
            Self::Until(at) => tokio::time::timeout_at(at, room).await.ok(),
            Self::Not => None,
        }
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

fn bytes_of(read: &Read) -> usize {
    read.batches.iter().map(Bytes::len).sum()
}

/// A read as if it had found no more than its first batch.
fn first_of(mut read: Read) -> Read {
    if let [first, _, ..] = &read.batches[..]
        && let Ok(batch) = Batch::parse_stored(first.clone())
    {
        read.next_offset = Offset(batch.header().next_offset());
        read.batches.truncate(1);
    }
    read
}

/// One as it goes over the wire, or the end.
type Answer = Result<(Bytes, Option<Lease>), Status>;

/// A stream of so many answers that wait: what its task gives to, who watches its client, and what that takes from.
pub(super) fn channel<T>(answers: usize, client: Client) -> (Giver<T>, Watch, Taker) {
    let (to, from) = mpsc::channel(answers);
    let (here, gone) = oneshot::channel();
    let way = Way::default();
    let giver = Giver { to, way: way.clone(), _gives: PhantomData };
    let watch = Watch { client, way: way.clone(), gone, is_gone: false };
    (giver, watch, Taker { from, way, _here: here, is_over: false })
}

/// The task's end.
#[derive(Debug)]
pub(super) struct Giver<T> {
    to: mpsc::Sender<Answer>,
    way: Way,
    _gives: PhantomData<fn(T)>,
}

impl<T: Message> Giver<T> {
    /// Waits until the client takes one more; whether it is still there. Cancel-safe.
    pub(super) async fn is_taking(&self) -> bool {
        self.to.reserve().await.is_ok()
    }

    /// Waits until the client was written all that it was given, or is gone. Cancel-safe.
    pub(super) async fn until_written(&self) {
        self.way.until_written().await;
    }

    /// Gives an answer, of which it is known that it is taken. What it was made of is not needed any more then.
    pub(super) fn give(&self, answer: T, room: Option<Lease>) {
        self.way.given();
        let sent = self.to.try_send(taker::encode(&answer).map(|bytes| (bytes, room)));
        debug_assert!(!matches!(sent, Err(mpsc::error::TrySendError::Full(_))));
    }

    /// The last that it is told, however long it takes nothing. Cancel-safe.
    pub(super) async fn end(&self, status: Status) {
        let _gone = self.to.send(Err(status)).await;
    }
}

/// Who looks after a client from the stream's task, all the time.
#[derive(Debug)]
pub(super) struct Watch {
    client: Client,
    way: Way,
    gone: oneshot::Receiver<Infallible>,
    is_gone: bool,
}

impl Watch {
    /// Waits until the client, or its stream, has gone. Meanwhile it is cut off if nothing is written of what others wait for the room of.
    /// Cancel-safe.
    pub(super) async fn until_gone(&mut self) {
        let mut looks = tokio::time::interval(LOOK);
        while !self.is_gone {
            tokio::select! {
                biased;
                _ = &mut self.gone => self.is_gone = true,
                _ = looks.tick() => self.look(),
            }
        }
    }

    /// The same, until nothing is on its way any more, either: the end of a stream, too, is written when its client reads. Cancel-safe.
    pub(super) async fn until_written(&mut self) {
        self.until_gone().await;
        loop {
            let changed = self.way.changed();
            if self.client.room.is_none() || !self.way.is_anything_left() {
                return;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep(LOOK) => self.look(),
            }
        }
    }

    fn look(&self) {
        let Client { address, cut, .. } = &self.client;
        if self.way.is_stuck(PATIENCE) && self.client.is_room_wanted() && !cut.is_cut() {
            let client = address.map(tracing::field::display);
            tracing::info!(
                client,
                "a client that does not read its stream is cut off: others wait for the memory"
            );
            counter!("geminga_grpc_clients_cut_total").increment(1);
            cut.cut();
        }
    }
}

#[cfg(test)]
mod tests;

//! One long poll: an answer for all partitions that fit, once enough is there or the time is over.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use geminga_proto::ids::Offset;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use tokio::time::Instant;

use super::polls::PARALLEL_POLLS;
use super::{Fetch, Reader, Ready, Refused};
use crate::room::Held;
use crate::rpc::chunks::{Chunks, Cut};
use crate::rpc::outgoing::{Charged, Waits};
use crate::rpc::way::Lease;

/// How long after its time one poll may wait for room for what is there.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// What a poll answers, as far as it is made, and the room of that.
#[derive(Default)]
struct Answer {
    parts: Vec<v1::PartitionData>,
    bytes: usize,
    room: Option<Held>,
    /// What records among the parts are of, until these are encoded.
    apart: Vec<(Chunks, Option<Lease>)>,
    /// It is given, however little it has.
    is_over: bool,
}

impl Answer {
    /// Whether somebody else may wait for what this has.
    fn has_room(&self) -> bool {
        !self.apart.is_empty() || self.room.as_ref().is_some_and(|room| room.bytes() > 0)
    }

    fn add(&mut self, part: v1::PartitionData, bytes: usize) {
        self.parts.push(part);
        self.bytes += bytes;
    }

    fn into_ready(self) -> Ready {
        let answer = v1::FetchResponse { partitions: self.parts, throttle_ms: 0 };
        // The records themselves are there until they are encoded, and their room with them.
        let room = self.apart.into_iter().fold(self.room, |room, (chunks, lease)| {
            let (made_of, piece) = (chunks.into_room(), lease.and_then(Lease::into_inner));
            Held::both(Held::both(room, made_of), piece)
        });
        (answer, room.map(Lease::new))
    }
}

impl Fetch {
    /// Makes the answer of a stream that has only one.
    pub(super) async fn poll_once(&mut self) {
        let deadline = Instant::now() + self.max_wait;
        if self.readers.len() > 1 {
            // Nobody remembers where the last poll began.
            let turn = self.ctx.random.below(self.readers.len() as u64);
            self.readers.rotate_left(usize::try_from(turn).unwrap_or(0));
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let alone = self.readers.len() == 1;
            let wait = if alone { left } else { Duration::ZERO };
            let mut answer = Answer { is_over: alone || left.is_zero(), ..Answer::default() };
            for at in 0..self.readers.len() {
                if answer.bytes >= self.max_bytes {
                    break;
                }
                let reader = self.readers[at].clone();
                match self.add(&mut answer, reader.clone(), wait, deadline).await {
                    Ok(Added::Part) => {}
                    // The rest is for the next poll.
                    Ok(Added::NoRoom) if answer.bytes > 0 => {
                        answer.is_over = true;
                        break;
                    }
                    Ok(Added::NoRoom) => self.refuse(&mut answer, &reader, &no_room().into()),
                    Err(refused) => self.refuse(&mut answer, &reader, &refused),
                }
            }
            if answer.is_over || answer.bytes >= self.min_bytes {
                self.ready.push_back(answer.into_ready());
                self.over = true;
                return;
            }
            // Until there is more than that, of any.
            let found: Vec<_> = answer.parts.iter().map(|part| Offset(part.next_offset)).collect();
            drop(answer);
            let polls =
                self.readers.iter().zip(found).take(PARALLEL_POLLS).map(|(reader, offset)| {
                    let reader = Reader { offset, ..reader.clone() };
                    self.read_if(Waits::Not, &reader, self.spec(&reader, 1, left))
                });
            wait_any(polls.collect()).await;
        }
    }

    fn refuse(&self, answer: &mut Answer, reader: &Reader, refused: &Refused) {
        answer.is_over = true;
        answer.add(self.error(reader.partition, reader.offset, refused), 0);
    }

    /// Adds what an answer takes of one partition. It waits for room only while it has none.
    async fn add(
        &mut self,
        answer: &mut Answer,
        mut reader: Reader,
        wait: Duration,
        deadline: Instant,
    ) -> Result<Added, Refused> {
        let most = self.max_bytes - answer.bytes;
        loop {
            let waits = match answer.has_room() {
                true => Waits::Not,
                false => Waits::Until(deadline + ROOM_WAIT),
            };
            let spec = self.spec(&reader, most, wait);
            let Some(found) = self.read_if(waits, &reader, spec).await? else {
                return Ok(Added::NoRoom);
            };
            if !self.records {
                let end = found.read.next_offset;
                let (part, bytes, room) = self
                    .batches(reader.partition, found)
                    .map_err(|error| self.unreadable(&reader, &error))?;
                // The rest of what was read is there.
                answer.is_over |= part.next_offset < end.0;
                answer.add(part, bytes);
                answer.room = Held::both(answer.room.take(), room);
                return Ok(Added::Part);
            }
            let mut chunks = Chunks::new(found, reader.offset.0, v1::Format::Records);
            match chunks.next(most).map_err(|error| self.unreadable(&reader, &error))? {
                Cut::Piece(chunk) => {
                    let (bytes, lease) = (chunk.bytes, chunk.room.clone());
                    answer.add(self.chunk(reader.partition, &chunks, chunk), bytes);
                    // The rest of what was read would be read again at once: there is more than this answer takes.
                    answer.is_over |= !chunks.is_empty();
                    chunks.close();
                    answer.apart.push((chunks, lease));
                }
                Cut::Nothing => answer.add(self.nothing(reader.partition, &chunks), 0),
                Cut::Short(needs) => {
                    reader.needs = needs;
                    continue;
                }
            }
            return Ok(Added::Part);
        }
    }
}

/// What comes of one partition.
enum Added {
    Part,
    NoRoom,
}

fn no_room() -> ApiError {
    let why = "the memory for answers is full: try again, and see geminga_memory_used_bytes of the broker";
    ApiError::new(Reason::NotReady, why)
}

/// Waits until some partition has something to read, or none will in time.
async fn wait_any<F>(mut polls: FuturesUnordered<F>)
where
    F: Future<Output = Result<Option<Charged>, Refused>>,
{
    while let Some(read) = polls.next().await {
        // Where there is no room for it, something is there, too.
        let is_nothing = matches!(&read, Ok(Some(found)) if found.read.batches.is_empty());
        if !is_nothing {
            return;
        }
    }
}

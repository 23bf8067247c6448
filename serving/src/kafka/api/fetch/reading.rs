//! Reading what a fetch asks for, in two passes: first what is in memory, of all partitions, which waits for nothing; then what comes
//! from bookies, some partitions at a time. So records that are hard to get keep no other from being read.
//!
//! * Room is taken for what is there, before it is read, and what was too much is given back at once. Records from bookies have
//!   room of their own: who waits for storage keeps no room from those who read from memory.
//! * Partitions of which older records are wanted have their part of an answer, whatever there is in memory of others.
//! * The second pass as a whole has an end, an early one as soon as there is anything to answer.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use geminga_proto::ids::Offset;
use geminga_records::{Compression, Header};
use tokio::time::{Instant, timeout_at};

use super::Fetch;
use super::reply::{Data, Part, Reply, Topic};
use super::request::Wanted;
use crate::kafka::error::{Code, Fault};
use crate::kafka::place::Elsewhere;
use crate::room::Held;
use crate::router::{Read, ReadSpec};

/// How long the first data of an answer may take to be read, and what follows it: what is not there then is there for the next request.
const FIRST_READ: Duration = Duration::from_secs(10);
const FURTHER_READ: Duration = Duration::from_millis(500);
/// Most bytes that are read of one partition from bookies for one answer; one batch more where the first is larger.
const OLDER_BYTES: usize = 1024 * 1024;
/// Before this version a client cannot read zstd.
const ZSTD_SINCE: i16 = 10;

/// What there is now.
#[derive(Default)]
pub(super) struct Found {
    pub(super) reply: Reply,
    /// What it takes.
    pub(super) rooms: Vec<Held>,
    /// Bytes of records.
    pub(super) bytes: usize,
    /// One of the partitions has an error.
    noteworthy: bool,
    /// There was more than room for it.
    cut: bool,
}

impl Found {
    /// Whether it is answered without waiting for more.
    pub(super) fn is_worth(&self, min_bytes: usize) -> bool {
        self.noteworthy || self.bytes >= min_bytes || (self.cut && self.bytes > 0)
    }
}

/// How far reading of one partition is.
enum State<'a> {
    Unread(&'a Wanted),
    /// It is not in memory.
    Older(&'a Wanted),
    Done(Result<Data, Elsewhere>),
}

impl Fetch<'_> {
    /// What there is now of all partitions, in the order of the request.
    pub(super) async fn read_all(&self) -> Found {
        let mut found = Found::default();
        let wanted = self.asked.iter().flat_map(|asked| &asked.partitions);
        let mut states: Vec<State<'_>> = wanted.map(|(_, wanted)| self.look(wanted)).collect();
        self.read_recent(&mut found, &mut states).await;
        if states.iter().any(|state| matches!(state, State::Older(_))) {
            self.read_older(&mut found, &mut states).await;
        }
        let mut states = states.into_iter();
        for asked in &self.asked {
            let mut topic = Topic { name: asked.name.clone(), id: asked.id, parts: Vec::new() };
            for ((index, _), state) in asked.partitions.iter().zip(&mut states) {
                let data = match state {
                    State::Done(data) => data,
                    State::Unread(wanted) | State::Older(wanted) => Ok(self.ends(wanted)),
                };
                found.noteworthy |= data.is_err();
                topic.parts.push(Part { index: *index, data });
            }
            found.reply.topics.push(topic);
        }
        found
    }

    /// Of most partitions there is nothing new, mostly, which costs nothing.
    fn look<'a>(&self, wanted: &'a Result<Wanted, Elsewhere>) -> State<'a> {
        match wanted {
            Ok(wanted) => match self.high_watermark(wanted) {
                Some(end) if wanted.offset == end => State::Done(Ok(self.ends(wanted))),
                _ => State::Unread(wanted),
            },
            Err(elsewhere) => State::Done(Err(elsewhere.clone())),
        }
    }

    /// Where a partition ends that is open.
    fn high_watermark(&self, wanted: &Wanted) -> Option<i64> {
        let partitions = &self.call.kafka.ctx.partitions;
        let ends = partitions.open_offsets(wanted.topic.id, wanted.partition);
        ends.map(|ends| ends.high_watermark.0)
    }

    /// What is in memory.
    async fn read_recent(&self, found: &mut Found, states: &mut [State<'_>]) {
        let expected = states.iter().map(|state| match state {
            // Beyond its end there is an error only.
            State::Unread(wanted)
                if self.high_watermark(wanted).is_none_or(|end| wanted.offset < end) =>
            {
                wanted.max_bytes
            }
            State::Unread(_) | State::Older(_) | State::Done(_) => 0,
        });
        let expected = expected.fold(0, usize::saturating_add).min(self.max_bytes);
        let mut held = match expected {
            0 => None,
            _ => Some(self.call.kafka.answers.recent.take_part(expected).await),
        };
        let room = held.as_ref().map_or(1, Held::bytes);
        // Of which others have their part.
        let mut for_older = 0;
        for state in states {
            let State::Unread(wanted) = state else { continue };
            let left = room.min(self.max_bytes - for_older).saturating_sub(found.bytes);
            let max_bytes = wanted.max_bytes.min(left);
            // A full answer still says where the partition ends.
            if max_bytes == 0 {
                found.cut = true;
                continue;
            }
            match self.read(wanted, max_bytes).now_or_never() {
                Some(Ok((data, more))) => {
                    found.cut |= more && room < expected;
                    *state = State::Done(Ok(found.fit(data, left)));
                }
                Some(Err(elsewhere)) => *state = State::Done(Err(elsewhere)),
                None => {
                    let part = wanted.max_bytes.min(OLDER_BYTES);
                    for_older = (for_older + part).min(self.max_bytes / 2);
                    *state = State::Older(wanted);
                }
            }
        }
        if let Some(held) = &mut held {
            // The first batch may be larger than its room.
            held.cover(found.bytes);
            held.keep(found.bytes);
        }
        found.rooms.extend(held.filter(|held| held.bytes() > 0));
    }

    /// What comes from bookies.
    async fn read_older(&self, found: &mut Found, states: &mut [State<'_>]) {
        let patience = if found.bytes == 0 { FIRST_READ } else { FURTHER_READ };
        let mut deadline = Instant::now() + patience;
        let mut older = Vec::new();
        for (place, state) in states.iter().enumerate() {
            if let State::Older(wanted) = state {
                older.push((place, *wanted));
            }
        }
        let expected = older.iter().map(|(_, wanted)| wanted.max_bytes.min(OLDER_BYTES));
        let expected = expected.fold(0, usize::saturating_add);
        let expected = expected.min(self.max_bytes.saturating_sub(found.bytes));
        let room = self.call.kafka.answers.older.take_part(expected);
        let mut held = match timeout_at(deadline, room).await {
            Ok(held) if expected > 0 => held,
            Ok(_) | Err(_) => return found.late(older, states),
        };
        // Where not all have room now, each has it at some time.
        let at_once = (held.bytes() / OLDER_BYTES).clamp(1, older.len());
        if at_once < older.len() {
            found.cut = true;
            let turn = self.call.kafka.ctx.random.next_u128() % older.len() as u128;
            older.rotate_left(usize::try_from(turn).unwrap_or(0));
        }
        let each = held.bytes() / at_once;
        // Whoever has no turn comes another time.
        older.truncate(at_once);
        let before = found.bytes;
        let mut reads: FuturesUnordered<_> = older
            .iter()
            .map(|(place, wanted)| {
                let read = self.read(wanted, wanted.max_bytes.min(each));
                read.map(|read| (*place, read))
            })
            .collect();
        while let Ok(Some((place, read))) = timeout_at(deadline, reads.next()).await {
            states[place] = State::Done(match read {
                Ok((data, _)) => {
                    let size = data.bytes();
                    let over = size.saturating_sub(each);
                    let fits = found.bytes + size <= self.max_bytes;
                    // The first batch of a partition may be larger than its part of the room.
                    let whole = over == 0 || (fits && held.cover(held.bytes() + over));
                    let data = found.fit(data, if whole { size } else { each });
                    if found.bytes > 0 {
                        deadline = deadline.min(Instant::now() + FURTHER_READ);
                    }
                    Ok(data)
                }
                Err(elsewhere) => Err(elsewhere),
            });
        }
        drop(reads);
        held.keep(found.bytes - before);
        found.rooms.push(held);
        older.retain(|(place, _)| matches!(states[*place], State::Older(_)));
        found.late(older, states);
    }

    /// Reads one partition; also whether there is more.
    async fn read(&self, wanted: &Wanted, max_bytes: usize) -> Result<(Data, bool), Elsewhere> {
        let offset = Offset(wanted.offset);
        let spec = ReadSpec { offset, max_bytes, min_bytes: 1, max_wait: Duration::ZERO };
        let partitions = &self.call.kafka.ctx.partitions;
        let read = partitions.read(wanted.topic.clone(), wanted.partition, spec).await;
        let read = read.map_err(|error| Fault::from(error).of_fetch())?;
        let more = read.next_offset < read.high_watermark;
        Ok((self.readable(read)?, more))
    }

    fn ends(&self, wanted: &Wanted) -> Data {
        let partitions = &self.call.kafka.ctx.partitions;
        let ends = partitions.open_offsets(wanted.topic.id, wanted.partition);
        let ends = ends.map_or((-1, -1), |ends| (ends.high_watermark.0, ends.log_start.0));
        self.data(ends, Vec::new())
    }

    fn readable(&self, read: Read) -> Result<Data, Elsewhere> {
        let is_zstd = |batch: &Bytes| {
            Header::peek(batch).and_then(|header| header.compression()) == Ok(Compression::Zstd)
        };
        if self.call.version() < ZSTD_SINCE && read.batches.iter().any(is_zstd) {
            let why = "zstd needs version 10 of Fetch: upgrade the client";
            return Err(Fault::new(Code::UNSUPPORTED_COMPRESSION_TYPE, why).into());
        }
        Ok(self.data((read.high_watermark.0, read.log_start.0), read.batches))
    }

    fn data(&self, (high_watermark, log_start): (i64, i64), batches: Vec<Bytes>) -> Data {
        Data { high_watermark, log_start, batches, committed_only: self.committed_only }
    }
}

impl Found {
    /// Counts what was read of a partition, as far as `room` goes. Only the first batch of an answer may be larger.
    fn fit(&mut self, mut data: Data, room: usize) -> Data {
        while self.bytes > 0 && data.bytes() > room {
            data.batches.pop();
            self.cut = true;
        }
        self.bytes += data.bytes();
        data
    }

    /// Partitions that could not be read in time: the others are answered without, and next time they may come first.
    fn late(&mut self, late: Vec<(usize, &Wanted)>, states: &mut [State<'_>]) {
        self.cut |= !late.is_empty();
        if self.bytes > 0 {
            return;
        }
        for (place, _) in late {
            let why = "storage is slow: try again";
            states[place] = State::Done(Err(Fault::new(Code::NOT_LEADER_OR_FOLLOWER, why).into()));
        }
    }
}

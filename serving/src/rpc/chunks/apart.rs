//! Records of batches that are taken apart one at a time. A small batch may decompress to a large one, so all that this adds has room
//! before there is anything in it:
//!
//! ```text
//!   room ≥ stored batches that are left + decompressed ones that records are of + the piece that is made, or was made and is not written
//! ```
//!
//! * How large a batch is when it is decompressed, nobody knows before: room is taken for a guess, twice, since a decoder may take as much
//!   again, and for a larger one when that was too little. More than [`INFLATED_BYTES`], or one and a half of the room, is refused.
//! * There is no waiting for room here, where some is held. Who finds none says what it [needs](Cut::Short); who comes back with
//!   that has enough for a piece. More than all the room counts as all of it.
//! * Records share the bytes of their batch, and a piece is encoded before anything else happens. The next is made when it is written, in
//!   the same room: a batch that was taken apart goes to its end without waiting for others.

use std::collections::VecDeque;

use bytes::Bytes;
use geminga_proto::v1::partition_data::Data;
use geminga_proto::{caps, v1};
use geminga_records::{Batch, BatchError, Compression, Record, Records};

use super::{CHUNK_BYTES, Chunk, Cut};
use crate::room::Held;
use crate::rpc::way::Lease;

/// Most bytes that one batch may decompress to: a record of it fits into a message.
const INFLATED_BYTES: usize = 2 * caps::MAX_BATCH_BYTES;
/// The least that is guessed, and by how much the next guess is larger.
const LEAST_GUESS: usize = 64 * 1024;
const GROWTH: usize = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Apart {
    /// Records before it are left out.
    from: i64,
    batches: VecDeque<Bytes>,
    /// Bytes of these.
    left: usize,
    open: Option<Open>,
    /// Bytes of batches, of which the piece that was made last has the last records.
    closed: usize,
    /// What that piece takes beside its bytes until it is encoded.
    extra: usize,
    /// End of the batch that was taken from `batches` last.
    opened_end: i64,
    /// What follows the piece that was made last.
    failed: Option<BatchError>,
    /// Room of all but the piece that is on its way.
    room: Option<Held>,
    on_its_way: Option<Lease>,
}

/// A batch that is taken apart.
#[derive(Debug)]
struct Open {
    records: Records,
    next: Weighed,
    /// What it takes: decompressed, or as it was read.
    bytes: usize,
    /// Room that it took to open it.
    took: usize,
}

/// A record that is to be sent.
#[derive(Debug)]
struct Weighed {
    record: v1::Record,
    /// What it adds to the encoded `Records`: clients count these bytes when they grant credit anew.
    cost: usize,
    /// What it takes here until it is encoded, and then.
    weight: usize,
}

/// What is being made.
#[derive(Debug, Default)]
struct Piece {
    records: Vec<v1::Record>,
    bytes: usize,
    weight: usize,
}

/// What opening the next batch comes to.
enum Opened {
    Yes,
    Nothing,
    Short(usize),
}

impl Apart {
    pub(super) fn new(batches: VecDeque<Bytes>, room: Option<Held>, from: i64) -> Self {
        Self {
            from,
            left: batches.iter().map(Bytes::len).sum(),
            batches,
            open: None,
            closed: 0,
            extra: 0,
            opened_end: from,
            failed: None,
            room,
            on_its_way: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.open.is_none() && self.failed.is_none()
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.on_its_way.as_ref().is_some_and(|lease| Lease::strong_count(lease) > 1)
    }

    /// Forgets all but what the last piece was made of, and is as long as it is not encoded.
    pub(super) fn close(&mut self) {
        self.batches.clear();
        self.left = 0;
        self.on_its_way = None;
        let bytes = self.bytes() + self.extra;
        if let Some(room) = &mut self.room {
            room.keep(bytes);
        }
    }

    /// The room of all that there is, but of a piece that is on its way.
    pub(super) fn into_room(self) -> Option<Held> {
        self.room
    }

    /// The next piece of at most so many bytes, but for a single record.
    pub(super) fn next(&mut self, most: usize, read_end: i64) -> Result<Cut, BatchError> {
        debug_assert!(!self.is_waiting(), "the piece before is not written");
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.take_back();
        let mut piece = Piece::default();
        let mut short = None;
        while self.failed.is_none() {
            if self.open.is_none() {
                match self.open_next() {
                    Ok(Opened::Yes) => {}
                    Ok(Opened::Nothing) => break,
                    Ok(Opened::Short(needs)) => {
                        short = Some(needs);
                        break;
                    }
                    Err(error) if piece.records.is_empty() => return Err(error),
                    Err(error) => {
                        self.failed = Some(error);
                        break;
                    }
                }
            }
            short = self.add_next(&mut piece, most);
            if short.is_some() {
                break;
            }
        }
        Ok(match (short, piece.records.is_empty()) {
            (_, false) => Cut::Piece(self.finish(piece, read_end)),
            (Some(needs), true) => Cut::Short(needs),
            (None, true) => Cut::Nothing,
        })
    }

    /// Adds the next record of the open batch, unless it is for the next piece: then what room it needs.
    fn add_next(&mut self, piece: &mut Piece, most: usize) -> Option<usize> {
        let open = self.open.as_ref()?;
        let (bytes, weight) = (piece.bytes + open.next.cost, piece.weight + open.next.weight);
        let (is_first, piece_bytes) = (piece.records.is_empty(), self.piece_bytes());
        let needs = open.took + weight.max(piece_bytes);
        if !is_first && (bytes > most || weight > CHUNK_BYTES) {
            return Some(needs);
        }
        if is_first {
            // In one step what most of the piece needs, if it is there.
            self.cover(self.bytes() + piece_bytes);
        }
        if !self.cover(self.bytes() + weight) {
            return Some(needs);
        }
        let mut open = self.open.take()?;
        let next = match open.records.next() {
            Some(Ok(record)) => Some(Weighed::new(record)),
            Some(Err(error)) => {
                self.failed = Some(error);
                None
            }
            None => None,
        };
        (piece.bytes, piece.weight) = (bytes, weight);
        match next {
            Some(next) => {
                let Weighed { record, .. } = std::mem::replace(&mut open.next, next);
                piece.records.push(record);
                self.open = Some(open);
            }
            None => {
                piece.records.push(open.next.record);
                self.closed += open.bytes;
            }
        }
        None
    }

    fn finish(&mut self, piece: Piece, read_end: i64) -> Chunk {
        let Piece { records, bytes, weight } = piece;
        self.extra = weight.saturating_sub(bytes);
        let last = records.last().map_or(self.from, |last| last.offset);
        let is_inside = self.open.is_some() || self.failed.is_some();
        let next_offset = match (is_inside, self.batches.is_empty()) {
            (true, _) => last + 1,
            (false, false) => self.opened_end,
            (false, true) => read_end,
        };
        let (stays, is_over) = (self.bytes(), self.is_empty());
        let spare = self.piece_bytes().max(weight);
        let room = self.room.as_mut().map(|room| {
            let room_of_piece = Lease::new(room.split(bytes));
            // What may still be made of it has its room again when this is written.
            room.keep(stays + spare.saturating_sub(bytes));
            room_of_piece
        });
        self.on_its_way = if is_over { None } else { room.clone() };
        Chunk { data: Data::Records(v1::Records { records }), bytes, next_offset, room }
    }

    /// The room of a piece that is written, and what that was made of.
    fn take_back(&mut self) {
        self.closed = 0;
        self.on_its_way = match self.on_its_way.take().map(Lease::try_unwrap) {
            Some(Ok(held)) => {
                self.room = Held::both(self.room.take(), Some(held));
                None
            }
            Some(Err(lease)) => Some(lease),
            None => None,
        };
    }

    /// Takes batches apart until one has a record for the reader.
    fn open_next(&mut self) -> Result<Opened, BatchError> {
        while let Some(stored) = self.batches.front() {
            let (batch, stored) = (Batch::parse_stored(stored.clone())?, stored.len());
            let header = batch.header();
            let is_wanted = !header.is_control() && header.next_offset() > self.from;
            if is_wanted {
                match self.open(&batch, stored)? {
                    Ok(open) => self.open = open,
                    Err(needs) => return Ok(Opened::Short(needs)),
                }
            }
            self.opened_end = header.next_offset();
            self.batches.pop_front();
            self.left -= stored;
            if self.open.is_some() {
                return Ok(Opened::Yes);
            }
        }
        Ok(Opened::Nothing)
    }

    /// Takes a batch apart, which may have nothing for the reader; or the room that this needs and is not free.
    fn open(
        &mut self,
        batch: &Batch,
        stored: usize,
    ) -> Result<Result<Option<Open>, usize>, BatchError> {
        let (mut records, bytes, took) = if batch.header().compression()? == Compression::None {
            // They lie in the bytes that were read.
            (Records::open(batch, stored)?, stored, stored)
        } else {
            match self.inflate(batch, stored)? {
                Ok((records, took)) => {
                    let bytes = records.bytes();
                    (records, bytes, took)
                }
                Err(needs) => return Ok(Err(needs)),
            }
        };
        let from = self.from;
        let next = records.find(|next| next.as_ref().map_or(true, |next| next.offset >= from));
        let next = next.transpose()?.map(Weighed::new);
        Ok(Ok(next.map(|next| Open { records, next, bytes, took })))
    }

    /// The records of a compressed batch, and what room was taken; or what is needed.
    fn inflate(
        &mut self,
        batch: &Batch,
        stored: usize,
    ) -> Result<Result<(Records, usize), usize>, BatchError> {
        let (limit, piece) = (self.inflated_bytes(), self.piece_bytes());
        let mut most = self.guess(stored).min(limit);
        loop {
            let adds = most.saturating_mul(2) + piece;
            if !self.cover(self.bytes() + adds) {
                return Ok(Err(stored + adds));
            }
            // On this thread: others would keep what they freed, beyond any bound, where what they made is let go elsewhere.
            match Records::open(batch, most) {
                Err(BatchError::Inflated(_)) if most < limit => {
                    most = most.saturating_mul(GROWTH).min(limit);
                }
                opened => return opened.map(|records| Ok((records, stored + 2 * most))),
            }
        }
    }

    /// What a batch may decompress to at first: as much as there is room for already, where it was waited for.
    fn guess(&self, stored: usize) -> usize {
        let guess = stored.saturating_mul(GROWTH).max(LEAST_GUESS);
        let Some(room) = &self.room else { return INFLATED_BYTES };
        if room.bytes() == room.whole() {
            return INFLATED_BYTES;
        }
        let spare = room.bytes().saturating_sub(self.bytes() + self.piece_bytes());
        guess.max(spare / 2)
    }

    /// Most that a batch may decompress to: half as much again as there is room for, which only one has at a time that needs all of it.
    fn inflated_bytes(&self) -> usize {
        self.room.as_ref().map_or(INFLATED_BYTES, |room| INFLATED_BYTES.min(room.whole() / 2 * 3))
    }

    /// Room that a piece has, if it needs no more.
    fn piece_bytes(&self) -> usize {
        self.room.as_ref().map_or(CHUNK_BYTES, |room| CHUNK_BYTES.min(room.whole() / 8))
    }

    /// What there is room for, beside a piece.
    fn bytes(&self) -> usize {
        self.left + self.closed + self.open.as_ref().map_or(0, |open| open.bytes)
    }

    /// Whether there is so much room, or all that there is.
    fn cover(&mut self, bytes: usize) -> bool {
        self.room.as_mut().is_none_or(|room| room.cover(bytes.min(room.whole())))
    }
}

impl Weighed {
    fn new(record: Record) -> Self {
        let record = v1::Record::from(record);
        let cost = prost::encoding::message::encoded_len(1, &record);
        // Their names are strings of their own.
        let names = record.headers.iter().map(|header| header.key.capacity()).sum::<usize>();
        let headers = record.headers.len() * size_of::<v1::Header>() + names;
        Self { cost, weight: cost + headers + size_of::<v1::Record>(), record }
    }
}

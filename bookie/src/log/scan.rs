//! Reads the end of a log, segment by segment, until a frame is missing.

use bytes::Bytes;

use super::catalogue::{Catalogue, Full};
use super::error::OpenError;
use super::footer::Footer;
use super::format::{Frame, HEADER_BYTES, Seed};
use super::load::{self, Loaded};
use super::mutation::{Mutation, Mutations};
use super::rebuild::Rebuilt;
use super::{Identity, corrupt};
use crate::io::Disk;

/// Where the first frame is missing.
#[derive(Debug)]
pub(super) struct Stop {
    /// Of the segment in the list; its length when there is none.
    pub(super) index: usize,
    pub(super) offset: usize,
    /// Whether a footer says that the segment ends here.
    pub(super) full: bool,
}

/// A segment as far as it was read.
#[derive(Debug)]
enum Source {
    /// Its footer is good.
    Footer(Footer),
    /// The whole file.
    Loaded(Loaded),
}

impl Source {
    /// Number of its first frame, if it has one.
    fn begins(&self, seed: Seed) -> Option<u64> {
        match self {
            Self::Footer(footer) => Some(footer.first_frame),
            Self::Loaded(loaded) => Some(loaded.frame(HEADER_BYTES, seed)?.head.seq),
        }
    }

    fn seq(&self) -> u64 {
        match self {
            Self::Footer(footer) => footer.segment,
            Self::Loaded(loaded) => loaded.seq,
        }
    }
}

/// Reads segments in order.
pub(super) struct Scan<'a> {
    disk: &'a dyn Disk,
    identity: &'a Identity,
    seed: Seed,
    /// The next frame.
    pub(super) expected: u64,
    /// Highest frame that a later one vouches for.
    durable_upto: u64,
    /// Frames that none does: segment, offset, bytes.
    pub(super) unvouched: Vec<(u64, u64, Bytes)>,
    pub(super) rebuilt: Rebuilt,
    /// Takes in the segments.
    catalogue: &'a mut Catalogue,
    mutations: Mutations,
}

impl<'a> Scan<'a> {
    /// Goes on from what is built already; the first frame is `expected`.
    pub(super) fn new(
        disk: &'a dyn Disk,
        identity: &'a Identity,
        (rebuilt, catalogue): (Rebuilt, &'a mut Catalogue),
        expected: u64,
        mutations: Mutations,
    ) -> Self {
        Self {
            disk,
            identity,
            seed: Seed::of(identity),
            expected,
            durable_upto: expected - 1,
            unvouched: Vec::new(),
            rebuilt,
            catalogue,
            mutations,
        }
    }

    fn source(&self, seq: u64) -> Result<Source, OpenError> {
        Ok(match load::footer(self.disk, seq, self.seed) {
            Some(footer) => Source::Footer(footer),
            None => Source::Loaded(self.load(seq)?),
        })
    }

    fn load(&self, seq: u64) -> Result<Loaded, OpenError> {
        Loaded::read(self.disk, self.identity, seq)
    }

    /// Applies frames in order until one is missing.
    pub(super) fn frames(&mut self, segments: &[u64]) -> Result<Stop, OpenError> {
        let mut stop = Stop { index: 0, offset: HEADER_BYTES, full: false };
        let Some(&first) = segments.first() else { return Ok(stop) };
        let mut current = self.source(first)?;
        loop {
            let next = segments.get(stop.index + 1).map(|seq| self.source(*seq)).transpose()?;
            let until = next.as_ref().and_then(|next| next.begins(self.seed));
            if let (Some(next), Some(until)) = (&next, until)
                && (until < self.expected || current.begins(self.seed) == Some(until))
            {
                // No crash leaves this, and neither of the two may be dropped.
                return Err(corrupt(next.seq(), HEADER_BYTES, "it repeats the segment before it"));
            }
            (stop.offset, stop.full) = match current {
                Source::Footer(footer) if footer.first_frame == self.expected => {
                    (self.footer(footer), true)
                }
                Source::Footer(footer) => {
                    (self.segment(&self.load(footer.segment)?, until)?, false)
                }
                Source::Loaded(loaded) => (self.segment(&loaded, until)?, false),
            };
            self.rebuilt.index.make_room();
            match next {
                Some(next) if until == Some(self.expected) => current = next,
                _ => return Ok(stop),
            }
            stop.index += 1;
        }
    }

    /// Applies what a footer lists, all of which was on stable storage; where the frames end.
    fn footer(&mut self, footer: Footer) -> usize {
        let Footer { segment, first_frame, last_frame, end, items } = footer;
        for item in &items {
            self.rebuilt.apply(segment, item);
        }
        self.unvouched.clear();
        self.durable_upto = last_frame;
        self.expected = last_frame + 1;
        self.catalogue.found(segment, Full { first_frame, last_frame, end }, None);
        end as usize
    }

    /// Applies a segment's frames up to frame `until`, or as many as there are; where they end.
    fn segment(&mut self, segment: &Loaded, until: Option<u64>) -> Result<usize, OpenError> {
        let (mut offset, first_frame, mut items) = (HEADER_BYTES, self.expected, Vec::new());
        while until != Some(self.expected) {
            let Some(frame) = self.frame(segment, offset) else {
                // That is no end of the log: the frame may well be there.
                segment.refused_at(offset).map_or(Ok(()), Err)?;
                break;
            };
            self.vouch(segment, offset, &frame);
            let found = segment.items(offset, &frame, self.seed)?;
            for item in &found {
                self.rebuilt.apply(segment.seq, item);
            }
            items.extend(found);
            offset = frame.end;
            self.expected += 1;
        }
        if self.expected > first_frame {
            let last_frame = self.expected - 1;
            let end = u32::try_from(offset).expect("a segment is below 4 GiB");
            let footer = Footer { segment: segment.seq, first_frame, last_frame, end, items };
            self.catalogue.found(segment.seq, Full { first_frame, last_frame, end }, Some(footer));
        }
        Ok(offset)
    }

    /// The frame at `offset`, if it is the one that comes next: a file that is used again holds others, too.
    fn frame(&self, segment: &Loaded, offset: usize) -> Option<Frame> {
        if self.mutations.is(Mutation::TakeStaleFrames) {
            return segment.any_frame(offset, self.seed);
        }
        segment.frame(offset, self.seed).filter(|frame| frame.head.seq == self.expected)
    }

    /// Remembers a frame until a later one vouches for it.
    fn vouch(&mut self, segment: &Loaded, offset: usize, frame: &Frame) {
        if frame.head.durable_upto > self.durable_upto {
            self.durable_upto = frame.head.durable_upto;
            // What is left was in flight together with this frame.
            let in_flight = frame.head.seq - 1 - frame.head.durable_upto;
            let vouched = self.unvouched.len().saturating_sub(in_flight as usize);
            self.unvouched.drain(..vouched);
        }
        let end = frame.end.min(segment.bytes.len());
        self.unvouched.push((segment.seq, offset as u64, segment.bytes.slice(offset..end)));
    }

    /// K8: refuses when a frame behind the stop says that the missing one had been durable, or when not all that is behind the stop can
    /// be read: what is missing may be there. Behind the footer of a full segment there are no frames.
    pub(super) fn look_ahead(&self, segments: &[u64], stop: &Stop) -> Result<(), OpenError> {
        let (begin, mut offset) = match stop.full {
            true => (stop.index + 1, HEADER_BYTES),
            false => (stop.index, stop.offset),
        };
        let mut vouched = false;
        for &seq in segments.get(begin..).unwrap_or_default() {
            let loaded = self.load(seq)?;
            loaded.refused_behind(offset).map_or(Ok(()), Err)?;
            vouched |= loaded.vouches_for(self.expected, offset, self.seed);
            offset = HEADER_BYTES;
        }
        if vouched {
            let why = "a frame is missing that later frames say was on stable storage";
            return Err(corrupt(segments[stop.index], stop.offset, why));
        }
        Ok(())
    }
}

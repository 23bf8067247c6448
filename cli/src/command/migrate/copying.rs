//! One partition on its way over. Pure: what was fetched and what was acknowledged in, what to write and what to keep out.
//!
//! `checkpoint.source <= next`: up to the first everything is acknowledged at the target, up to the second it is fetched.

use std::sync::Arc;

use geminga_client::ReadyBatch;
use geminga_records::{Batch, Sequence, sequence_after};

use super::back::{Back, IN_DOUBT, is_same};
use super::checkpoint::Checkpoint;
use super::map::Place;
use super::pieces::{Piece, Pieces};

/// What a partition that goes no further wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Another broker leads it now.
    Moved,
    /// The source has nothing at the offset any more.
    OutOfRange,
    /// It cannot be copied on.
    Failed(String),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Copying {
    pub(super) topic: Arc<str>,
    pub(super) partition: u32,
    pub(super) checkpoint: Checkpoint,
    /// The source's offset to fetch next.
    pub(super) next: i64,
    /// Where the source ends, as far as is known.
    pub(super) end: i64,
    /// Where it is to stop.
    pub(super) goal: Option<i64>,
    pub(super) trouble: Option<Trouble>,
    /// Records, and bytes of batches, that were acknowledged by this run.
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Source offsets that were gone before they could be copied.
    pub(super) lost: i64,
    /// Behind the checkpoint there may be what an earlier try wrote: that is read back before anything is written.
    pub(super) unproven: bool,
    /// What was read back and not met again yet.
    back: Back,
    /// The target said that it has the next batch already, and the checkpoint did not go on since.
    doubted: bool,
    /// Target less source, from the last place on.
    difference: Option<i64>,
    /// Places that are not kept yet.
    places: Vec<Place>,
    /// The checkpoint as it is kept.
    kept: Option<Checkpoint>,
}

impl Copying {
    /// A partition that goes on at a checkpoint, which is kept.
    pub(super) fn new(topic: Arc<str>, partition: u32, checkpoint: Checkpoint) -> Self {
        Self {
            topic,
            partition,
            next: checkpoint.source,
            end: checkpoint.source,
            goal: None,
            trouble: None,
            records: 0,
            bytes: 0,
            lost: 0,
            unproven: false,
            back: Back::default(),
            doubted: false,
            difference: None,
            places: Vec::new(),
            kept: Some(checkpoint.clone()),
            checkpoint,
        }
    }

    /// A partition that begins at a checkpoint, which is to be kept before anything is written.
    pub(super) fn begun(topic: Arc<str>, partition: u32, checkpoint: Checkpoint) -> Self {
        Self { kept: None, ..Self::new(topic, partition, checkpoint) }
    }

    /// Whether it is where it is to stop, or goes no further.
    pub(super) fn is_over(&self) -> bool {
        self.trouble.is_some() || self.goal.is_some_and(|goal| self.checkpoint.source >= goal)
    }

    /// Whether there is more to fetch.
    pub(super) fn wants(&self) -> bool {
        self.trouble.is_none() && !self.unproven && self.goal.is_none_or(|goal| self.next < goal)
    }

    /// How many source offsets it is behind.
    pub(super) fn lag(&self) -> i64 {
        (self.end - self.checkpoint.source).max(0)
    }

    /// Takes what was fetched from [`Copying::next`] on; returns what is to be written.
    pub(super) fn fetched(&mut self, found: Pieces, end: i64) -> Vec<Piece> {
        self.next = found.next;
        self.end = end;
        found.pieces
    }

    /// The batches of pieces, which follow what is acknowledged, with the producer's numbers.
    pub(super) fn batches(&self, pieces: &[Piece]) -> Vec<ReadyBatch> {
        let mut first = self.checkpoint.sequence;
        let ready = |piece: &Piece| {
            let batch = self.numbered(piece, first);
            first = sequence_after(first, piece.count());
            let topic = Arc::clone(&self.topic);
            ReadyBatch { topic, partition: self.partition, batch: batch.into_bytes() }
        };
        pieces.iter().map(ready).collect()
    }

    fn numbered(&self, piece: &Piece, first: i32) -> Batch {
        let mut batch = piece.batch.clone();
        batch.set_sequence(Sequence { producer_id: self.checkpoint.producer, epoch: 0, first });
        batch
    }

    /// This is what there is behind the checkpoint.
    pub(super) fn proven(&mut self, back: Back) {
        (self.back, self.unproven) = (back, false);
    }

    /// Whether something of ours is behind the checkpoint that the source has not shown again.
    pub(super) fn is_behind(&self) -> bool {
        self.unproven || !self.back.batches.is_empty()
    }

    /// Takes those pieces away that were read back, which are written. False: the source has others now than were written.
    pub(super) fn recognise(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let mut met = 0;
        let mut same = true;
        while let (Some(stored), Some(piece)) =
            (self.back.batches.front().copied(), pieces.get(met))
        {
            same = is_same(&stored, &self.numbered(piece, self.checkpoint.sequence));
            if !same {
                break;
            }
            self.back.batches.pop_front();
            self.written(piece, stored.base_offset);
            met += 1;
        }
        pieces.drain(..met);
        same
    }

    /// The target says that it has a batch, at this offset or where it does not remember. False: it has something else of these
    /// numbers, or nobody knows. Then it is to be read back, once.
    pub(super) fn acknowledged(&mut self, piece: &Piece, at: Option<i64>) -> bool {
        match at.filter(|at| *at >= self.back.end) {
            Some(at) => self.written(piece, at),
            None if self.doubted => self.fail(IN_DOUBT),
            None => {
                self.again();
                (self.unproven, self.doubted) = (true, true);
            }
        }
        self.trouble.is_none() && !self.unproven
    }

    /// A piece is written, at this target offset.
    fn written(&mut self, piece: &Piece, at: i64) {
        self.doubted = false;
        for (before, source) in &piece.runs {
            let target = at + i64::from(*before);
            if self.difference != Some(target - source) {
                self.difference = Some(target - source);
                self.places.push(Place { source: *source, target });
            }
        }
        self.checkpoint.written(piece, at);
        self.records += u64::from(piece.count());
        self.bytes += piece.batch.len() as u64;
    }

    /// Nothing is on its way: what was passed over counts as copied.
    pub(super) fn settled(&mut self) {
        self.checkpoint.source = self.checkpoint.source.max(self.next);
    }

    /// What is on its way is given up: fetch it again.
    pub(super) fn again(&mut self) {
        self.next = self.checkpoint.source;
    }

    /// It goes no further.
    pub(super) fn fail(&mut self, why: impl ToString) {
        self.again();
        self.trouble = Some(Trouble::Failed(why.to_string()));
    }

    /// Why it goes no further.
    pub(super) fn failed(&self) -> Option<&str> {
        match &self.trouble {
            Some(Trouble::Failed(why)) => Some(why),
            Some(Trouble::Moved | Trouble::OutOfRange) | None => None,
        }
    }

    /// The source begins at a later offset now: what was before it is gone.
    pub(super) fn skip_to(&mut self, start: i64) {
        self.lost += start - self.checkpoint.source;
        self.checkpoint.source = start;
        self.next = start;
        self.trouble = None;
    }

    /// Numbers begin anew.
    pub(super) fn renumber(&mut self, producer: i64) {
        (self.checkpoint.producer, self.checkpoint.sequence) = (producer, 0);
        (self.back, self.unproven, self.doubted) = (Back::default(), false, false);
    }

    /// Places that are not kept yet.
    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    /// Whether anything is not kept yet. Of one that failed before it began nothing is kept.
    pub(super) fn is_dirty(&self) -> bool {
        let Some(kept) = &self.kept else { return self.trouble.is_none() };
        self.checkpoint != *kept || !self.places.is_empty()
    }

    /// All of it is kept.
    pub(super) fn kept(&mut self) {
        self.places.clear();
        self.kept = Some(self.checkpoint.clone());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use geminga_records::{Batch, Compression, Record, encode};

    use super::super::checkpoint::Origin;
    use super::*;

    fn copying() -> Copying {
        let checkpoint = Checkpoint {
            source: 10,
            target: 0,
            producer: 5,
            sequence: i32::MAX - 1,
            origin: Origin::default(),
        };
        Copying::new("t".into(), 3, checkpoint)
    }

    fn piece(count: usize, runs: &[(u32, i64)], next: i64) -> Piece {
        let record = Record { value: Some(Bytes::from_static(b"v")), ..Record::default() };
        let batch = encode(&vec![record; count], Compression::None).unwrap();
        Piece { batch, runs: runs.to_vec(), next }
    }

    #[test]
    fn numbers_follow_each_other_and_places_are_where_the_difference_changes() {
        let mut copying = copying();
        let pieces = vec![
            piece(2, &[(0, 10)], 12),
            piece(2, &[(0, 12)], 14),
            piece(2, &[(0, 20), (1, 22)], 30),
        ];
        let found = Pieces { pieces, next: 35 };
        let pieces = copying.fetched(found, 50);
        let numbers: Vec<_> = copying
            .batches(&pieces)
            .into_iter()
            .map(|b| Batch::parse(b.batch).unwrap().header().sequence().unwrap())
            .map(|sequence| (sequence.producer_id, sequence.first))
            .collect();
        assert_eq!(numbers, [(5, i32::MAX - 1), (5, 0), (5, 2)]);
        assert_eq!((copying.next, copying.lag(), copying.is_dirty()), (35, 40, false));
        // Before the third somebody else wrote.
        for (piece, at) in pieces.iter().zip([0, 2, 7]) {
            copying.written(piece, at);
        }
        let places: Vec<_> = copying.places().iter().map(|p| (p.source, p.target)).collect();
        assert_eq!(places, [(10, 0), (20, 7), (22, 8)]);
        let Checkpoint { source, target, sequence, .. } = copying.checkpoint;
        assert_eq!((source, target, sequence, copying.records), (30, 9, 4, 6));
        copying.settled();
        assert_eq!((copying.checkpoint.source, copying.lag()), (35, 15));
        assert!(copying.is_dirty());
        copying.kept();
        assert!(!copying.is_dirty() && copying.places().is_empty());
    }

    /// Pieces of these counts, as a run writes them behind a checkpoint from offset 0 on; and what is read back then.
    fn killed(counts: &[usize]) -> (Copying, Vec<Piece>, Back) {
        let mut copying = copying();
        copying.unproven = true;
        let mut next = 10;
        let pieces: Vec<_> = counts
            .iter()
            .map(|count| {
                let first = next;
                next += i64::try_from(*count).unwrap();
                piece(*count, &[(0, first)], next)
            })
            .collect();
        let mut back = Back { end: 100, ..Back::default() };
        let mut at = 3;
        for ready in copying.batches(&pieces) {
            let [head, rest] = Batch::parse(ready.batch).unwrap().stamp(at, 7);
            let stored = Batch::parse_stored([head, rest].concat().into()).unwrap();
            // It comes again, and is one all the same.
            back.take(stored.header(), &copying.checkpoint);
            back.take(stored.header(), &copying.checkpoint);
            at += 10;
        }
        assert_eq!(back.batches.len(), counts.len());
        (copying, pieces, back)
    }

    #[test]
    fn what_is_read_back_is_not_written_again() {
        let (mut copying, mut pieces, back) = killed(&[2, 3]);
        assert!(copying.is_behind() && !copying.wants());
        copying.proven(back);
        assert!(copying.is_behind() && copying.wants());
        pieces.push(piece(1, &[(0, 15)], 16));
        assert!(copying.recognise(&mut pieces));
        assert_eq!((pieces.len(), copying.is_behind()), (1, false));
        let Checkpoint { source, target, sequence, .. } = copying.checkpoint;
        assert_eq!((source, target, sequence), (15, 16, 3));
    }

    #[test]
    fn a_number_alone_does_not_show_that_a_record_is_there() {
        // Compaction took a record of the second: the numbers go on, the records are others.
        for others in [piece(2, &[(0, 12)], 15), piece(3, &[(0, 12)], 15)] {
            let (mut copying, mut pieces, back) = killed(&[2, 3]);
            copying.proven(back);
            let mut batch = others;
            if batch.count() == 3 {
                let record =
                    Record { value: Some(Bytes::from_static(b"new")), ..Record::default() };
                batch.batch = encode(&vec![record; 3], Compression::None).unwrap();
            }
            pieces[1] = batch;
            assert!(!copying.recognise(&mut pieces));
            assert_eq!(
                (pieces.len(), copying.checkpoint.source, copying.is_behind()),
                (1, 12, true)
            );
        }
        // The target says that it has one which was not read back: it is read back once more, and then nobody knows.
        let mut copying = copying();
        copying.proven(Back { end: 50, ..Back::default() });
        let one = piece(1, &[(0, 10)], 11);
        for at in [None, Some(49)] {
            assert!(!copying.acknowledged(&one, at));
            assert_eq!(copying.checkpoint.source, 10);
        }
        assert_eq!(copying.failed(), Some(IN_DOUBT));
        let mut copying = super::tests::copying();
        copying.proven(Back { end: 50, ..Back::default() });
        assert!(copying.acknowledged(&one, Some(50)));
        assert_eq!((copying.checkpoint.source, copying.checkpoint.target), (11, 51));
    }

    #[test]
    fn a_goal_is_reached_by_what_is_acknowledged() {
        let mut copying = copying();
        copying.goal = Some(14);
        let pieces =
            copying.fetched(Pieces { pieces: vec![piece(4, &[(0, 10)], 14)], next: 14 }, 14);
        assert!(!copying.wants() && !copying.is_over());
        copying.again();
        assert!(copying.wants());
        copying.written(&pieces[0], 0);
        assert!(copying.is_over());
    }

    #[test]
    fn what_is_gone_at_the_source_is_counted() {
        let mut copying = copying();
        copying.trouble = Some(Trouble::OutOfRange);
        assert!(copying.is_over());
        copying.skip_to(17);
        assert_eq!((copying.lost, copying.next, copying.is_over()), (7, 17, false));
        copying.fail("broken");
        assert!(copying.is_over() && !copying.wants());
    }
}

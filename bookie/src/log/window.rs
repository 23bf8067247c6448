//! Entries of the newest records, in memory: readers of the tail never wait for the disk. First in, first out; bounded
//! by the bytes of the entries. The buffers are those that the entries arrived in.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use geminga_proto::ids::EntryId;

use super::index::Place;

/// A bounded set of recent records.
#[derive(Debug)]
pub(super) struct Window {
    limit: usize,
    bytes: usize,
    records: HashMap<Place, (EntryId, Vec<Bytes>)>,
    order: VecDeque<Place>,
}

impl Window {
    /// What a record costs beside its entries.
    const OVERHEAD: usize = 128;

    /// An empty window of `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, bytes: 0, records: HashMap::new(), order: VecDeque::new() }
    }

    /// Takes a record in and lets the oldest go that do not fit any more.
    pub(super) fn insert(&mut self, place: Place, first: EntryId, entries: Vec<Bytes>) {
        self.bytes += Self::cost(place);
        self.records.insert(place, (first, entries));
        self.order.push_back(place);
        while self.bytes > self.limit
            && let Some(oldest) = self.order.pop_front()
        {
            self.records.remove(&oldest);
            self.bytes -= Self::cost(oldest);
        }
    }

    /// A record's first entry id and its entries, if it is still here.
    pub(super) fn get(&self, place: &Place) -> Option<(EntryId, &[Bytes])> {
        self.records.get(place).map(|(first, entries)| (*first, entries.as_slice()))
    }

    fn cost(place: Place) -> usize {
        place.length as usize + Self::OVERHEAD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let place = |offset| Place { segment: 1, offset, length: 72 };
        let mut window = Window::new(450);
        for offset in 0..4 {
            window.insert(place(offset), EntryId(0), vec![Bytes::from(vec![0; 22])]);
        }
        let kept: Vec<_> = (0..4).filter(|offset| window.get(&place(*offset)).is_some()).collect();
        assert_eq!(kept, [2, 3]);
        window.insert(
            Place { length: 1000, ..place(9) },
            EntryId(0),
            vec![Bytes::from(vec![0; 950])],
        );
        assert_eq!((window.bytes, window.records.len(), window.order.len()), (0, 0, 0));
    }
}

//! Records of a batch that something is wrong with.

use geminga_records::Glance;

/// So many places are kept: who is told of more corrects a producer, not records one by one.
const MOST_PLACES: usize = 1_000;

/// Some records of one batch, in its order.
#[derive(Debug, Default)]
pub(super) struct Errant {
    first: Option<Glance>,
    count: u32,
    places: Vec<u32>,
}

impl Errant {
    /// One more, behind those before.
    pub(super) fn add(&mut self, record: Glance) {
        self.first.get_or_insert(record);
        self.count += 1;
        if self.places.len() < MOST_PLACES {
            self.places.push(record.place);
        }
    }

    /// The first one, if there is any.
    pub(super) fn first(&self) -> Option<Glance> {
        self.first
    }

    /// Says that there are others, where there are.
    pub(super) fn others(&self) -> String {
        match self.count {
            0 | 1 => String::new(),
            count => format!(", nor have {} others", count - 1),
        }
    }

    /// The places of both, in order and each once, as far as they are kept.
    pub(super) fn beside(mut self, other: Self) -> Box<[u32]> {
        self.places.extend(other.places);
        self.places.sort_unstable();
        self.places.dedup();
        self.places.truncate(MOST_PLACES);
        self.places.into_boxed_slice()
    }
}

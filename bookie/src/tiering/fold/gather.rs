//! The segments of one partition after the other, out of a listing of all segment keys. A key that cannot be read ends its partition's
//! run there: what is behind it is folded neither around it nor with an end that is not its own.

use geminga_metastore::record::Segment;
use geminga_metastore::{KeyValue, keys};

use super::Of;
use super::core::Listed;

/// Most segments of a partition that are looked at: those behind them are folded later.
const MAX_LISTED: usize = 20_000;

/// What was seen of a partition so far.
#[derive(Debug, Default)]
pub(super) struct Gather {
    current: Option<Of>,
    listed: Vec<Listed>,
    /// Nothing more of it is taken.
    ended: bool,
}

impl Gather {
    /// The next key; the partition before it when it is another's.
    pub(super) fn push(&mut self, item: &KeyValue) -> Option<(Of, Vec<Listed>)> {
        let of = keys::parse_segment_partition(&item.key)?;
        let before = if self.current == Some(of) { None } else { self.finish() };
        self.current = Some(of);
        if self.ended {
            return before;
        }
        match listed_of(item) {
            Some(listed) => self.listed.push(listed),
            None => {
                tracing::error!(key = item.key, topic = %of.0, partition = %of.1, "a segment's key cannot be read: nothing from it on is folded; restore its value from a backup of the metadata");
                self.ended = true;
            }
        }
        self.ended |= self.listed.len() >= MAX_LISTED;
        before
    }

    /// The last partition.
    pub(super) fn finish(&mut self) -> Option<(Of, Vec<Listed>)> {
        self.ended = false;
        Some((self.current.take()?, std::mem::take(&mut self.listed)))
    }
}

fn listed_of(item: &KeyValue) -> Option<Listed> {
    let seq = keys::parse_segment_seq(&item.key)?;
    let segment = Segment::decode(&item.value.value).ok()?;
    Some(Listed { seq, segment, version: item.value.version })
}

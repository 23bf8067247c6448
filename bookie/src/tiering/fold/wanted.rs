//! What is wanted of a partition, and how far its manifest is given up by that. Pure.

use geminga_metastore::record::{Manifest, ManifestPart};
use geminga_proto::ids::Offset;
use geminga_tier::SegmentList;

/// Above every segment's number.
const ALL: u64 = u32::MAX as u64 + 1;

/// What is wanted of the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What begins here, or later.
    From(Offset),
    /// Nothing: its topic was deleted.
    Nothing,
}

impl Wanted {
    /// Before which number whole parts are given up, as far as their ends tell.
    pub(super) fn whole_parts(self, manifest: &Manifest) -> u64 {
        match self {
            Self::Nothing => ALL,
            Self::From(start) => {
                let gone = manifest.parts.iter().take_while(|part| part.end_offset <= start);
                gone.last().map_or(0, |part| u64::from(part.last_seq) + 1)
            }
        }
    }

    /// The part that the log starts in, if it begins before that: only its list says how far it is given up.
    pub(super) fn within(self, manifest: &Manifest) -> Option<&ManifestPart> {
        let Self::From(start) = self else { return None };
        let part = manifest.parts.iter().find(|part| part.end_offset > start);
        part.filter(|part| part.base_offset < start)
    }

    /// Before which number all is given up, by that list.
    pub(super) fn by_list(self, manifest: &Manifest, list: &SegmentList) -> u64 {
        let whole = self.whole_parts(manifest);
        let (Self::From(start), Some(part)) = (self, self.within(manifest)) else { return whole };
        let gone = list.of(part).iter().take_while(|found| found.end() <= start).last();
        gone.map_or(whole, |found| u64::from(found.seq) + 1)
    }
}

//! Which target offset a source offset has become. Kept at the target, in a topic with the bridge's name: a record for each place
//! where the difference of the two changes, with `topic/partition` as its key and `source target` as its value. It changes where the
//! source has gaps (markers and aborted records of transactions, what compaction or deletion took away), and where somebody else
//! writes to the target as well.
//!
//! A place may stand there more than once, since a run that was killed writes its last ones again; they say the same.

use std::collections::BTreeMap;

/// From the source's offset on, offsets differ by as much as these two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Offset at the source.
    pub(super) source: i64,
    /// Offset at the target.
    pub(super) target: i64,
}

impl Place {
    /// As a record's key and value.
    pub(super) fn record(self, topic: &str, partition: u32) -> (String, String) {
        (format!("{topic}/{partition}"), format!("{} {}", self.source, self.target))
    }

    /// Reads a record.
    pub(super) fn parse(key: &str, value: &str) -> Option<(String, u32, Self)> {
        // Names of topics have no slash.
        let (topic, partition) = key.split_once('/')?;
        let (source, target) = value.split_once(' ')?;
        let place = Self { source: source.parse().ok()?, target: target.parse().ok()? };
        Some((topic.to_owned(), partition.parse().ok()?, place))
    }
}

/// Offsets of one partition that are to be translated. Takes the places in whatever order, and room for the offsets only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Translation {
    /// By source offset, the nearest place at or before it, and the nearest one after it.
    offsets: BTreeMap<i64, (Option<Place>, Option<Place>)>,
}

impl Translation {
    /// Asks for an offset.
    pub(super) fn add(&mut self, offset: i64) {
        self.offsets.entry(offset).or_default();
    }

    /// Takes a place that is known.
    pub(super) fn place(&mut self, place: Place) {
        for (offset, (before, after)) in &mut self.offsets {
            if place.source <= *offset {
                *before = (*before).max(Some(place));
            } else {
                *after = Some(after.map_or(place, |known| known.min(place)));
            }
        }
    }

    /// The target's offset of the first record at or after a source offset, `copied` being what is copied so far: `None` where the
    /// copy has not come to it yet.
    pub(super) fn of(&self, offset: i64, copied: Place) -> Option<i64> {
        if offset > copied.source {
            return None;
        }
        let (before, after) = self.offsets.get(&offset).copied().unwrap_or_default();
        // What lies between two places is behind the first by as much, and never behind the second.
        let end = after.filter(|after| after.source <= copied.source).unwrap_or(copied);
        Some(before.map_or(end.target, |before| {
            (before.target + (offset - before.source)).min(end.target)
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(source: i64, target: i64) -> Place {
        Place { source, target }
    }

    #[test]
    fn places_are_read_as_they_are_written() {
        let (key, value) = place(5, 3).record("a.b-c_d", 7);
        assert_eq!(Place::parse(&key, &value), Some(("a.b-c_d".to_owned(), 7, place(5, 3))));
        assert_eq!((Place::parse("a", "1 2"), Place::parse("a/1", "1")), (None, None));
    }

    /// Against a plain list of which source offsets were copied.
    #[test]
    fn an_offset_becomes_that_of_the_first_record_at_or_after_it() {
        // Kept: 10 11 12, 20 21, 30; copied up to 35. The target began at 100, and somebody wrote two records before 20 came.
        let kept = [(10, 100), (11, 101), (12, 102), (20, 105), (21, 106), (30, 107)];
        let places = [place(10, 100), place(20, 105), place(30, 107), place(20, 105)];
        let copied = place(35, 108);
        let mut translation = Translation::default();
        (0..40).for_each(|offset| translation.add(offset));
        for at in [2, 0, 3, 1] {
            translation.place(places[at]);
        }
        for offset in 0..40 {
            let exact = kept.iter().find(|(source, _)| *source >= offset).map_or(108, |k| k.1);
            // Behind a run, where somebody else's records come next, those are read as well.
            let expected = match offset {
                13..=15 => Some(exact.min(103 + offset - 13)),
                36.. => None,
                _ => Some(exact),
            };
            assert_eq!(translation.of(offset, copied), expected, "{offset}");
        }
    }
}

//! What not every version reads: the table of it. A version says in its registration which of these it reads ([`super::Broker`],
//! [`super::LiveBookie`]), the cluster's record which are in use ([`super::Cluster`]), and nothing of a feature is written before it is
//! in use ([`crate::gate`]).
//!
//! A format or message that earlier versions do not read gets a number here, and is written behind the gate. Numbers are never given
//! again. Fields that earlier versions pass over without harm need none.

use std::fmt;

/// One thing that earlier versions do not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Feature {
    /// Segments that are in manifests only (protocol 7.9): others would take them for lost, and their objects for left over.
    Manifests,
    /// Marks that ask for nothing but a move (6.3, 6.7): others cannot read them, nor repair what they mark.
    Moves,
    /// Records of copies that were given up, in the logs of bookies (5.6): others do not open such a log.
    GivenUp,
}

impl Feature {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Manifests, Self::Moves, Self::GivenUp];

    /// Its number in records, from 1 on.
    pub const fn number(self) -> u32 {
        match self {
            Self::Manifests => 1,
            Self::Moves => 2,
            Self::GivenUp => 3,
        }
    }

    /// How people read it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Manifests => "manifests",
            Self::Moves => "moves",
            Self::GivenUp => "given-up",
        }
    }

    fn of_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|feature| feature.number() == number)
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of features that this version knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Features(u64);

impl Features {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// What this version reads.
    pub const ALL: Self = {
        let (mut all, mut index) = (Self::NONE, 0);
        while index < Feature::ALL.len() {
            all = all.with(Feature::ALL[index]);
            index += 1;
        }
        all
    };

    /// These and one more.
    #[must_use]
    pub const fn with(self, feature: Feature) -> Self {
        Self(self.0 | 1 << feature.number())
    }

    /// These without one.
    #[must_use]
    pub const fn without(self, feature: Feature) -> Self {
        Self(self.0 & !(1 << feature.number()))
    }

    /// Whether it is one of them.
    pub const fn contains(self, feature: Feature) -> bool {
        self.0 & 1 << feature.number() != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// In the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |feature| self.contains(*feature))
    }

    pub(super) fn numbers(self) -> Vec<u32> {
        self.iter().map(Feature::number).collect()
    }

    /// Those of the numbers that this version knows.
    pub(super) fn known(numbers: &[u32]) -> Self {
        let known = numbers.iter().filter_map(|number| Feature::of_number(*number));
        known.fold(Self::NONE, Self::with)
    }

    /// All of the numbers, or the first that this version does not know.
    pub(super) fn all_of(numbers: &[u32]) -> Result<Self, u32> {
        let unknown = numbers.iter().find(|number| Feature::of_number(**number).is_none());
        unknown.map_or_else(|| Ok(Self::known(numbers)), |number| Err(*number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_apart_and_fit() {
        for (index, feature) in Feature::ALL.into_iter().enumerate() {
            assert_eq!(feature.number() as usize, index + 1, "{feature}: numbers have no gaps");
            assert!(feature.number() < u64::BITS);
            assert_eq!(Feature::of_number(feature.number()), Some(feature));
        }
        assert_eq!(Features::ALL.iter().count(), Feature::ALL.len());
        assert!(
            Features::NONE.is_empty() && Features::ALL.without(Feature::Moves) != Features::ALL
        );
    }

    #[test]
    fn what_is_not_known_is_told() {
        let numbers = Features::ALL.numbers();
        assert_eq!(Features::all_of(&numbers), Ok(Features::ALL));
        assert_eq!(Features::all_of(&[1, 99]), Err(99));
        assert_eq!(Features::known(&[99, 1]), Features::NONE.with(Feature::Manifests));
    }

    /// Operators read what an upgrade turns on.
    #[test]
    fn the_documentation_has_each() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
        let text = std::fs::read_to_string(root).unwrap();
        for feature in Feature::ALL {
            assert!(text.contains(&format!("| `{feature}` |")), "{feature} has no row in {root}");
        }
    }
}

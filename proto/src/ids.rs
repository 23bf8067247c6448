//! Names and numbers as types, so that an entry id is never taken for an offset.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Generates a transparent integer newtype with `Display` in decimal.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                Self(value)
            }
        }
    };
}

number! {
    /// One entry's number within its ledger, from 0. As an *end* (`last_entry`, LAC, tail) `-1` means "none yet",
    /// which is why the type is signed.
    EntryId(i64)
}

impl EntryId {
    /// Before the first entry.
    pub const NONE: Self = Self(-1);

    /// The entry that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The entry before this one; `NONE` comes before entry 0.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0 - 1)
    }
}

number! {
    /// Fencing token of a ledger: 0 at creation, one more at every recovery start (protocol 1.2).
    SealEpoch(u32)
}

number! {
    /// One life of one disk of a bookie (protocol 5.7). Random, never reused.
    Incarnation(u64)
}

number! {
    /// A serving broker's number: from a counter, new at each process start, never reused.
    BrokerId(i32)
}

number! {
    /// A partition's number within its topic, from 0.
    PartitionIndex(u32)
}

number! {
    /// Ownership term of a partition: Kafka's leader epoch. Not a ledger's [`SealEpoch`].
    Term(i32)
}

number! {
    /// A record's place in its partition. Dense, from 0.
    Offset(i64)
}

/// A ledger: 12 bits of cluster epoch, 52 bits of counter (protocol 1.1, M1). Written in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LedgerId(pub u64);

impl LedgerId {
    const COUNTER_BITS: u32 = 52;

    /// Puts an id together; `None` when either part does not fit.
    pub fn from_parts(cluster_epoch: u16, counter: u64) -> Option<Self> {
        let fits = cluster_epoch < 1 << 12 && counter < 1 << Self::COUNTER_BITS;
        fits.then_some(Self(u64::from(cluster_epoch) << Self::COUNTER_BITS | counter))
    }

    /// The cluster epoch in which the id was handed out.
    pub fn cluster_epoch(self) -> u16 {
        u16::try_from(self.0 >> Self::COUNTER_BITS).expect("twelve bits fit in sixteen")
    }
}

impl fmt::Display for LedgerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for LedgerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LedgerId({self})")
    }
}

/// Generates a UUID newtype.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub Uuid);

        impl $name {
            /// From a random 128-bit number.
            pub fn from_random(random: u128) -> Self {
                Self(uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid())
            }

            /// From sixteen bytes as stored; `None` when the length is wrong.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().map(Self)
            }

            /// The sixteen bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(s: &str) -> Result<Self, Self::Err> {
                Uuid::from_str(s).map(Self)
            }
        }
    };
}

uuid_id! {
    /// Identity of a cluster. Every internal RPC and every file carries it; it also keys entry digests.
    ClusterUuid
}

uuid_id! {
    /// Identity of a topic: a topic that is deleted and created again under its name gets another.
    TopicId
}

uuid_id! {
    /// Identity of one data directory's disk.
    DiskUuid
}

/// Logical name of a bookie, never an address (protocol 5.7): 1 to 64 of `a-z A-Z 0-9 . _ -`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BookieId(std::sync::Arc<str>);

impl BookieId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a bookie id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bookie id must be 1 to 64 characters of a-z, A-Z, 0-9, '.', '_' or '-'")]
pub struct InvalidBookieId;

impl FromStr for BookieId {
    type Err = InvalidBookieId;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let ok = (1..=64).contains(&s.len())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if ok { Ok(Self(s.into())) } else { Err(InvalidBookieId) }
    }
}

impl fmt::Display for BookieId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BookieId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BookieId({})", self.0)
    }
}

/// A place in an ensemble: one disk-life of one bookie. Acks and votes count only for exactly this pair (W4, H11).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Who.
    pub bookie: BookieId,
    /// Which life of which of its disks.
    pub incarnation: Incarnation,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:016x}", self.bookie, self.incarnation.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledger_ids_keep_the_epoch_in_the_top_bits() {
        let id = LedgerId::from_parts(3, 17).unwrap();
        assert_eq!(id.to_string(), "0030000000000011");
        assert_eq!(id.cluster_epoch(), 3);
        assert!(LedgerId::from_parts(1 << 12, 0).is_none());
        assert!(LedgerId::from_parts(0, 1 << 52).is_none());
    }

    #[test]
    fn bookie_ids_are_plain_names() {
        assert!("bookie-0.zone_a".parse::<BookieId>().is_ok());
        for bad in ["", "a b", "host:3181", "ü", &"x".repeat(65)] {
            assert!(bad.parse::<BookieId>().is_err(), "{bad}");
        }
    }
}

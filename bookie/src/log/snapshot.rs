//! Snapshots of a disk's ledger table, so that opening its log need not apply the records of all segments (protocol 5.5).
//! Big-endian:
//!
//! ```text
//! u64 magic | u16 version | 6 × 0 | u64 number | u64 frame that it covers
//! | u32 segments, segments × (u64 seq, u64 first frame, u64 last frame)
//! | u32 ranges, ranges × (u64 first deleted ledger, u64 last)
//! | u64 ledgers, ledgers × (see `ledger::image`)
//! | u32 crc32c, seeded by the disk's identity
//! ```
//!
//! * It holds the effect of every record up to the frame that it covers, and perhaps of later ones, all of which were on stable
//!   storage before it got its name. Applying a record again changes nothing.
//! * The segments are those that the log had. One of them that is missing later is a loss; one below the last that is not
//!   listed is not needed any more.
//! * A file gets its name when it is whole and synced. The newest valid one counts; the one before it is kept.

use std::io::{self, IoSlice};

use bytes::{Buf, BufMut};
use geminga_proto::ids::LedgerId;

use super::format::Seed;
use crate::io::Disk;
use crate::ledger::{LedgerState, Tombstones};

const MAGIC: u64 = u64::from_be_bytes(*b"GEMINGAS");
/// The version that is written.
const VERSION: u16 = 1;
/// The same where a ledger is trimmed: versions that know no such ledgers refuse it, rather than read it wrongly.
const TRIMMED_VERSION: u16 = 2;
/// The same where one was given up.
const GIVEN_UP_VERSION: u16 = 3;
const CRC_BYTES: usize = 4;
/// No snapshot is larger: a longer file is none.
const MAX_BYTES: u64 = 1 << 30;
/// Bytes that are written before they are synced.
const SYNC_BYTES: usize = 8 << 20;
/// Snapshots that stay: should the newest rot, the one before it still opens the log.
pub(super) const KEPT: usize = 2;

/// What is known about the ledgers of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    /// The ledgers that were not deleted, in no order.
    pub ledgers: Vec<LedgerState>,
    /// Those that were.
    pub tombstones: Tombstones,
}

/// A segment that had frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) seq: u64,
    pub(super) first_frame: u64,
    /// As far as known then; more may have come behind in the last segment of a list.
    pub(super) last_frame: u64,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Counts the snapshots of the log; its file is named by it.
    pub(super) number: u64,
    /// Every record up to this frame is in it.
    pub(super) covers: u64,
    /// The log's segments, in order; at least one.
    pub(super) segments: Vec<Listed>,
    pub(super) image: Image,
}

impl Snapshot {
    pub(super) fn encode(&self, seed: Seed) -> Vec<u8> {
        let count = |length: usize| u32::try_from(length).expect("far fewer than 2^32");
        let mut bytes =
            Vec::with_capacity(64 + 24 * self.segments.len() + 64 * self.image.ledgers.len());
        bytes.put_u64(MAGIC);
        bytes.put_u16(self.version());
        bytes.put_bytes(0, 6);
        bytes.put_u64(self.number);
        bytes.put_u64(self.covers);
        bytes.put_u32(count(self.segments.len()));
        for segment in &self.segments {
            bytes.put_u64(segment.seq);
            bytes.put_u64(segment.first_frame);
            bytes.put_u64(segment.last_frame);
        }
        let ranges = self.image.tombstones.ranges();
        bytes.put_u32(count(ranges.len()));
        for (first, last) in ranges {
            bytes.put_u64(first.0);
            bytes.put_u64(last.0);
        }
        bytes.put_u64(self.image.ledgers.len() as u64);
        for ledger in &self.image.ledgers {
            ledger.encode(&mut bytes);
        }
        let crc = seed.crc(&bytes);
        bytes.put_u32(crc);
        bytes
    }

    /// The first version that reads it rightly.
    fn version(&self) -> u16 {
        let any = |test: fn(&LedgerState) -> bool| self.image.ledgers.iter().any(test);
        match () {
            () if any(LedgerState::is_given_up) => GIVEN_UP_VERSION,
            () if any(|ledger| ledger.trimmed().is_some()) => TRIMMED_VERSION,
            () => VERSION,
        }
    }

    pub(super) fn decode(bytes: &[u8], seed: Seed) -> Option<Self> {
        let (covered, mut crc) = bytes.split_at_checked(bytes.len().checked_sub(CRC_BYTES)?)?;
        let mut rest = covered;
        if crc.get_u32() != seed.crc(covered) || rest.try_get_u64().ok()? != MAGIC {
            return None;
        }
        let known = VERSION..=GIVEN_UP_VERSION;
        if !known.contains(&rest.try_get_u16().ok()?) || rest.len() < 6 {
            return None;
        }
        rest.advance(6);
        let (number, covers) = (rest.try_get_u64().ok()?, rest.try_get_u64().ok()?);
        let mut segments = Vec::new();
        for _ in 0..rest.try_get_u32().ok()? {
            let seq = rest.try_get_u64().ok()?;
            let (first_frame, last_frame) = (rest.try_get_u64().ok()?, rest.try_get_u64().ok()?);
            segments.push(Listed { seq, first_frame, last_frame });
        }
        let mut image = Image::default();
        for _ in 0..rest.try_get_u32().ok()? {
            let (first, last) = (rest.try_get_u64().ok()?, rest.try_get_u64().ok()?);
            if first > last {
                return None;
            }
            image.tombstones.insert_range(LedgerId(first), LedgerId(last));
        }
        for _ in 0..rest.try_get_u64().ok()? {
            image.ledgers.push(LedgerState::decode(&mut rest)?);
        }
        let sorted = segments.is_sorted_by(|one, two| one.seq < two.seq);
        (rest.is_empty() && sorted && !segments.is_empty()).then_some(Self {
            number,
            covers,
            segments,
            image,
        })
    }

    /// Makes it durable, and removes those that are not needed any more; what could not be finished is removed, so that
    /// it takes no room from the next (K10). Blocks.
    pub(super) fn write(&self, disk: &dyn Disk, seed: Seed) -> io::Result<()> {
        let (partial, name) = (partial_name(self.number), file_name(self.number));
        remove_if_there(disk, &partial)?;
        if let Err(error) = write_file(disk, &partial, &self.encode(seed)) {
            remove_if_there(disk, &partial)?;
            return Err(error);
        }
        disk.rename(&partial, &name)?;
        disk.sync_dir()?;
        let mut all: Vec<u64> = disk.list()?.iter().filter_map(|name| parse_name(name)).collect();
        all.sort_unstable();
        for number in all.iter().rev().skip(KEPT) {
            disk.remove(&file_name(*number))?;
        }
        Ok(())
    }

    /// The one of this number; `None` when its file is damaged. Blocks.
    pub(super) fn read(disk: &dyn Disk, number: u64, seed: Seed) -> io::Result<Option<Self>> {
        let file = disk.open(&file_name(number))?;
        let size = file.size()?;
        if size > MAX_BYTES {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(size).expect("checked to be small")];
        file.read_exact_at(0, &mut bytes)?;
        Ok(Self::decode(&bytes, seed).filter(|snapshot| snapshot.number == number))
    }
}

fn write_file(disk: &dyn Disk, name: &str, bytes: &[u8]) -> io::Result<()> {
    let file = disk.create(name)?;
    let mut at = 0;
    for part in bytes.chunks(SYNC_BYTES) {
        file.write_all_at(at, &[IoSlice::new(part)])?;
        file.sync_data()?;
        at += part.len() as u64;
    }
    Ok(())
}

fn remove_if_there(disk: &dyn Disk, name: &str) -> io::Result<()> {
    match disk.remove(name) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The file of a snapshot.
pub(super) fn file_name(number: u64) -> String {
    format!("{number:016x}.snapshot")
}

/// Its file while it is being written.
fn partial_name(number: u64) -> String {
    format!("{number:016x}.partial")
}

/// The number of the snapshot of this name.
pub(super) fn parse_name(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(".snapshot")?, 16).ok()?;
    (file_name(number) == name).then_some(number)
}

/// Whether it is the file of a snapshot that was never finished.
pub(super) fn is_partial(name: &str) -> bool {
    let number = name.strip_suffix(".partial").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    number.is_some_and(|number| partial_name(number) == name)
}

#[cfg(test)]
mod tests {
    use geminga_proto::ids::{EntryId, SealEpoch};
    use proptest::prelude::*;

    use super::*;
    use crate::io::MemoryDisk;
    use crate::ledger::Record;
    use crate::log::tests::identity;

    fn seed() -> Seed {
        Seed::of(&identity())
    }

    fn snapshot(number: u64) -> Snapshot {
        let mut ledger = LedgerState::unknown(LedgerId(0x17));
        ledger.hold(EntryId(0), 5, EntryId(3));
        ledger.apply(&Record::Seal { epoch: SealEpoch(2) });
        ledger.apply(&Record::Closed { last: EntryId(4) });
        let mut tombstones = Tombstones::default();
        tombstones.insert_range(LedgerId(1), LedgerId(9));
        let segments = vec![
            Listed { seq: 3, first_frame: 10, last_frame: 19 },
            Listed { seq: 5, first_frame: 30, last_frame: 31 },
        ];
        Snapshot {
            number,
            covers: 31,
            segments,
            image: Image { ledgers: vec![ledger], tombstones },
        }
    }

    #[test]
    fn the_newest_two_stay() {
        let disk = MemoryDisk::new();
        for number in [7, 8, 9] {
            snapshot(number).write(&disk, seed()).unwrap();
        }
        let disk = disk.crash_keeping(|| true);
        assert_eq!(disk.list().unwrap(), [file_name(8), file_name(9)]);
        assert_eq!(Snapshot::read(&disk, 9, seed()).unwrap(), Some(snapshot(9)));
        disk.damage(&file_name(9), 30, 1);
        assert_eq!(Snapshot::read(&disk, 9, seed()).unwrap(), None);
        assert_eq!(Snapshot::read(&disk.crash(), 8, seed()).unwrap(), Some(snapshot(8)));
    }

    /// K10: what does not fit takes no room from what is tried next.
    #[test]
    fn a_snapshot_without_room_leaves_nothing_behind() {
        let disk = MemoryDisk::with_capacity(100);
        for number in 1..=3 {
            let full = snapshot(number).write(&disk, seed()).unwrap_err();
            assert_eq!(full.kind(), io::ErrorKind::StorageFull);
            assert_eq!(disk.list().unwrap(), [""; 0]);
        }
    }

    /// The format of what is on disks already.
    #[test]
    fn golden_bytes() {
        let stored = crate::log::tests::golden("snapshot.hex", &snapshot(3).encode(seed()));
        assert_eq!(Snapshot::decode(&stored, seed()), Some(snapshot(3)));
    }

    /// Versions that know no such ledgers refuse the snapshot.
    #[test]
    fn ledgers_that_were_given_up_have_a_version_of_their_own() {
        let mut snapshot = snapshot(3);
        assert_eq!(snapshot.version(), VERSION);
        snapshot.image.ledgers[0].apply(&Record::GivenUp);
        assert_eq!(snapshot.version(), GIVEN_UP_VERSION);
        assert_eq!(Snapshot::decode(&snapshot.encode(seed()), seed()), Some(snapshot));
    }

    proptest! {
        /// Every damage is noticed, and never a panic or a large allocation, whatever the crc says.
        #[test]
        fn damage_is_noticed(at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
            let good = snapshot(3).encode(seed());
            let mut bad = good.clone();
            bad[at.index(good.len())] ^= 1 << bit;
            prop_assert_eq!(Snapshot::decode(&bad, seed()), None);
            prop_assert_eq!(Snapshot::decode(&good[..cut.index(good.len())], seed()), None);
            let mut forged = bad[..bad.len() - CRC_BYTES].to_vec();
            let crc = seed().crc(&forged);
            forged.put_u32(crc);
            let _ = Snapshot::decode(&forged, seed());
        }
    }
}

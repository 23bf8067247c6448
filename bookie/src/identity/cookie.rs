//! The cookie file of one data directory: which cluster, bookie and disk it is, and how often it was booted. Written whole or
//! not at all, and never believed without its checksum. Big-endian:
//!
//! ```text
//!   0  8 bytes magic | u32 version | u32 length of the body
//!  16  cluster_uuid (16) | u16 cluster_epoch | u64 boot_counter | u8 stage | disk_uuid (16)
//!      u8 length, bookie_id | u8 count, count x { disk_uuid (16), u64 incarnation }
//!      u8 count, count x u64 earlier boot counter (none in version 1)
//!   n  u32 crc32c of everything before it
//! ```

use bytes::{Buf, BufMut};
use geminga_proto::ids::{BookieId, ClusterUuid, DiskUuid, Incarnation};

const MAGIC: &[u8; 8] = b"GMGCOOKE";
/// The version written today.
const VERSION: u32 = 2;
/// Boot counters kept beside the newest: the one that the store held, and attempts that may still reach it.
const MAX_EARLIER: usize = 16;
const HEADER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
/// No cookie is larger: a longer file is none.
pub(super) const MAX_BYTES: usize = 16 * 1024;

/// How far the disk came into its life. Persisted, keep stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Written before the metadata store knew the disk: nothing was ever served from it.
    Provisional = 1,
    /// The metadata store knows the disk; its log may not be there yet.
    Registered = 2,
    /// Its log is there: an empty log from now on is a loss.
    InService = 3,
}

/// Identity of one disk of one bookie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskCookie {
    /// The cluster it belongs to.
    pub(crate) cluster: ClusterUuid,
    /// The highest cluster epoch that it has seen (M1).
    pub(crate) cluster_epoch: u16,
    /// The bookie it belongs to.
    pub(crate) bookie: BookieId,
    /// This disk.
    pub(crate) disk: DiskUuid,
    /// All disks of the bookie, this one too, each with its present life.
    pub(crate) disks: Vec<(DiskUuid, Incarnation)>,
    /// Raised at every boot, here first, then in the metadata store.
    pub(crate) boot_counter: u64,
    /// Former numbers that the store may hold for this disk: the one it held when this disk was raised, and those of
    /// later boots that did not learn whether they reached it. Any other number there was put by a copy of this disk.
    pub(crate) earlier: Vec<u64>,
    /// How far it came.
    pub(crate) stage: Stage,
}

/// Why a file is not a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCookie {
    /// Not written by us, or damaged.
    #[error("it is damaged")]
    Damaged,
    /// Written by a newer version.
    #[error("its format {0} is newer than this version reads: upgrade this bookie")]
    Format(u32),
}

impl DiskCookie {
    /// The present life of this disk.
    pub(crate) fn incarnation(&self) -> Incarnation {
        let own = self.disks.iter().find(|(disk, _)| *disk == self.disk);
        own.expect("a cookie's disk is one of its disks: checked when decoded").1
    }

    /// Whether a store that holds this boot counter was last written by this disk, and by no copy of it.
    pub(crate) fn is_at(&self, stored: u64) -> bool {
        self.boot_counter == stored || self.earlier.contains(&stored)
    }

    /// Raises the boot counter over the one that the store holds; `None` when it holds none yet.
    pub(crate) fn raise(&mut self, stored: Option<u64>, boot_counter: u64) {
        let former = std::mem::replace(&mut self.boot_counter, boot_counter);
        if stored == Some(former) {
            // Whatever was tried before can reach the store no more: its version has moved.
            self.earlier.clear();
        }
        self.earlier.push(former);
        // A store that went back to a backup holds a number of long ago. Until it has the new one, it is this disk's all the same:
        // a start that ends between the two is to be repeated.
        self.earlier.extend(stored.filter(|stored| !self.earlier.contains(stored)));
        while self.earlier.len() > MAX_EARLIER {
            // Never the one that is there.
            let oldest = self.earlier.iter().position(|number| Some(*number) != stored);
            self.earlier.remove(oldest.unwrap_or(0));
        }
    }

    /// The store holds the present number by now, and this one no more. It comes back only with a store that is restored once more,
    /// which is to be noticed. Whether anything changed.
    pub(crate) fn forget(&mut self, number: u64) -> bool {
        let before = self.earlier.len();
        self.earlier.retain(|earlier| *earlier != number);
        self.earlier.len() < before
    }

    /// The file's content.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(256);
        body.put_slice(self.cluster.as_bytes());
        body.put_u16(self.cluster_epoch);
        body.put_u64(self.boot_counter);
        body.put_u8(self.stage as u8);
        body.put_slice(self.disk.as_bytes());
        let name = self.bookie.as_str().as_bytes();
        body.put_u8(u8::try_from(name.len()).expect("a bookie id has at most 64 characters"));
        body.put_slice(name);
        body.put_u8(u8::try_from(self.disks.len()).expect("a bookie has at most 255 disks"));
        for (disk, incarnation) in &self.disks {
            body.put_slice(disk.as_bytes());
            body.put_u64(incarnation.0);
        }
        body.put_u8(u8::try_from(self.earlier.len()).expect("at most MAX_EARLIER of them"));
        for number in &self.earlier {
            body.put_u64(*number);
        }
        let mut file = Vec::with_capacity(HEADER_BYTES + body.len() + CRC_BYTES);
        file.put_slice(MAGIC);
        file.put_u32(VERSION);
        file.put_u32(u32::try_from(body.len()).expect("a cookie is a few kilobytes at most"));
        file.put_slice(&body);
        file.put_u32(crc32c::crc32c(&file));
        file
    }

    /// Reads a file's content.
    ///
    /// # Errors
    /// [`InvalidCookie`].
    pub(crate) fn decode(file: &[u8]) -> Result<Self, InvalidCookie> {
        let damaged = InvalidCookie::Damaged;
        let covered = file.len().checked_sub(CRC_BYTES).ok_or(damaged)?;
        if covered < HEADER_BYTES || &file[..MAGIC.len()] != MAGIC {
            return Err(damaged);
        }
        let mut rest = &file[MAGIC.len()..];
        let (version, length) = (rest.get_u32(), rest.get_u32());
        if version > VERSION {
            return Err(InvalidCookie::Format(version));
        }
        let stored = (&file[covered..]).get_u32();
        if length as usize != covered - HEADER_BYTES || stored != crc32c::crc32c(&file[..covered]) {
            return Err(damaged);
        }
        decode_body(&file[HEADER_BYTES..covered], version).ok_or(damaged)
    }
}

fn decode_body(mut body: &[u8], version: u32) -> Option<DiskCookie> {
    let cluster = ClusterUuid::from_slice(&take(&mut body, 16)?)?;
    let cluster_epoch = body.try_get_u16().ok()?;
    let boot_counter = body.try_get_u64().ok()?;
    let stage = match body.try_get_u8().ok()? {
        1 => Stage::Provisional,
        2 => Stage::Registered,
        3 => Stage::InService,
        _ => return None,
    };
    let disk = DiskUuid::from_slice(&take(&mut body, 16)?)?;
    let name = body.try_get_u8().ok()?;
    let name = String::from_utf8(take(&mut body, usize::from(name))?).ok()?;
    let count = body.try_get_u8().ok()?;
    let mut disks = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let disk = DiskUuid::from_slice(&take(&mut body, 16)?)?;
        disks.push((disk, Incarnation(body.try_get_u64().ok()?)));
    }
    let count = if version < 2 { 0 } else { body.try_get_u8().ok()? };
    let mut earlier = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        earlier.push(body.try_get_u64().ok()?);
    }
    let known = disks.iter().any(|(one, _)| *one == disk);
    let bookie = name.parse().ok()?;
    (body.is_empty() && known).then_some(DiskCookie {
        cluster,
        cluster_epoch,
        bookie,
        disk,
        disks,
        boot_counter,
        earlier,
        stage,
    })
}

fn take(body: &mut &[u8], count: usize) -> Option<Vec<u8>> {
    let (taken, rest) = body.split_at_checked(count)?;
    *body = rest;
    Some(taken.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie() -> DiskCookie {
        let disk = DiskUuid::from_random(2);
        DiskCookie {
            cluster: ClusterUuid::from_random(1),
            cluster_epoch: 3,
            bookie: "b-1".parse().unwrap(),
            disk,
            disks: vec![(disk, Incarnation(7)), (DiskUuid::from_random(3), Incarnation(u64::MAX))],
            boot_counter: 41,
            earlier: vec![3, 40],
            stage: Stage::InService,
        }
    }

    #[test]
    fn a_cookie_comes_back_as_written() {
        assert_eq!(DiskCookie::decode(&cookie().encode()), Ok(cookie()));
    }

    /// The format, byte for byte: directories written today must be readable for ever.
    #[test]
    fn golden_bytes() {
        let stored = crate::log::tests::golden("cookie.hex", &cookie().encode());
        assert_eq!(DiskCookie::decode(&stored), Ok(cookie()));
    }

    /// Version 1 ends behind the disks.
    #[test]
    fn version_1_is_read() {
        let mut file = cookie().encode();
        file.truncate(112);
        file[11] = 1;
        file[15] = 0x60;
        let crc = crc32c::crc32c(&file);
        file.put_u32(crc);
        assert_eq!(DiskCookie::decode(&file), Ok(DiskCookie { earlier: vec![], ..cookie() }));
    }

    /// A number stays for as long as the store may hold it, and they never become many.
    #[test]
    fn earlier_numbers_are_kept_while_they_may_be_stored() {
        let mut disk = DiskCookie { boot_counter: 10, earlier: vec![5], ..cookie() };
        disk.raise(Some(10), 20);
        assert_eq!((disk.boot_counter, &disk.earlier[..]), (20, &[10][..]));
        assert!(disk.is_at(10) && disk.is_at(20) && !disk.is_at(5) && !disk.is_at(15));
        for number in 21..100 {
            disk.raise(Some(10), number);
        }
        assert_eq!(disk.earlier.len(), MAX_EARLIER);
        assert!(disk.is_at(10) && disk.is_at(99) && disk.is_at(98));
        assert_eq!(DiskCookie::decode(&disk.encode()), Ok(disk));
    }

    /// 6.8: a start under a restored store that raised the disk only is repeated.
    #[test]
    fn the_number_of_a_store_that_is_older_is_kept() {
        let mut disk = DiskCookie { boot_counter: 50, earlier: vec![40], ..cookie() };
        disk.raise(Some(7), 60);
        assert!(disk.is_at(7) && disk.is_at(50) && disk.is_at(60) && !disk.is_at(8));
        for number in 61..100 {
            disk.raise(Some(7), number);
        }
        assert_eq!(disk.earlier.len(), MAX_EARLIER);
        assert!(disk.is_at(7));
    }

    #[test]
    fn any_changed_or_missing_byte_is_noticed() {
        let good = cookie().encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            assert!(DiskCookie::decode(&bad).is_err(), "byte {at}");
            assert!(DiskCookie::decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_format_is_named() {
        let mut file = cookie().encode();
        file[11] = 3;
        assert_eq!(DiskCookie::decode(&file), Err(InvalidCookie::Format(3)));
    }
}

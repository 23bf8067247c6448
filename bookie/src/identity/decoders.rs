//! The decoder of a disk's cookie, for fuzzing (feature `simulation`): it takes any bytes, and also what they would be if their
//! length and their checksum were right.

use bytes::Bytes;
use geminga_proto::ids::{ClusterUuid, DiskUuid, Incarnation};

use super::cookie::{DiskCookie, Stage};

/// Where a cookie says the length of its body, and where that begins.
const LENGTH: usize = 12;
const HEADER_BYTES: usize = 16;
const CRC_BYTES: usize = 4;

/// Cookies without their checksums, in each stage.
pub fn cookie_seeds() -> Vec<Bytes> {
    let disk = DiskUuid::from_random(2);
    let cookie = |stage| DiskCookie {
        cluster: ClusterUuid::from_random(1),
        cluster_epoch: 3,
        bookie: "bookie-1".parse().expect("a plain name"),
        disk,
        disks: vec![(disk, Incarnation(7)), (DiskUuid::from_random(3), Incarnation(u64::MAX))],
        boot_counter: 41,
        earlier: vec![3, 40],
        stage,
    };
    let stages = [Stage::Provisional, Stage::Registered, Stage::InService];
    let file = |stage| {
        let mut file = cookie(stage).encode();
        file.truncate(file.len() - CRC_BYTES);
        file.into()
    };
    stages.into_iter().map(file).collect()
}

/// See [`cookie_seeds`].
pub fn cookie(bytes: &[u8]) {
    let _ = DiskCookie::decode(bytes);
    let mut file = bytes.to_vec();
    let length = u32::try_from(bytes.len().saturating_sub(HEADER_BYTES)).unwrap_or(u32::MAX);
    if let Some(place) = file.get_mut(LENGTH..HEADER_BYTES) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    file.extend(crc32c::crc32c(&file).to_be_bytes());
    let Ok(cookie) = DiskCookie::decode(&file) else { return };
    // Whoever decodes it relies on this.
    let _ = cookie.incarnation();
    assert_eq!(DiskCookie::decode(&cookie.encode()), Ok(cookie));
}

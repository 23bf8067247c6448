use bytes::Bytes;
use geminga_records::Compression;

use super::*;

/// More than any of these decompresses to.
const LIMIT: usize = 1 << 20;
use crate::partition::samples::{batch_at, entry};

fn two_batches(compression: Compression) -> ReadEntry {
    let batches =
        [batch_at(&[100, 300, 200], 20, compression), batch_at(&[250, 400], 20, compression)];
    entry(50, &batches)
}

#[test]
fn the_first_record_by_offset_that_is_young_enough_wins() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let entry = two_batches(compression);
        for (asked, offset, timestamp) in
            [(0, 50, 100), (100, 50, 100), (101, 51, 300), (250, 51, 300), (301, 54, 400)]
        {
            assert_eq!(first_since(&entry, asked, LIMIT), (Offset(offset), timestamp), "{asked}");
        }
    }
}

/// Too early an answer repeats records, too late a one loses them.
#[test]
fn a_batch_that_cannot_be_opened_is_answered_by_its_beginning() {
    let entry = two_batches(Compression::Zstd);
    let mut payload = entry.payload.to_vec();
    payload[70] ^= 0xff;
    let broken = ReadEntry { payload: Bytes::from(payload), ..entry };
    assert_eq!(first_since(&broken, 300, LIMIT), (Offset(50), 300));
    let none = ReadEntry { payload: broken.payload.slice(..10), ..broken };
    assert_eq!(first_since(&none, 300, LIMIT), (Offset(50), 400));
}

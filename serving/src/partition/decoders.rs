//! The decoders of what an owner keeps in its log beside batches, for whoever looks for bytes that break them (feature `decoders`).

use bytes::Bytes;
use geminga_proto::ids::Offset;
use geminga_records::Sequence;

use super::log::{Place, decode_place, place_header};
use super::producers::{Producers, Stamp};
use super::{index as batch_index, snapshot};

/// When the one who reads opened, milliseconds since the Unix epoch.
const OPENED_MS: i64 = 1_700_000_000_000;

fn stamp(producer_id: i64, first: i32) -> Stamp {
    let sequence = Sequence { producer_id, epoch: 2, first };
    Stamp { sequence, count: 3, attributes: 0, max_timestamp: 50 }
}

/// Snapshots of no producer, and of two with some batches.
pub fn producers_seeds() -> Vec<Bytes> {
    let mut some = Producers::default();
    for batch in 0..7 {
        let id = i64::from(batch % 2 + 1);
        some.append(&stamp(id, batch / 2 * 3), Offset(i64::from(batch) * 3), -1_000);
    }
    [Producers::default(), some].iter().flat_map(|all| snapshot::encode(all, OPENED_MS)).collect()
}

/// A part of a snapshot of producers.
pub fn producers(bytes: &[u8]) {
    let mut producers = Producers::default();
    if snapshot::decode(bytes, &mut producers, OPENED_MS).is_err() {
        return;
    }
    let mut again = Producers::default();
    for part in snapshot::encode(&producers, OPENED_MS) {
        snapshot::decode(&part, &mut again, OPENED_MS).expect("what was accepted can be written");
    }
    assert!(again.committed().eq(producers.committed()), "the same producers, in the same order");
}

/// Two parts of a snapshot, with what stands before them.
pub fn place_seeds() -> Vec<Bytes> {
    let of = |index| [&place_header(Place { index, total: 2 })[..], b"a part"].concat().into();
    (0..2).map(of).collect()
}

/// What stands before a part of a snapshot.
pub fn place(bytes: &[u8]) {
    let Ok((place, part)) = decode_place(&Bytes::copy_from_slice(bytes)) else { return };
    assert!(place.index < place.total);
    let again = [&place_header(place)[..], &part].concat().into();
    assert_eq!(decode_place(&again), Ok((place, part)));
}

/// Indexes of no batch, and of two.
pub fn index_seeds() -> Vec<Bytes> {
    let rows = [(0, stamp(1, 0)), (3, stamp(2, 5))];
    vec![batch_index::encode(&[]), batch_index::encode(&rows)]
}

/// What an entry says of the batches in it.
pub fn index(bytes: &[u8]) {
    let Ok(rows) = batch_index::decode(bytes) else { return };
    assert!(rows.len() <= bytes.len() / 32, "memory that its length does not explain");
    assert_eq!(batch_index::decode(&batch_index::encode(&rows)), Ok(rows));
}

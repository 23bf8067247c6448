//! Ledger entries: what a reader takes from a bookie, and a bookie from a writer.

use bytes::Bytes;
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId};
use geminga_proto::payload::Payload;

use crate::Target;

/// A whole entry.
pub(crate) const ENTRY: Target = Target { name: "entry", run: whole, seeds };
/// An entry cut to a prefix of its payload.
pub(crate) const PREFIX: Target = Target { name: "entry_prefix", run: prefix, seeds };

const LEDGER: LedgerId = LedgerId(7);
const ENTRY_ID: EntryId = EntryId(3);

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(1)
}

pub(crate) fn valid(payload: &[u8]) -> Bytes {
    with_index(b"", payload)
}

fn with_index(index: &'static [u8], payload: &[u8]) -> Bytes {
    let position = Position {
        ledger: LEDGER,
        entry: ENTRY_ID,
        lac: EntryId(2),
        cumulative_length: payload.len() as u64,
    };
    let attributes = Attributes {
        kind: Kind::Batches,
        first_offset: 10,
        offset_count: 2,
        max_timestamp: 1_700_000_000_000,
        running_max_timestamp: 1_700_000_000_000,
        last_snapshot_entry: NO_SNAPSHOT,
    };
    let mut whole = Payload::with_index(Bytes::from_static(index));
    whole.push(Bytes::copy_from_slice(payload));
    entry::encode(cluster(), position, attributes, &whole).expect("a small entry")
}

fn seeds() -> Vec<Bytes> {
    vec![valid(b""), valid(b"payload"), valid(&[0xa5; 5000]), with_index(b"index", b"payload")]
}

fn whole(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(entry) = entry::decode_expecting(cluster(), LEDGER, ENTRY_ID, &bytes) {
        assert_eq!((entry.position.ledger, entry.position.entry), (LEDGER, ENTRY_ID), "D1");
        assert!(entry.index.len() + entry.payload.len() < bytes.len());
        // Verbatim (D2): nothing but these bytes is this entry.
        let mut payload = Payload::with_index(entry.index);
        payload.push(entry.payload);
        let again = entry::encode(cluster(), entry.position, entry.attributes, &payload);
        assert_eq!(again.expect("it was one"), bytes);
    }
}

fn prefix(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    for length in [0, 3, u32::MAX] {
        if let Ok(cut) = entry::prefix(&bytes, length)
            && let Ok(entry) = entry::decode_prefix(LEDGER, ENTRY_ID, &cut)
        {
            assert!(entry.index.len() + entry.payload.len() <= length as usize);
        }
    }
    if let Ok(entry) = entry::decode_prefix(LEDGER, ENTRY_ID, &bytes) {
        assert!(entry.payload.len() <= bytes.len());
    }
}

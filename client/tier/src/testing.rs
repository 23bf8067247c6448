//! Entries to write objects of, for tests.

use bytes::Bytes;
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId};
use geminga_proto::payload::Payload;

pub(crate) fn cluster() -> ClusterUuid {
    ClusterUuid::from_slice(&[5; 16]).unwrap()
}

/// One entry: two offsets each, from 100 on; the largest timestamp rises by ten, and every third entry is older.
pub(crate) fn entry_of(ledger: LedgerId, id: i64, size: usize, cumulative: u64) -> Bytes {
    let payload: Vec<u8> = (0..size).map(|at| (at as i64 * 31 + id) as u8).collect();
    let position = Position {
        ledger,
        entry: EntryId(id),
        lac: EntryId(id - 1),
        cumulative_length: cumulative,
    };
    let newest = (id - i64::from(id % 3 == 2)) * 10;
    let attributes = Attributes {
        kind: Kind::Batches,
        first_offset: 100 + 2 * id,
        offset_count: 2,
        max_timestamp: if id % 3 == 2 { newest - 7 } else { newest },
        running_max_timestamp: newest,
        last_snapshot_entry: NO_SNAPSHOT,
    };
    let mut whole = Payload::default();
    whole.push(Bytes::from(payload));
    entry::encode(cluster(), position, attributes, &whole).unwrap()
}

/// The entries of a ledger, with payloads of these sizes.
pub(crate) fn entries(ledger: LedgerId, sizes: &[usize]) -> Vec<Bytes> {
    let mut cumulative = 0;
    let entry = |(id, size): (usize, &usize)| {
        cumulative += *size as u64;
        entry_of(ledger, id as i64, *size, cumulative)
    };
    sizes.iter().enumerate().map(entry).collect()
}

/// Holds bytes against those of `tests/golden`, which are what is in stores already: a format may only grow.
/// `GEMINGA_UPDATE_GOLDEN=1` writes the file anew, for a new version. The bytes in the file.
pub(crate) fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let lines: Vec<String> =
        bytes.chunks(32).map(|line| line.iter().map(|b| format!("{b:02x}")).collect()).collect();
    let shown = lines.join("\n") + "\n";
    if std::env::var_os("GEMINGA_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &shown).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap();
    assert_eq!(stored, shown, "{name} differs from what is in stores");
    let digits: Vec<_> = stored.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

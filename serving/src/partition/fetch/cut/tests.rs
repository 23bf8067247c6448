use geminga_records::{Batch, Compression};

use super::*;
use crate::partition::samples::{batch_at, entry};

/// Batches of 3, 1 and 2 records: offsets 10..13, 13, 14..16.
fn three() -> (Vec<Batch>, ReadEntry) {
    let batches: Vec<_> =
        [3, 1, 2].iter().map(|n| batch_at(&vec![1; *n], 20, Compression::None)).collect();
    let entry = entry(10, &batches);
    (batches, entry)
}

fn bases(cut: Cut) -> Vec<i64> {
    let batches = cut.into_batches().into_iter();
    batches.map(|b| Batch::parse(b).unwrap().header().base_offset).collect()
}

#[test]
fn the_first_batch_is_the_one_that_contains_the_offset() {
    for (from, expected) in
        [(10, &[10, 13, 14][..]), (12, &[10, 13, 14]), (13, &[13, 14]), (15, &[14])]
    {
        let mut cut = Cut::new(Offset(from), 1 << 20);
        cut.take(&three().1).unwrap();
        assert_eq!(cut.next(), Offset(16));
        assert!(!cut.is_full());
        assert_eq!(bases(cut), expected, "from {from}");
    }
}

#[test]
fn bytes_bound_all_but_the_first() {
    let (batches, entry) = three();
    let two = batches[0].len() + batches[1].len();
    for (max, expected, next) in
        [(1, 1, 13), (two - 1, 1, 13), (two, 2, 14), (two + batches[2].len(), 3, 16)]
    {
        let mut cut = Cut::new(Offset(10), max);
        cut.take(&entry).unwrap();
        assert!(cut.is_full(), "{max}");
        assert_eq!((cut.len(), cut.next()), (expected, Offset(next)), "{max}");
        assert!(cut.bytes() <= max || cut.len() == 1);
    }
}

#[test]
fn it_reads_on_over_entries_and_stops_once_full() {
    let (batches, first) = three();
    let second = entry(16, &batches[..1]);
    let mut cut = Cut::new(Offset(14), batches[2].len() + batches[0].len() + 1);
    cut.take(&first).unwrap();
    cut.take(&second).unwrap();
    assert!(!cut.is_full());
    assert_eq!(cut.room(), 1);
    let third = entry(19, &batches);
    cut.take(&third).unwrap();
    assert!(cut.is_full());
    cut.take(&third).unwrap();
    assert_eq!(cut.next(), Offset(19));
    assert_eq!(bases(cut), [14, 16]);
}

/// Batches are slices of the stored entry, not copies.
#[test]
fn nothing_is_copied() {
    let entry = three().1;
    let mut cut = Cut::new(Offset(10), 1 << 20);
    cut.take(&entry).unwrap();
    let whole = entry.payload.as_ptr_range();
    for batch in cut.into_batches() {
        assert!(whole.contains(&batch.as_ptr()));
    }
}

#[test]
fn a_gap_or_damage_is_no_end_of_log() {
    let entry = three().1;
    let lossy = |from, entry: &ReadEntry| {
        Cut::new(Offset(from), 1 << 20).take(entry).unwrap_err().reason == Reason::DataLoss
    };
    assert!(lossy(9, &entry), "a gap before the entry");
    assert!(lossy(16, &entry), "an entry before the offset");
    let cut_short = ReadEntry { payload: entry.payload.slice(..entry.payload.len() - 1), ..entry };
    assert!(lossy(10, &cut_short));
    let fewer = ReadEntry { offset_count: 9, ..three().1 };
    assert!(lossy(10, &fewer), "batches end before the entry does");
}

//! What is given up, by example and against what must hold for any log.

use proptest::prelude::*;

use super::*;

const NOTHING: Limits = Limits::NONE;

/// Ten offsets and 100 bytes each, a second apart, the last one open.
fn log(pieces: i64) -> Vec<Piece> {
    let piece = |n: i64| Piece {
        end: Offset(n * 10 + 10),
        youngest_ms: Some(n * 1_000),
        bytes: 100,
        closed: n + 1 < pieces,
    };
    (0..pieces).map(piece).collect()
}

fn start(limits: Limits, now_ms: i64) -> i64 {
    log_start(&log(5), limits, now_ms, Offset(3)).0
}

#[test]
fn without_limits_everything_is_kept() {
    assert_eq!(start(NOTHING, i64::MAX), 3);
}

#[test]
fn by_time_what_is_older_goes() {
    let by = |ms, now| start(Limits { ms: Some(ms), ..NOTHING }, now);
    assert_eq!(by(1_000, 1_000), 3, "not older");
    assert_eq!(by(1_000, 1_001), 10);
    assert_eq!(by(1_000, 3_500), 30);
    assert_eq!(by(0, 1_000_000), 40, "but for the open segment");
    assert_eq!(by(u64::MAX, i64::MAX), 3);
}

#[test]
fn by_size_the_oldest_go_while_enough_is_left() {
    let by = |bytes| start(Limits { bytes: Some(bytes), ..NOTHING }, 0);
    assert_eq!((by(500), by(401)), (3, 3));
    assert_eq!((by(400), by(399), by(300)), (10, 10, 20));
    assert_eq!(by(0), 40, "but for the open segment");
}

#[test]
fn what_nobody_can_date_stays_and_keeps_what_follows() {
    let mut pieces = log(5);
    pieces[1].youngest_ms = None;
    let limits = Limits { ms: Some(1), ..NOTHING };
    assert_eq!(log_start(&pieces, limits, 1_000_000, Offset(0)), Offset(10));
}

/// A clock that is ahead dates records into the future; they are as old as their segment's end then.
#[test]
fn a_time_in_the_future_keeps_nothing_for_ever() {
    assert_eq!(believed(50, Some(70), 100), Some(50));
    assert_eq!(believed(i64::MAX, Some(70), 100), Some(70));
    assert_eq!(believed(-1, Some(70), 100), Some(70), "no time at all");
    assert_eq!(believed(i64::MAX, Some(170), 100), None, "nobody knows");
    assert_eq!(believed(i64::MAX, None, 100), None);
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = (0..50i64, proptest::option::of(0..100i64), 0..100u64);
    (proptest::collection::vec(piece, 0..20), any::<bool>()).prop_map(|(parts, open)| {
        let (mut end, count) = (0, parts.len());
        let pieces = parts.into_iter().enumerate().map(|(n, (offsets, youngest_ms, bytes))| {
            end += offsets;
            Piece { end: Offset(end), youngest_ms, bytes, closed: !open || n + 1 < count }
        });
        pieces.collect()
    })
}

proptest! {
    #[test]
    fn it_never_falls_nor_leaves_too_little(
        pieces in pieces(),
        ms in proptest::option::of(0..100u64),
        bytes in proptest::option::of(0..2_000u64),
        now in 0..200i64,
        from in 0..1_000i64,
    ) {
        let start = log_start(&pieces, Limits { ms, bytes }, now, Offset(from));
        prop_assert!(start >= Offset(from));
        if start > Offset(from) {
            prop_assert!(pieces.iter().any(|piece| piece.closed && piece.end == start));
            let left: u64 = pieces.iter().filter(|p| p.end > start).map(|p| p.bytes).sum();
            // A segment without an offset holds nothing that could be young.
            let begins = std::iter::once(Offset(0)).chain(pieces.iter().map(|p| p.end));
            let holding = pieces.iter().zip(begins).filter(|(p, begin)| p.end > *begin);
            let young = holding.filter(|(p, _)| p.end <= start).any(|(p, _)| {
                let kept = ms.map(|ms| i64::try_from(ms).unwrap());
                p.youngest_ms.zip(kept).is_none_or(|(at, kept)| now - at <= kept)
            });
            // Either all of it was old enough, or enough is left without it (segments without an offset end alike).
            let same_end: u64 = pieces.iter().filter(|p| p.end == start).map(|p| p.bytes).sum();
            let enough = bytes.is_some_and(|bytes| left + same_end >= bytes);
            prop_assert!(!young || enough, "{start} of {pieces:?}");
        }
    }
}

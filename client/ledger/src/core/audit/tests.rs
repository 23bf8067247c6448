//! What an audit finds, by kind of difference.

use geminga_metastore::record::{Custom, Digest, Fragment, TierObject};
use geminga_proto::ids::Incarnation;

use super::*;

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

fn id(number: u64) -> LedgerId {
    LedgerId::from_parts(2, number).unwrap()
}

fn meta(number: u64, last: Option<i64>) -> LedgerMeta {
    LedgerMeta {
        id: id(number),
        state: last.map_or(LedgerState::Open, |_| LedgerState::Closed),
        seal_epoch: SealEpoch(0),
        qw: 3,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: vec![Fragment {
            first_entry: EntryId(0),
            ensemble: vec![member(1), member(2), member(3)],
        }],
        last_entry: last.map(EntryId),
        length: 0,
        entries_crc: None,
        tier: Tier::Local,
        close_kind: None,
        recoverer: String::new(),
        last_op: 0,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    }
}

fn local(number: u64, runs: &[(i64, i64)]) -> LocalLedger {
    LocalLedger {
        ledger: id(number),
        sealed_epoch: SealEpoch(0),
        closed: None,
        max_lac: EntryId::NONE,
        runs: runs.iter().map(|(from, to)| (EntryId(*from), EntryId(*to))).collect(),
        trimmed: None,
        bytes: 10,
    }
}

fn audit(meta: Option<LedgerMeta>, held: &[(u64, LocalLedger)]) -> (View, Report) {
    let mut view = View { epoch: 3, ..View::default() };
    view.ledgers.extend(meta.map(|meta| (meta.id, meta)));
    for (number, local) in held {
        let holder = Holder { member: member(*number), local: local.clone() };
        view.held.entry(local.ledger).or_default().push(holder);
    }
    let report = compare(&view);
    (view, report)
}

/// Scenario 43: whatever a former epoch left open is recovered, above every seal that bookies know.
#[test]
fn scenario_43_what_was_open_in_the_backup_is_recovered() {
    let sealed = LocalLedger { sealed_epoch: SealEpoch(4), ..local(1, &[(0, 9)]) };
    let (_, report) = audit(Some(meta(1, None)), &[(1, sealed), (2, local(1, &[(0, 8)]))]);
    assert_eq!(report.unclosed, [Unclosed { ledger: id(1), sealed_epoch: SealEpoch(4) }]);
    assert_eq!((report.compared, report.lost.len()), (1, 0));

    // Of the present epoch only what bookies know to be over: the others have a writer.
    let (mut view, _) = audit(Some(meta(1, None)), &[(1, local(1, &[(0, 9)]))]);
    view.epoch = 2;
    assert_eq!(compare(&view).unclosed, []);
    view.held.get_mut(&id(1)).unwrap()[0].local.closed = Some(EntryId(9));
    assert_eq!(compare(&view).unclosed.len(), 1);
}

#[test]
fn what_only_bookies_know_is_a_stranger() {
    let held = [(1, local(7, &[(0, 3)])), (2, local(7, &[(0, 5)]))];
    let (mut view, report) = audit(None, &held);
    let stranger = Stranger {
        ledger: id(7),
        holders: vec![member(1), member(2)],
        last: EntryId(5),
        bytes: 20,
    };
    assert_eq!((&report.strangers[..], report.compared), (&[stranger][..], 1));
    assert_eq!(report.reused, []);
    // I16: the epoch was raised to one that was there before.
    view.epoch = 2;
    assert_eq!(compare(&view).reused, [id(7)]);
}

#[test]
fn what_no_member_holds_is_lost_unless_somebody_is_away() {
    let whole = [(1, local(1, &[(0, 4)])), (2, local(1, &[(3, 9)]))];
    assert_eq!(audit(Some(meta(1, Some(9))), &whole).1.lost, []);
    let moved = [(1, local(1, &[(0, 4)])), (8, local(1, &[(0, 9)]))];
    let (mut view, report) = audit(Some(meta(1, Some(9))), &moved);
    let lost = Incomplete { ledger: id(1), entry: EntryId(5), elsewhere: vec![member(8)] };
    assert_eq!(report.lost, [lost]);
    view.unanswered.insert(member(3));
    let report = compare(&view);
    assert_eq!((report.lost.len(), report.unverified), (0, vec![id(1)]));
    assert_eq!(audit(Some(meta(1, Some(-1))), &[]).1, Report { compared: 1, ..Report::default() });
}

/// Bookies dropped what the metadata believes to be with them only: it is in the object of that upload.
#[test]
fn what_was_dropped_for_an_object_is_read_from_it() {
    let trimmed = LocalLedger { trimmed: Some(77), ..local(1, &[]) };
    let held = [(1, trimmed)];
    let dropped = Dropped { ledger: id(1), attempt: 77, sealed_epoch: SealEpoch(0) };
    assert_eq!(audit(Some(meta(1, Some(9))), &held).1.dropped, [dropped]);
    assert_eq!(audit(Some(meta(1, None)), &held).1.dropped, [dropped]);
    assert_eq!(audit(None, &held).1, Report { compared: 1, ..Report::default() }, "folded");
    let mut known = meta(1, Some(9));
    known.tier = Tier::Offloaded(TierObject {
        attempt: 77,
        bucket: String::new(),
        key: String::new(),
        size: 1,
        entries: 10,
        object_crc: 0,
        etag: String::new(),
        index_place: 0,
        at_ms: 0,
    });
    assert_eq!(audit(Some(known), &held).1, Report { compared: 1, ..Report::default() });
}

#[test]
fn what_is_being_deleted_is_left_alone() {
    let mut meta = meta(1, Some(9));
    meta.state = LedgerState::Deleting;
    assert_eq!(audit(Some(meta), &[]).1, Report { compared: 1, ..Report::default() });
}

//! What an audit finds, by kind of difference.

use geminga_metastore::record::{Cluster, Custom, Digest, Features, Fragment, TierObject};
use geminga_proto::ids::{BrokerId, ClusterUuid, Incarnation, PartitionIndex, TopicId};

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

/// Nothing held, in epoch 3, of which ten ids were handed out.
fn empty() -> View {
    let cluster = Cluster {
        uuid: ClusterUuid::from_random(1),
        epoch: 3,
        group_shards: 8,
        next_broker: BrokerId(1),
        groups_topic: TopicId::from_random(2),
        created_ms: 0,
        restored: None,
        features: Features::NONE,
    };
    View::new(Horizon::new(cluster, 11))
}

fn audit(meta: Option<LedgerMeta>, held: &[(u64, LocalLedger)]) -> (View, Report) {
    let mut view = empty();
    view.ledgers.extend(meta.map(|meta| (meta.id, meta)));
    for (number, local) in held {
        let holder = Holder { member: member(*number), local: local.clone() };
        view.held.entry(local.ledger).or_default().push(holder);
    }
    let report = compare(&view);
    (view, report)
}

fn object(attempt: u128) -> TierObject {
    TierObject {
        attempt,
        bucket: String::new(),
        key: String::new(),
        size: 1,
        entries: 10,
        object_crc: 0,
        etag: String::new(),
        index_place: 0,
        at_ms: 0,
    }
}

/// Of ledger 1.
fn uploads(attempts: &[u128]) -> Uploads {
    let of = [(id(1), attempts.iter().copied().collect())].into();
    Uploads { of, ..Uploads::default() }
}

fn nothing() -> Report {
    Report { compared: 1, ..Report::default() }
}

/// Scenario 43: whatever a former epoch left open is recovered.
#[test]
fn scenario_43_what_was_open_in_the_backup_is_recovered() {
    let sealed = LocalLedger { sealed_epoch: SealEpoch(4), ..local(1, &[(0, 9)]) };
    let (_, report) = audit(Some(meta(1, None)), &[(1, sealed), (2, local(1, &[(0, 8)]))]);
    assert_eq!(report.unclosed, [id(1)]);
    assert_eq!((report.compared, report.lost.len()), (1, 0));

    // Of the present epoch only what bookies know to be over: the others have a writer.
    let (mut view, _) = audit(Some(meta(1, None)), &[(1, local(1, &[(0, 9)]))]);
    view.horizon.cluster.epoch = 2;
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
    // Made and deleted in this epoch: bookies have not come to it yet.
    view.horizon.cluster.epoch = 2;
    assert_eq!(compare(&view), nothing());
    // I16: the epoch was raised to one that was there before, whatever became of the ledger.
    view.horizon = Horizon::new(view.horizon.cluster, 7);
    let report = compare(&view);
    assert_eq!((report.reused, report.strangers.len()), (vec![id(7)], 1));
    for holder in view.held.get_mut(&id(7)).unwrap() {
        holder.local.trimmed = Some(1);
    }
    assert_eq!(compare(&view).reused, [id(7)]);
}

#[test]
fn what_no_member_holds_is_lost_unless_somebody_is_away() {
    let whole = [(1, local(1, &[(0, 4)])), (2, local(1, &[(3, 9)]))];
    assert_eq!(audit(Some(meta(1, Some(9))), &whole).1.lost, []);
    let part = [(1, local(1, &[(0, 4)])), (8, local(1, &[(0, 3)]))];
    let (mut view, report) = audit(Some(meta(1, Some(9))), &part);
    let elsewhere = vec![member(8)];
    let lost = Incomplete { ledger: id(1), entry: EntryId(5), elsewhere, deleted: false };
    assert_eq!(report.lost, [lost]);
    assert_eq!(missing(&view), [(id(1), EntryId(5))]);
    view.unanswered.insert(member(3));
    let report = compare(&view);
    assert_eq!((report.lost.len(), report.unverified), (0, vec![id(1)]));
    // One that was deleted since is on nobody's disk.
    view.tombstones.insert(id(1), vec![member(2)]);
    view.all_listed = true;
    assert!(compare(&view).lost[0].deleted);
    assert_eq!(audit(Some(meta(1, Some(-1))), &[]).1, nothing());
}

/// 6.5: repair had moved the copies to others than the backup names.
#[test]
fn copies_that_moved_are_found_where_they_are() {
    let held = [(1, local(1, &[(0, 4)])), (7, local(1, &[(2, 9)])), (8, local(1, &[(0, 9)]))];
    let (view, report) = audit(Some(meta(1, Some(9))), &held);
    assert_eq!((&report.moved[..], report.lost.len()), (&[id(1)][..], 0));
    let fragments = moved(&view.ledgers[&id(1)], view.holders(id(1))).unwrap();
    assert_eq!(fragments[0].ensemble, [member(1), member(8), member(7)]);
    let now = LedgerMeta { fragments, ..meta(1, Some(9)) };
    assert_eq!(lacking(&now, view.holders(id(1))), [member(1), member(7)]);
    assert_eq!(moved(&now, view.holders(id(1))), None, "once");

    // Another life of a member's bookie, in its own place.
    let mut again = member(2);
    again.incarnation = Incarnation(99);
    let (mut view, _) = audit(Some(meta(1, Some(9))), &held[..1]);
    let local = local(1, &[(0, 9)]);
    view.held.get_mut(&id(1)).unwrap().push(Holder { member: again.clone(), local });
    let fragments = moved(&view.ledgers[&id(1)], view.holders(id(1))).unwrap();
    assert_eq!(fragments[0].ensemble, [member(1), again, member(3)]);
}

/// Who has the most is not who has what is missing.
#[test]
fn a_copy_that_closes_the_gap_comes_before_one_that_is_long() {
    let held = [(1, local(1, &[(0, 4)])), (7, local(1, &[(0, 6)])), (8, local(1, &[(3, 9)]))];
    let mut known = meta(1, Some(9));
    known.qw = 2;
    known.fragments[0].ensemble.truncate(2);
    let (view, report) = audit(Some(known), &held);
    assert_eq!((&report.moved[..], report.lost.len()), (&[id(1)][..], 0));
    let fragments = moved(&view.ledgers[&id(1)], view.holders(id(1))).unwrap();
    assert_eq!(fragments[0].ensemble, [member(1), member(8)]);
}

/// Members were replaced since the backup, once and again: a recovery by those that it names would end below what was acknowledged.
#[test]
fn a_ledger_is_recovered_where_its_last_writer_was() {
    let held = [
        (1, local(1, &[(0, 99)])),
        (2, local(1, &[(0, 97)])),
        (4, local(1, &[(98, 149)])),
        (5, local(1, &[(98, 150)])),
        (6, local(1, &[(140, 180)])),
    ];
    let (view, report) = audit(Some(meta(1, None)), &held);
    assert_eq!((report.unclosed, report.torn.len()), (vec![id(1)], 0));
    let meta = &view.ledgers[&id(1)];
    let found = reach(meta, view.holders(id(1)));
    let ensembles = found.fragments.clone().unwrap();
    let ensembles: Vec<_> = ensembles.iter().map(|f| (f.first_entry.0, &f.ensemble[..])).collect();
    let [one, two, five, four, six] = [1, 2, 5, 4, 6].map(member);
    assert_eq!(
        ensembles,
        [
            (0, &meta.fragments[0].ensemble[..]),
            (100, &[five, four, one.clone()][..]),
            (151, &[six, one, two][..]),
        ]
    );
    // Once it says so, nobody is ahead.
    let now = LedgerMeta { fragments: found.fragments.unwrap(), ..meta.clone() };
    now.validate().unwrap();
    assert_eq!(
        reach(&now, view.holders(id(1))),
        Reach { fragments: None, missing: None, beyond: None }
    );
}

/// The same where none of those that the backup names has anything, and where nobody is ahead.
#[test]
fn the_last_ensemble_changes_only_where_others_are_ahead() {
    let (view, _) = audit(Some(meta(1, None)), &[(7, local(1, &[(0, 5)]))]);
    let found = reach(&view.ledgers[&id(1)], view.holders(id(1))).fragments.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].ensemble, [member(7), member(1), member(2)]);
    let same = [(1, local(1, &[(0, 9)])), (7, local(1, &[(0, 9)]))];
    let (view, _) = audit(Some(meta(1, None)), &same);
    let none = Reach { fragments: None, missing: None, beyond: None };
    assert_eq!(reach(&view.ledgers[&id(1)], view.holders(id(1))), none);
}

/// Bookies were told an end, and another one, who was away then, goes on behind it: it may be what a recovery left that came to nothing
/// (RC1), or what was acknowledged in another life of the same backup. No recovery decides that silently.
#[test]
fn a_copy_beyond_an_end_that_bookies_were_told_is_reported() {
    let told = || LocalLedger { closed: Some(EntryId(80)), ..local(1, &[(0, 80)]) };
    for ahead in [3, 7] {
        let held = [(1, told()), (2, told()), (ahead, local(1, &[(0, 120)]))];
        let (view, report) = audit(Some(meta(1, None)), &held);
        let elsewhere = [member(7)].into_iter().filter(|_| ahead == 7).collect();
        let at = Incomplete { ledger: id(1), entry: EntryId(81), elsewhere, deleted: false };
        assert_eq!(report, Report { disputed: vec![at], ..nothing() });
        let none = Reach { fragments: None, missing: None, beyond: Some(EntryId(81)) };
        assert_eq!(reach(&view.ledgers[&id(1)], view.holders(id(1))), none);
    }
    let (_, report) = audit(Some(meta(1, None)), &[(1, told()), (2, told())]);
    assert_eq!(report.unclosed, [id(1)]);
}

/// What lies behind a hole, or below an end that is known, was acknowledged: no recovery ends it silently.
#[test]
fn a_ledger_with_a_hole_is_not_recovered() {
    let behind = [(1, local(1, &[(0, 9)])), (7, local(1, &[(11, 15)]))];
    let told = LocalLedger { closed: Some(EntryId(15)), ..local(1, &[(0, 9)]) };
    for held in [&behind[..], &[(1, told)]] {
        let (_, report) = audit(Some(meta(1, None)), held);
        assert_eq!((report.unclosed.len(), report.torn[0].entry), (0, EntryId(10)));
    }
}

/// Bookies dropped what the metadata believes to be with them only: it is in the object of that upload.
#[test]
fn what_was_dropped_for_an_object_is_read_from_it() {
    let trimmed = LocalLedger { trimmed: Some(77), ..local(1, &[]) };
    let held = [(1, trimmed)];
    let dropped = || Dropped { ledger: id(1), attempts: vec![77], sealed_epoch: SealEpoch(0) };
    assert_eq!(audit(Some(meta(1, Some(9))), &held).1.dropped, [dropped()]);
    assert_eq!(audit(Some(meta(1, None)), &held).1.dropped, [dropped()]);
    assert_eq!(audit(None, &held).1, nothing(), "folded");
    let mut known = meta(1, Some(9));
    known.tier = Tier::Offloaded(object(77));
    assert_eq!(audit(Some(known), &held).1, Report { unlooked: 1, ..nothing() });
}

/// The object is gone as well: the ledger was deleted since, and a bookie has not come to it. No audit waits for that object.
#[test]
fn what_was_dropped_for_an_object_that_is_gone_was_deleted() {
    let trimmed = LocalLedger { trimmed: Some(77), ..local(1, &[]) };
    let (mut open, _) = audit(Some(meta(1, None)), &[(1, trimmed.clone())]);
    let (mut closed, _) = audit(Some(meta(1, Some(9))), &[(1, trimmed.clone())]);
    let whole = [(1, trimmed.clone()), (2, local(1, &[(0, 9)]))];
    let (mut held, _) = audit(Some(meta(1, Some(9))), &whole);
    let (mut empty, _) = audit(Some(meta(1, Some(-1))), &[(1, trimmed)]);
    for view in [&mut open, &mut closed, &mut held, &mut empty] {
        assert_eq!(compare(view).dropped.len(), 1, "nobody looked");
        assert_eq!(unlisted(view), BTreeSet::new());
        view.uploads = Some(Uploads::default());
        assert_eq!(unlisted(view), [(id(1), 77)].into());
    }
    for view in [&open, &closed] {
        assert_eq!(compare(view), Report { unseen: vec![id(1)], ..nothing() }, "in another store");
    }
    (open.all_listed, closed.all_listed) = (true, true);
    assert_eq!(compare(&open), Report { ended: vec![id(1)], ..nothing() });
    assert_eq!(compare(&closed), Report { gone: vec![id(1)], ..nothing() });
    for view in [&held, &empty] {
        assert_eq!(compare(view), nothing());
    }
    // Where others hold an open one still, nothing is given up.
    let (mut shared, _) = audit(Some(meta(1, None)), &whole);
    shared.uploads = Some(Uploads::default());
    shared.all_listed = true;
    let report = compare(&shared);
    assert_eq!((&report.ended, &report.gone), (&vec![], &vec![]));
    assert_ne!(report, nothing(), "it is told");
    // Another upload is as good: its name says which ledger it is of.
    for view in [&mut open, &mut closed] {
        view.uploads = Some(uploads(&[5]));
        assert_eq!(compare(view).dropped[0].attempts, [5]);
        view.uploads = Some(uploads(&[5, 77]));
        assert_eq!(compare(view).dropped[0].attempts, [77]);
    }
    // Of several bookies each may have dropped it for another one.
    let other = LocalLedger { trimmed: Some(78), ..local(1, &[]) };
    open.held.get_mut(&id(1)).unwrap().push(Holder { member: member(2), local: other });
    open.uploads = Some(uploads(&[78]));
    assert_eq!(compare(&open).dropped[0].attempts, [78]);
    // The metadata names one that is there.
    let mut known = meta(1, Some(9));
    known.tier = Tier::Trimmed(object(5));
    closed.ledgers.insert(id(1), known);
    closed.uploads = Some(uploads(&[5]));
    assert_eq!(compare(&closed), nothing());
}

/// What is not in a listing is given up, so that it must be that of the cluster's store.
#[test]
fn a_listing_of_another_store_is_doubted() {
    // So many ledgers of one log, each of ten offsets, all in objects.
    let named = |count: u64| -> View {
        let mut view = empty();
        for number in 1..=count {
            let mut one = LedgerMeta { tier: Tier::Trimmed(object(5)), ..meta(number, Some(9)) };
            one.custom.first_offset = number as i64 * 10;
            view.ledgers.insert(one.id, one);
        }
        view
    };
    let listed = |numbers: std::ops::RangeInclusive<u64>| Uploads {
        of: numbers.map(|number| (id(number), [5].into())).collect(),
        ..Uploads::default()
    };
    let judge = |view: &View, uploads: &Uploads| {
        doubt(&View { uploads: Some(uploads.clone()), ..view.clone() })
    };
    let view = named(20);
    assert_eq!(doubt(&view), None, "nobody looked");
    assert_eq!(judge(&named(0), &Uploads::default()), Some(Doubt::Empty));
    assert_eq!(judge(&named(0), &listed(1..=1)), None);
    assert_eq!(judge(&view, &listed(1..=18)), None);
    let lacks = |named, lacking| Some(Doubt::Lacks { named, lacking });
    assert_eq!(judge(&view, &listed(1..=17)), lacks(20, 3));
    let other = Uploads { bucket: "other://".to_owned(), ..listed(1..=1) };
    assert_eq!(judge(&view, &other), None, "they are not named in it");
    let mut deleting = named(20);
    for number in 18..=20 {
        deleting.ledgers.get_mut(&id(number)).unwrap().state = LedgerState::Deleting;
    }
    assert_eq!(judge(&deleting, &listed(1..=17)), None, "they were being deleted");

    // Retention deleted the beginning of the log; a log of which nothing is left may be in another store.
    assert_eq!(judge(&view, &listed(15..=20)), None);
    let mut holed = listed(15..=20);
    holed.of.remove(&id(18));
    assert_eq!(judge(&view, &holed), lacks(6, 1), "retention makes no holes");
    let later = listed(30..=30);
    assert_eq!(judge(&view, &later), lacks(20, 20));
    assert_eq!(unplaced(&View { uploads: Some(later.clone()), ..view.clone() }).len(), 1);
    let log = (Custom::default().topic, PartitionIndex(0));
    let begins = |offset: i64| Uploads { begins: [(log, offset)].into(), ..later.clone() };
    assert_eq!(judge(&view, &begins(300)), None, "all of the backup is before it");
    assert_eq!(judge(&view, &begins(160)), lacks(5, 5));
    let another = (TopicId::from_random(8), PartitionIndex(0));
    let uploads = Uploads { begins: [(another, 300)].into(), ..later };
    assert_eq!(judge(&view, &uploads), lacks(20, 20));
}

/// The backup is of before the uploads: only bookies know of them.
#[test]
fn a_listing_without_what_bookies_dropped_their_copies_for_is_doubted() {
    let trimmed = LocalLedger { trimmed: Some(77), ..local(1, &[]) };
    let (mut view, _) = audit(Some(meta(1, None)), &[(1, trimmed.clone()), (2, trimmed)]);
    let listing =
        |attempt: u128| Uploads { of: [(id(2), [attempt].into())].into(), ..uploads(&[]) };
    view.uploads = Some(listing(77));
    assert_eq!(doubt(&view), Some(Doubt::Lacks { named: 1, lacking: 1 }));
    view.uploads.as_mut().unwrap().add(id(1), 77);
    assert_eq!(doubt(&view), None);
    // Another store is named for it: the upload may be there, too.
    let elsewhere = TierObject { bucket: "other://".to_owned(), ..object(5) };
    view.ledgers.insert(id(1), LedgerMeta { tier: Tier::Trimmed(elsewhere), ..meta(1, Some(9)) });
    view.uploads = Some(listing(77));
    assert_eq!(doubt(&view), None);
}

/// A ledger that was open in the backup, and is closed and deleted by now: nobody has an entry, and members have its tombstone.
#[test]
fn what_was_open_in_the_backup_and_deleted_since_ends_empty() {
    let sealed = LocalLedger { sealed_epoch: SealEpoch(1), ..local(1, &[]) };
    let (mut view, report) = audit(Some(meta(1, None)), &[(3, sealed)]);
    assert_eq!(missing(&view), [(id(1), EntryId(0))]);
    assert_eq!(report.unclosed, [id(1)], "somebody may have it");
    view.tombstones.insert(id(1), vec![member(1), member(2)]);
    // It may be folded, also where the backup's topic was not tiered: then it is in an object store.
    assert_eq!(compare(&view), Report { unseen: vec![id(1)], ..nothing() });
    view.held.get_mut(&id(1)).unwrap()[0].local.runs = vec![(EntryId(0), EntryId(3))];
    assert_eq!(compare(&view), Report { unseen: vec![id(1)], ..nothing() }, "a short copy");
    view.held.get_mut(&id(1)).unwrap()[0].local.runs.clear();
    view.all_listed = true;
    assert_eq!(compare(&view), Report { ended: vec![id(1)], ..nothing() });
    // Somebody has not come to deleting it.
    view.held.get_mut(&id(1)).unwrap()[0].local.runs = vec![(EntryId(0), EntryId(3))];
    assert_eq!(compare(&view), Report { unclosed: vec![id(1)], ..nothing() });
    view.held.clear();

    view.all_listed = false;
    view.uploads = Some(Uploads::default());
    assert_eq!(compare(&view), Report { unseen: vec![id(1)], ..nothing() }, "in another store");
    view.all_listed = true;
    assert_eq!(compare(&view), Report { ended: vec![id(1)], ..nothing() });
    view.uploads = Some(uploads(&[5, 6]));
    let dropped = Dropped { ledger: id(1), attempts: vec![5, 6], sealed_epoch: SealEpoch(0) };
    assert_eq!(compare(&view).dropped, [dropped]);
    let mut closed = view.clone();
    closed.ledgers.insert(id(1), meta(1, Some(9)));
    assert_eq!((compare(&closed).dropped.len(), compare(&closed).lost.len()), (1, 0));
    (closed.uploads, closed.all_listed) = (None, false);
    assert_eq!(compare(&closed), Report { unseen: vec![id(1)], ..nothing() });
}

/// An object that was deleted since the backup is told, unless bookies have all of it still.
#[test]
fn objects_that_are_gone_are_told() {
    for (tier, held, gone) in [
        (Tier::Trimmed(object(5)), vec![], true),
        (Tier::Offloaded(object(5)), vec![], true),
        (Tier::Offloaded(object(5)), vec![(1, local(1, &[(0, 9)]))], false),
    ] {
        let (mut view, report) = audit(Some(LedgerMeta { tier, ..meta(1, Some(9)) }), &held);
        assert_eq!(report, Report { unlooked: 1, ..nothing() });
        view.uploads = Some(uploads(&[5]));
        assert_eq!(compare(&view), nothing());
        let elsewhere = Uploads { bucket: "other://".to_owned(), ..uploads(&[6]) };
        view.uploads = Some(elsewhere);
        assert_eq!(compare(&view).unlooked, 1);
        view.uploads = Some(uploads(&[6]));
        let expected = if gone { vec![id(1)] } else { vec![] };
        assert_eq!(compare(&view), Report { gone: expected, ..nothing() });
    }
}

#[test]
fn what_is_being_deleted_is_left_alone() {
    let mut meta = meta(1, Some(9));
    meta.state = LedgerState::Deleting;
    assert_eq!(audit(Some(meta), &[]).1, nothing());
}

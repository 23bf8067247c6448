//! Watches: everything, in order, once.

use super::basics::put_many;
use super::{Place, changes, next, snapshot};
use crate::{Revision, Txn, WatchEvent};

pub(super) async fn a_watch_begins_with_what_is_there(place: &Place) {
    place.put("w/a", "1").await;
    place.put("x", "1").await;
    let mut watch = place.watch("w/", None).await;
    let (at, items) = snapshot(&mut watch).await;
    assert_eq!(items, ["w/a=1"]);

    let txn = Txn::new().put("w/b", "2").put("x", "2").put("w/a", "2");
    place.store.txn(txn).await.unwrap();
    place.put("x", "3").await;
    place.store.txn(Txn::new().delete("w/a")).await.unwrap();
    let (first, mut both) = changes(&mut watch).await;
    both.sort();
    assert_eq!(both, ["w/a=2", "w/b=2"], "one event for one revision, and only of the prefix");
    let (second, gone) = changes(&mut watch).await;
    assert_eq!(gone, ["-w/a"]);
    assert!(at < first && first < second);
}

pub(super) async fn a_watch_goes_on_from_a_revision(place: &Place) {
    place.put("w/a", "1").await;
    let from = place.put("w/a", "2").await;
    place.put("w/a", "3").await;
    place.put("w/b", "1").await;
    let mut watch = place.watch("w/", Some(Revision(from.0))).await;
    assert_eq!(changes(&mut watch).await.1, ["w/a=3"]);
    assert_eq!(changes(&mut watch).await.1, ["w/b=1"]);
    place.put("w/c", "1").await;
    assert_eq!(changes(&mut watch).await.1, ["w/c=1"]);
    // A range and a watch from its revision miss nothing.
    let range = place.store.range("w/", None, 99).await.unwrap();
    let after = place.put("w/d", "1").await;
    let mut watch = place.watch("w/", Some(range.revision)).await;
    assert_eq!(changes(&mut watch).await, (Revision(after.0), vec!["w/d=1".to_owned()]));
}

pub(super) async fn a_watch_whose_history_is_gone_lists_again(place: &Place) {
    let from = place.put("w/a", "1").await;
    place.put("w/b", "1").await;
    place.store.txn(Txn::new().delete("w/a")).await.unwrap();
    place.put("w/c", "1").await;
    place.put("w/b", "2").await;
    place.compact();
    let mut watch = place.watch("w/", Some(Revision(from.0))).await;
    assert_eq!(snapshot(&mut watch).await.1, ["w/b=2", "w/c=1"]);
    place.put("w/c", "2").await;
    assert_eq!(changes(&mut watch).await.1, ["w/c=2"], "and goes on from there");
}

pub(super) async fn a_compaction_does_not_disturb_a_watch_that_is_up_to_date(place: &Place) {
    place.put("w/a", "1").await;
    let mut watch = place.watch("w/", None).await;
    snapshot(&mut watch).await;
    place.put("w/a", "2").await;
    assert_eq!(changes(&mut watch).await.1, ["w/a=2"]);
    place.compact();
    place.put("w/a", "3").await;
    assert_eq!(changes(&mut watch).await.1, ["w/a=3"]);
}

pub(super) async fn many_changes_come_in_order_once(place: &Place) {
    const COUNT: usize = 300;
    let mut watch = place.watch("w/", None).await;
    snapshot(&mut watch).await;
    let values: Vec<&'static str> =
        (0..COUNT).map(|i| &*Box::leak(i.to_string().into_boxed_str())).collect();
    let writer = async {
        for value in &values {
            place.put("w/a", value).await;
            place.put("x", value).await;
        }
    };
    let reader = async {
        let mut last = Revision(0);
        for value in &values {
            let (revision, seen) = changes(&mut watch).await;
            assert_eq!(seen, [format!("w/a={value}")]);
            assert!(revision > last);
            last = revision;
        }
    };
    futures::join!(writer, reader);
}

pub(super) async fn a_snapshot_of_many_keys_is_whole(place: &Place) {
    put_many(place, 2_500).await;
    let mut watch = place.watch("many/", None).await;
    let WatchEvent::Snapshot(range) = next(&mut watch).await else { panic!("a snapshot is first") };
    assert_eq!(range.items.len(), 2_500);
    assert!(!range.more);
    place.put("many/000001", "w").await;
    assert_eq!(changes(&mut watch).await.1, ["many/000001=w"]);
}

//! Keys, ranges, transactions.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::caps;

use super::Place;
use crate::{Error, Guard, LedgerIds, Revision, Txn, TxnOutcome, Version};

pub(super) async fn a_key_is_read_back_with_its_versions(place: &Place) {
    assert_eq!(place.get("a").await, None);
    let first = place.put("a", "1").await;
    let found = place.get("a").await.unwrap();
    assert_eq!((found.value.as_ref(), found.version), (b"1".as_ref(), first));
    assert_eq!(found.created, Revision(first.0));
    assert_ne!(first.0, 0);

    let second = place.put("a", "2").await;
    assert!(second > first);
    let found = place.get("a").await.unwrap();
    assert_eq!((found.version, found.created), (second, Revision(first.0)), "the same life");

    place.store.txn(Txn::new().delete("a")).await.unwrap();
    assert_eq!(place.get("a").await, None);
    let third = place.put("a", "3").await;
    assert!(third > second);
    assert_eq!(place.get("a").await.unwrap().created, Revision(third.0), "another life");

    let bytes = Bytes::from_static(&[0, 255, 128, 10]);
    place.store.put_if("binary ключ", None, bytes.clone()).await.unwrap().unwrap();
    assert_eq!(place.get("binary ключ").await.unwrap().value, bytes);
    place.store.put_if("empty", None, Bytes::new()).await.unwrap().unwrap();
    assert_eq!(place.get("empty").await.unwrap().value, Bytes::new());
}

pub(super) async fn put_if_needs_the_version_it_names(place: &Place) {
    let store = &place.store;
    let value = Bytes::from_static(b"x");
    assert_eq!(store.put_if("a", Some(Version(1)), value.clone()).await, Ok(None), "absent");
    let first = place.put("a", "1").await;
    assert_eq!(store.put_if("a", None, value.clone()).await, Ok(None), "there already");
    let second = place.put("a", "2").await;
    assert_eq!(store.put_if("a", Some(first), value.clone()).await, Ok(None), "an old version");
    assert_eq!(place.text("a").await.unwrap(), "2");
    assert!(store.put_if("a", Some(second), value).await.unwrap().unwrap() > second);
    assert_eq!(place.text("a").await.unwrap(), "x");
}

pub(super) async fn a_range_is_in_order_and_in_pages(place: &Place) {
    let store = &place.store;
    let empty = store.range("", None, 1).await.unwrap();
    assert!(empty.items.is_empty() && !empty.more);

    for key in ["b/2", "a", "b/10", "b/1", "b0", "c"] {
        place.put(key, "v").await;
    }
    let keys = async |prefix: &'static str, after: Option<&'static str>, limit: usize| {
        let range = store.range(prefix, after, limit).await.unwrap();
        let keys: Vec<String> = range.items.into_iter().map(|item| item.key).collect();
        (keys.join(" "), range.more)
    };
    assert_eq!(keys("", None, 1).await, ("a".to_owned(), true));
    assert_eq!(keys("", None, 99).await, ("a b/1 b/10 b/2 b0 c".to_owned(), false));
    assert_eq!(keys("b/", None, 99).await, ("b/1 b/10 b/2".to_owned(), false));
    assert_eq!(keys("b/", None, 3).await, ("b/1 b/10 b/2".to_owned(), false));
    assert_eq!(keys("b/", None, 2).await, ("b/1 b/10".to_owned(), true));
    assert_eq!(keys("b/", Some("b/10"), 2).await, ("b/2".to_owned(), false));
    assert_eq!(keys("b/", Some("b/11"), 2).await, ("b/2".to_owned(), false));
    assert_eq!(keys("b/", Some("b/2"), 2).await, (String::new(), false));
    assert_eq!(keys("b/", Some("a"), 1).await, ("b/1".to_owned(), true));
    assert_eq!(keys("b/", Some("c"), 9).await, (String::new(), false));
    assert_eq!(keys("nothing/", None, 9).await, (String::new(), false));

    let last = place.put("a", "w").await;
    assert_eq!(store.range("b", None, 9).await.unwrap().revision, Revision(last.0));
}

/// Puts `count` keys below `many/`.
pub(super) async fn put_many(place: &Place, count: usize) {
    let keys: Vec<String> = (0..count).map(|i| format!("many/{i:06}")).collect();
    for chunk in keys.chunks(caps::MAX_METADATA_TXN_OPS) {
        let txn = chunk.iter().fold(Txn::new(), |txn, key| txn.put(key, "v"));
        place.store.txn(txn).await.unwrap();
    }
}

pub(super) async fn everything_of_many_keys_is_one_revision(place: &Place) {
    put_many(place, 4_500).await;
    place.put("other", "v").await;
    let all = place.store.range("many/", None, usize::MAX).await.unwrap();
    assert!(!all.more);
    assert_eq!(all.items.len(), 4_500);
    assert!(all.items.windows(2).all(|pair| pair[0].key < pair[1].key));
    let cut = place.store.range("many/", Some("many/000099"), 4_000).await.unwrap();
    assert!(cut.more);
    assert_eq!(cut.items.len(), 4_000);
    assert_eq!(cut.items[0].key, "many/000100");
    assert_eq!(cut.revision, all.revision);
}

pub(super) async fn a_transaction_is_whole_or_nothing(place: &Place) {
    place.put("old", "1").await;
    let version = place.put("guard", "1").await;
    let change = || Txn::new().put("a", "1").put("b", "2").delete("old");

    let refused = change().guard(Guard::Version("guard".to_owned(), Version(version.0 - 1)));
    assert_eq!(place.store.txn(refused).await, Ok(TxnOutcome::GuardFailed));
    assert_eq!(place.get("a").await, None);
    assert_eq!(place.text("old").await.unwrap(), "1");

    let allowed = change().guard(Guard::Version("guard".to_owned(), version));
    let TxnOutcome::Committed(revision) = place.store.txn(allowed).await.unwrap() else {
        panic!("its guard holds");
    };
    assert!(revision.0 > version.0);
    for key in ["a", "b"] {
        let found = place.get(key).await.unwrap();
        assert_eq!((found.version, found.created), (Version(revision.0), revision));
    }
    assert_eq!(place.get("old").await, None);
}

pub(super) async fn each_guard_holds_and_fails(place: &Place) {
    let first = place.put("a", "1").await;
    let second = place.put("a", "2").await;
    let a = || "a".to_owned();
    let none = || "none".to_owned();
    let holds = [
        Guard::Absent(none()),
        Guard::Version(a(), second),
        Guard::Created(a(), Revision(first.0)),
    ];
    let fails = [
        Guard::Absent(a()),
        Guard::Version(a(), first),
        Guard::Version(none(), second),
        Guard::Created(a(), Revision(second.0)),
        Guard::Created(none(), Revision(first.0)),
    ];
    for guard in &holds {
        let outcome = place.store.txn(Txn::new().guard(guard.clone()).put("x", "1")).await;
        assert!(matches!(outcome, Ok(TxnOutcome::Committed(_))), "{guard:?}: {outcome:?}");
    }
    for guard in fails {
        // One that fails among those that hold.
        let txn = holds.iter().cloned().fold(Txn::new(), Txn::guard);
        let txn = txn.guard(guard.clone()).put("y", "1");
        assert_eq!(place.store.txn(txn).await, Ok(TxnOutcome::GuardFailed), "{guard:?}");
    }
    assert_eq!(place.get("y").await, None);
}

pub(super) async fn a_transaction_without_a_write_changes_nothing(place: &Place) {
    let version = place.put("a", "1").await;
    let here = Guard::Version("a".to_owned(), version);
    for txn in [Txn::new(), Txn::new().guard(here), Txn::new().delete("none")] {
        let outcome = place.store.txn(txn).await;
        assert_eq!(outcome, Ok(TxnOutcome::Committed(Revision(version.0))));
    }
    let away = Txn::new().guard(Guard::Absent("a".to_owned()));
    assert_eq!(place.store.txn(away).await, Ok(TxnOutcome::GuardFailed));
}

pub(super) async fn what_no_store_accepts_is_refused(place: &Place) {
    let refused = async |why: &str, txn: Txn| {
        let outcome = place.store.txn(txn).await;
        assert!(matches!(outcome, Err(Error::Invalid(_))), "{why}: {outcome:?}");
    };
    let puts = |count: usize| (0..count).fold(Txn::new(), |txn, i| txn.put(format!("k{i}"), "v"));
    refused("operations", puts(caps::MAX_METADATA_TXN_OPS + 1)).await;
    let guarded = puts(caps::MAX_METADATA_TXN_OPS).guard(Guard::Absent("none".to_owned()));
    refused("guards count", guarded).await;
    let large = vec![7; caps::MAX_METADATA_VALUE_BYTES];
    let mut larger = large.clone();
    larger.push(7);
    refused("a value", Txn::new().put("a", larger)).await;
    let together = Txn::new().put("a", large.clone()).put("b", large.clone());
    refused("values together", together.put("c", large.clone())).await;
    refused("twice", Txn::new().put("a", "1").put("a", "2")).await;
    refused("put and removed", Txn::new().put("a", "1").delete("a")).await;
    refused("no key", Txn::new().put("", "1")).await;
    refused("a leading slash", Txn::new().put("/a", "1")).await;
    assert!(place.store.range("", None, 1).await.unwrap().items.is_empty());

    // What is just within the limits is taken.
    place.store.txn(Txn::new().put("a", large.clone())).await.unwrap();
    assert_eq!(place.get("a").await.unwrap().value, large);
    let most = puts(caps::MAX_METADATA_TXN_OPS);
    assert!(matches!(place.store.txn(most).await, Ok(TxnOutcome::Committed(_))));
}

pub(super) async fn of_concurrent_updates_one_wins(place: &Place) {
    const WRITERS: usize = 6;
    const EACH: usize = 10;
    let writer = || {
        let store = Arc::clone(&place.store);
        async move {
            let mut won = Vec::new();
            while won.len() < EACH {
                let found = store.get("counter").await.unwrap();
                let count: u64 = found
                    .as_ref()
                    .map_or(0, |found| std::str::from_utf8(&found.value).unwrap().parse().unwrap());
                let next = Bytes::from((count + 1).to_string());
                let version = found.map(|found| found.version);
                if store.put_if("counter", version, next).await.unwrap().is_some() {
                    won.push(count);
                }
            }
            won
        }
    };
    let won = futures::future::join_all((0..WRITERS).map(|_| writer())).await;
    let distinct: BTreeSet<u64> = won.into_iter().flatten().collect();
    assert_eq!(distinct.len(), WRITERS * EACH, "two updates from one version");
    assert_eq!(place.text("counter").await.unwrap(), (WRITERS * EACH).to_string());
}

pub(super) async fn guards_and_changes_are_one_point(place: &Place) {
    // Two keys that are always written together: whoever reads them in one range sees them equal.
    let writer = async {
        for i in 0..50 {
            let value = i.to_string();
            place.store.txn(Txn::new().put("p/a", value.clone()).put("p/b", value)).await.unwrap();
        }
    };
    let reader = async {
        for _ in 0..50 {
            let range = place.store.range("p/", None, 2).await.unwrap();
            if let [a, b] = range.items.as_slice() {
                assert_eq!(a.value, b.value);
            } else {
                assert!(range.items.is_empty(), "half a transaction: {range:?}");
            }
            tokio::task::yield_now().await;
        }
    };
    futures::join!(writer, reader);
}

pub(super) async fn ledger_ids_are_handed_out_once(place: &Place) {
    let allocators = [(), ()].map(|()| LedgerIds::new(Arc::clone(&place.store), 3));
    let take = async |ids: &LedgerIds| {
        let mut taken = Vec::new();
        for _ in 0..1_500 {
            taken.push(ids.next().await.unwrap());
        }
        taken
    };
    let (a, b) = futures::join!(take(&allocators[0]), take(&allocators[1]));
    let distinct: BTreeSet<_> = a.iter().chain(&b).map(|id| id.0).collect();
    assert_eq!(distinct.len(), 3_000);
}

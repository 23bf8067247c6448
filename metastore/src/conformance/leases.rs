//! Leases and what is built from them.

use std::time::Duration;

use super::{Place, changes, snapshot, within};
use crate::{Error, Guard, LeaseId, Txn, TxnOutcome};

/// As short as etcd's own rounding leaves it.
const SHORT: Duration = Duration::from_secs(1);
/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

pub(super) async fn a_revoked_lease_takes_its_keys_at_once(place: &Place) {
    let lease = place.store.grant_lease(LONG).await.unwrap();
    let other = place.store.grant_lease(LONG).await.unwrap();
    let txn = Txn::new().put_leased("l/a", "1", lease).put_leased("l/b", "1", lease);
    place.store.txn(txn.put_leased("l/c", "1", other).put("l/d", "1")).await.unwrap();
    let mut watch = place.watch("l/", None).await;
    snapshot(&mut watch).await;
    place.store.revoke_lease(lease).await.unwrap();
    let (_, mut gone) = changes(&mut watch).await;
    gone.sort();
    assert_eq!(gone, ["-l/a", "-l/b"], "both in one revision, and no other");
    assert_eq!(place.get("l/a").await, None);
    assert_eq!(place.text("l/c").await.unwrap(), "1");
    assert_eq!(place.text("l/d").await.unwrap(), "1");
}

pub(super) async fn a_lease_that_ended_is_gone(place: &Place) {
    let lease = place.store.grant_lease(LONG).await.unwrap();
    place.store.revoke_lease(lease).await.unwrap();
    for lease in [lease, LeaseId(0x7777_7777)] {
        let gone = Err(Error::LeaseGone(lease));
        assert_eq!(place.store.keep_alive(lease).await, gone);
        let txn = Txn::new().put("plain", "1").put_leased("leased", "1", lease);
        assert_eq!(place.store.txn(txn).await, Err(Error::LeaseGone(lease)));
        assert_eq!(place.store.revoke_lease(lease).await, Ok(()), "it is gone, as was asked");
    }
    assert_eq!(place.get("plain").await, None, "nothing of a refused transaction");
}

pub(super) async fn a_lease_that_is_not_kept_alive_ends(place: &Place) {
    let lease = place.store.grant_lease(SHORT).await.unwrap();
    let txn = Txn::new().put_leased("l/a", "1", lease).put_leased("l/b", "1", lease);
    place.store.txn(txn).await.unwrap();
    let mut watch = place.watch("l/", None).await;
    snapshot(&mut watch).await;
    // Nobody asks anything meanwhile: the store ends it by itself.
    let (_, mut gone) = changes(&mut watch).await;
    gone.sort();
    assert_eq!(gone, ["-l/a", "-l/b"]);
    assert_eq!(place.store.keep_alive(lease).await, Err(Error::LeaseGone(lease)));
    assert_eq!(place.get("l/a").await, None);
}

pub(super) async fn a_lease_that_is_kept_alive_does_not_end(place: &Place) {
    let lease = place.store.grant_lease(2 * SHORT).await.unwrap();
    place.store.txn(Txn::new().put_leased("l/a", "1", lease)).await.unwrap();
    let mut ticks = tokio::time::interval(SHORT / 2);
    for _ in 0..10 {
        ticks.tick().await;
        place.store.keep_alive(lease).await.unwrap();
        assert_eq!(place.text("l/a").await.unwrap(), "1");
    }
    // And ends when it is not any more.
    let mut watch = place.watch("l/", None).await;
    snapshot(&mut watch).await;
    assert_eq!(changes(&mut watch).await.1, ["-l/a"]);
}

pub(super) async fn a_put_ends_the_former_binding(place: &Place) {
    let store = &place.store;
    let first = store.grant_lease(LONG).await.unwrap();
    let second = store.grant_lease(LONG).await.unwrap();
    let txn = Txn::new().put_leased("plain", "1", first).put_leased("moved", "1", first);
    store.txn(txn).await.unwrap();
    store.txn(Txn::new().put("plain", "2").put_leased("moved", "2", second)).await.unwrap();
    store.revoke_lease(first).await.unwrap();
    assert_eq!(place.text("plain").await.unwrap(), "2");
    assert_eq!(place.text("moved").await.unwrap(), "2");
    store.revoke_lease(second).await.unwrap();
    assert_eq!(place.get("moved").await, None);
    assert_eq!(place.text("plain").await.unwrap(), "2");
    // A key that was removed and made again is not bound to what it once was.
    let third = store.grant_lease(LONG).await.unwrap();
    store.txn(Txn::new().put_leased("again", "1", third)).await.unwrap();
    store.txn(Txn::new().delete("again")).await.unwrap();
    place.put("again", "2").await;
    store.revoke_lease(third).await.unwrap();
    assert_eq!(place.text("again").await.unwrap(), "2");
}

pub(super) async fn one_is_elected_and_the_next_one_follows(place: &Place) {
    let store = &place.store;
    let leases = [store.grant_lease(LONG).await.unwrap(), store.grant_lease(LONG).await.unwrap()];
    let campaign = |who: usize| {
        let name = who.to_string();
        let txn = Txn::new().guard(Guard::Absent("leader".to_owned()));
        store.txn(txn.put_leased("leader", name, leases[who]))
    };
    let (zero, one) = futures::join!(campaign(0), campaign(1));
    let (winner, loser) = match (zero.unwrap(), one.unwrap()) {
        (TxnOutcome::Committed(_), TxnOutcome::GuardFailed) => (0, 1),
        (TxnOutcome::GuardFailed, TxnOutcome::Committed(_)) => (1, 0),
        both => panic!("one wins: {both:?}"),
    };
    let term = place.get("leader").await.unwrap().created;
    let under =
        |term| Txn::new().guard(Guard::Created("leader".to_owned(), term)).put("decision", "x");
    assert!(matches!(store.txn(under(term)).await, Ok(TxnOutcome::Committed(_))));

    let mut watch = place.watch("leader", None).await;
    snapshot(&mut watch).await;
    let follow = async {
        assert_eq!(changes(&mut watch).await.1, ["-leader"]);
        campaign(loser).await
    };
    let (revoked, followed) = within("the next leader", async {
        futures::join!(store.revoke_lease(leases[winner]), follow)
    })
    .await;
    revoked.unwrap();
    assert!(matches!(followed, Ok(TxnOutcome::Committed(_))));
    let next = place.get("leader").await.unwrap().created;
    assert!(next > term);
    assert_eq!(store.txn(under(term)).await, Ok(TxnOutcome::GuardFailed), "the former one");
    assert!(matches!(store.txn(under(next)).await, Ok(TxnOutcome::Committed(_))));
}

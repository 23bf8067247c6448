//! What only etcd does: it goes away and comes back, fills up, and answers too much.

use geminga_harness::{Etcd, EtcdMembers, Host};
use geminga_runtime::holds_only_with;

use super::*;
use crate::TxnOutcome;
use crate::conformance::{changes, snapshot};

fn url(etcd: &Etcd, cluster: &str) -> EtcdUrl {
    format!("etcd://{}/{cluster}", etcd.endpoint()).parse().unwrap()
}

async fn connect(etcd: &Etcd) -> EtcdStore {
    EtcdStore::connect(&url(etcd, "test")).await.unwrap()
}

/// Waits until it answers: a client notices by itself that a server is back.
async fn put(store: &EtcdStore, key: &str, value: &'static str) {
    for _ in 0..30 {
        let txn = Txn::new().put(key, value);
        match store.txn(txn).await {
            Ok(TxnOutcome::Committed(_)) => return,
            Ok(TxnOutcome::GuardFailed) => panic!("it has no guard"),
            // The same value again does no harm.
            Err(Error::Unknown(_) | Error::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("etcd is back and is not found");
}

#[test]
fn urls_are_read_and_refused() {
    let url: EtcdUrl = "etcd://a:1,b:2/prod".parse().unwrap();
    assert_eq!(url.endpoints, ["a:1", "b:2"]);
    assert_eq!(url.cluster, "prod");
    assert_eq!(url.to_string().parse(), Ok(url));
    let short: EtcdUrl = "etcd://a:1".parse().unwrap();
    assert_eq!(short.cluster, "default");
    for wrong in ["a:1", "http://a:1", "etcd://", "etcd://a", "etcd://a:x", "etcd://a:1/b c"] {
        assert!(wrong.parse::<EtcdUrl>().is_err(), "{wrong}");
    }
}

/// Nobody waits for what no attempt can reach.
#[tokio::test]
async fn an_address_that_cannot_be_one_is_invalid() {
    for wrong in ["etcd://a:1, b:1", "etcd://a b:1"] {
        let url: EtcdUrl = wrong.parse().unwrap();
        for dial in
            [Dial::Plain, Dial::Tls(geminga_tls::Credentials::load(Default::default()).unwrap())]
        {
            let answer = EtcdStore::connect_by(&url, &dial).await;
            assert!(matches!(answer, Err(Error::Invalid(_))), "{wrong}: {answer:?}");
        }
    }
}

/// A member that lags answers only reads that allow for it; what a store asks for here does not.
#[test]
fn scenario_41_reads_ask_for_the_latest() {
    holds_only_with(Mutation::SerializableReads, |mutations| {
        let asked = format!("{:?}", read_options(mutations).with_range("z").with_limit(9));
        assert!(asked.contains("serializable: false"), "{asked}");
    });
}

#[tokio::test]
async fn clusters_on_one_etcd_do_not_meet() {
    let etcd = Etcd::start();
    let one = connect(&etcd).await;
    let other = EtcdStore::connect(&url(&etcd, "test2")).await.unwrap();
    put(&one, "a", "1").await;
    assert_eq!(other.get("a").await.unwrap(), None);
    assert!(other.range("", None, 9).await.unwrap().items.is_empty());
    let mut watch = other.watch("", None).await.unwrap();
    snapshot(&mut watch).await;
    put(&one, "a", "2").await;
    put(&other, "b", "1").await;
    assert_eq!(changes(&mut watch).await.1, ["b=1"]);
    assert!(etcd.ctl(&["get", "", "--prefix", "--keys-only"]).contains("/geminga/test2/b"));
}

#[tokio::test]
async fn a_watch_goes_on_over_a_crash_of_etcd() {
    let mut etcd = Etcd::start();
    let store = connect(&etcd).await;
    let mut watch = store.watch("w/", None).await.unwrap();
    snapshot(&mut watch).await;
    put(&store, "w/a", "1").await;
    assert_eq!(changes(&mut watch).await.1, ["w/a=1"]);
    etcd.kill();
    etcd.restart();
    put(&store, "w/a", "2").await;
    put(&store, "w/b", "1").await;
    let mut seen = changes(&mut watch).await.1;
    while seen == ["w/a=2"] {
        // Written again where the first answer was lost.
        seen = changes(&mut watch).await.1;
    }
    assert_eq!(seen, ["w/b=1"]);
}

#[tokio::test]
async fn a_watch_whose_history_was_compacted_while_it_was_away_lists_again() {
    let mut etcd = Etcd::start();
    let away = connect(&etcd).await;
    put(&away, "w/a", "1").await;
    put(&away, "w/gone", "1").await;
    let mut watch = away.watch("w/", None).await.unwrap();
    snapshot(&mut watch).await;
    etcd.kill();
    // The watch is not polled, so it learns nothing of what follows until all of it is done.
    etcd.restart();
    etcd.ctl(&["put", "/geminga/test/w/a", "2"]);
    etcd.ctl(&["del", "/geminga/test/w/gone"]);
    etcd.ctl(&["put", "/geminga/test/w/b", "1"]);
    etcd.compact();
    assert_eq!(snapshot(&mut watch).await.1, ["w/a=2", "w/b=1"]);
    etcd.ctl(&["put", "/geminga/test/w/b", "2"]);
    assert_eq!(changes(&mut watch).await.1, ["w/b=2"]);
}

#[tokio::test]
async fn a_paused_etcd_is_unavailable_for_reads_and_unknown_for_writes() {
    let etcd = Etcd::start();
    let timeout = Duration::from_millis(500);
    let store = EtcdStore::connect_with_timeout(&url(&etcd, "test"), timeout).await.unwrap();
    put(&store, "a", "1").await;
    etcd.pause();
    let read = store.get("a").await;
    let write = store.txn(Txn::new().put("a", "2")).await;
    let lease = store.keep_alive(LeaseId(1)).await;
    etcd.resume();
    assert!(matches!(&read, Err(Error::Unavailable(why)) if why.contains(etcd.endpoint())));
    assert!(matches!(write, Err(Error::Unknown(_))), "{write:?}");
    assert!(matches!(lease, Err(Error::Unavailable(_))), "{lease:?}");
    put(&store, "b", "1").await;
}

#[tokio::test]
async fn an_etcd_that_is_away_is_noticed_in_time() {
    let mut etcd = Etcd::start();
    let timeout = Duration::from_millis(500);
    let store = EtcdStore::connect_with_timeout(&url(&etcd, "test"), timeout).await.unwrap();
    put(&store, "a", "1").await;
    etcd.kill();
    let read = store.get("a").await;
    assert!(matches!(read, Err(Error::Unavailable(_))), "{read:?}");
    let write = store.txn(Txn::new().put("a", "2")).await;
    assert!(matches!(write, Err(Error::Unavailable(_) | Error::Unknown(_))), "{write:?}");
    let connected = EtcdStore::connect_with_timeout(&url(&etcd, "test"), timeout).await;
    let error = connected.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert!(error.to_string().contains(etcd.endpoint()), "{error}");
    etcd.restart();
    put(&store, "a", "3").await;
}

#[tokio::test]
async fn a_full_etcd_says_so() {
    let etcd = Etcd::start_with(&["--quota-backend-bytes=2000000"]);
    let store = connect(&etcd).await;
    let mut outcome = Ok(TxnOutcome::GuardFailed);
    // etcd counts its size when it commits a batch, so a quick writer gets well beyond the quota.
    for i in 0..500 {
        outcome = store.txn(Txn::new().put(format!("k{i}"), vec![1; 400_000])).await;
        if outcome.is_err() {
            break;
        }
    }
    assert_eq!(outcome, Err(Error::NoSpace));
    assert!(store.get("k0").await.unwrap().is_some(), "reads go on");
}

#[tokio::test]
async fn what_is_too_large_for_one_answer_comes_in_several() {
    let etcd = Etcd::start();
    let store = connect(&etcd).await;
    for i in 0..160 {
        let value = vec![7; 500_000];
        store.txn(Txn::new().put(format!("big/{i:04}"), value)).await.unwrap();
    }
    let all = store.range("big/", None, usize::MAX).await.unwrap();
    assert_eq!(all.items.len(), 160);
    assert!(!all.more);
    let mut watch = store.watch("big/", None).await.unwrap();
    assert_eq!(snapshot(&mut watch).await.1.len(), 160);
    // A watch that is so far behind that its changes do not fit lists instead, and goes on.
    let from = Revision(all.items[0].value.version.0);
    let mut watch = store.watch("big/", Some(from)).await.unwrap();
    let behind = crate::conformance::next(&mut watch).await;
    if let WatchEvent::Snapshot(range) = &behind {
        assert_eq!(range.items.len(), 160);
        put(&store, "big/0000", "1").await;
        assert_eq!(changes(&mut watch).await.1, ["big/0000=1"]);
    }
}

/// Which member is asked first differs: so often that a wrong one is found out.
const TRIES: usize = 12;

/// Each connects with one of these among its members, and is answered whatever it asks.
async fn all_are_answered(members: [&str; 2]) {
    let url: EtcdUrl = format!("etcd://{}/test", members.join(",")).parse().unwrap();
    for number in 0..TRIES {
        let store = EtcdStore::connect(&url).await.unwrap();
        for _ in 0..3 {
            let outcome = store.txn(Txn::new().put("a", number.to_string())).await;
            assert!(matches!(outcome, Ok(TxnOutcome::Committed(_))), "{number}: {outcome:?}");
            assert!(store.get("a").await.unwrap().is_some());
        }
    }
}

#[tokio::test]
async fn a_member_that_is_dead_is_passed_over() {
    let etcd = Etcd::start();
    // Nobody listens there.
    all_are_answered(["127.0.0.1:1", etcd.endpoint()]).await;
}

/// It answers at once that it has no leader: who stays with it gets nowhere though the others go on.
#[tokio::test]
async fn a_member_that_is_cut_off_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut members = EtcdMembers::start(&[(); 3].map(|()| Host::here()), dir.path());
    let cut_off = members.endpoints().next().unwrap().to_owned();
    members.process(1).kill();
    members.process(2).kill();
    let alone: EtcdUrl = format!("etcd://{cut_off}/test").parse().unwrap();
    // Once it has noticed.
    let mut said = EtcdStore::connect(&alone).await.map(drop);
    while !said.as_ref().is_err_and(|error| error.to_string().contains("no leader")) {
        said = EtcdStore::connect(&alone).await.map(drop);
    }
    // The place of the others is taken by one that has a leader.
    let etcd = Etcd::start();
    all_are_answered([&cut_off, etcd.endpoint()]).await;
}

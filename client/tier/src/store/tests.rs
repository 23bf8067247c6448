//! Uploads and reads against stores that fail, and what URLs may say.

mod clouds;

use futures::TryStreamExt;

use super::*;
use crate::faulty::{Call, Fault, Faulty};
use crate::testing;

fn object(store: &Store, key: &str, size: u64) -> TierObject {
    TierObject {
        attempt: 1,
        bucket: store.bucket().to_owned(),
        key: key.to_owned(),
        size,
        entries: 1,
        object_crc: 0,
        etag: String::new(),
        index_place: 0,
        at_ms: 0,
    }
}

fn open(url: &str, environment: &[(&str, &str)]) -> Result<Store, Invalid> {
    // The binary's main does so.
    let _second = rustls::crypto::ring::default_provider().install_default();
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    Store::open(url, &Options::default(), environment)
}

#[test]
fn urls_name_stores() {
    for (url, bucket) in [
        ("s3://bucket/a/b", "s3://bucket"),
        ("gs://bucket", "gs://bucket"),
        ("file:///tmp/x", "file://"),
        ("memory://", "memory://"),
    ] {
        let environment = [("AWS_REGION", "eu-west-1"), ("BUCKET", "another")];
        let store = open(url, &environment).unwrap_or_else(|error| panic!("{url}: {error}"));
        assert_eq!(store.bucket(), bucket);
    }
    let azure = [("AZURE_STORAGE_ACCOUNT_NAME", "me"), ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")];
    assert_eq!(open("az://container/x", &azure).unwrap().bucket(), "az://container");
    for (url, word) in [("ftp://x/y", "ftp"), ("bucket", "s3://"), ("http://x/y", "http")] {
        let error = open(url, &[]).unwrap_err().to_string();
        assert!(error.contains(word) && error.starts_with("--object-store"), "{error}");
    }
    let path_style = Options { path_style: true, ..Options::default() };
    assert!(Store::open("file:///tmp", &path_style, []).is_err());
}

#[test]
fn keys_say_what_they_hold() {
    let store = open("s3://bucket/deep/er", &[("AWS_REGION", "x")]).unwrap();
    let (cluster, topic) = (testing::cluster(), TopicId::from_random(9));
    let custom = Custom { topic, partition: 12, ..Custom::default() };
    let key = store.key(cluster, &custom, LedgerId(0x2a), 0xbeef);
    assert!(key.starts_with("deep/er/") && key.ends_with("0000beef.seg"), "{key}");
    let partition = PartitionIndex(12);
    let name = ObjectName { topic, partition, ledger: LedgerId(0x2a), attempt: 0xbeef };
    assert_eq!(store.parse_key(cluster, &key), Some(name));
    assert_eq!(store.parse_key(ClusterUuid::from_random(1), &key), None, "another cluster's");
    assert_eq!(store.parse_key(cluster, &key.replace(".seg", ".tmp")), None);
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_whole_or_an_error() {
    let faulty = Faulty::default();
    let store = faulty.store();
    store.upload("a").complete(Bytes::from_static(b"0123456789")).await.unwrap();
    let at = object(&store, "a", 10);
    assert_eq!(store.read(&at, 2..6).await.unwrap(), Bytes::from_static(b"2345"));
    for fault in [Fault::Refuse, Fault::Truncate, Fault::Hang] {
        faulty.fail(Call::Get, fault, 1);
        let read = store.read(&at, 2..6).await;
        assert!(matches!(read, Err(ObjectError::Store(_))), "{fault:?}: {read:?}");
    }
    assert!(store.read(&at, 8..12).await.is_err(), "behind its end");
    let gone = store.read(&object(&store, "b", 10), 0..1).await;
    assert!(matches!(gone, Err(ObjectError::NotFound { .. })), "{gone:?}");
    assert_eq!(store.head("b").await.unwrap(), None);
    faulty.fail(Call::Get, Fault::Refuse, 1);
    assert!(store.head("a").await.is_err(), "nothing is certain");
    let elsewhere = TierObject { bucket: "s3://other".to_owned(), ..at };
    assert!(matches!(store.read(&elsewhere, 0..1).await, Err(ObjectError::OtherStore { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_seen_as_a_whole_or_not_at_all() {
    let faulty = Faulty::default();
    let store = faulty.store();
    let keys = || async {
        let listing = faulty.list(None).map_ok(|meta| meta.location.to_string());
        listing.try_collect::<Vec<_>>().await.unwrap()
    };
    let mut upload = store.upload("large");
    for _ in 0..5 {
        upload.part(Bytes::from(vec![7; 1 << 20])).await.unwrap();
    }
    assert!(keys().await.is_empty(), "before it is complete");
    upload.complete(Bytes::from_static(b"end")).await.unwrap();
    assert_eq!(store.head("large").await.unwrap().unwrap().size, (5 << 20) + 3);
    // A part that fails ends the upload.
    let mut upload = store.upload("other");
    faulty.fail(Call::Part, Fault::Refuse, 1);
    let mut failed = false;
    for _ in 0..4 {
        failed |= upload.part(Bytes::from_static(b"part")).await.is_err();
    }
    assert!(failed);
    upload.abort().await;
    // A reply that was lost says nothing; the same key a second time is this upload's own.
    let mut upload = store.upload("small");
    faulty.fail(Call::Put, Fault::LoseReply, 1);
    assert!(upload.complete(Bytes::from_static(b"x")).await.is_err());
    upload.complete(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(keys().await, ["large", "small"]);
}

#[test]
fn what_is_certain_is_no_failure() {
    let of = |error: Error| outcome::<()>(&Err(error));
    let (path, source) = (|| "k".to_owned(), || "why".into());
    assert_eq!(outcome(&Ok(())), "done");
    assert_eq!(of(Error::NotFound { path: path(), source: source() }), "not_found");
    assert_eq!(of(Error::AlreadyExists { path: path(), source: source() }), "done");
    assert_eq!(of(Error::Generic { store: "S3", source: source() }), "failed");
}

//! `gs://` and `az://` against servers of the test that speak what Google and Microsoft document, as far as it is used here: which requests
//! are sent, and what becomes of the answers. Whether the services keep to their documents only they can show.

mod azure;
mod google;
mod http;

use super::*;

const KEYS: u64 = 5;

/// What every store is asked for: a write where there is none, one request and many parts, ranges, listings of several pages, and removal.
async fn everything_works(store: &Store) {
    let cluster = testing::cluster();
    let custom = Custom { topic: TopicId::from_random(9), partition: 12, ..Custom::default() };
    let key = |n: u64| store.key(cluster, &custom, LedgerId(n), 1);
    assert_eq!(store.head(&key(0)).await.unwrap(), None);
    assert_eq!(store.read_small(&store.marker_key(), 10).await.unwrap(), None);

    // T1: what is there stays.
    store.put_new(&key(0), Bytes::from_static(b"first")).await.unwrap();
    store.put_new(&key(0), Bytes::from_static(b"second")).await.unwrap();
    assert_eq!(store.read_small(&key(0), 10).await.unwrap().unwrap(), "first");
    let head = store.head(&key(0)).await.unwrap().expect("it is there");
    assert_eq!((head.key.as_str(), head.size), (key(0).as_str(), 5));
    assert!(!head.etag.is_empty() && head.modified_ms > 0, "{head:?}");

    // More than a part, so that the last one is a piece.
    let whole: Vec<u8> = (0..PART_BYTES + PART_BYTES / 2).map(|at| (at / 251 + at) as u8).collect();
    let whole = Bytes::from(whole);
    let mut upload = store.upload(&key(1));
    upload.part(whole.slice(..PART_BYTES)).await.unwrap();
    assert_eq!(store.head(&key(1)).await.unwrap(), None, "nobody sees it before its end");
    upload.complete(whole.slice(PART_BYTES..)).await.unwrap();
    let large = object(store, &key(1), whole.len() as u64);
    let border = PART_BYTES as u64;
    for range in [0..1, border - 7..border + 9, large.size - 3..large.size, 0..large.size] {
        let read = store.read(&large, range.clone()).await.unwrap();
        let wanted = range.start as usize..range.end as usize;
        assert!(read == whole[wanted], "{range:?}: other bytes");
    }
    assert!(store.read(&large, large.size - 1..large.size + 1).await.is_err(), "beyond its end");

    // One that is given up leaves nothing.
    let mut upload = store.upload(&key(2));
    upload.part(whole.slice(..PART_BYTES)).await.unwrap();
    upload.abort().await;
    assert_eq!(store.head(&key(2)).await.unwrap(), None);

    for n in 2..KEYS {
        store.upload(&key(n)).complete(Bytes::from(vec![7; n as usize])).await.unwrap();
    }
    let listed: Vec<Listed> = store.list(cluster).try_collect().await.unwrap();
    let mut keys: Vec<(String, u64)> = listed.into_iter().map(|one| (one.key, one.size)).collect();
    keys.sort();
    let small = (2..KEYS).map(|n| (key(n), n));
    let all: Vec<_> = [(key(0), 5), (key(1), large.size)].into_iter().chain(small).collect();
    assert_eq!(keys, all, "each once, over pages of two");

    for n in [0, 0, 1] {
        store.delete(&key(n)).await.unwrap();
        assert_eq!(store.head(&key(n)).await.unwrap(), None);
    }
    let gone = store.read(&large, 0..1).await;
    assert!(matches!(gone, Err(ObjectError::NotFound { .. })), "{gone:?}");
    assert_eq!(store.list(cluster).count().await, KEYS as usize - 2);
}

#[tokio::test]
async fn a_bucket_of_google_takes_objects_and_gives_them_back() {
    let (server, google) = google::start();
    let environment = [
        ("GOOGLE_SERVICE_ACCOUNT_KEY", google::ACCOUNT.to_owned()),
        ("GOOGLE_BASE_URL", format!("http://{}", server.address())),
        ("GOOGLE_ALLOW_HTTP", "true".to_owned()),
    ];
    let environment: Vec<_> = environment.iter().map(|(k, v)| (*k, v.as_str())).collect();
    let store = open("gs://bucket/pre/fix", &environment).unwrap();
    everything_works(&store).await;
    assert_eq!(google.unfinished(), 0, "parts of an upload that was given up");
}

#[tokio::test]
async fn a_container_of_azure_takes_objects_and_gives_them_back() {
    let _second = rustls::crypto::ring::default_provider().install_default();
    let server = azure::start();
    let endpoint = Some(format!("http://{}", server.address()));
    let options = Options { endpoint, ..Options::default() };
    let environment = [("AZURE_STORAGE_ACCOUNT_NAME", "me"), ("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let store = Store::open("az://container/pre/fix", &options, environment).unwrap();
    everything_works(&store).await;
}

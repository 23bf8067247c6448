//! A bucket of Google Cloud Storage as its XML API is documented: generations as preconditions, multipart uploads, listings by pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::http::{Answer, Request, Server, tagged};

/// Of nobody, whose requests need no token.
pub(super) const ACCOUNT: &str =
    r#"{"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": true}"#;
/// Objects of one page of a listing.
const PAGE: usize = 2;

#[derive(Debug, Default)]
struct Bucket {
    objects: BTreeMap<String, Vec<u8>>,
    /// Parts by their numbers, of uploads by their ids.
    uploads: BTreeMap<String, BTreeMap<usize, Vec<u8>>>,
    begun: usize,
}

/// What a test looks at.
#[derive(Debug, Clone, Default)]
pub(super) struct Google(Arc<Mutex<Bucket>>);

impl Google {
    /// Uploads that are neither complete nor given up.
    pub(super) fn unfinished(&self) -> usize {
        self.0.lock().uploads.len()
    }
}

/// The server of the bucket `bucket`.
pub(super) fn start() -> (Server, Google) {
    let google = Google::default();
    let bucket = google.clone();
    (Server::start(move |request| bucket.0.lock().answer(request)), google)
}

fn etag(bytes: &[u8]) -> String {
    format!("\"{:08x}\"", crc32c::crc32c(bytes))
}

impl Bucket {
    fn answer(&mut self, request: &Request) -> Answer {
        let key = request.path.strip_prefix("bucket").expect("the bucket").trim_start_matches('/');
        let upload = request.query.get("uploadId");
        match (request.method.as_str(), upload) {
            ("GET", _) if key.is_empty() => self.list(request),
            ("GET" | "HEAD", _) => match self.objects.get(key) {
                Some(bytes) => Answer::object(request, bytes, &etag(bytes)),
                None => Answer::of(404),
            },
            ("PUT", Some(upload)) => {
                let number = request.query["partNumber"].parse().unwrap();
                let parts = self.uploads.get_mut(upload).expect("an upload that was begun");
                parts.insert(number, request.body.clone());
                Answer::of(200).with("ETag", etag(&request.body))
            }
            ("PUT", None) => {
                let where_none = request.headers.get("x-goog-if-generation-match");
                if where_none.is_some_and(|none| none == "0") && self.objects.contains_key(key) {
                    return Answer::of(412);
                }
                self.store(key, request.body.clone())
            }
            ("POST", None) => {
                assert!(request.query.contains_key("uploads"), "{request:?}");
                self.begun += 1;
                let id = format!("upload {}", self.begun);
                self.uploads.insert(id.clone(), BTreeMap::new());
                let body = format!(
                    "<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>{key}</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                );
                Answer::of(200).body(body)
            }
            ("POST", Some(upload)) => self.complete(key, upload, request),
            ("DELETE", Some(upload)) => {
                Answer::of(if self.uploads.remove(upload).is_some() { 204 } else { 404 })
            }
            ("DELETE", None) => {
                Answer::of(if self.objects.remove(key).is_some() { 204 } else { 404 })
            }
            _ => panic!("{request:?}"),
        }
    }

    fn store(&mut self, key: &str, bytes: Vec<u8>) -> Answer {
        let etag = etag(&bytes);
        self.objects.insert(key.to_owned(), bytes);
        Answer::of(200).with("ETag", etag).with("x-goog-generation", "1")
    }

    fn complete(&mut self, key: &str, upload: &str, request: &Request) -> Answer {
        let parts = self.uploads.remove(upload).expect("an upload that was begun");
        let wanted = String::from_utf8(request.body.clone()).unwrap();
        let (numbers, etags) = (tagged(&wanted, "PartNumber"), tagged(&wanted, "ETag"));
        assert_eq!(numbers.len(), etags.len(), "{wanted}");
        let mut whole = Vec::new();
        for (number, tag) in numbers.iter().zip(etags) {
            let part = &parts[&number.parse().unwrap()];
            assert_eq!(etag(part), tag, "part {number}");
            whole.extend_from_slice(part);
        }
        let tag = etag(&whole);
        let body = format!(
            "<CompleteMultipartUploadResult><Location>x</Location><Bucket>bucket</Bucket><Key>{key}</Key><ETag>{tag}</ETag></CompleteMultipartUploadResult>"
        );
        self.store(key, whole).body(body)
    }

    fn list(&self, request: &Request) -> Answer {
        assert_eq!(request.query["list-type"], "2");
        let prefix = request.query.get("prefix").map_or("", String::as_str);
        let after = request.query.get("continuation-token").map_or("", String::as_str);
        let mut found =
            self.objects.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        let page: Vec<_> = found.by_ref().take(PAGE).collect();
        let contents = page.iter().map(|(key, bytes)| {
            let (size, etag) = (bytes.len(), etag(bytes));
            format!("<Contents><Key>{key}</Key><Generation>1</Generation><LastModified>2026-01-02T03:04:05.000Z</LastModified><ETag>{etag}</ETag><Size>{size}</Size></Contents>")
        });
        let contents: String = contents.collect();
        let more = found.next().and(page.last());
        let next = more.map_or(String::new(), |(key, _)| {
            format!("<NextContinuationToken>{key}</NextContinuationToken>")
        });
        let body = format!(
            "<?xml version='1.0' encoding='UTF-8'?><ListBucketResult xmlns='http://doc.s3.amazonaws.com/2006-03-01'><Name>bucket</Name><Prefix>{prefix}</Prefix>{contents}{next}</ListBucketResult>"
        );
        Answer::of(200).with("Content-Type", "application/xml").body(body)
    }
}

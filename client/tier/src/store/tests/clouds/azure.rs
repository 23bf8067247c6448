//! A container of Azure Blob Storage as its REST API is documented: preconditions, blocks and lists of them, batches of removals, listings
//! by pages.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::http::{Answer, DATE, Request, Server, tagged};

/// Blobs of one page of a listing.
const PAGE: usize = 2;

#[derive(Debug, Default)]
struct Container {
    blobs: BTreeMap<String, Vec<u8>>,
    /// Blocks that are in no blob yet, by blob and id.
    blocks: BTreeMap<(String, String), Vec<u8>>,
}

/// The server of the container `container` of the account `me`.
pub(super) fn start() -> Server {
    let container = Mutex::new(Container::default());
    Server::start(move |request| container.lock().answer(request))
}

fn etag(bytes: &[u8]) -> String {
    format!("\"0x{:08X}\"", crc32c::crc32c(bytes))
}

impl Container {
    fn answer(&mut self, request: &Request) -> Answer {
        let signed = request.headers.get("authorization");
        assert!(signed.is_some_and(|by| by.starts_with("SharedKey me:")), "{signed:?}");
        let key = blob(&request.path);
        let what = request.query.get("comp").map(String::as_str);
        match (request.method.as_str(), what) {
            ("GET", Some("list")) => self.list(request),
            ("POST", Some("batch")) => self.batch(request),
            ("GET" | "HEAD", None) => match self.blobs.get(key) {
                Some(bytes) => Answer::object(request, bytes, &etag(bytes)),
                None => Answer::of(404),
            },
            ("PUT", Some("block")) => {
                let id = (key.to_owned(), request.query["blockid"].clone());
                self.blocks.insert(id, request.body.clone());
                Answer::of(201)
            }
            ("PUT", Some("blocklist")) => {
                let list = String::from_utf8(request.body.clone()).unwrap();
                let block =
                    |id: String| self.blocks.remove(&(key.to_owned(), id)).expect("a block");
                let whole: Vec<_> = tagged(&list, "Uncommitted").into_iter().map(block).collect();
                assert!(!whole.is_empty(), "{list}");
                self.store(key, whole.concat())
            }
            ("PUT", None) => {
                assert_eq!(request.headers["x-ms-blob-type"], "BlockBlob");
                let where_none = request.headers.get("if-none-match").is_some_and(|at| at == "*");
                if where_none && self.blobs.contains_key(key) {
                    return Answer::of(409).with("x-ms-error-code", "BlobAlreadyExists");
                }
                self.store(key, request.body.clone())
            }
            _ => panic!("{request:?}"),
        }
    }

    /// Blocks of the blob that are in none go with that.
    fn store(&mut self, key: &str, bytes: Vec<u8>) -> Answer {
        self.blocks.retain(|(of, _), _| of != key);
        let etag = etag(&bytes);
        self.blobs.insert(key.to_owned(), bytes);
        Answer::of(201).with("ETag", etag).with("Last-Modified", DATE)
    }

    fn list(&self, request: &Request) -> Answer {
        assert_eq!(request.query["restype"], "container");
        let prefix = request.query.get("prefix").map_or("", String::as_str);
        let after = request.query.get("marker").map_or("", String::as_str);
        let mut found =
            self.blobs.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
        let page: Vec<_> = found.by_ref().take(PAGE).collect();
        let blobs = page.iter().map(|(key, bytes)| {
            let (size, etag) = (bytes.len(), etag(bytes));
            format!("<Blob><Name>{key}</Name><Properties><Last-Modified>{DATE}</Last-Modified><Etag>{etag}</Etag><Content-Length>{size}</Content-Length><Content-Type>application/octet-stream</Content-Type></Properties></Blob>")
        });
        let blobs: String = blobs.collect();
        let next = found.next().and(page.last()).map_or("", |(key, _)| key.as_str());
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults><Prefix>{prefix}</Prefix><Blobs>{blobs}</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"
        );
        Answer::of(200).with("Content-Type", "application/xml").body(body)
    }

    /// Removals, each with an answer of its own.
    fn batch(&mut self, request: &Request) -> Answer {
        let asked = String::from_utf8(request.body.clone()).unwrap();
        let mut body = String::new();
        for part in asked.split("Content-ID: ").skip(1) {
            let id = part.lines().next().unwrap();
            let line = part.lines().find(|line| line.starts_with("DELETE ")).expect("a removal");
            let path = line.split(' ').nth(1).unwrap().trim_start_matches('/');
            let path = path.split('?').next().unwrap().replace("%2F", "/");
            let said = match self.blobs.remove(blob(&path)) {
                Some(_) => "202 Accepted",
                None => "404 The specified blob does not exist.",
            };
            body += &format!(
                "--answers\r\nContent-Type: application/http\r\nContent-ID: {id}\r\n\r\nHTTP/1.1 {said}\r\nContent-Length: 0\r\n\r\n"
            );
        }
        body += "--answers--\r\n";
        let kind = "multipart/mixed; boundary=answers";
        Answer::of(202).with("Content-Type", kind).body(body)
    }
}

/// The blob that a path names.
fn blob(path: &str) -> &str {
    path.strip_prefix("container").expect("the container").trim_start_matches('/')
}

//! Just enough of an HTTP server for a store of a test: one request after the other on each connection, bodies by their length, and
//! objects that are asked for by ranges. It ends when it is dropped.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// When everything was written, as the services say it.
pub(super) const DATE: &str = "Fri, 02 Jan 2026 03:04:05 GMT";

/// What is asked.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without its `/`, decoded.
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    /// By names in small letters.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

/// What is said.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    pub(super) fn of(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub(super) fn with(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }

    pub(super) fn body(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// An object, or what was asked for of it.
    pub(super) fn object(request: &Request, bytes: &[u8], etag: &str) -> Self {
        let told = |answer: Self| answer.with("ETag", etag).with("Last-Modified", DATE);
        let Some(range) = request.headers.get("range") else {
            return told(Self::of(200)).body(bytes);
        };
        let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        let from: usize = from.parse().unwrap();
        let end = to.parse::<usize>().map_or(bytes.len(), |to| bytes.len().min(to + 1));
        if from >= end {
            return Self::of(416);
        }
        let place = format!("bytes {from}-{}/{}", end - 1, bytes.len());
        told(Self::of(206)).with("Content-Range", place).body(&bytes[from..end])
    }
}

/// A server.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
}

impl Server {
    pub(super) fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (ends, answer) = (Arc::new(AtomicBool::new(false)), Arc::new(answer));
        let ended = Arc::clone(&ends);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (stream, answer) = (stream.unwrap(), Arc::clone(&answer));
                std::thread::spawn(move || serve(&stream, &*answer));
            }
        });
        Self { address, ends }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _woken = TcpStream::connect(self.address);
    }
}

/// Until the client has no more.
fn serve(stream: &TcpStream, answer: &dyn Fn(&Request) -> Answer) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let Answer { status, headers, body } = answer(&request);
        let mut head = format!("HTTP/1.1 {status} said\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        let body = if request.method == "HEAD" { &[][..] } else { &body };
        let mut writer = stream;
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(body)).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        Some(line.trim_end().to_owned())
    };
    let first = line()?;
    let mut headers = BTreeMap::new();
    while let Some((name, value)) = line()?.split_once(':') {
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let mut words = first.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = url::form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    // Only what is in queries may have blanks as plus signs.
    let path = path.trim_start_matches('/').replace('+', "%2B");
    let path = url::form_urlencoded::parse(path.as_bytes()).next();
    let path = path.map_or(String::new(), |(path, _)| path.into_owned());
    Some(Request { method, path, query, headers, body })
}

/// What stands between each of these tags, in order.
pub(super) fn tagged(xml: &str, tag: &str) -> Vec<String> {
    let (begin, end) = (format!("<{tag}>"), format!("</{tag}>"));
    let parts = xml.split(&begin).skip(1);
    parts.map(|part| part.split(&end).next().unwrap_or_default().to_owned()).collect()
}

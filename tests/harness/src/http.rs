//! Just enough HTTP to ask a server's probes.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::net::TcpStream;
use std::time::Duration;

use crate::Tls;

const TIMEOUT: Duration = Duration::from_secs(5);

/// The status and body that `http://<address><path>` answers, or `None` when nobody does.
pub fn get(address: &str, path: &str) -> Option<(u16, String)> {
    request(address, "GET", path)
}

/// As [`get`], with another method and an empty body.
pub fn request(address: &str, method: &str, path: &str) -> Option<(u16, String)> {
    ask(connect(address)?, address, method, path)
}

/// As [`get`], by TLS.
pub fn get_by(tls: &Tls, address: &str, path: &str) -> Option<(u16, String)> {
    ask(tls.over(connect(address)?), address, "GET", path)
}

/// As [`is_ready`], by TLS.
pub fn is_ready_by(tls: &Tls, address: &str) -> bool {
    matches!(get_by(tls, address, "/readyz"), Some((200, _)))
}

fn connect(address: &str) -> Option<TcpStream> {
    let address: SocketAddr = address.parse().ok()?;
    let stream = TcpStream::connect_timeout(&address, TIMEOUT).ok()?;
    stream.set_read_timeout(Some(TIMEOUT)).ok()?;
    Some(stream)
}

fn ask(
    mut stream: impl Read + Write,
    address: &str,
    method: &str,
    path: &str,
) -> Option<(u16, String)> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Some((status, if chunked { unchunk(body)? } else { body.to_owned() }))
}

/// Whether `/readyz` says so.
pub fn is_ready(address: &str) -> bool {
    matches!(get(address, "/readyz"), Some((200, _)))
}

/// The sum of a metric over all its labels, from `/metrics`; `None` when nobody answers.
pub fn metric(address: &str, name: &str) -> Option<f64> {
    let (_, text) = get(address, "/metrics")?;
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.as_bytes().first()? {
            b' ' => rest,
            b'{' => rest.rsplit_once('}')?.1,
            _ => return None,
        };
        value.trim().parse::<f64>().ok()
    });
    Some(values.sum())
}

fn unchunk(mut body: &str) -> Option<String> {
    let mut text = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(text);
        }
        text.push_str(rest.get(..size)?);
        body = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}

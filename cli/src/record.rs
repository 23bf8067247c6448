//! How a record looks on standard output.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use crate::command::consume::Format;

/// A record as a reader sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub(crate) partition: u32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a [(String, Option<bytes::Bytes>)],
}

#[derive(Serialize)]
struct Line {
    partition: u32,
    offset: i64,
    timestamp_ms: i64,
    key: Value,
    value: Value,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<Value>,
}

impl Shown<'_> {
    /// Writes one line. A value with line breaks makes several lines of text: JSON keeps it on one.
    pub(crate) fn write(&self, format: Format, out: &mut impl Write) -> io::Result<()> {
        match format {
            Format::Value => out.write_all(self.value.unwrap_or_default())?,
            Format::KeyValue => {
                out.write_all(self.key.unwrap_or_default())?;
                out.write_all(b"\t")?;
                out.write_all(self.value.unwrap_or_default())?;
            }
            Format::Json => serde_json::to_writer(&mut *out, &self.line())?,
        }
        out.write_all(b"\n")
    }

    fn line(&self) -> Line {
        let header = |(key, value): &(String, Option<bytes::Bytes>)| json!({"key": key, "value": text(value.as_deref())});
        Line {
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: text(self.key),
            value: text(self.value),
            headers: self.headers.iter().map(header).collect(),
        }
    }
}

/// Text as a string, other bytes as `{"base64": ...}`, nothing as null.
fn text(bytes: Option<&[u8]>) -> Value {
    match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => Value::Null,
        Some((_, Ok(text))) => Value::from(text),
        Some((bytes, Err(_))) => json!({"base64": STANDARD.encode(bytes)}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(format: Format, key: Option<&[u8]>, value: Option<&[u8]>) -> String {
        let record = Shown { partition: 1, offset: 2, timestamp_ms: 3, key, value, headers: &[] };
        let mut out = Vec::new();
        record.write(format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn formats() {
        assert_eq!(shown(Format::Value, Some(b"k"), Some(b"v")), "v\n");
        assert_eq!(shown(Format::KeyValue, Some(b"k"), Some(b"v")), "k\tv\n");
        assert_eq!(shown(Format::KeyValue, None, None), "\t\n");
        assert_eq!(
            shown(Format::Json, None, Some(b"a\nb")),
            "{\"partition\":1,\"offset\":2,\"timestamp_ms\":3,\"key\":null,\"value\":\"a\\nb\"}\n"
        );
        assert!(shown(Format::Json, Some(&[0xff]), None).contains("\"key\":{\"base64\":\"/w==\"}"));
    }
}

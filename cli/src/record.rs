//! How a record looks on standard output.

use std::io::{self, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Serialize, Serializer};

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
struct Line<'a> {
    partition: u32,
    offset: i64,
    timestamp_ms: i64,
    key: Text<'a>,
    value: Text<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    headers: Vec<Header<'a>>,
}

#[derive(Serialize)]
struct Header<'a> {
    key: &'a str,
    value: Text<'a>,
}

/// Text as a string, other bytes as `{"base64": ...}`, nothing as null.
struct Text<'a>(Option<&'a [u8]>);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
            None => serializer.serialize_none(),
            Some((_, Ok(text))) => serializer.serialize_str(text),
            Some((bytes, Err(_))) => serializer.collect_map([("base64", STANDARD.encode(bytes))]),
        }
    }
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

    fn line(&self) -> Line<'_> {
        Line {
            partition: self.partition,
            offset: self.offset,
            timestamp_ms: self.timestamp_ms,
            key: Text(self.key),
            value: Text(self.value),
            headers: self
                .headers
                .iter()
                .map(|(key, value)| Header { key, value: Text(value.as_deref()) })
                .collect(),
        }
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
        let headers = [("a".to_owned(), Some("1".into())), ("a".to_owned(), None)];
        let record = Shown {
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: &headers,
        };
        let mut out = Vec::new();
        record.write(Format::Json, &mut out).unwrap();
        let headers = br#""headers":[{"key":"a","value":"1"},{"key":"a","value":null}]}"#;
        assert!(out.trim_ascii_end().ends_with(headers), "{out:?}");
        assert!(shown(Format::Json, Some(&[0xff]), None).contains("\"key\":{\"base64\":\"/w==\"}"));
    }
}

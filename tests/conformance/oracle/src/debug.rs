//! Messages as trees. The codec's messages say themselves by `Debug` only, whose text is read here: structures and maps become
//! objects, what is wrapped in a name stands for itself, bytes become text in hexadecimal with `0x` before it.

use serde_json::{Map, Value};

/// Reads the text of a `{:?}`.
///
/// # Panics
/// When it is not as the standard library writes it.
pub(crate) fn tree(text: &str) -> Value {
    let mut reader = Reader { rest: text };
    let value = reader.value();
    assert!(reader.rest.is_empty(), "left: {}", reader.rest);
    value
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn value(&mut self) -> Value {
        if self.take("b\"") {
            return Value::String(self.bytes());
        }
        if self.take("\"") {
            return Value::String(self.text());
        }
        if self.take("[") {
            return Value::Array(self.list("]"));
        }
        if self.take("{") {
            return self.map();
        }
        let end = self.rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_-+.".contains(c)));
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        if self.take("(") {
            let mut inner = self.list(")");
            assert_eq!(inner.len(), 1, "of {word}");
            return inner.remove(0);
        }
        if self.take(" {") {
            return self.fields();
        }
        match word {
            "None" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => word.parse::<i64>().map_or_else(|_| Value::String(word.into()), Value::from),
        }
    }

    fn list(&mut self, end: &str) -> Vec<Value> {
        let mut all = Vec::new();
        while !self.take(end) {
            all.push(self.value());
            self.take(", ");
        }
        all
    }

    fn fields(&mut self) -> Value {
        let mut all = Map::new();
        while !self.take("}") {
            self.take(" ");
            let (name, rest) = self.rest.split_once(": ").expect("a field");
            self.rest = rest;
            let value = self.value();
            all.insert(name.to_owned(), value);
            self.take(",");
            self.take(" ");
        }
        Value::Object(all)
    }

    fn map(&mut self) -> Value {
        let mut all = Map::new();
        while !self.take("}") {
            let key = self.value();
            assert!(self.take(": "), "a value: {}", self.rest);
            let value = self.value();
            all.insert(key.as_str().map_or_else(|| key.to_string(), str::to_owned), value);
            self.take(", ");
        }
        Value::Object(all)
    }

    fn text(&mut self) -> String {
        let mut out = String::new();
        loop {
            match self.next() {
                '"' => return out,
                '\\' => out.push(self.escaped()),
                c => out.push(c),
            }
        }
    }

    fn bytes(&mut self) -> String {
        use std::fmt::Write as _;
        let mut out = String::from("0x");
        loop {
            let byte = match self.next() {
                '"' => return out,
                '\\' => self.escaped(),
                c => c,
            };
            write!(out, "{:02x}", u32::from(byte)).expect("a string takes it");
        }
    }

    fn escaped(&mut self) -> char {
        match self.next() {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            '0' => '\0',
            'x' => {
                let (digits, rest) = self.rest.split_at(2);
                self.rest = rest;
                char::from(u8::from_str_radix(digits, 16).expect("hexadecimal"))
            }
            'u' => {
                let inner = self.rest.strip_prefix('{').expect("an escape");
                let (digits, rest) = inner.split_once('}').expect("an escape");
                self.rest = rest;
                let code = u32::from_str_radix(digits, 16).expect("hexadecimal");
                char::from_u32(code).expect("a character")
            }
            c => c,
        }
    }

    fn next(&mut self) -> char {
        let c = self.rest.chars().next().expect("more text");
        self.rest = &self.rest[c.len_utf8()..];
        c
    }

    fn take(&mut self, what: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(what) else { return false };
        self.rest = rest;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use kafka_protocol::messages::{BrokerId, TopicName};
    use kafka_protocol::protocol::StrBytes;
    use serde_json::json;

    use super::*;

    #[derive(Debug)]
    #[allow(dead_code, reason = "its text is what is read")]
    struct Message {
        id: BrokerId,
        name: TopicName,
        text: Option<StrBytes>,
        bytes: Bytes,
        list: Vec<Option<i16>>,
        tags: BTreeMap<i32, Bytes>,
    }

    #[test]
    fn a_message_is_read_from_its_text() {
        let message = Message {
            id: BrokerId(-1),
            name: TopicName(StrBytes::from_static_str("a \"{b}\", [\u{7f}é")),
            text: Some(StrBytes::from_static_str("")),
            bytes: Bytes::from_static(b"\0\"\\\xff a"),
            list: vec![None, Some(-3)],
            tags: BTreeMap::from([(7, Bytes::from_static(b"x"))]),
        };
        let expected = json!({
            "id": -1, "name": "a \"{b}\", [\u{7f}é", "text": "", "bytes": "0x00225cff2061",
            "list": [null, -3], "tags": {"7": "0x78"},
        });
        assert_eq!(tree(&format!("{message:?}")), expected);
    }
}

//! What differs between any two servers gets names: the n-th id of a kind that a scenario meets is called so in all its answers.
//! What says nothing of the protocol (texts for people, throttling) is left out.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A time of today, as against the times that scenarios give their records.
const TODAY_MS: i64 = 1_760_000_000_000;
/// Characters of an id, with dashes and without.
const DASHED: usize = 36;
const PLAIN: usize = 32;

/// What a thing in a list is called, so that those of two servers are compared in the same order.
fn called(value: &Value) -> Vec<String> {
    const BY: [&str; 9] = [
        "name",
        "topic",
        "group_id",
        "partition_index",
        "partition",
        "index",
        "partition_id",
        "member_id",
        "base_offset",
    ];
    BY.iter().filter_map(|field| value.get(field)).map(Value::to_string).collect()
}

/// The ids of one scenario.
#[derive(Debug, Default)]
pub(crate) struct Names {
    members: BTreeMap<String, usize>,
}

impl Names {
    /// The same with names, and lists in an order that does not depend on the server.
    pub(crate) fn settle(&mut self, value: Value) -> Value {
        self.value("", value)
    }

    fn value(&mut self, field: &str, value: Value) -> Value {
        match value {
            Value::Object(fields) => self.object(fields),
            Value::Array(all) if matches!(field, "replica_nodes" | "isr_nodes" | "replicas") => {
                json!(all.iter().map(|_| "<node>").collect::<Vec<_>>())
            }
            Value::Array(all) => {
                let mut all: Vec<Value> = all.into_iter().map(|v| self.value("", v)).collect();
                if all.iter().all(Value::is_object) {
                    all.sort_by_cached_key(|one| (called(one), one.to_string()));
                }
                Value::Array(all)
            }
            Value::String(text) => Value::String(self.text(field, text)),
            Value::Number(number) => self.number(field, number.as_i64().unwrap_or_default()),
            other => other,
        }
    }

    fn object(&mut self, fields: Map<String, Value>) -> Value {
        let mut out = Map::new();
        for (name, value) in fields {
            let value = match name.as_str() {
                "throttle_time_ms"
                | "unknown_tagged_fields"
                | "error_message"
                | "batch_index_error_message" => continue,
                "records" => crate::batches::shown(&value),
                "documentation" if !value.is_null() => json!("<text>"),
                _ => self.value(&name, value),
            };
            out.insert(name, value);
        }
        Value::Object(out)
    }

    fn text(&mut self, field: &str, text: String) -> String {
        match field {
            "host" | "client_host" if !text.is_empty() => return format!("<{field}>"),
            "cluster_id" | "log_dir" => return format!("<{field}>"),
            _ => {}
        }
        let is_id = |text: &str| {
            let at = [8, 13, 18, 23];
            text.len() == DASHED
                && text
                    .bytes()
                    .enumerate()
                    .all(|(n, b)| if at.contains(&n) { b == b'-' } else { b.is_ascii_hexdigit() })
        };
        if is_id(&text) {
            if text.bytes().all(|b| matches!(b, b'0' | b'-')) {
                return "<no id>".into();
            }
            return "<id>".into();
        }
        // What a member is called after is the broker's to choose; that it ends with an id is not.
        let end = text.rsplit_once('-').map_or("", |(_, end)| end);
        let plain = end.len() == PLAIN && end.bytes().all(|b| b.is_ascii_hexdigit());
        let dashed = text.len().checked_sub(DASHED).and_then(|at| text.get(at..));
        if plain || dashed.is_some_and(is_id) {
            let next = self.members.len() + 1;
            return format!("<member {}>", *self.members.entry(text).or_insert(next));
        }
        text
    }

    fn number(&self, field: &str, number: i64) -> Value {
        let name = match field {
            "node_id" | "leader_id" | "broker_id" | "controller_id" | "leader" => "<node>",
            "leader_epoch" | "committed_leader_epoch" => "<epoch>",
            "port" => "<port>",
            "producer_id" => "<producer>",
            "total_bytes" | "usable_bytes" => "<bytes>",
            _ if number >= TODAY_MS => "<now>",
            _ => return json!(number),
        };
        if number < 0 { json!(number) } else { json!(name) }
    }
}

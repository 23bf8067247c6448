//! What client ids may do.

use geminga_proto::v1;
use serde::Serialize;

use super::{View, bytes, table};

/// What is set, and who waits.
#[derive(Debug, Serialize)]
pub(crate) struct Quotas {
    quotas: Vec<Quota>,
    held_back: Vec<HeldBack>,
}

#[derive(Debug, Serialize)]
struct Quota {
    /// `null`: of every client id that has none of its own.
    client_id: Option<String>,
    producer_byte_rate: Option<u64>,
    consumer_byte_rate: Option<u64>,
    request_rate: Option<u64>,
}

#[derive(Debug, Serialize)]
struct HeldBack {
    client_id: String,
    quota: String,
    for_ms: u64,
}

impl From<v1::ListQuotasResponse> for Quotas {
    fn from(answer: v1::ListQuotasResponse) -> Self {
        let quota = |q: v1::Quota| Quota {
            client_id: q.client_id,
            producer_byte_rate: q.producer_byte_rate,
            consumer_byte_rate: q.consumer_byte_rate,
            request_rate: q.request_rate,
        };
        let held_back =
            |h: v1::HeldBack| HeldBack { client_id: h.client_id, quota: h.quota, for_ms: h.for_ms };
        Self {
            quotas: answer.quotas.into_iter().map(quota).collect(),
            held_back: answer.held_back.into_iter().map(held_back).collect(),
        }
    }
}

impl View for Quotas {
    fn text(&self) -> String {
        let rate =
            |rate: Option<u64>| rate.map_or("-".to_owned(), |rate| format!("{}/s", bytes(rate)));
        let rows = self.quotas.iter().map(|quota| {
            let client = quota.client_id.clone().unwrap_or_else(|| "(default)".to_owned());
            let requests = quota.request_rate.map_or("-".to_owned(), |rate| format!("{rate}/s"));
            let (sent, read) = (rate(quota.producer_byte_rate), rate(quota.consumer_byte_rate));
            [client, sent, read, requests]
        });
        let quotas = table(["CLIENT", "PRODUCES", "CONSUMES", "REQUESTS"], rows);
        if self.held_back.is_empty() {
            return quotas;
        }
        let rows = self.held_back.iter().map(|held| {
            [held.client_id.clone(), held.quota.clone(), format!("{} ms", held.for_ms)]
        });
        quotas + "\n" + &table(["HELD BACK HERE", "BY", "FOR"], rows)
    }
}

//! What producers were told against what the closed ledgers hold: acknowledged is there, once and in order (I1, I13, W9).

use std::collections::{BTreeMap, BTreeSet};

use geminga_proto::ids::LedgerId;

use super::Truth;
use crate::payload::Payload;

/// Records by what is known of them.
#[derive(Debug, Default)]
pub(super) struct Payloads {
    acknowledged: BTreeSet<u64>,
    /// In a closed ledger, at or below its end.
    settled: BTreeSet<u64>,
    /// The last settled record of each session.
    last: BTreeMap<u64, u64>,
}

impl Truth {
    /// A producer was told that its record is safe.
    pub(crate) fn acknowledged(&mut self, payload: Payload) {
        self.payloads.acknowledged.insert(payload.number);
    }

    /// How many records are acknowledged.
    pub(crate) fn acknowledged_count(&self) -> usize {
        self.payloads.acknowledged.len()
    }

    /// A ledger ended with these records.
    pub(super) fn settle(&mut self, ledger: LedgerId, payloads: &[Payload]) {
        for payload in payloads {
            if !self.payloads.settled.insert(payload.number) {
                let detail = format!("ledger {ledger}: record {} again", payload.number);
                return self.violated("W9: nothing is written twice", detail);
            }
            let last = self.payloads.last.entry(payload.session).or_default();
            if payload.number < *last {
                let detail = format!("ledger {ledger}: record {} after {last}", payload.number);
                return self.violated("I13: records keep their order", detail);
            }
            *last = payload.number;
        }
    }

    /// With every ledger closed: everything acknowledged is in one.
    pub(crate) fn check_settled(&mut self) {
        let lost = self.payloads.acknowledged.difference(&self.payloads.settled).next().copied();
        if let Some(number) = lost {
            self.violated(
                "I1: nothing acknowledged is beyond the end",
                format!("record {number} is in no ledger"),
            );
        }
    }
}

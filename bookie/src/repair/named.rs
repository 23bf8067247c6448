//! The ledgers that a worker's metric names as lost, with their topics. What it names stands until the ledger is repaired, by whomever, or
//! the worker has lost its lease: an alarm that nobody takes back is one that nobody believes.

use std::collections::BTreeMap;

use geminga_proto::ids::LedgerId;

use super::metrics;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Named(BTreeMap<LedgerId, String>);

impl Named {
    /// Names one more, where there is room.
    pub(super) fn add(&mut self, ledger: LedgerId, topic: String) {
        if self.0.len() < metrics::MAX_NAMED && !self.0.contains_key(&ledger) {
            metrics::lost(ledger.to_string(), topic.clone(), true);
            self.0.insert(ledger, topic);
        }
    }

    /// It is repaired, or gone.
    pub(super) fn forget(&mut self, ledger: LedgerId) {
        if let Some(topic) = self.0.remove(&ledger) {
            metrics::lost(ledger.to_string(), topic, false);
        }
    }

    /// All but these are.
    pub(super) fn keep(&mut self, marked: impl Fn(LedgerId) -> bool) {
        let gone: Vec<LedgerId> = self.0.keys().copied().filter(|id| !marked(*id)).collect();
        gone.into_iter().for_each(|ledger| self.forget(ledger));
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.keep(|_| false);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn a_name_stands_as_long_as_its_ledger_is_marked_and_its_worker_works() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let said = |ledger: u64| {
            let (page, name) = (recorder.handle().render(), LedgerId(ledger).to_string());
            let mut lines = page.lines().filter(|line| line.contains(&format!("\"{name}\"")));
            lines.next().and_then(|line| line.rsplit(' ').next().map(str::to_owned))
        };
        let (yes, no) = (Some("1".to_owned()), Some("0".to_owned()));
        ::metrics::with_local_recorder(&recorder, || {
            let mut named = Named::default();
            for ledger in 0..=metrics::MAX_NAMED as u64 {
                named.add(LedgerId(ledger), "t".to_owned());
            }
            assert_eq!((said(0), said(metrics::MAX_NAMED as u64)), (yes.clone(), None));
            named.forget(LedgerId(0));
            named.keep(|ledger| ledger != LedgerId(1));
            assert_eq!([said(0), said(1), said(2)], [no.clone(), no.clone(), yes]);
            drop(named);
            assert_eq!(said(2), no);
        });
    }
}

//! Disks that fill up (protocol 5.8): which they are, and what of them goes. A bookie that is to leave takes no data either, and its disks
//! do not count for that.
//!
//! A copy that goes in a hurry goes at every bookie, so no more go than the disk needs: what was let go counts as given back for as long as
//! the log may take to do so. A disk that takes no data any more, or whose log is down to its reserve, lets go
//! of all that it may.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use geminga_proto::ids::{Incarnation, LedgerId};
use tokio::time::Instant;

use crate::handle::BookieHandle;
use crate::ledger::{DiskLedgers, Fullness};

/// How long the log may take to give back what was let go. Where that is little of a segment, it gives nothing: others go then.
const GIVEN_BACK: Duration = Duration::from_secs(600);

/// What each disk has let go of lately, and when.
#[derive(Debug, Default)]
pub(super) struct LetGo(BTreeMap<Incarnation, VecDeque<(Instant, u64)>>);

impl LetGo {
    /// Forgets what has been given back by now.
    pub(super) fn forget(&mut self) {
        for gone in self.0.values_mut() {
            while gone.front().is_some_and(|(at, _)| at.elapsed() >= GIVEN_BACK) {
                gone.pop_front();
            }
        }
    }

    /// Notes what went of a ledger that each disk had so many bytes of before.
    pub(super) fn note(&mut self, handle: &BookieHandle, ledger: LedgerId, before: &[u64]) {
        for (disk, before) in handle.disks().iter().zip(before) {
            let bytes = before.saturating_sub(disk.log().bytes_of(ledger));
            if bytes > 0 {
                let gone = self.0.entry(disk.member().incarnation).or_default();
                gone.push_back((Instant::now(), bytes));
            }
        }
    }

    /// Whether a disk that holds this ledger needs its space.
    pub(super) fn wants(&self, handle: &BookieHandle, ledger: LedgerId) -> bool {
        disks(handle).any(|disk| disk.log().bytes_of(ledger) > 0 && self.is_short(disk))
    }

    fn is_short(&self, disk: &DiskLedgers) -> bool {
        let gone = self.0.get(&disk.member().incarnation).into_iter().flatten();
        let gone = gone.fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        disk.need() >= Fullness::High || gone < disk.surplus()
    }
}

/// The bytes that each disk has of a ledger.
pub(super) fn bytes(handle: &BookieHandle, ledger: LedgerId) -> Vec<u64> {
    handle.disks().iter().map(|disk| disk.log().bytes_of(ledger)).collect()
}

fn disks(handle: &BookieHandle) -> impl Iterator<Item = &DiskLedgers> {
    handle.disks().iter().filter(|disk| disk.need() >= Fullness::Warn)
}

/// Whether there is one.
pub(super) fn is_any(handle: &BookieHandle) -> bool {
    disks(handle).next().is_some()
}

/// The ledgers that they hold.
pub(super) fn ledgers(handle: &BookieHandle) -> BTreeSet<LedgerId> {
    disks(handle).flat_map(|disk| disk.held().into_keys()).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use geminga_metastore::{MemoryStore, MetaStore, keys};
    use geminga_proto::bookie::Code;
    use geminga_proto::ids::ClusterUuid;
    use geminga_runtime::Tasks;

    use super::*;
    use crate::io::MemoryDisk;
    use crate::testing;

    /// K10, 5.8: the file system may have much left where segments are large; what was let go before is not waited for then.
    #[tokio::test]
    async fn a_log_that_is_down_to_its_reserve_needs_space_at_once() {
        let (tasks, cluster) = (Tasks::new("test"), ClusterUuid::from_random(5));
        let store: Arc<dyn MetaStore> = Arc::new(MemoryStore::new());
        let disk = MemoryDisk::with_capacity(6 * (64 << 10));
        let rules = (crate::ledger::Mutations::default(), 1);
        let handle = testing::bookie_with_reserve(&disk, &store, cluster, rules, &tasks);
        let log = handle.disks()[0].log();
        log.reclaim().await.unwrap();
        let let_go = LetGo::default();
        handle.disks()[0].set_surplus(0);
        let mut held = LedgerId(0);
        while !log.is_scarce() {
            // The log makes its segments ahead, by itself.
            assert!(!let_go.wants(&handle, held) || log.is_scarce(), "there is room");
            let ledger = LedgerId(held.0 + 1);
            assert!(ledger.0 < 10_000, "it does not fill up");
            let open = testing::open_ledger(ledger).encode();
            store.put_if(&keys::ledger(ledger), None, open).await.unwrap().unwrap();
            match testing::try_add_entry(&handle, ledger).await {
                Code::Ok => held = ledger,
                refused => assert!(log.is_scarce(), "{refused:?}"),
            }
        }
        assert!(is_any(&handle) && let_go.wants(&handle, held));
        assert!(ledgers(&handle).contains(&held));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_let_go_counts_for_a_while() {
        let gone = VecDeque::from([(Instant::now(), 7)]);
        let mut let_go = LetGo(BTreeMap::from([(Incarnation(1), gone)]));
        tokio::time::advance(GIVEN_BACK / 2).await;
        let_go.forget();
        assert_eq!(let_go.0[&Incarnation(1)].len(), 1);
        tokio::time::advance(GIVEN_BACK).await;
        let_go.forget();
        assert!(let_go.0[&Incarnation(1)].is_empty());
    }
}

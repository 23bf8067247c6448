//! Bookies that fail again and again (protocol 2.6): for a while they are chosen only where others do not suffice. A
//! preference that all writers of a process share; never used for safety.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use geminga_metastore::LeaseId;
use geminga_metastore::record::LiveBookie;
use geminga_proto::ids::BookieId;
use parking_lot::Mutex;
use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(60);
/// Most bookies remembered; beyond them the one that failed longest ago is forgotten.
const MAX_BOOKIES: usize = 4096;

/// One registration of a bookie; another one is another process.
pub(crate) type Registration = (LeaseId, i64);

/// The present registration.
pub(crate) fn registration(live: &LiveBookie) -> Registration {
    (live.lease, live.started_ms)
}

#[derive(Debug)]
struct Record {
    /// When it failed within the window, oldest first; no more than would put it into quarantine.
    errors: VecDeque<Instant>,
    /// Until when, and what it was registered as.
    until: Option<(Instant, Option<Registration>)>,
}

/// Who failed how often.
#[derive(Debug)]
pub(crate) struct Quarantine {
    limit: usize,
    length: Duration,
    bookies: Mutex<BTreeMap<BookieId, Record>>,
}

impl Quarantine {
    /// `limit` errors within a minute put a bookie away for `length`.
    pub(crate) fn new(limit: u32, length: Duration) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).max(1);
        Self { limit, length, bookies: Mutex::default() }
    }

    /// A bookie failed to do its part. `live` are those that are registered.
    pub(crate) fn failed(&self, bookie: &BookieId, live: &[LiveBookie]) {
        let now = Instant::now();
        let mut bookies = self.bookies.lock();
        if !bookies.contains_key(bookie) && bookies.len() >= MAX_BOOKIES {
            let stale = bookies.iter().min_by_key(|(_, record)| record.errors.back().copied());
            if let Some(stale) = stale.map(|(id, _)| id.clone()) {
                bookies.remove(&stale);
            }
        }
        let record = bookies
            .entry(bookie.clone())
            .or_insert_with(|| Record { errors: VecDeque::new(), until: None });
        while record.errors.pop_front_if(|at| now - *at >= WINDOW).is_some() {}
        record.errors.push_back(now);
        if record.errors.len() >= self.limit {
            record.errors.clear();
            record.errors.push_back(now);
            let registered = live.iter().find(|l| l.id == *bookie).map(registration);
            if record.until.is_none() {
                tracing::warn!(%bookie, length = ?self.length, "bookie is in quarantine: it is used only where others do not suffice");
            }
            record.until = Some((now + self.length, registered));
        }
    }

    /// Whether others are to be preferred. Over once the bookie registers again.
    pub(crate) fn holds(&self, live: &LiveBookie) -> bool {
        let mut bookies = self.bookies.lock();
        let Some(record) = bookies.get_mut(&live.id) else { return false };
        let Some((until, registered)) = record.until else { return false };
        let holds =
            Instant::now() < until && registered.is_none_or(|then| then == registration(live));
        if !holds {
            record.until = None;
        }
        holds
    }
}

#[cfg(test)]
mod tests {
    use geminga_metastore::record::Features;

    use super::*;

    fn live(lease: i64) -> LiveBookie {
        LiveBookie {
            id: "b1".parse().unwrap(),
            address: String::new(),
            http_address: String::new(),
            zone: String::new(),
            rack: String::new(),
            disks: Vec::new(),
            lease: LeaseId(lease),
            started_ms: 0,
            repair_rate: 0,
            objects_missing: None,
            features: Features::ALL,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_errors_within_a_minute_are_held_against_one_registration() {
        let quarantine = Quarantine::new(100, Duration::from_secs(1800));
        let one = live(1);
        let fail = |count: usize| (0..count).for_each(|_| quarantine.failed(&one.id, &[live(1)]));
        fail(99);
        tokio::time::advance(Duration::from_secs(61)).await;
        fail(99);
        assert!(!quarantine.holds(&one), "no more than 99 within a minute");
        fail(1);
        assert!(quarantine.holds(&one));
        tokio::time::advance(Duration::from_secs(1801)).await;
        assert!(!quarantine.holds(&one), "it ends");
        fail(100);
        assert!(quarantine.holds(&one));
        assert!(!quarantine.holds(&live(2)), "it ends when the bookie registers again");
    }
}

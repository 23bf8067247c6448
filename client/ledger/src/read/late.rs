//! Bookies that lately let a reader down: no answer in time, a connection that broke, or too busy. For a while readers ask others first
//! ([`Distance::Late`](super::Distance::Late)). A preference that all readers of a client share; never used for safety.
//!
//! Nothing takes a bookie off early, not even an answer: of many reads at a time some come through a disk that stalls. Once its time is
//! over one read tries it again, and others that begin before that one gave up.

use std::collections::BTreeMap;
use std::time::Duration;

use geminga_proto::ids::BookieId;
use parking_lot::Mutex;
use tokio::time::Instant;

/// How long others are asked first.
pub(super) const LENGTH: Duration = Duration::from_secs(30);
/// Most bookies remembered; beyond them the one that is over soonest is forgotten.
const MAX_BOOKIES: usize = 4096;

/// Until when each counts as late.
#[derive(Debug, Default)]
pub(crate) struct Late(Mutex<BTreeMap<BookieId, Instant>>);

impl Late {
    /// A reader got nothing from it, and may have waited for that.
    pub(super) fn note(&self, bookie: &BookieId) {
        let now = Instant::now();
        let mut late = self.0.lock();
        late.retain(|_, until| now < *until);
        if !late.contains_key(bookie) && late.len() >= MAX_BOOKIES {
            let soonest = late.iter().min_by_key(|(_, until)| **until);
            if let Some(soonest) = soonest.map(|(id, _)| id.clone()) {
                late.remove(&soonest);
            }
        }
        if late.insert(bookie.clone(), now + LENGTH).is_none() {
            tracing::debug!(%bookie, length = ?LENGTH, "bookie did not deliver: readers ask others first");
        }
    }

    /// Whether others are to be asked first.
    pub(super) fn holds(&self, bookie: &BookieId) -> bool {
        self.0.lock().get(bookie).is_some_and(|until| Instant::now() < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_and_it_is_bounded() {
        let late = Late::default();
        let id = |number: usize| format!("b{number}").parse::<BookieId>().unwrap();
        late.note(&id(0));
        tokio::time::advance(LENGTH / 2).await;
        assert!(late.holds(&id(0)) && !late.holds(&id(1)));
        (1..=MAX_BOOKIES).for_each(|number| late.note(&id(number)));
        assert_eq!(late.0.lock().len(), MAX_BOOKIES);
        assert!(!late.holds(&id(0)), "the oldest made room");
        late.note(&id(1));
        assert!(
            (1..=MAX_BOOKIES).all(|number| late.holds(&id(number))),
            "one noted again is not one more"
        );
        tokio::time::advance(LENGTH).await;
        assert!(!late.holds(&id(1)));
        late.note(&id(0));
        assert_eq!(late.0.lock().len(), 1, "those that are over are not kept");
    }
}

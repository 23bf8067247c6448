//! The order of one connection's batches (P5): while an earlier batch of a partition failed and the client cannot know yet, later
//! ones are refused, and batches that are on their way keep to one opening of the partition. Else a batch that the client sends
//! again would come after those that it had sent behind it.

use std::collections::HashMap;
use std::sync::Arc;

use geminga_proto::ids::{PartitionIndex, TopicId};
use parking_lot::Mutex;

use crate::router::Appender;

/// A partition.
pub(super) type Key = (TopicId, PartitionIndex);

/// The lanes of one connection; those in which nothing is on its way are not kept.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<HashMap<Key, Lane>>);

#[derive(Debug, Default)]
struct Lane {
    /// What batches that are on their way were handed to.
    appender: Option<Arc<dyn Appender>>,
    on_their_way: usize,
    failed: Failed,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Failed {
    #[default]
    No,
    /// The answer that says so is not written.
    Untold,
    /// Requests that begin before this place were sent before it was written.
    Told(u64),
}

/// Why a batch is refused: an earlier one failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Prior;

impl Lanes {
    /// What the next batch must be handed to, of a request that begins at this place; `None`: to the present opening.
    pub(super) fn enter(&self, key: Key, request: u64) -> Result<Option<Arc<dyn Appender>>, Prior> {
        let mut lanes = self.0.lock();
        let Some(lane) = lanes.get_mut(&key) else { return Ok(None) };
        match lane.failed {
            Failed::Untold => return Err(Prior),
            Failed::Told(sent) if request < sent => return Err(Prior),
            Failed::No | Failed::Told(_) => lane.failed = Failed::No,
        }
        match &lane.appender {
            Some(appender) if lane.on_their_way > 0 && appender.is_open() => {
                Ok(Some(Arc::clone(appender)))
            }
            // Its opening ended before those on their way were answered: they fail, and so does this one.
            Some(_) if lane.on_their_way > 0 => Err(Prior),
            _ => Ok(None),
        }
    }

    /// A batch has its place.
    pub(super) fn placed(&self, key: Key, appender: Arc<dyn Appender>) {
        let mut lanes = self.0.lock();
        let lane = lanes.entry(key).or_default();
        lane.on_their_way += 1;
        lane.appender = Some(appender);
    }

    /// A batch that had its place is answered, or would be if its client had asked for an answer.
    pub(super) fn done(&self, key: Key, acknowledged: bool) {
        let mut lanes = self.0.lock();
        let Some(lane) = lanes.get_mut(&key) else { return };
        lane.on_their_way = lane.on_their_way.saturating_sub(1);
        if !acknowledged {
            lane.failed = Failed::Untold;
        } else if lane.on_their_way == 0 && lane.failed == Failed::No {
            lanes.remove(&key);
        }
    }

    /// A batch was refused before it had a place.
    pub(super) fn failed(&self, key: Key) {
        self.0.lock().entry(key).or_default().failed = Failed::Untold;
    }

    /// The client can know of these failures from now on; what begins before the place `sent` was sent before.
    pub(super) fn told(&self, keys: &[Key], sent: u64) {
        let mut lanes = self.0.lock();
        for key in keys {
            if let Some(lane) = lanes.get_mut(key) {
                lane.failed = Failed::Told(sent);
            }
        }
    }
}

#[cfg(test)]
impl Lanes {
    /// Whether nothing is on its way, and no failure is to be known of.
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use geminga_proto::reason::ApiError;
    use geminga_records::Batch;

    use super::*;
    use crate::router::Pending;

    #[derive(Debug)]
    struct Opening(bool);

    #[async_trait]
    impl Appender for Opening {
        fn is_open(&self) -> bool {
            self.0
        }

        async fn append(&self, _: Batch) -> Result<Pending, ApiError> {
            unreachable!("nothing is appended here")
        }
    }

    fn key() -> Key {
        (TopicId::from_random(1), PartitionIndex(0))
    }

    #[test]
    fn after_a_failure_nothing_is_taken_until_the_client_can_know() {
        let lanes = Lanes::default();
        lanes.placed(key(), Arc::new(Opening(true)));
        assert!(lanes.enter(key(), 2).unwrap().is_some(), "to the same opening");
        lanes.placed(key(), Arc::new(Opening(true)));
        lanes.done(key(), false);
        assert_eq!(lanes.enter(key(), 3).unwrap_err(), Prior);
        lanes.done(key(), false);
        assert_eq!(lanes.enter(key(), 4).unwrap_err(), Prior);
        lanes.told(&[key()], 8);
        // It was sent before the answer was written.
        assert_eq!(lanes.enter(key(), 7).unwrap_err(), Prior);
        assert!(lanes.enter(key(), 8).unwrap().is_none(), "sent again, to the present opening");
        assert!(lanes.enter((key().0, PartitionIndex(1)), 3).unwrap().is_none(), "another one");
    }

    #[test]
    fn what_is_on_its_way_keeps_to_its_opening() {
        let lanes = Lanes::default();
        lanes.placed(key(), Arc::new(Opening(false)));
        assert_eq!(lanes.enter(key(), 2).unwrap_err(), Prior, "it ended");
        lanes.done(key(), true);
        assert!(lanes.enter(key(), 3).unwrap().is_none(), "all are answered");
        assert!(lanes.is_empty(), "and nothing is kept");
    }
}

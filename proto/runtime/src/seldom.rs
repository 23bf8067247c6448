//! What is told of many, of each no more than once a minute: a peer that cannot be reached is tried again all the time, and
//! the log is for people.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

const QUIET: Duration = Duration::from_secs(60);
/// Most of whom something was told lately. Of further ones nothing is told: there is enough to read.
const MOST: usize = 1024;

/// See the module.
#[derive(Debug)]
pub struct Seldom<K>(Mutex<HashMap<K, Instant>>);

impl<K> Default for Seldom<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> Seldom<K> {
    /// Whether to tell something of `whom` now; if so, it counts as told.
    pub fn is_due(&self, whom: &K) -> bool {
        let now = Instant::now();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, at| now.saturating_duration_since(*at) < QUIET);
        let due = !told.contains_key(whom) && told.len() < MOST;
        if due {
            told.insert(whom.clone(), now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_is_told_of_once_a_minute_and_few_are_remembered() {
        let seldom = Seldom::default();
        assert!(seldom.is_due(&0) && seldom.is_due(&1) && !seldom.is_due(&0));
        tokio::time::advance(QUIET).await;
        assert!(seldom.is_due(&0));
        let told = (0..2 * MOST).filter(|whom| seldom.is_due(whom)).count();
        assert_eq!(told, MOST - 1);
        tokio::time::advance(QUIET).await;
        assert!(seldom.is_due(&(2 * MOST)));
    }
}

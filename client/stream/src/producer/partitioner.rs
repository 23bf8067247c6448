//! Which partition a record goes to when its sender does not say. The choice is made once: a retry goes to the same
//! one (P6).

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use geminga_proto::murmur;
use geminga_runtime::{Random, SystemRandom};
use parking_lot::Mutex;

/// Chooses partitions.
///
/// # Contract
/// The result is below `partitions` (which is at least 1); a larger one fails the record. Called in the order in which
/// records are sent, so it must be quick.
pub trait Partitioner: Send + Sync + fmt::Debug + 'static {
    /// The partition of a record with this key.
    fn partition(&self, topic: &str, key: Option<&[u8]>, partitions: u32) -> u32;

    /// A batch of this partition is full, or as many bytes went there in smaller ones: keyless records may go elsewhere now.
    fn batch_full(&self, topic: &str, partition: u32, partitions: u32) {
        let _ = (topic, partition, partitions);
    }
}

/// Keys by Kafka's hash, so that producers of any kind agree. Records without a key stay together until a batch is full, or as many
/// bytes were sent in smaller ones, then go to another partition: fewer and larger batches than turn by turn, and every partition
/// gets its part also of what comes slowly.
#[derive(Debug)]
pub struct HashPartitioner {
    random: Arc<dyn Random>,
    sticky: Mutex<HashMap<String, u32>>,
}

impl Default for HashPartitioner {
    fn default() -> Self {
        Self::with(Arc::new(SystemRandom))
    }
}

impl HashPartitioner {
    /// One that chooses by `random`.
    pub fn with(random: Arc<dyn Random>) -> Self {
        Self { random, sticky: Mutex::default() }
    }

    fn any(&self, partitions: u32) -> u32 {
        u32::try_from(self.random.below(u64::from(partitions))).expect("below a u32")
    }
}

impl Partitioner for HashPartitioner {
    fn partition(&self, topic: &str, key: Option<&[u8]>, partitions: u32) -> u32 {
        if let Some(key) = key {
            return murmur::bucket(key, partitions);
        }
        let mut sticky = self.sticky.lock();
        match sticky.get(topic) {
            Some(&partition) if partition < partitions => partition,
            _ => {
                let partition = self.any(partitions);
                sticky.insert(topic.to_owned(), partition);
                partition
            }
        }
    }

    fn batch_full(&self, topic: &str, partition: u32, partitions: u32) {
        let mut sticky = self.sticky.lock();
        if let Some(current) = sticky.get_mut(topic)
            && *current == partition
            && partitions > 1
        {
            // Any other one.
            *current = (partition + 1 + self.any(partitions - 1)) % partitions;
        }
    }
}

/// Keys by Kafka's hash; records without a key turn by turn.
#[derive(Debug, Default)]
pub struct RoundRobinPartitioner {
    next: AtomicU32,
}

impl Partitioner for RoundRobinPartitioner {
    fn partition(&self, _topic: &str, key: Option<&[u8]>, partitions: u32) -> u32 {
        match key {
            Some(key) => murmur::bucket(key, partitions),
            None => self.next.fetch_add(1, Ordering::Relaxed).checked_rem(partitions).unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use geminga_runtime::SeededRandom;

    use super::*;

    #[test]
    fn keys_go_where_kafka_puts_them() {
        let hash = HashPartitioner::default();
        let turns = RoundRobinPartitioner::default();
        for key in ["", "21", "foobar", "N14228"] {
            let expected = murmur::bucket(key.as_bytes(), 12);
            assert_eq!(hash.partition("t", Some(key.as_bytes()), 12), expected);
            assert_eq!(turns.partition("t", Some(key.as_bytes()), 12), expected);
        }
    }

    #[test]
    fn keyless_records_stay_until_a_batch_is_full() {
        let hash = HashPartitioner::with(Arc::new(SeededRandom::new(3)));
        let mut seen = std::collections::HashSet::new();
        for _ in 0..200 {
            let partition = hash.partition("t", None, 5);
            assert_eq!(hash.partition("t", None, 5), partition);
            hash.batch_full("t", (partition + 1) % 5, 5);
            assert_eq!(hash.partition("t", None, 5), partition);
            hash.batch_full("t", partition, 5);
            assert_ne!(hash.partition("t", None, 5), partition);
            seen.insert(partition);
        }
        assert_eq!(seen.len(), 5);
        hash.batch_full("one", 0, 1);
        assert_eq!(hash.partition("one", None, 1), 0);
    }

    #[test]
    fn turn_by_turn() {
        let turns = RoundRobinPartitioner::default();
        let chosen: Vec<u32> = (0..4).map(|_| turns.partition("t", None, 3)).collect();
        assert_eq!(chosen, [0, 1, 2, 0]);
    }
}

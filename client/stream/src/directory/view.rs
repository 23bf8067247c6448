//! Who owns what, as the cluster last said, and which owners this process can reach. Immutable: whoever routes by it holds
//! a snapshot, and is told of the next one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Where elements and reads of a partition go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Way {
    /// To any broker, which forwards what it does not own.
    Any,
    /// To the owner itself, which refuses what it does not own.
    Broker(i32),
}

/// Brokers by topic and partition; -1 = nobody.
pub(super) type Owners = HashMap<String, Vec<i32>>;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    pub(super) owners: Arc<Owners>,
    /// Brokers that answered under their own number at the address that the cluster knows them by. Behind a load balancer
    /// there may be none, and everything goes to any.
    pub(super) reachable: BTreeMap<i32, String>,
}

impl View {
    /// Where a partition is best asked for.
    pub(crate) fn way(&self, topic: &str, partition: u32) -> Way {
        let owner = usize::try_from(partition)
            .ok()
            .and_then(|partition| self.owners.get(topic)?.get(partition).copied());
        match owner {
            Some(broker) if self.reachable.contains_key(&broker) => Way::Broker(broker),
            _ => Way::Any,
        }
    }

    /// Where a reachable broker listens.
    pub(crate) fn address(&self, broker: i32) -> Option<&str> {
        self.reachable.get(&broker).map(String::as_str)
    }
}

//! The metadata store: a linearizable map with versions and guarded transactions, as etcd is used (protocol 1.4). A
//! transaction may take place and its reply be lost, or take place after its caller gave up: the network around it decides.

use std::collections::BTreeMap;

use geminga_metastore::Version;
use geminga_metastore::record::{LedgerMeta, LedgerState, Under};
use geminga_proto::ids::LedgerId;

/// The keys that the protocol needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Chain,
    Ledger(LedgerId),
    Under(LedgerId),
    /// Whoever repairs a ledger, or gives it up, has this; its lease may end at any time.
    Lock(LedgerId),
}

/// The log of one partition: a list of ledgers and who may add to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Chain {
    /// Raised by every claim.
    pub(crate) term: u32,
    /// Who holds the term.
    pub(crate) owner: usize,
    pub(crate) ledgers: Vec<LedgerId>,
    /// Random id of the update that made this value (M9).
    pub(crate) last_op: u128,
}

/// What a key holds.
#[expect(clippy::large_enum_variant, reason = "a simulated store holds few")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Chain(Chain),
    Ledger(LedgerMeta),
    Under(Under),
    Lock(LedgerId),
}

/// What a key must be for a transaction to take place: `None` = absent.
pub(crate) type Guard = (Key, Option<Version>);

/// A call to the store.
#[derive(Debug, Clone)]
pub(crate) enum Request {
    /// Read keys at one revision, linearizably (M8).
    Get(Vec<Key>),
    /// Put and delete if all guards hold.
    Txn { guards: Vec<Guard>, puts: Vec<Value>, deletes: Vec<Key> },
}

/// A value with its version, when it is there.
pub(crate) type Read = Option<(Value, Version)>;

/// What came of a call.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Read(Vec<Read>),
    Committed(Version),
    GuardFailed,
}

/// A change that took place.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) key: Key,
    pub(crate) old: Option<Value>,
    pub(crate) new: Option<Value>,
}

impl Change {
    /// The ledger that it closes.
    pub(crate) fn closes(&self) -> Option<LedgerId> {
        let (Some(Value::Ledger(old)), Some(Value::Ledger(new))) = (&self.old, &self.new) else {
            return None;
        };
        let closes = old.state != LedgerState::Closed && new.state == LedgerState::Closed;
        closes.then_some(new.id)
    }
}

/// The store itself.
#[derive(Debug)]
pub(crate) struct Store {
    values: BTreeMap<Key, (Value, Version)>,
    revision: i64,
}

impl Value {
    pub(crate) fn key(&self) -> Key {
        match self {
            Self::Chain(_) => Key::Chain,
            Self::Ledger(meta) => Key::Ledger(meta.id),
            Self::Under(mark) => Key::Under(mark.ledger),
            Self::Lock(ledger) => Key::Lock(*ledger),
        }
    }
}

/// The ledger in a read, if there is one.
pub(crate) fn ledger(read: Option<&Read>) -> Option<(LedgerMeta, Version)> {
    match read {
        Some(Some((Value::Ledger(meta), version))) => Some((meta.clone(), *version)),
        _ => None,
    }
}

/// The mark in a read, if there is one.
pub(crate) fn under(read: Option<&Read>) -> Option<(Under, Version)> {
    match read {
        Some(Some((Value::Under(mark), version))) => Some((mark.clone(), *version)),
        _ => None,
    }
}

/// The version of a lock in a read, if somebody has it.
pub(crate) fn lock(read: Option<&Read>) -> Option<Version> {
    match read {
        Some(Some((Value::Lock(_), version))) => Some(*version),
        _ => None,
    }
}

/// Takes a lock that nobody has.
pub(crate) fn take(ledger: LedgerId) -> Request {
    let (guards, puts) = (vec![(Key::Lock(ledger), None)], vec![Value::Lock(ledger)]);
    Request::Txn { guards, puts, deletes: Vec::new() }
}

/// Gives it back.
pub(crate) fn give_back(ledger: LedgerId, lock: Version) -> Request {
    let key = Key::Lock(ledger);
    Request::Txn { guards: vec![(key, Some(lock))], puts: Vec::new(), deletes: vec![key] }
}

/// The chain in a read, if there is one.
pub(crate) fn chain(read: Option<&Read>) -> Option<(Chain, Version)> {
    match read {
        Some(Some((Value::Chain(chain), version))) => Some((chain.clone(), *version)),
        _ => None,
    }
}

impl Store {
    pub(crate) fn new() -> Self {
        let chain = (Value::Chain(Chain::default()), Version(1));
        Self { values: BTreeMap::from([(Key::Chain, chain)]), revision: 1 }
    }

    /// Looks, as nobody in the simulated world can.
    pub(crate) fn peek(&self, key: Key) -> Option<&Value> {
        self.values.get(&key).map(|(value, _)| value)
    }

    /// Ledgers that are marked.
    pub(crate) fn marked(&self) -> Vec<LedgerId> {
        let marked = |key: &Key| match key {
            Key::Under(ledger) => Some(*ledger),
            Key::Chain | Key::Ledger(_) | Key::Lock(_) => None,
        };
        self.values.keys().filter_map(marked).collect()
    }

    /// Ledgers whose lock somebody has.
    pub(crate) fn locked(&self) -> Vec<LedgerId> {
        let locked = |key: &Key| match key {
            Key::Lock(ledger) => Some(*ledger),
            Key::Chain | Key::Ledger(_) | Key::Under(_) => None,
        };
        self.values.keys().filter_map(locked).collect()
    }

    pub(crate) fn version(&self, key: Key) -> Option<Version> {
        self.values.get(&key).map(|(_, version)| *version)
    }

    /// Carries a call out; what it changed.
    pub(crate) fn carry_out(&mut self, request: Request) -> (Reply, Vec<Change>) {
        match request {
            Request::Get(keys) => (
                Reply::Read(keys.iter().map(|key| self.values.get(key).cloned()).collect()),
                Vec::new(),
            ),
            Request::Txn { guards, puts, deletes } => {
                // As in etcd: a key that is not there has version 0, and whoever asks for that makes it (M7).
                let is_as = |(key, version): &Guard| {
                    self.version(*key) == version.filter(|version| *version != Version(0))
                };
                if !guards.iter().all(is_as) {
                    return (Reply::GuardFailed, Vec::new());
                }
                self.revision += 1;
                let version = Version(self.revision);
                let mut changes = Vec::new();
                for new in puts {
                    let key = new.key();
                    let old = self.values.insert(key, (new.clone(), version)).map(|(old, _)| old);
                    changes.push(Change { key, old, new: Some(new) });
                }
                for key in deletes {
                    let old = self.values.remove(&key).map(|(old, _)| old);
                    changes.push(Change { key, old, new: None });
                }
                (Reply::Committed(version), changes)
            }
        }
    }
}

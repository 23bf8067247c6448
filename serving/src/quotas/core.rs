//! Which client owes how much: a bucket for each quota of each client id that was charged lately. Pure: the time is passed
//! in. Bounded: beyond a number of client ids, those that were charged least recently are forgotten, with what they owe.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::record::Quota;
use geminga_proto::caps;

use super::bucket::Bucket;

/// Most client ids that are remembered.
const CLIENTS: usize = 10_000;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Bytes of records that a client sends.
    Produce,
    /// Bytes of records that a client is sent.
    Consume,
    /// Requests.
    Request,
}

impl Kind {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Produce, Self::Consume, Self::Request];

    /// What operators call it, as Kafka does where it is the same.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Produce => "producer_byte_rate",
            Self::Consume => "consumer_byte_rate",
            Self::Request => "request_rate",
        }
    }

    /// The kind of that name.
    pub(super) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// This one in a record.
    pub(super) fn rate_in(self, quota: &mut Quota) -> &mut Option<u64> {
        match self {
            Self::Produce => &mut quota.producer_byte_rate,
            Self::Consume => &mut quota.consumer_byte_rate,
            Self::Request => &mut quota.request_rate,
        }
    }
}

/// What is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) default: Quota,
    pub(super) clients: BTreeMap<String, Quota>,
}

impl Limits {
    pub(super) fn is_empty(&self) -> bool {
        self.default.is_empty() && self.clients.is_empty()
    }

    /// Quotas of its own count one by one: where it has none, the default's counts.
    fn rate(&self, kind: Kind, client: &str) -> Option<u64> {
        let rate = |mut quota: Quota| *kind.rate_in(&mut quota);
        let own = self.clients.get(client).copied().and_then(rate);
        own.or_else(|| rate(self.default))
    }
}

/// A client that may not go on now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Debt {
    pub(crate) client: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) wait: Duration,
}

#[derive(Debug)]
struct Client {
    buckets: [Option<Bucket>; Kind::ALL.len()],
    /// Its place among all, by when it was charged last.
    turn: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Core {
    pub(super) limits: Limits,
    clients: HashMap<Arc<str>, Client>,
    turns: BTreeMap<u64, Arc<str>>,
    next_turn: u64,
}

impl Core {
    /// Counts, and says how long the client is to wait.
    pub(super) fn charge(
        &mut self,
        kind: Kind,
        client: &str,
        amount: u64,
        now: Duration,
    ) -> Duration {
        // A longer one would take memory as it likes.
        let client = &client[..client.floor_char_boundary(caps::MAX_CLIENT_ID_BYTES)];
        let Some(rate) = self.limits.rate(kind, client) else {
            if let Some(known) = self.clients.get_mut(client) {
                known.buckets[kind as usize] = None;
            }
            return Duration::ZERO;
        };
        let bucket =
            self.touch(client).buckets[kind as usize].get_or_insert_with(|| Bucket::new(rate, now));
        bucket.charge(rate, amount, now)
    }

    /// Forgets what clients owe by quotas that are no more. Where none is left, nobody is charged, which would do it as well.
    pub(super) fn forgive(&mut self) {
        for (name, client) in &mut self.clients {
            for kind in Kind::ALL {
                if self.limits.rate(kind, name).is_none() {
                    client.buckets[kind as usize] = None;
                }
            }
        }
    }

    /// The client, as the one that was charged last.
    fn touch(&mut self, client: &str) -> &mut Client {
        let turn = self.next_turn;
        self.next_turn += 1;
        let name = match self.clients.get(client) {
            Some(known) => self.turns.remove(&known.turn),
            None => None,
        };
        let name = name.unwrap_or_else(|| client.into());
        self.turns.insert(turn, Arc::clone(&name));
        if self.turns.len() > CLIENTS
            && let Some((_, oldest)) = self.turns.pop_first()
        {
            self.clients.remove(&oldest);
        }
        let known =
            self.clients.entry(name).or_insert(Client { buckets: Default::default(), turn });
        known.turn = turn;
        known
    }

    /// The `most` that have to wait for longest.
    pub(super) fn debts(&self, most: usize, now: Duration) -> Vec<Debt> {
        let mut debts = Vec::new();
        for (name, client) in &self.clients {
            for kind in Kind::ALL {
                let limited = self.limits.rate(kind, name).is_some();
                let wait = client.buckets[kind as usize]
                    .filter(|_| limited)
                    .map_or(Duration::ZERO, |bucket| bucket.debt(now));
                if !wait.is_zero() {
                    debts.push(Debt { client: Arc::clone(name), kind, wait });
                }
            }
        }
        debts.sort_by(|a, b| b.wait.cmp(&a.wait).then_with(|| a.client.cmp(&b.client)));
        debts.truncate(most);
        debts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_secs(10);

    fn limited(default: Option<u64>, own: &[(&str, Quota)]) -> Core {
        let default = Quota { producer_byte_rate: default, ..Quota::default() };
        let clients = own.iter().map(|(name, quota)| ((*name).to_owned(), *quota)).collect();
        Core { limits: Limits { default, clients }, ..Core::default() }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn without_quotas_nothing_is_counted() {
        let mut core = Core::default();
        for kind in Kind::ALL {
            assert_eq!(core.charge(kind, "a", u64::MAX, START), Duration::ZERO);
            assert_eq!(Kind::parse(kind.name()), Some(kind));
        }
        assert!(core.clients.is_empty() && core.turns.is_empty());
    }

    /// The default counts for each client id by itself, and for those that have none of that kind of their own.
    #[test]
    fn each_client_has_what_is_its_own_or_the_default() {
        let own = Quota { producer_byte_rate: Some(1_000), ..Quota::default() };
        let other = Quota { request_rate: Some(1), ..Quota::default() };
        let mut core = limited(Some(100), &[("own", own), ("other", other)]);
        for client in ["a", "b", "other", ""] {
            assert_eq!(core.charge(Kind::Produce, client, 300, START), seconds(2), "{client}");
        }
        assert_eq!(core.charge(Kind::Produce, "own", 3_000, START), seconds(2));
        assert_eq!(core.charge(Kind::Request, "other", 2, START), seconds(1));
        assert_eq!(core.charge(Kind::Request, "a", 1_000, START), Duration::ZERO);
        let debts = core.debts(2, START);
        assert_eq!(debts.len(), 2);
        assert!(debts.iter().all(|debt| debt.wait == seconds(2) && debt.kind == Kind::Produce));
        assert_eq!(core.debts(10, START + seconds(1)).len(), 5);
    }

    #[test]
    fn a_quota_that_is_taken_away_leaves_no_debt() {
        let mut core = limited(Some(1), &[]);
        assert_eq!(core.charge(Kind::Produce, "a", 100, START), seconds(99));
        core.limits = Limits::default();
        assert_eq!(core.debts(10, START), []);
        assert_eq!(core.charge(Kind::Produce, "a", 100, START), Duration::ZERO);
        core.limits.default.producer_byte_rate = Some(1);
        assert_eq!(core.charge(Kind::Produce, "a", 1, START), Duration::ZERO, "it begins anew");
    }

    #[test]
    fn those_that_were_charged_least_recently_are_forgotten() {
        let mut core = limited(Some(1), &[]);
        core.charge(Kind::Produce, "first", 10, START);
        core.charge(Kind::Produce, "second", 10, START);
        for n in 0..CLIENTS - 2 {
            core.charge(Kind::Produce, &n.to_string(), 1, START);
        }
        assert_eq!(core.charge(Kind::Produce, "first", 0, START), seconds(9));
        core.charge(Kind::Produce, "one more", 1, START);
        assert_eq!((core.clients.len(), core.turns.len()), (CLIENTS, CLIENTS));
        assert_eq!(
            core.charge(Kind::Produce, "first", 0, START),
            seconds(9),
            "it was charged again"
        );
        assert_eq!(core.charge(Kind::Produce, "second", 0, START), Duration::ZERO);
    }

    #[test]
    fn a_long_id_is_told_apart_by_its_beginning() {
        let mut core = limited(Some(1), &[]);
        let long = |end: &str| "ä".repeat(caps::MAX_CLIENT_ID_BYTES) + end;
        core.charge(Kind::Produce, &long("x"), 10, START);
        assert_eq!(core.charge(Kind::Produce, &long("y"), 0, START), seconds(9));
    }
}

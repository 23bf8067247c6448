//! What is known of the cluster's addresses: plain data, no I/O. An address that failed rests for a while, longer each time,
//! during which others are preferred; when all rest, the one that may be tried first is.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use geminga_proto::v1;
use geminga_runtime::Random;
use tokio::time::Instant;

use super::view::{Owners, View};

/// Rest of an address after its first failure, and its longest.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(30);
/// Most brokers of a cluster that are remembered, and most of them that are asked directly: each takes a connection.
const MAX_BROKERS: usize = 1_000;
const MAX_DIRECT: usize = 64;
/// Most topics whose owners are remembered; others go to any broker.
const MAX_TOPICS: usize = 10_000;

/// How an address behaved.
#[derive(Debug, Clone, Default)]
struct Health {
    /// The broker that answered there last; `None` when nobody did, or it failed since.
    answered_by: Option<i32>,
    /// Somebody answered there once.
    proven: bool,
    failures: u32,
    rests_until: Option<Instant>,
    /// Whoever answered is not the broker that is looked for, or did not say; asked again then.
    probe_at: Option<Instant>,
}

impl Health {
    /// When a broker may be looked for here, unless it has been found.
    fn free_at(&self, broker: i32) -> Option<Instant> {
        self.rests_until.max(self.probe_at).filter(|_| self.answered_by != Some(broker))
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    /// As given by the user; never empty.
    seeds: Vec<String>,
    /// Brokers by their number, as the cluster last listed them.
    brokers: BTreeMap<i32, String>,
    /// Shared with views, so that what is the same is not copied.
    owners: Arc<Owners>,
    /// Whose owners those are, by topic id, and how new, as the brokers say.
    revisions: HashMap<String, (String, i64)>,
    /// Whose owners are asked for.
    topics: BTreeSet<String>,
    /// Of seeds and brokers only.
    health: HashMap<String, Health>,
    /// Where whoever asks any broker is sent, until that one fails.
    entry: Option<String>,
}

impl State {
    pub(super) fn new(seeds: Vec<String>) -> Self {
        Self {
            seeds,
            brokers: BTreeMap::new(),
            owners: Arc::default(),
            revisions: HashMap::new(),
            topics: BTreeSet::new(),
            health: HashMap::new(),
            entry: None,
        }
    }

    /// Owners of this topic are wanted; whether that is new.
    pub(super) fn follow(&mut self, topic: &str) -> bool {
        self.topics.len() < MAX_TOPICS
            && !self.topics.contains(topic)
            && self.topics.insert(topic.to_owned())
    }

    pub(super) fn followed(&self) -> Vec<String> {
        self.topics.iter().cloned().collect()
    }

    /// What a broker said of the cluster. A broker that was restarted has another number, so an address where a new one
    /// stands does not rest any longer.
    pub(super) fn learn(&mut self, answer: &v1::GetMetadataResponse) {
        if !answer.brokers.is_empty() {
            let listed = answer.brokers.iter().filter(|broker| !broker.address.is_empty());
            let listed: BTreeMap<i32, String> =
                listed.take(MAX_BROKERS).map(|b| (b.broker_id, b.address.clone())).collect();
            for (broker, address) in &listed {
                if self.brokers.get(broker) != Some(address)
                    && let Some(health) = self.health.get_mut(address)
                {
                    (health.rests_until, health.probe_at) = (None, None);
                }
            }
            self.brokers = listed;
            let (seeds, brokers) = (&self.seeds, &self.brokers);
            self.health.retain(|address, _| {
                seeds.contains(address) || brokers.values().any(|known| known == address)
            });
        }
        for topic in &answer.topics {
            let wanted = topic.exists && self.topics.contains(&topic.topic);
            // A broker that lags, or whose answer does, would lead back to the owner that was. Another life of the topic, or
            // another cluster, counts anew.
            let is_older = self.revisions.get(&topic.topic).is_some_and(|(id, known)| {
                *id == topic.topic_id && topic.revision != 0 && topic.revision < *known
            });
            if wanted && is_older {
                continue;
            }
            if wanted {
                let newest = (topic.topic_id.clone(), topic.revision);
                self.revisions.insert(topic.topic.clone(), newest);
            } else {
                self.revisions.remove(&topic.topic);
            }
            let said = Some(&topic.owners).filter(|_| wanted);
            if self.owners.get(&topic.topic) == said {
                continue;
            }
            let owners = Arc::make_mut(&mut self.owners);
            match said {
                Some(said) => drop(owners.insert(topic.topic.clone(), said.clone())),
                None => drop(owners.remove(&topic.topic)),
            }
        }
    }

    /// A broker said that `address` owns a partition.
    pub(super) fn moved(&mut self, topic: &str, partition: u32, address: &str) {
        let broker = self.brokers.iter().find(|(_, known)| *known == address);
        let Some((broker, _)) = broker else { return };
        let owner = usize::try_from(partition).ok().and_then(|partition| {
            Arc::make_mut(&mut self.owners).get_mut(topic)?.get_mut(partition)
        });
        if let Some(owner) = owner {
            *owner = *broker;
        }
    }

    /// Somebody answers at an address; `broker`: who, when that was said.
    pub(super) fn answered(&mut self, address: &str, broker: Option<i32>, now: Instant) {
        if let Some(health) = self.of(address) {
            let answered_by = broker.or(health.answered_by);
            let probe_at = Some(now + LONGEST_REST);
            *health = Health { answered_by, proven: true, probe_at, ..Health::default() };
        }
    }

    /// Somebody is at an address and does not describe the cluster: perhaps no broker at all.
    pub(super) fn declined(&mut self, address: &str, now: Instant) {
        if let Some(health) = self.of(address) {
            health.probe_at = Some(now + LONGEST_REST);
        }
    }

    /// Nobody answers at an address, or whoever does sends us away.
    pub(super) fn failed(&mut self, address: &str, now: Instant) {
        if let Some(health) = self.of(address) {
            let rest = FIRST_REST.saturating_mul(1 << health.failures.min(10)).min(LONGEST_REST);
            health.rests_until = Some(now + rest);
            health.failures = health.failures.saturating_add(1);
            (health.answered_by, health.probe_at) = (None, None);
        }
        if self.entry.as_deref() == Some(address) {
            self.entry = None;
        }
    }

    fn of(&mut self, address: &str) -> Option<&mut Health> {
        let known = self.seeds.iter().chain(self.brokers.values()).any(|known| known == address);
        known.then(|| self.health.entry(address.to_owned()).or_default())
    }

    /// Where to ask any broker.
    pub(super) fn entry(&mut self, now: Instant, random: &dyn Random) -> String {
        if let Some(entry) = &self.entry {
            return entry.clone();
        }
        let candidates = self.candidates();
        let rest = |address: &&String| {
            let until = self.health.get(*address).and_then(|health| health.rests_until);
            until.filter(|until| *until > now)
        };
        let least = candidates.iter().map(rest).min().flatten();
        let best: Vec<&&String> = candidates.iter().filter(|a| rest(a) == least).collect();
        let chosen = random.below(best.len() as u64);
        let chosen = best[usize::try_from(chosen).unwrap_or(0)].to_string();
        self.entry = Some(chosen.clone());
        chosen
    }

    /// Another entry than `address`, unless all others rest.
    pub(super) fn leave(&mut self, address: &str, now: Instant, random: &dyn Random) {
        if self.entry.as_deref() != Some(address) {
            return;
        }
        let rests = |other: &String| {
            let until = self.health.get(other).and_then(|health| health.rests_until);
            until.is_some_and(|until| until > now)
        };
        let others: Vec<String> = self
            .candidates()
            .into_iter()
            .filter(|other| *other != address && !rests(other))
            .cloned()
            .collect();
        let chosen = random.below((others.len() as u64).max(1));
        if let Some(chosen) = others.get(usize::try_from(chosen).unwrap_or(0)) {
            self.entry = Some(chosen.clone());
        }
    }

    /// Any address that may answer.
    pub(super) fn another(&self, random: &dyn Random) -> String {
        let candidates = self.candidates();
        let chosen = usize::try_from(random.below(candidates.len() as u64)).unwrap_or(0);
        candidates[chosen].clone()
    }

    /// What was given, and brokers that answered once: others may be out of this network's reach.
    fn candidates(&self) -> Vec<&String> {
        let proven = |a: &&String| self.health.get(*a).is_some_and(|health| health.proven);
        let learned = self.brokers.values().filter(proven);
        let all: BTreeSet<&String> = self.seeds.iter().chain(learned).collect();
        all.into_iter().collect()
    }

    /// How many addresses there are to try.
    pub(super) fn choices(&self) -> usize {
        self.candidates().len()
    }

    /// Brokers that did not answer under their number yet and may be asked now.
    pub(super) fn to_probe(&self, now: Instant) -> Vec<String> {
        let asked = self.brokers.iter().take(MAX_DIRECT).filter(|(broker, address)| {
            self.health.get(*address).is_none_or(|health| {
                health.answered_by != Some(**broker)
                    && health.free_at(**broker).is_none_or(|at| at <= now)
            })
        });
        asked.map(|(_, address)| address.clone()).collect()
    }

    /// When the next of them may be asked.
    pub(super) fn next_probe(&self, now: Instant) -> Option<Instant> {
        let brokers = self.brokers.iter().take(MAX_DIRECT);
        let at = |(broker, address): (&i32, &String)| self.health.get(address)?.free_at(*broker);
        brokers.filter_map(at).filter(|at| *at > now).min()
    }

    pub(super) fn view(&self) -> View {
        let reachable = self.brokers.iter().take(MAX_DIRECT).filter(|(broker, address)| {
            self.health.get(*address).is_some_and(|health| health.answered_by == Some(**broker))
        });
        View {
            owners: Arc::clone(&self.owners),
            reachable: reachable.map(|(broker, address)| (*broker, address.clone())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use geminga_runtime::SeededRandom;

    use super::super::view::Way;
    use super::*;

    fn answer(brokers: &[(i32, &str)], owners: &[i32]) -> v1::GetMetadataResponse {
        let broker = |&(broker_id, address): &(i32, &str)| v1::BrokerStatus {
            broker_id,
            address: address.to_owned(),
            ..Default::default()
        };
        v1::GetMetadataResponse {
            brokers: brokers.iter().map(broker).collect(),
            topics: vec![v1::TopicOwners {
                topic: "t".to_owned(),
                owners: owners.to_vec(),
                exists: true,
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn state(seeds: &[&str]) -> State {
        let mut state = State::new(seeds.iter().copied().map(str::to_owned).collect());
        assert!(state.follow("t") && !state.follow("t"));
        state
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_fails_rests_and_another_is_asked() {
        let (now, random) = (Instant::now(), SeededRandom::new(1));
        let mut state = state(&["a:1"]);
        assert_eq!(state.entry(now, &random), "a:1");
        state.learn(&answer(&[(1, "a:1"), (2, "b:1")], &[1, 2]));
        state.failed("a:1", now);
        assert_eq!(state.entry(now, &random), "a:1", "nobody ever answered at b");
        state.answered("b:1", Some(2), now);
        state.failed("a:1", now);
        assert_eq!(state.entry(now, &random), "b:1");
        // All rest: the one that was away for longest is first.
        let later = now + Duration::from_secs(3);
        state.failed("b:1", later);
        assert_eq!(state.entry(later, &random), "a:1");
        // A word of an address that nobody knows is not kept.
        state.failed("c:1", later);
        assert_eq!(state.health.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_owner_that_answers_under_its_number_is_asked_directly() {
        let now = Instant::now();
        let mut state = state(&["lb:1"]);
        state.learn(&answer(&[(1, "a:1"), (2, "b:1")], &[1, 2, -1]));
        assert_eq!(state.to_probe(now), ["a:1", "b:1"]);
        state.answered("a:1", Some(1), now);
        // Another cluster's broker, or a server of an older version.
        state.answered("b:1", Some(7), now);
        let view = state.view();
        let way = |partition| view.way("t", partition);
        assert_eq!(
            [way(0), way(1), way(2), way(3)],
            [Way::Broker(1), Way::Any, Way::Any, Way::Any]
        );
        assert_eq!((view.address(1), view.way("u", 0)), (Some("a:1"), Way::Any));

        state.failed("a:1", now);
        assert_eq!(state.view().way("t", 0), Way::Any);
        assert!(state.to_probe(now).is_empty());
        assert_eq!(state.next_probe(now), Some(now + FIRST_REST));
        assert_eq!(state.to_probe(now + FIRST_REST), ["a:1"]);
        assert_eq!(state.to_probe(now + LONGEST_REST), ["a:1", "b:1"]);
        // It was restarted: it is asked at once, and only under its new number.
        state.learn(&answer(&[(3, "a:1"), (2, "b:1")], &[3, 2]));
        assert_eq!(state.to_probe(now), ["a:1"]);
        state.answered("a:1", Some(3), now);
        assert_eq!(state.view().way("t", 0), Way::Broker(3));
    }

    #[tokio::test(start_paused = true)]
    async fn who_cannot_help_is_left_for_another_that_answers() {
        let (now, random) = (Instant::now(), SeededRandom::new(1));
        let mut state = state(&["a:1"]);
        assert_eq!(state.entry(now, &random), "a:1");
        state.learn(&answer(&[(1, "a:1"), (2, "b:1"), (3, "c:1")], &[1, 2]));
        state.answered("a:1", Some(1), now);
        state.leave("a:1", now, &random);
        assert_eq!(state.entry(now, &random), "a:1", "nobody ever answered elsewhere");
        state.answered("b:1", Some(2), now);
        state.answered("c:1", Some(3), now);
        state.failed("c:1", now);
        state.leave("a:1", now, &random);
        assert_eq!(state.entry(now, &random), "b:1", "the third one rests");
        assert_eq!(state.view().way("t", 0), Way::Broker(1), "it is still asked for what it owns");
        state.leave("a:1", now, &random);
        assert_eq!(state.entry(now, &random), "b:1", "it has been left already");
    }

    /// Such as something else than a broker, behind an address that the cluster names.
    #[tokio::test(start_paused = true)]
    async fn who_answers_with_an_error_is_not_an_address_to_ask_any_broker_at() {
        let now = Instant::now();
        let mut state = state(&["a:1"]);
        state.learn(&answer(&[(1, "a:1"), (2, "b:1")], &[1, 2]));
        state.declined("b:1", now);
        assert_eq!(state.choices(), 1);
        assert_eq!(state.to_probe(now), ["a:1"]);
        // A broker that answered before has not changed by that.
        state.answered("b:1", Some(2), now);
        state.declined("b:1", now);
        assert_eq!((state.choices(), state.view().way("t", 1)), (2, Way::Broker(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn older_owners_do_not_replace_newer_ones() {
        let mut state = state(&["a:1"]);
        let at = |revision, owners: &[i32]| {
            let mut answer = answer(&[(1, "a:1"), (2, "b:1")], owners);
            answer.topics[0].revision = revision;
            answer
        };
        state.learn(&at(7, &[2, 2]));
        state.learn(&at(5, &[1, 1]));
        assert_eq!(state.view().owners["t"], [2, 2]);
        state.learn(&at(9, &[1, 2]));
        assert_eq!(state.view().owners["t"], [1, 2]);
        // A server of an older version does not say how new they are.
        state.learn(&at(0, &[1, 1]));
        assert_eq!(state.view().owners["t"], [1, 1]);
        // Another life of the topic begins anew, whether or not its absence was seen in between.
        state.learn(&at(9, &[2, 2]));
        let mut another = at(3, &[2, 1]);
        another.topics[0].topic_id = "another".to_owned();
        state.learn(&another);
        assert_eq!(state.view().owners["t"], [2, 1]);
        another.topics[0].revision = 2;
        another.topics[0].owners = vec![1, 1];
        state.learn(&another);
        assert_eq!(state.view().owners["t"], [2, 1], "older than what is known of this life");
        state.learn(&at(9, &[2, 2]));
        let gone = v1::TopicOwners { topic: "t".to_owned(), ..Default::default() };
        state.learn(&v1::GetMetadataResponse { topics: vec![gone], ..Default::default() });
        state.learn(&at(3, &[1, 1]));
        assert_eq!(state.view().owners["t"], [1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_moves_one_partition() {
        let now = Instant::now();
        let mut state = state(&["a:1"]);
        state.learn(&answer(&[(1, "a:1"), (2, "b:1")], &[1, 1]));
        state.answered("a:1", Some(1), now);
        state.answered("b:1", Some(2), now);
        state.moved("t", 1, "b:1");
        state.moved("t", 0, "nowhere:1");
        state.moved("t", 9, "b:1");
        assert_eq!(state.view().owners["t"], [1, 2]);
        let gone = v1::TopicOwners { topic: "t".to_owned(), ..Default::default() };
        state.learn(&v1::GetMetadataResponse { topics: vec![gone], ..Default::default() });
        assert_eq!(state.view().way("t", 1), Way::Any);
    }
}

//! Creation of a topic: everything that can be refused is refused before the one transaction; a transaction of unknown
//! outcome is resolved by the topic id that it would have put (M9).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::{Error, Guard, Txn, TxnOutcome, keys, record};
use geminga_proto::caps;
use geminga_proto::ids::TopicId;
use geminga_proto::reason::{ApiError, Reason};

use super::admin::{ATTEMPTS, CATCH_UP, TopicAdmin, decode};
use super::name::DEFAULT_NAMESPACE;
use super::quorum::{self, Bookies, Quorum};
use super::{config, name};
use crate::ownership::topology::Topic;
use crate::rpc::metadata::api_error;

/// Cookies read at a time.
const PAGE: usize = 1_000;
/// How long an answer may wait for the coordinator to give every partition an owner, so that the first request finds one.
const ASSIGNMENT: Duration = Duration::from_secs(2);

/// What a topic should be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewTopic {
    /// Its name in the default namespace.
    pub name: String,
    /// How many partitions.
    pub partitions: u32,
    /// 0 = the server's default.
    pub write_quorum: u32,
    /// 0 = what goes with the write quorum.
    pub ack_quorum: u32,
    /// Whether a single copy is wanted, which one lost disk loses.
    pub allow_single_copy: bool,
    /// What Kafka clients are to be told of its copies; `None`: how many there are.
    pub replication_factor: Option<u16>,
    /// By Kafka's names.
    pub configs: BTreeMap<String, String>,
}

impl TopicAdmin {
    /// Creates a topic; returns once this broker's view has it.
    ///
    /// # Errors
    /// INVALID_NAME, INVALID_PARTITIONS, INVALID_CONFIG, INVALID_QUORUM, TOPIC_EXISTS, LIMIT_EXCEEDED,
    /// NOT_ENOUGH_BOOKIES, NOT_ENOUGH_LIVE_BOOKIES: nothing was done. METADATA_UNAVAILABLE: it may yet be created.
    /// NOT_READY: it was created, and is not seen here yet.
    pub async fn create(&self, new: NewTopic) -> Result<Arc<Topic>, ApiError> {
        let quorum = self.check_create(&new).await?;
        let key = keys::topic(DEFAULT_NAMESPACE, &new.name);
        let topic = record::Topic {
            id: TopicId::from_random(self.random.next_u128()),
            partitions: new.partitions,
            write_quorum: quorum.write,
            ack_quorum: quorum.ack,
            replication_factor: new.replication_factor,
            configs: new.configs,
            created_ms: self.clock.now_ms(),
        };
        self.commit_create(&new.name, &key, &topic).await?;
        tracing::info!(topic = new.name, id = %topic.id, partitions = topic.partitions, "topic created");
        self.show(&new.name, topic.id).await
    }

    /// Whether a topic could be created now, and what quorum it would get. Cancel-safe.
    ///
    /// # Errors
    /// As [`TopicAdmin::create`], as far as they can be known before; nothing is done.
    pub async fn check_create(&self, new: &NewTopic) -> Result<Quorum, ApiError> {
        name::check(&new.name)?;
        name::check_partitions(new.partitions)?;
        config::check_all(&new.configs)?;
        self.check_tiering(&new.configs)?;
        let quorum = quorum::settle(
            new.write_quorum,
            new.ack_quorum,
            self.default_quorum,
            new.allow_single_copy || self.single_copy_allowed,
        )?;
        let key = keys::topic(DEFAULT_NAMESPACE, &new.name);
        if self.store.get(&key).await.map_err(|e| api_error(&e))?.is_some() {
            return Err(exists(&new.name));
        }
        self.check_room(new.partitions)?;
        quorum::check_bookies(quorum, self.bookies().await?)?;
        Ok(quorum)
    }

    /// What this broker could not read back is not to be sent away.
    pub(super) fn check_tiering(&self, configs: &BTreeMap<String, String>) -> Result<(), ApiError> {
        if self.tiered || !config::is_tiered(configs) {
            return Ok(());
        }
        let why = "remote.storage.enable=true, and this broker was given no object store: start all brokers and bookies with --object-store, or leave it out";
        Err(ApiError::new(Reason::InvalidConfig, why))
    }

    /// Judged by this broker's view: brokers that create at the same time may exceed a limit by a few.
    fn check_room(&self, partitions: u32) -> Result<(), ApiError> {
        let topics = self.topology.topics();
        let users = topics.iter().filter(|t| !t.is_internal()).count();
        let all: u64 = topics.iter().map(|t| u64::from(t.partitions)).sum();
        limit(users, all, partitions)
    }

    /// The same for an existing topic that gets more partitions.
    pub(super) fn check_growth(&self, more: u32) -> Result<(), ApiError> {
        let all: u64 = self.topology.topics().iter().map(|t| u64::from(t.partitions)).sum();
        limit(0, all, more)
    }

    async fn commit_create(
        &self,
        name: &str,
        key: &str,
        topic: &record::Topic,
    ) -> Result<(), ApiError> {
        let txn = Txn::new().guard(Guard::Absent(key.to_owned())).put(key, topic.encode());
        for _ in 0..ATTEMPTS {
            match self.store.txn(txn.clone()).await {
                Ok(TxnOutcome::Committed(_)) => return Ok(()),
                // Somebody else's, or an earlier attempt of ours that was applied after all.
                Ok(TxnOutcome::GuardFailed) | Err(Error::Unknown(_)) => {}
                Err(error) => return Err(api_error(&error)),
            }
            if let Some(found) = self.store.get(key).await.map_err(|e| api_error(&e))? {
                let ours = decode(key, &found)?.id == topic.id;
                return if ours { Ok(()) } else { Err(exists(name)) };
            }
        }
        Err(ApiError::new(
            Reason::MetadataUnavailable,
            format!(
                "whether topic {name} was created is not known: look whether it exists, then try again"
            ),
        ))
    }

    /// Waits until this broker's view has the topic and, for a while, until its partitions have owners.
    async fn show(&self, name: &str, id: TopicId) -> Result<Arc<Topic>, ApiError> {
        let same = |t: &Arc<Topic>| t.id == id;
        let seen = self.topology.wait_for(CATCH_UP, |view| view.topic(name).filter(same)).await;
        let Some(topic) = seen else {
            let why =
                format!("topic {name} was created and is not known to this broker yet: try again");
            return Err(ApiError::new(Reason::NotReady, why));
        };
        self.wait_owned(&topic).await;
        Ok(topic)
    }

    /// Waits for a while until all partitions of a topic have owners, so that the first request finds them.
    pub(super) async fn wait_owned(&self, topic: &Topic) {
        let owned = self.topology.wait_for(ASSIGNMENT, |view| {
            view.owners(topic).iter().all(|o| o.broker.is_some()).then_some(())
        });
        if owned.await.is_none() {
            tracing::warn!(topic = topic.name, "new partitions have no owners yet");
        }
    }

    /// Registered bookies by their cookies, read from the store; live ones from the view, which the watch feeds.
    async fn bookies(&self) -> Result<Bookies, ApiError> {
        let mut registered = 0;
        let mut after: Option<String> = None;
        loop {
            let page = self.store.range(keys::BOOKIE_COOKIES, after.as_deref(), PAGE).await;
            let mut page = page.map_err(|e| api_error(&e))?;
            registered += page.items.len();
            after = page.items.pop().map(|last| last.key);
            if !page.more || after.is_none() {
                break;
            }
        }
        let live = geminga_ledger::takers(&self.topology.live_bookies()).count();
        Ok(Bookies { registered, live })
    }
}

/// Refuses what a cluster with so many topics and partitions has no room for.
fn limit(topics: usize, partitions: u64, more: u32) -> Result<(), ApiError> {
    let why = if topics >= caps::MAX_TOPICS {
        format!("the cluster has {topics} topics, the most there can be: delete some")
    } else if partitions + u64::from(more) > caps::MAX_PARTITIONS {
        format!(
            "the cluster has {partitions} of at most {} partitions: ask for fewer, or delete topics",
            caps::MAX_PARTITIONS
        )
    } else {
        return Ok(());
    };
    Err(ApiError::new(Reason::LimitExceeded, why))
}

fn exists(name: &str) -> ApiError {
    ApiError::new(Reason::TopicExists, format!("topic {name} exists already: choose another name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_cluster_takes_no_more() {
        let reason =
            |topics, partitions, more| limit(topics, partitions, more).err().map(|e| e.reason);
        let full = Some(Reason::LimitExceeded);
        assert_eq!(reason(caps::MAX_TOPICS - 1, 0, 1), None);
        assert_eq!(reason(caps::MAX_TOPICS, 0, 1), full);
        assert_eq!(reason(1, caps::MAX_PARTITIONS - 5, 5), None);
        assert_eq!(reason(1, caps::MAX_PARTITIONS - 5, 6), full);
    }
}

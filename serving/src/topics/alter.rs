//! Alteration of a topic: configs, and more partitions. One transaction, guarded by the version that was read; of an unknown
//! outcome the next look tells (M9). Brokers follow the topic's key, so it takes effect on open partitions without a word
//! to anybody.

use std::collections::BTreeMap;
use std::sync::Arc;

use geminga_metastore::{Error, Guard, Txn, TxnOutcome, Version, keys, record};
use geminga_proto::reason::{ApiError, Reason};

use super::admin::{ATTEMPTS, CATCH_UP, TopicAdmin, decode, unknown_topic};
use super::config;
use super::name::{self, DEFAULT_NAMESPACE};
use crate::ownership::topology::Topic;
use crate::rpc::metadata::api_error;

/// What is to change of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Alteration {
    /// Configs to set, by Kafka's names.
    pub set: BTreeMap<String, String>,
    /// Configs that go back to their defaults.
    pub unset: Vec<String>,
    /// How many partitions there are to be; `None` = as many as there are.
    pub partitions: Option<u32>,
}

impl Alteration {
    /// Changes the record; what does not change is no change.
    fn apply(&self, topic: &mut record::Topic) -> Result<(), ApiError> {
        if let Some(partitions) = self.partitions {
            if partitions < topic.partitions {
                let why = format!(
                    "the topic has {} partitions and keeps them: ask for as many or more, or make another topic",
                    topic.partitions
                );
                return Err(ApiError::new(Reason::InvalidPartitions, why));
            }
            topic.partitions = partitions;
        }
        for name in &self.unset {
            topic.configs.remove(name);
        }
        topic.configs.extend(self.set.clone());
        Ok(())
    }

    fn check(&self) -> Result<(), ApiError> {
        config::check_all(&self.set)?;
        for name in &self.unset {
            if config::lookup(name).is_none() {
                let shown: String = name.chars().take(64).collect();
                let why = format!("topic config {shown:?} is unknown: see docs/topic-configs.md");
                return Err(ApiError::new(Reason::InvalidConfig, why));
            }
            if self.set.contains_key(name) {
                let why = format!("topic config {name} is set and unset at the same time: choose");
                return Err(ApiError::new(Reason::InvalidRequest, why));
            }
        }
        match self.partitions {
            Some(partitions) => name::check_partitions(partitions),
            None => Ok(()),
        }
    }
}

impl TopicAdmin {
    /// Alters a topic; returns once this broker's view has it.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC (also when it was deleted meanwhile, and its name taken by another one), INVALID_CONFIG, INVALID_PARTITIONS,
    /// INVALID_REQUEST, LIMIT_EXCEEDED: nothing was done.
    /// METADATA_UNAVAILABLE: it may yet be altered. NOT_READY: it was altered, and that is not seen here yet.
    pub async fn alter(&self, name: &str, alteration: Alteration) -> Result<Arc<Topic>, ApiError> {
        if name::check(name).is_err() {
            return Err(unknown_topic(name));
        }
        alteration.check()?;
        let version = self.commit_alter(name, &alteration).await?;
        tracing::info!(topic = name, ?alteration, "topic altered");
        let seen = |view: &crate::ownership::topology::Topology| {
            view.topic(name).filter(|topic| topic.version >= Some(version))
        };
        self.topology.wait_for(CATCH_UP, seen).await.ok_or_else(|| {
            let why =
                format!("topic {name} was altered and this broker has not seen it yet: look again");
            ApiError::new(Reason::NotReady, why)
        })
    }

    async fn commit_alter(&self, name: &str, alteration: &Alteration) -> Result<Version, ApiError> {
        let key = keys::topic(DEFAULT_NAMESPACE, name);
        let mut meant = None;
        for _ in 0..ATTEMPTS {
            let found = self.store.get(&key).await.map_err(|e| api_error(&e))?;
            let found = found.ok_or_else(|| unknown_topic(name))?;
            let before = decode(&key, &found)?;
            // Another topic may have taken the name since the first look; nobody asked to alter that one.
            if *meant.get_or_insert(before.id) != before.id {
                return Err(unknown_topic(name));
            }
            // Made from what stands, never from what was read before a guard failed (1.4).
            let mut topic = before.clone();
            alteration.apply(&mut topic)?;
            if topic == before {
                return Ok(found.version);
            }
            if topic.partitions > before.partitions {
                self.check_growth(topic.partitions - before.partitions)?;
            }
            let own = Guard::Version(key.clone(), found.version);
            match self.store.txn(Txn::new().guard(own).put(&key, topic.encode())).await {
                Ok(TxnOutcome::Committed(revision)) => return Ok(Version(revision.0)),
                // Somebody else's came first, or ours took place after all.
                Ok(TxnOutcome::GuardFailed) | Err(Error::Unknown(_)) => {}
                Err(error) => return Err(api_error(&error)),
            }
        }
        Err(ApiError::new(
            Reason::MetadataUnavailable,
            format!("whether topic {name} was altered is not known: describe it, then try again"),
        ))
    }
}

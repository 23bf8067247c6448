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
    /// Whether all others that were set go back to their defaults, too.
    pub replace: bool,
    /// Elements to add to lists, or to take out of them: as they are then.
    pub lists: Vec<ListChange>,
    /// How many partitions there are to be; `None` = as many as there are.
    pub partitions: Option<u32>,
}

/// A change of a config whose value is a list of words with commas between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListChange {
    /// Which config, by Kafka's name.
    pub name: String,
    /// The words.
    pub words: String,
    /// Whether they are added, or taken out.
    pub add: bool,
}

impl ListChange {
    /// The list after the change; a word that is there already is not added again.
    fn of(&self, before: &str) -> String {
        let words = |list: &str| -> Vec<String> {
            list.split(',').map(str::trim).filter(|w| !w.is_empty()).map(str::to_owned).collect()
        };
        let (mut list, named) = (words(before), words(&self.words));
        if self.add {
            let added: Vec<_> = named.into_iter().filter(|word| !list.contains(word)).collect();
            list.extend(added);
        } else {
            list.retain(|word| !named.contains(word));
        }
        list.join(",")
    }
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
        if self.replace {
            topic.configs.clear();
        }
        for name in &self.unset {
            topic.configs.remove(name);
        }
        topic.configs.extend(self.set.clone());
        for change in &self.lists {
            let default = config::lookup(&change.name).map_or("", |config| config.default);
            let before = topic.configs.get(&change.name).map_or(default, String::as_str);
            let after = change.of(before);
            config::check(&change.name, &after)?;
            topic.configs.insert(change.name.clone(), after);
        }
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
        for ListChange { name, .. } in &self.lists {
            if config::lookup(name).is_none_or(|config| !config.is_list()) {
                let shown: String = name.chars().take(64).collect();
                let why = format!("topic config {shown:?} is no list: set it as a whole");
                return Err(ApiError::new(Reason::InvalidConfig, why));
            }
        }
        match self.partitions {
            Some(partitions) => name::check_partitions(partitions),
            None => Ok(()),
        }
    }
}

impl TopicAdmin {
    /// Alters a topic; returns once this broker's view has it and, for a while, waits until new partitions have owners.
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
        self.check_tiering(&alteration.set)?;
        let version = self.commit_alter(name, &alteration).await?;
        tracing::info!(topic = name, ?alteration, "topic altered");
        let seen = |view: &crate::ownership::topology::Topology| {
            view.topic(name).filter(|topic| topic.version >= Some(version))
        };
        let Some(topic) = self.topology.wait_for(CATCH_UP, seen).await else {
            let why =
                format!("topic {name} was altered and this broker has not seen it yet: look again");
            return Err(ApiError::new(Reason::NotReady, why));
        };
        if alteration.partitions.is_some() {
            self.wait_owned(&topic).await;
        }
        Ok(topic)
    }

    /// Whether a topic could be altered now; nothing is done. Cancel-safe.
    ///
    /// # Errors
    /// As [`TopicAdmin::alter`], as far as they can be known before.
    pub async fn check_alter(&self, name: &str, alteration: &Alteration) -> Result<(), ApiError> {
        if name::check(name).is_err() {
            return Err(unknown_topic(name));
        }
        alteration.check()?;
        self.check_tiering(&alteration.set)?;
        let key = keys::topic(DEFAULT_NAMESPACE, name);
        let found = self.store.get(&key).await.map_err(|e| api_error(&e))?;
        let before = decode(&key, &found.ok_or_else(|| unknown_topic(name))?)?;
        self.altered(&before, alteration).map(|_| ())
    }

    /// What the alteration makes of a topic.
    fn altered(
        &self,
        before: &record::Topic,
        alteration: &Alteration,
    ) -> Result<record::Topic, ApiError> {
        let mut topic = before.clone();
        alteration.apply(&mut topic)?;
        if topic.partitions > before.partitions {
            self.check_growth(topic.partitions - before.partitions)?;
        }
        Ok(topic)
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
            let topic = self.altered(&before, alteration)?;
            if topic == before {
                return Ok(found.version);
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

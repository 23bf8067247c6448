//! Deletion of a topic: one transaction frees its name and says what is left to be removed; the coordinator removes that
//! later. From the transaction on nobody finds the topic, whatever is left of it.

use geminga_metastore::{Error, Guard, Txn, TxnOutcome, keys, record};
use geminga_proto::ids::TopicId;
use geminga_proto::reason::{ApiError, Reason};

use super::admin::{ATTEMPTS, CATCH_UP, TopicAdmin, decode, unknown_topic};
use super::name::{self, DEFAULT_NAMESPACE};
use crate::rpc::metadata::api_error;

impl TopicAdmin {
    /// Deletes a topic; returns once this broker's view has it no more.
    ///
    /// # Errors
    /// UNKNOWN_TOPIC: there was none. METADATA_UNAVAILABLE: it may yet be deleted.
    pub async fn delete(&self, name: &str) -> Result<(), ApiError> {
        self.remove(name, None).await
    }

    /// The same if the topic of that name has this id: another one that took the name meanwhile stays.
    ///
    /// # Errors
    /// As [`TopicAdmin::delete`]; UNKNOWN_TOPIC also when the name is another topic's.
    pub async fn delete_only(&self, name: &str, id: TopicId) -> Result<(), ApiError> {
        self.remove(name, Some(id)).await
    }

    async fn remove(&self, name: &str, only: Option<TopicId>) -> Result<(), ApiError> {
        if name::check(name).is_err() {
            return Err(unknown_topic(name));
        }
        let id = self.commit_delete(name, only).await?;
        tracing::info!(topic = name, %id, "topic deleted");
        let gone = self
            .topology
            .wait_for(CATCH_UP, |view| view.topic(name).is_none_or(|t| t.id != id).then_some(()));
        if gone.await.is_none() {
            tracing::warn!(topic = name, "a deleted topic is still in this broker's view");
        }
        Ok(())
    }

    async fn commit_delete(&self, name: &str, only: Option<TopicId>) -> Result<TopicId, ApiError> {
        let key = keys::topic(DEFAULT_NAMESPACE, name);
        // What an attempt of unknown outcome would have deleted.
        let mut tried: Option<TopicId> = None;
        for _ in 0..ATTEMPTS {
            let found = self.store.get(&key).await.map_err(|e| api_error(&e))?;
            // What an attempt tried to delete and is not there now was deleted, by it or by another who was asked the
            // same; a topic that stands under the name now is a newer one.
            let Some(found) = found else { return tried.ok_or_else(|| unknown_topic(name)) };
            let (topic, version) = (decode(&key, &found)?, found.version);
            if let Some(deleted) = tried.filter(|id| *id != topic.id) {
                return Ok(deleted);
            }
            if only.is_some_and(|id| id != topic.id) {
                return Err(unknown_topic(name));
            }
            let left = record::DeletedTopic {
                namespace: DEFAULT_NAMESPACE.to_owned(),
                name: name.to_owned(),
                partitions: topic.partitions,
                deleted_ms: self.clock.now_ms(),
            };
            let remains = keys::deleted_topic(topic.id);
            let txn = Txn::new()
                .guard(Guard::Version(key.clone(), version))
                .guard(Guard::Absent(remains.clone()))
                .delete(&key)
                .put(remains, left.encode());
            match self.store.txn(txn).await {
                Ok(TxnOutcome::Committed(_)) => return Ok(topic.id),
                // Changed meanwhile: read again.
                Ok(TxnOutcome::GuardFailed) => {}
                Err(Error::Unknown(_)) => tried = Some(topic.id),
                Err(error) => return Err(api_error(&error)),
            }
        }
        Err(ApiError::new(
            Reason::MetadataUnavailable,
            format!(
                "whether topic {name} was deleted is not known: look whether it exists, then try again"
            ),
        ))
    }
}

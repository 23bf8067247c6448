//! Names of groups, members and partitions between Kafka's words and the groups' own.

use std::sync::Arc;

use super::call::Call;
use super::codec::messages::StrBytes;
use super::error::{Code, Fault};
use crate::groups::classic::{Identity, MemberName};
use crate::groups::types::TopicPartition;

/// A name that is kept.
pub(super) fn name(text: &StrBytes) -> Arc<str> {
    Arc::from(text.as_str())
}

/// A group's name as members and administrators say it.
///
/// # Errors
/// INVALID_GROUP_ID: without a name there is none.
pub(super) fn named(text: &StrBytes) -> Result<Arc<str>, Fault> {
    match text.is_empty() {
        true => Err(Fault::new(Code::INVALID_GROUP_ID, "a group has a name: give one")),
        false => Ok(name(text)),
    }
}

/// A member as it names itself.
pub(super) fn member(id: &StrBytes, instance: Option<&StrBytes>) -> MemberName {
    MemberName { member: name(id), instance: instance.map(name) }
}

/// A member of a generation as it names itself.
pub(super) fn identity(id: &StrBytes, instance: Option<&StrBytes>, generation: i32) -> Identity {
    Identity { name: member(id, instance), generation }
}

impl Call {
    /// A partition that exists; one that is not known here is looked up, since this broker's view may lag.
    pub(super) async fn existing(
        &self,
        topic: &Arc<str>,
        index: i32,
    ) -> Result<TopicPartition, Fault> {
        let known = self.topic(topic).await?;
        match u32::try_from(index) {
            Ok(partition) if partition < known.partitions => {
                Ok(TopicPartition { topic: Arc::clone(topic), partition })
            }
            _ => Err(Fault::new(Code::UNKNOWN_TOPIC_OR_PARTITION, "no such partition")),
        }
    }
}

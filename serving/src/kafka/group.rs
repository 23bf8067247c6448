//! Names of groups, members and partitions between Kafka's words and the groups' own.

use std::collections::HashMap;
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

/// The topics that one request names: each is looked up once, however many partitions of it are named.
pub(super) struct Topics<'a> {
    call: &'a Call,
    /// How many partitions each has.
    seen: HashMap<Arc<str>, Result<u32, Code>>,
}

/// One of them.
pub(super) struct Named {
    name: Arc<str>,
    partitions: Result<u32, Code>,
}

impl<'a> Topics<'a> {
    pub(super) fn new(call: &'a Call) -> Self {
        Self { call, seen: HashMap::new() }
    }

    /// A topic; one that is not known here is looked up, since this broker's view may lag.
    pub(super) async fn find(&mut self, topic: &StrBytes) -> Named {
        let name = name(topic);
        if let Some(&partitions) = self.seen.get(&name) {
            return Named { name, partitions };
        }
        let partitions = self.partitions(&name).await;
        self.seen.insert(Arc::clone(&name), partitions);
        Named { name, partitions }
    }

    async fn partitions(&self, name: &str) -> Result<u32, Code> {
        let found = self.call.topic(name).await;
        found.map(|topic| topic.partitions).map_err(|fault| fault.of_commit().code)
    }
}

impl Named {
    /// A partition of it, if it exists.
    pub(super) fn partition(&self, index: i32) -> Result<TopicPartition, Code> {
        let known = self.partitions?;
        match u32::try_from(index) {
            Ok(partition) if partition < known => {
                Ok(TopicPartition { topic: Arc::clone(&self.name), partition })
            }
            _ => Err(Code::UNKNOWN_TOPIC_OR_PARTITION),
        }
    }
}

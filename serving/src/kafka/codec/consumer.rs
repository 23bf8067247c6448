//! What consumers of a group say to each other, in the words that Kafka's tools read: which topics they want, and which
//! partitions they are assigned.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use kafka_wire::consumer_protocol_assignment::TopicPartition;
use kafka_wire::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, encode_consumer_protocol_assignment,
    encode_consumer_protocol_subscription,
};
use kafka_wire_core::{ApiVersion, EncodeError};

use crate::groups::types::Assignment;

/// Every tool reads the first version, and there is no more to say.
const VERSION: ApiVersion = ApiVersion::new(0);

/// The topics that a member wants.
pub(in crate::kafka) fn subscription(topics: &[Arc<str>]) -> Bytes {
    let mut said = ConsumerProtocolSubscription::default();
    said.topics = topics.iter().map(|topic| (&**topic).into()).collect();
    (said.user_data, said.rack_id) = (None, None);
    bytes(|buffer| encode_consumer_protocol_subscription(buffer, &said, VERSION))
}

/// The partitions that a member reads.
pub(in crate::kafka) fn assignment(assigned: &Assignment) -> Bytes {
    let mut said = ConsumerProtocolAssignment::default();
    let topics = assigned.iter().map(|(topic, partitions)| {
        let mut assigned = TopicPartition::default();
        assigned.topic = (&**topic).into();
        let partitions = partitions.iter().filter_map(|partition| i32::try_from(*partition).ok());
        assigned.partitions = partitions.collect();
        assigned
    });
    (said.assigned_partitions, said.user_data) = (topics.collect(), None);
    bytes(|buffer| encode_consumer_protocol_assignment(buffer, &said, VERSION))
}

/// Nothing rather than half of it: this is for people to look at.
fn bytes(encode: impl FnOnce(&mut BytesMut) -> Result<usize, EncodeError>) -> Bytes {
    let mut buffer = BytesMut::new();
    match encode(&mut buffer) {
        Ok(_) => buffer.freeze(),
        Err(error) => {
            tracing::error!(%error, "what a member of a group reads cannot be said to Kafka's tools");
            Bytes::new()
        }
    }
}

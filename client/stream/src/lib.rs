//! The Rust client of Geminga.
//!
//! * [`Client`]: where the cluster is. Any broker will do: it names the others, and forwards what it does not own.
//! * [`Admin`]: topics, groups, the cluster.
//! * [`Producer`]: batches records, sends them to their partitions, repeats what failed in order. At least once: a
//!   record whose outcome is unknown is sent again, so after faults it may be there twice.
//! * [`BatchWriter`]: record batches that are ready, as they are, once each.
//! * [`Consumer`]: one member of a consumer group. [`Reader`]: partitions that you choose, without a group.
//!
//! All of them go on with another broker when theirs is gone. Nothing here blocks a thread, and everything that is spawned stops with
//! [`Client::close`].
//!
//! ```no_run
//! # async fn example() -> Result<(), geminga_client::Error> {
//! use geminga_client::{Client, Message, ProducerConfig};
//!
//! let client = Client::connect("127.0.0.1:7070")?;
//! let producer = client.producer(ProducerConfig::default());
//! let delivery = producer.send("greetings", Message::keyed("world", "hello")).await?;
//! let ack = delivery.await?;
//! println!("partition {} offset {:?}", ack.partition, ack.offset);
//! # Ok(())
//! # }
//! ```

mod admin;
mod backoff;
mod client;
mod consumer;
mod directory;
mod error;
mod producer;
mod writer;

pub use admin::{Admin, NewTopic, OffsetAt, TopicChanges};
pub use client::{Client, ClientConfig};
pub use consumer::{
    Consumer, ConsumerConfig, Event, OffsetReset, Reader, ReaderConfig, Records, TopicPartition,
};
pub use error::Error;
pub use geminga_proto::reason::{ApiError, Reason};
pub use geminga_proto::v1;
pub use geminga_records::{Compression, Record};
pub use producer::{
    Ack, Acks, Delivery, HashPartitioner, Message, Partitioner, Producer, ProducerConfig,
    RoundRobinPartitioner,
};
pub use writer::{BatchWriter, ReadyBatch, Written};

#[cfg(test)]
mod fake;

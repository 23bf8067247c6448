//! Every hard limit that nobody should have to tune. A request above one of them is refused with a reason that
//! names the limit; nothing is allocated before the check.

/// Most partitions of one topic.
pub const MAX_PARTITIONS_PER_TOPIC: u32 = 10_000;
/// Most topics of one cluster.
pub const MAX_TOPICS: usize = 100_000;
/// Most partitions of all topics of one cluster: every broker holds the owner of each in memory.
pub const MAX_PARTITIONS: u64 = 1_000_000;
/// Most elements of one produce request.
pub const MAX_PRODUCE_ELEMENTS: usize = 20_000;
/// Most members of one consumer group.
pub const MAX_GROUP_MEMBERS: usize = 1_000;
/// Most groups that one coordinator shard holds.
pub const MAX_GROUPS_PER_SHARD: usize = 20_000;
/// Most connections of one listener.
pub const MAX_CONNECTIONS: usize = 10_000;
/// Most bytes in one record batch, whatever a topic's `max.message.bytes` says.
pub const MAX_BATCH_BYTES: usize = 16 * 1024 * 1024;
/// `max.message.bytes` of a topic that does not set it (Kafka's default: 1 MiB plus the batch header).
pub const DEFAULT_MAX_MESSAGE_BYTES: usize = 1_048_588;
/// Most records of one batch.
pub const MAX_BATCH_RECORDS: u32 = 1_000_000;
/// Most idempotent producers that a partition remembers; those that were silent for longest make room.
pub const MAX_PRODUCERS_PER_PARTITION: usize = 10_000;
/// Batches that a partition remembers of each idempotent producer, so that they are recognised when they come again. Keep
/// no more of a partition on their way.
pub const PRODUCER_BATCHES: usize = 5;
/// Most payload bytes of one ledger entry: a batch of the largest size and room to gather small ones.
pub const MAX_ENTRY_BYTES: usize = MAX_BATCH_BYTES + 1024;
/// A partition stops gathering batches into an entry at this size.
pub const ENTRY_GATHER_BYTES: usize = 256 * 1024;
/// Largest gRPC message between our own processes.
pub const MAX_INTERNAL_MESSAGE_BYTES: usize = 2 * MAX_BATCH_BYTES + 1024 * 1024;
/// Largest gRPC message from a client.
pub const MAX_CLIENT_MESSAGE_BYTES: usize = MAX_BATCH_BYTES + 1024 * 1024;
/// HTTP/2: largest frame, on both ends (larger frames measured 30-40 % faster for small entries).
pub const H2_MAX_FRAME_BYTES: u32 = 1024 * 1024;
/// HTTP/2: window of one stream.
pub const H2_STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// HTTP/2: window of one connection.
pub const H2_CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Most fragments of one ledger; the writer rolls before (protocol 1.2).
pub const MAX_FRAGMENTS: usize = 64;
/// Largest ensemble.
pub const MAX_WRITE_QUORUM: u8 = 7;
/// Most bytes in one group commit of a bookie's log (protocol 5.3).
pub const MAX_FLUSH_BYTES: usize = 4 * 1024 * 1024;
/// Most bytes in one frame of a bookie's log.
pub const MAX_FRAME_BYTES: usize = MAX_INTERNAL_MESSAGE_BYTES;
/// Longest topic name (Kafka's limit).
pub const MAX_TOPIC_NAME_BYTES: usize = 249;
/// Longest group name.
pub const MAX_GROUP_NAME_BYTES: usize = 255;
/// Longest client id that has quotas of its own, and most bytes by which ids are told apart.
pub const MAX_CLIENT_ID_BYTES: usize = 255;
/// Longest commit metadata (Kafka's `offset.metadata.max.bytes`).
pub const MAX_COMMIT_METADATA_BYTES: usize = 4096;
/// Largest value of a metadata key, far below etcd's request limit of 1.5 MiB.
pub const MAX_METADATA_VALUE_BYTES: usize = 512 * 1024;
/// Operations of one metadata transaction; etcd allows 128.
pub const MAX_METADATA_TXN_OPS: usize = 100;
/// Partitions described by one `assign` key.
pub const ASSIGN_CHUNK: u32 = 64;

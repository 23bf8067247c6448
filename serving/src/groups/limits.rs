//! What one group and one shard may hold. Above a limit a request is refused and nothing changes.

/// Shortest session timeout, milliseconds: three heartbeats and a failover must fit in it.
pub const MIN_SESSION_TIMEOUT_MS: u32 = 1_000;
/// Longest session timeout, milliseconds (Kafka's `group.max.session.timeout.ms`).
pub const MAX_SESSION_TIMEOUT_MS: u32 = 30 * 60 * 1000;
/// Session timeout of a member that names none, milliseconds.
pub const DEFAULT_SESSION_TIMEOUT_MS: u32 = 10_000;
/// Longest rebalance timeout, milliseconds.
pub const MAX_REBALANCE_TIMEOUT_MS: u32 = 30 * 60 * 1000;
/// Rebalance timeout of a member that names none, milliseconds.
pub const DEFAULT_REBALANCE_TIMEOUT_MS: u32 = 30_000;
/// Most topics that one member subscribes to.
pub const MAX_MEMBER_TOPICS: usize = 1_000;
/// Most bytes of member ids, client ids and topic names of all members of one group, with 16 for each name.
pub const MAX_GROUP_NAME_TABLE_BYTES: usize = 4 * 1024 * 1024;
/// Most partitions that one group reads.
pub const MAX_GROUP_PARTITIONS: usize = 200_000;
/// Longest member id and client id.
pub const MAX_MEMBER_NAME_BYTES: usize = 255;
/// Shortest session timeout of a classic member, milliseconds (Kafka's `group.min.session.timeout.ms`).
pub const MIN_CLASSIC_SESSION_TIMEOUT_MS: u32 = 6_000;
/// Longest member id, client id, host, instance id, protocol type and protocol name of a classic member.
pub const MAX_CLASSIC_NAME_BYTES: usize = 1_024;
/// Most protocols of a classic member.
pub const MAX_CLASSIC_PROTOCOLS: usize = 32;
/// Most bytes of names and metadata of all members of one classic group.
pub const MAX_CLASSIC_METADATA_BYTES: usize = 5 * 1024 * 1024;
/// Most bytes of assignments of one classic group.
pub const MAX_CLASSIC_ASSIGNMENT_BYTES: usize = 5 * 1024 * 1024;
/// Most offsets in one commit.
pub const MAX_COMMIT_OFFSETS: usize = 10_000;
/// Most bytes of names and metadata in one commit.
pub const MAX_COMMIT_BYTES: usize = 1024 * 1024;
/// Most offsets that one group holds.
pub const MAX_GROUP_OFFSETS: usize = 200_000;
/// Most bytes of names and metadata of the offsets that one group holds; it is described in one message.
pub const MAX_GROUP_OFFSET_BYTES: usize = 16 * 1024 * 1024;
/// Most offsets that one shard holds.
pub const MAX_SHARD_OFFSETS: usize = 2_000_000;
/// Largest command that a group emits: the generation of a group at its limits, in which every topic name stands
/// twice (subscribed, assigned) beside its partitions; or of a classic group with all that its members say and are
/// assigned.
pub const MAX_COMMAND_BYTES: usize = 12 * 1024 * 1024;

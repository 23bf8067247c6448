//! Topic configs under Kafka's names: one table that says of each whether it takes effect, is accepted without effect, or
//! is refused (DESIGN 8). `docs/topic-configs.md` is generated from it by a test.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use geminga_proto::caps;
use geminga_proto::reason::{ApiError, Reason};

/// What a config does here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Does what Kafka's documentation says.
    Effective,
    /// Accepted and shown, without any effect, which is harmless.
    Inert,
    /// Refused, but for the values that ask for what is done anyway.
    Refused,
}

/// The values that a config takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Type {
    /// A whole number within bounds.
    Integer {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// A number with a fraction within bounds.
    Fraction {
        /// Smallest.
        min: f64,
        /// Largest.
        max: f64,
    },
    /// `true` or `false`.
    Boolean,
    /// One of these texts.
    Choice(&'static [&'static str]),
    /// Any short text.
    Text,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Kafka's name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Type,
    /// What holds when it is not set.
    pub default: &'static str,
    /// What it does.
    pub effect: Effect,
    /// Of a refused config: the values that are accepted all the same.
    pub accepted: &'static [&'static str],
    /// One line for people.
    pub doc: &'static str,
}

const fn row(
    name: &'static str,
    kind: Type,
    default: &'static str,
    effect: Effect,
    doc: &'static str,
) -> Config {
    Config { name, kind, default, effect, accepted: &[], doc }
}

const fn refused(
    name: &'static str,
    kind: Type,
    default: &'static str,
    accepted: &'static [&'static str],
    doc: &'static str,
) -> Config {
    Config { name, kind, default, effect: Effect::Refused, accepted, doc }
}

const fn at_least(min: i64) -> Type {
    Type::Integer { min, max: i64::MAX }
}

/// Longest value of a config; Kafka's longest are lists of replicas.
const MAX_VALUE_BYTES: usize = 1024;
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
const TIMESTAMP_AFTER: &str = "message.timestamp.after.max.ms";
const TIMESTAMP_BEFORE: &str = "message.timestamp.before.max.ms";
const TIMESTAMP_TYPE: &str = "message.timestamp.type";
const LOG_APPEND_TIME: &str = "LogAppendTime";
const CLEANUP_POLICY: &str = "cleanup.policy";
const FOLLOWER_THROTTLED: &str = "follower.replication.throttled.replicas";
const LEADER_THROTTLED: &str = "leader.replication.throttled.replicas";
const REMOTE_STORAGE: &str = "remote.storage.enable";
const RETENTION_BYTES: &str = "retention.bytes";
const RETENTION_MS: &str = "retention.ms";
const SEGMENT_BYTES: &str = "segment.bytes";
const SEGMENT_MS: &str = "segment.ms";

use Effect::{Effective, Inert};

/// Every config that is known, by name.
pub const TABLE: &[Config] = &[
    refused(
        CLEANUP_POLICY,
        Type::Choice(&["delete", "compact", "compact,delete", "delete,compact"]),
        "delete",
        &["delete", "compact"],
        "`delete`: as `retention.ms` and `retention.bytes` say. `compact` is accepted as: keeps everything, never deletes, since there is no compaction yet. It refuses a batch in which a record has no key, as Kafka does, also one that is compressed.",
    ),
    refused(
        "compression.type",
        Type::Choice(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
        "producer",
        &["producer"],
        "Batches are stored exactly as the producer compressed them.",
    ),
    row("delete.retention.ms", at_least(0), "86400000", Inert, "There is no compaction yet."),
    row(
        "file.delete.delay.ms",
        at_least(0),
        "60000",
        Inert,
        "Bookies decide when a log file goes.",
    ),
    row(
        "flush.messages",
        at_least(1),
        "9223372036854775807",
        Inert,
        "Every acknowledged record is on stable storage already.",
    ),
    row(
        "flush.ms",
        at_least(0),
        "9223372036854775807",
        Inert,
        "Every acknowledged record is on stable storage already.",
    ),
    row(FOLLOWER_THROTTLED, Type::Text, "", Inert, "There are no follower replicas."),
    row(
        "index.interval.bytes",
        at_least(0),
        "4096",
        Inert,
        "Offsets are found by entry, not by a sparse index.",
    ),
    row(LEADER_THROTTLED, Type::Text, "", Inert, "There are no follower replicas."),
    row(
        "local.retention.bytes",
        at_least(-2),
        "-2",
        Effective,
        "Bookies drop their copies of an uploaded segment at once when newer closed ones hold this many bytes; -1 and -2: not by bytes.",
    ),
    row(
        "local.retention.ms",
        at_least(-2),
        "-2",
        Effective,
        "Bookies drop their copies of a segment this long after its upload, in milliseconds; -2: as `--tier-local-retention` says, -1: never. But for -1: at once where a disk that holds one is 85 % full.",
    ),
    row(
        "max.compaction.lag.ms",
        at_least(1),
        "9223372036854775807",
        Inert,
        "There is no compaction yet.",
    ),
    row(
        MAX_MESSAGE_BYTES,
        Type::Integer { min: 1, max: caps::MAX_BATCH_BYTES as i64 },
        "1048588",
        Effective,
        "Largest record batch, as compressed by the producer, in bytes.",
    ),
    row(
        "message.downconversion.enable",
        Type::Boolean,
        "true",
        Inert,
        "Only batches of format v2 are served.",
    ),
    row(
        TIMESTAMP_AFTER,
        at_least(0),
        "3600000",
        Effective,
        "A batch with a record that is dated further ahead of the broker's clock is refused, in milliseconds; not with `LogAppendTime`. Of a compressed batch that is what its header says, unless this or `message.timestamp.before.max.ms` is set to another value than its default: then each record is looked at.",
    ),
    row(
        TIMESTAMP_BEFORE,
        at_least(0),
        "9223372036854775807",
        Effective,
        "A batch with a record that is dated further back than this is refused, in milliseconds; not with `LogAppendTime`. Of a compressed batch as with `message.timestamp.after.max.ms`.",
    ),
    row(
        TIMESTAMP_TYPE,
        Type::Choice(&["CreateTime", LOG_APPEND_TIME]),
        "CreateTime",
        Effective,
        "`CreateTime`: records keep the producer's timestamps. `LogAppendTime`: a batch is dated by the partition's owner when it gets its offset.",
    ),
    row(
        "min.cleanable.dirty.ratio",
        Type::Fraction { min: 0.0, max: 1.0 },
        "0.5",
        Inert,
        "There is no compaction yet.",
    ),
    row("min.compaction.lag.ms", at_least(0), "0", Inert, "There is no compaction yet."),
    row(
        "min.insync.replicas",
        at_least(1),
        "1",
        Inert,
        "The topic's ack quorum says how many copies are durable before an acknowledgement.",
    ),
    row(
        "preallocate",
        Type::Boolean,
        "false",
        Inert,
        "Bookies prepare their log files by themselves.",
    ),
    row(
        "remote.copy.lag.bytes",
        at_least(0),
        "0",
        Effective,
        "A closed segment is uploaded once newer closed ones hold this many bytes.",
    ),
    row(
        "remote.copy.lag.ms",
        at_least(0),
        "0",
        Effective,
        "A closed segment is uploaded no sooner than this long after it was begun, in milliseconds.",
    ),
    row(
        "remote.log.copy.disable",
        Type::Boolean,
        "false",
        Effective,
        "No more segments are uploaded, and those that were not stay at bookies as long as `retention.*` says. Those that were stay in the object store, and bookies drop their copies of them as `local.retention.*` says, where Kafka's brokers keep them as long as `retention.*` says: for that set `local.retention.ms=-1`.",
    ),
    refused(
        "remote.log.delete.on.disable",
        Type::Boolean,
        "false",
        &["false"],
        "What was uploaded is deleted by retention or with the topic only: bookies may have no copy of it any more.",
    ),
    row(
        REMOTE_STORAGE,
        Type::Boolean,
        "false",
        Effective,
        "Closed segments are uploaded to the object store that bookies were given by `--object-store`, and read from there once bookies have dropped their copies; see [tiering](tiering.md).",
    ),
    row(
        RETENTION_BYTES,
        at_least(-1),
        "-1",
        Effective,
        "The oldest closed segments of a partition go while what is left is this many bytes or more; -1: unlimited.",
    ),
    row(
        RETENTION_MS,
        at_least(-1),
        "-1",
        Effective,
        "A segment goes when its youngest record is older, in milliseconds; -1: never. The newest is ended first, at a moment when nothing is written to it. Kafka's default is a week; here nothing is deleted that nobody asked to delete.",
    ),
    row(
        SEGMENT_BYTES,
        Type::Integer { min: 65_536, max: i64::MAX },
        "1073741824",
        Effective,
        "A partition starts a new ledger when the newest holds this many bytes.",
    ),
    row("segment.index.bytes", at_least(4), "10485760", Inert, "There are no index files."),
    row("segment.jitter.ms", at_least(0), "0", Inert, "Partitions do not roll together."),
    row(
        SEGMENT_MS,
        Type::Integer { min: 100, max: i64::MAX },
        "604800000",
        Effective,
        "A partition starts a new ledger when the newest is this old, in milliseconds.",
    ),
    refused(
        "unclean.leader.election.enable",
        Type::Boolean,
        "false",
        &["false"],
        "Never: an acknowledged record is not given up for availability.",
    ),
];

impl Config {
    /// Whether its value is a list of words with commas between.
    pub fn is_list(&self) -> bool {
        matches!(self.name, CLEANUP_POLICY | FOLLOWER_THROTTLED | LEADER_THROTTLED)
    }
}

impl Type {
    /// Why `value` does not fit, if it does not.
    fn check(self, value: &str) -> Result<(), String> {
        // A number may have any length: zeros in front change nothing.
        if value.len() > MAX_VALUE_BYTES {
            return Err(format!("must be {self}, in at most {MAX_VALUE_BYTES} bytes"));
        }
        let fits = match self {
            Self::Integer { min, max } => {
                value.parse::<i64>().is_ok_and(|n| (min..=max).contains(&n))
            }
            Self::Fraction { min, max } => {
                value.parse::<f64>().is_ok_and(|n| (min..=max).contains(&n))
            }
            Self::Boolean => matches!(value, "true" | "false"),
            Self::Choice(choices) => choices.contains(&value),
            Self::Text => !value.contains(char::is_control),
        };
        if fits { Ok(()) } else { Err(format!("must be {self}")) }
    }
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer { min, max: i64::MAX } => write!(f, "a whole number from {min}"),
            Self::Integer { min, max } => write!(f, "a whole number from {min} to {max}"),
            Self::Fraction { min, max } => write!(f, "a number from {min} to {max}"),
            Self::Boolean => f.write_str("true or false"),
            Self::Choice(choices) => write!(f, "one of {}", choices.join(" ")),
            Self::Text => write!(f, "a text of at most {MAX_VALUE_BYTES} bytes"),
        }
    }
}

/// The row of a config.
pub fn lookup(name: &str) -> Option<&'static Config> {
    TABLE.iter().find(|c| c.name == name)
}

/// Checks one setting.
///
/// # Errors
/// [`Reason::InvalidConfig`] with one line that names it.
pub fn check(name: &str, value: &str) -> Result<(), ApiError> {
    let invalid = |why: String| Err(ApiError::new(Reason::InvalidConfig, why));
    let Some(config) = lookup(name) else {
        let shown: String = name.chars().take(64).collect();
        return invalid(format!("topic config {shown:?} is unknown: see docs/topic-configs.md"));
    };
    if let Err(why) = config.kind.check(value) {
        let shown: String = value.chars().take(64).collect();
        return invalid(format!("topic config {name} {why}, not {shown:?}"));
    }
    if config.effect == Effect::Refused && !config.accepted.contains(&value) {
        return invalid(format!(
            "topic config {name}={value} is not supported: use {} or leave it out",
            config.accepted.join(" or ")
        ));
    }
    Ok(())
}

/// Checks all settings of a topic.
///
/// # Errors
/// [`Reason::InvalidConfig`] for the first bad one by name.
pub fn check_all(configs: &BTreeMap<String, String>) -> Result<(), ApiError> {
    configs.iter().try_for_each(|(name, value)| check(name, value))
}

/// Whether a topic with these settings asks for its closed segments to be uploaded.
pub(super) fn is_tiered(configs: &BTreeMap<String, String>) -> bool {
    configs.get(REMOTE_STORAGE).is_some_and(|value| value == "true")
}

/// Whether a topic with these configs gives records up on command: one that is only to be compacted does not, as in Kafka.
pub fn lets_records_be_deleted(configs: &BTreeMap<String, String>) -> bool {
    let policy = configs.get(CLEANUP_POLICY).map_or("delete", String::as_str);
    policy.split(',').any(|word| word.trim() == "delete")
}

/// The settings that take effect, as numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Largest record batch, in bytes.
    pub max_message_bytes: usize,
    /// Payload bytes of a ledger at which the partition rolls.
    pub segment_bytes: u64,
    /// Age of a ledger at which the partition rolls, in milliseconds.
    pub segment_ms: u64,
    /// Age at which records may go, in milliseconds; `None` = never.
    pub retention_ms: Option<u64>,
    /// Bytes of a partition that are kept; `None` = all.
    pub retention_bytes: Option<u64>,
    /// How far a record may be dated ahead of the broker's clock, in milliseconds.
    pub timestamp_after_max_ms: u64,
    /// How far it may be dated back, in milliseconds.
    pub timestamp_before_max_ms: u64,
    /// Whether one of these two is another than its default: then the times of records are to be seen, whatever it costs.
    pub bounds_times: bool,
    /// Whether the partition's owner dates batches; how far records are dated off is then of no interest.
    pub log_append_time: bool,
    /// Whether every record must have a key: what is to be compacted is told apart by it.
    pub wants_keys: bool,
}

impl Settings {
    /// From a topic's stored configs. A value that does not fit (written by a newer version) counts as not set.
    pub fn from_configs(configs: &BTreeMap<String, String>) -> Self {
        let whole = |name: &str| {
            let config = lookup(name).expect("effective configs are in the table");
            let said = configs.get(name).filter(|v| config.kind.check(v).is_ok());
            let text = said.map_or(config.default, String::as_str);
            text.parse::<i64>().expect("effective configs are whole numbers")
        };
        let number = |name: &str| whole(name).unsigned_abs();
        let differs =
            |name: &str| lookup(name).is_some_and(|c| c.default != whole(name).to_string());
        // Only `delete` deletes; -1 is no limit.
        let deletes = configs.get(CLEANUP_POLICY).is_none_or(|policy| policy == "delete");
        let kept = |name: &str| u64::try_from(whole(name)).ok().filter(|_| deletes);
        Self {
            max_message_bytes: usize::try_from(number(MAX_MESSAGE_BYTES)).unwrap_or(usize::MAX),
            segment_bytes: number(SEGMENT_BYTES),
            segment_ms: number(SEGMENT_MS),
            retention_ms: kept(RETENTION_MS),
            retention_bytes: kept(RETENTION_BYTES),
            timestamp_after_max_ms: number(TIMESTAMP_AFTER),
            timestamp_before_max_ms: number(TIMESTAMP_BEFORE),
            bounds_times: differs(TIMESTAMP_AFTER) || differs(TIMESTAMP_BEFORE),
            wants_keys: configs
                .get(CLEANUP_POLICY)
                .is_some_and(|policy| policy.contains("compact")),
            log_append_time: configs.get(TIMESTAMP_TYPE).is_some_and(|is| is == LOG_APPEND_TIME),
        }
    }
}

/// `docs/topic-configs.md`.
pub fn document() -> String {
    let mut out = String::from(
        "# Topic configs\n\n\
         Generated from `serving/src/topics/config.rs` by its test; do not edit.\n\n\
         Names are Kafka's. *effective*: does what it says. *inert*: accepted and shown, without effect. *refused*:\n\
         only the values named are accepted, since they ask for what is done anyway. Any other name is refused.\n\n\
         | config | values | default | state | notes |\n|---|---|---|---|---|\n",
    );
    for config in TABLE {
        let state = match config.effect {
            Effect::Effective => "effective".to_owned(),
            Effect::Inert => "inert".to_owned(),
            Effect::Refused => format!("refused, but for `{}`", config.accepted.join("`, `")),
        };
        let default = if config.default.is_empty() {
            "none".to_owned()
        } else {
            format!("`{}`", config.default)
        };
        writeln!(
            out,
            "| `{}` | {} | {default} | {state} | {} |",
            config.name, config.kind, config.doc
        )
        .expect("writing to a string never fails");
    }
    out
}

#[cfg(test)]
mod tests;

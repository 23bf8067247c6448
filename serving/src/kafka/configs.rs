//! Configs as Kafka's admin APIs say them: those of topics, from the table of [`crate::topics::config`], and a few of the broker's that
//! tools look for and that have an answer here.

use std::collections::BTreeMap;

use geminga_metastore::record::KafkaListener;

use super::call::Call;
use super::codec::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsSynonym,
};
use crate::topics::config::{self, Type};

/// Kinds of things that have configs.
pub(super) mod resource {
    pub(crate) const TOPIC: i8 = 2;
    pub(crate) const BROKER: i8 = 4;
}

/// Who set a value.
pub(super) mod source {
    pub(crate) const TOPIC: i8 = 1;
    pub(crate) const BROKER: i8 = 4;
    pub(crate) const DEFAULT: i8 = 5;
}

/// Kafka's numbers for types.
mod kind {
    pub(super) const BOOLEAN: i8 = 1;
    pub(super) const STRING: i8 = 2;
    pub(super) const INT: i8 = 3;
    pub(super) const LONG: i8 = 5;
    pub(super) const DOUBLE: i8 = 6;
    pub(super) const LIST: i8 = 7;
}

/// One config of a topic or of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// What holds when nobody sets it.
    default: String,
    pub(super) source: i8,
    kind: i8,
    pub(super) read_only: bool,
    doc: &'static str,
}

impl Entry {
    /// As DescribeConfigs says it.
    pub(super) fn described(&self, synonyms: bool, doc: bool) -> DescribeConfigsResourceResult {
        let mut result = DescribeConfigsResourceResult::default();
        result.name = self.name.into();
        result.value = Some(self.value.as_str().into());
        (result.read_only, result.config_source) = (self.read_only, self.source);
        result.config_type = self.kind;
        result.documentation = doc.then(|| self.doc.into());
        if synonyms {
            let own = (self.source != source::DEFAULT).then_some((&self.value, self.source));
            let all = own.into_iter().chain([(&self.default, source::DEFAULT)]);
            result.synonyms = all.map(|(value, source)| self.synonym(value, source)).collect();
        }
        result
    }

    fn synonym(&self, value: &str, source: i8) -> DescribeConfigsSynonym {
        let mut synonym = DescribeConfigsSynonym::default();
        (synonym.name, synonym.value) = (self.name.into(), Some(value.into()));
        synonym.source = source;
        synonym
    }
}

/// All configs of a topic, by name.
pub(super) fn of_topic(set: &BTreeMap<String, String>) -> impl Iterator<Item = Entry> {
    config::TABLE.iter().map(|config| {
        let own = set.get(config.name);
        let kind = match config.kind {
            _ if config.is_list() => kind::LIST,
            Type::Integer { max, .. } if max <= i64::from(i32::MAX) => kind::INT,
            Type::Integer { .. } => kind::LONG,
            Type::Fraction { .. } => kind::DOUBLE,
            Type::Boolean => kind::BOOLEAN,
            Type::Choice(_) | Type::Text => kind::STRING,
        };
        Entry {
            name: config.name,
            value: own.map_or(config.default, String::as_str).to_owned(),
            default: config.default.to_owned(),
            source: if own.is_some() { source::TOPIC } else { source::DEFAULT },
            kind,
            read_only: false,
            doc: config.doc,
        }
    })
}

/// What this broker can say of itself under Kafka's names; set when it is started.
pub(super) fn of_broker(call: &Call) -> Vec<Entry> {
    let (ctx, now, default) = (&call.kafka.ctx, &*call.kafka.config, super::Config::default());
    let me = ctx.router.me();
    let entry = |name, kind, value: String, default: String, doc| {
        let source = if value == default { source::DEFAULT } else { source::BROKER };
        Entry { name, value, default, source, kind, read_only: true, doc }
    };
    let fixed = |name, kind, value: &str, doc| entry(name, kind, value.into(), value.into(), doc);
    let of_topics = |name: &str| config::lookup(name).map_or("", |config| config.default);
    let quorum = ctx.admin.default_quorum;
    let zone = ctx.router.topology().broker(me).map(|broker| broker.zone.clone());
    let listeners = ctx.router.topology().broker(me).map_or(String::new(), |broker| {
        let told = |at: &KafkaListener| format!("{}://{}:{}", at.name, at.host, at.port);
        broker.kafka.iter().map(told).collect::<Vec<_>>().join(",")
    });
    vec![
        entry(
            "advertised.listeners",
            kind::STRING,
            listeners,
            String::new(),
            "What clients are told to connect to, by listener.",
        ),
        entry(
            "auto.create.topics.enable",
            kind::BOOLEAN,
            now.auto_create_topics.to_string(),
            default.auto_create_topics.to_string(),
            "Whether asking for a topic that does not exist creates it.",
        ),
        entry("broker.id", kind::INT, me.0.to_string(), "-1".into(), "This broker's number."),
        entry(
            "broker.rack",
            kind::STRING,
            zone.unwrap_or_default(),
            String::new(),
            "The zone that this broker is in.",
        ),
        fixed(
            "default.replication.factor",
            kind::INT,
            &quorum.write.to_string(),
            "Copies of each entry of topics that do not say, on bookies.",
        ),
        fixed("delete.topic.enable", kind::BOOLEAN, "true", "Topics can be deleted."),
        fixed(
            "log.retention.bytes",
            kind::LONG,
            of_topics("retention.bytes"),
            "Of topics that do not say.",
        ),
        fixed(
            "log.retention.ms",
            kind::LONG,
            of_topics("retention.ms"),
            "Of topics that do not say.",
        ),
        fixed(
            "message.max.bytes",
            kind::INT,
            of_topics("max.message.bytes"),
            "Of topics that do not say.",
        ),
        fixed(
            "min.insync.replicas",
            kind::INT,
            &quorum.ack.to_string(),
            "Copies that are durable before an acknowledgement, of topics that do not say.",
        ),
        entry(
            "num.partitions",
            kind::INT,
            now.default_partitions.to_string(),
            default.default_partitions.to_string(),
            "Partitions of topics that are created without saying how many.",
        ),
    ]
}

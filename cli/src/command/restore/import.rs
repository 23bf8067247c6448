//! Makes topics of objects. What is put for a topic is put only where nothing is, or where the same is already, and its record comes
//! last: until then nobody sees it, and a run that was cut off is run again.
//!
//! * The objects' entries are keyed with the cluster they were written in, so that the topics live on under that cluster's identity:
//!   in an empty metadata store the cluster is made anew with it; in one that has a cluster it must be the same.
//! * Ids of ledgers and producers, terms of partitions and numbers of brokers begin above all that is found (M1).
//! * Configurations are not in objects. Nothing is deleted by age or size until somebody says so.

mod gone;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use geminga_metastore::cluster::{self, DEFAULT_GROUP_SHARDS};
use geminga_metastore::record::{
    Assign, Assignment, CloseKind, Cluster, Digest, Features, Fragment, LedgerMeta, LedgerState,
    LogStart, Restored, Segment, Tier, Topic,
};
use geminga_metastore::{
    Error as MetaError, Guard, Horizon, MetaStore, Txn, TxnOutcome, keys, restored,
};
use geminga_proto::caps;
use geminga_proto::ids::{
    BookieId, BrokerId, ClusterUuid, EntryId, Incarnation, LedgerId, Member, Offset,
    PartitionIndex, SealEpoch, Term, TopicId,
};
use geminga_runtime::{Random, SystemClock, SystemRandom, WallClock};
use geminga_tier::format::Header;
use geminga_tier::{Store, Surveyed};
use serde::Serialize;

use super::plan::{self, Conflict, TopicLog};
use super::survey::Survey;
use crate::args::PrintArgs;
use crate::config::{EtcdTlsArgs, MetastoreUrl};
use crate::exit::Failure;
use crate::metadata;
use crate::view::View;

/// The namespace of users' topics.
const NAMESPACE: &str = "default";
/// Keys of one transaction.
const TXN_KEYS: usize = 40;
/// What is set on a topic that comes from objects: they stay the place of its records, and nothing is deleted.
const CONFIGS: [(&str, &str); 3] =
    [("remote.storage.enable", "true"), ("retention.bytes", "-1"), ("retention.ms", "-1")];

/// What is to be imported.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Names or ids; all when empty.
    pub(super) topics: Vec<String>,
    /// Leave what is before a gap.
    pub(super) after_gaps: bool,
}

/// Imports.
pub(super) async fn run(
    objects: &Store,
    survey: &Survey,
    wanted: &Wanted,
    metastore: &MetastoreUrl,
    tls: &EtcdTlsArgs,
    print: PrintArgs,
) -> Result<(), Failure> {
    let all = plan::topics(&survey.objects);
    let chosen = choose(&all, wanted)?;
    let uuid = one_cluster(&chosen)?;
    let store = metadata::connect(metastore, tls.load(metastore)?.as_ref()).await?;
    // Also what is not imported now, or cannot be read: it may be later.
    let highest = survey.ledgers(uuid).max();
    let cluster = cluster_for(&*store, uuid, highest).await?;
    let mut told = Imported {
        cluster: uuid.to_string(),
        cluster_epoch: cluster.epoch,
        topics: Vec::new(),
        gone: Vec::new(),
        broken: survey.broken.iter().map(|broken| broken.key.clone()).collect(),
        other_objects: survey.others,
    };
    for topic in &chosen {
        told.topics.push(topic_in(&*store, topic, cluster.epoch, wanted.after_gaps).await?);
        told.gone.extend(gone::find(&*store, objects, uuid, topic.id).await?);
    }
    told.print(print)?;
    gone::refuse(&told.gone)
}

/// The segments that are taken of a partition.
fn imported<'a, 'b>(log: &'a plan::Log<'b>, after_gaps: bool) -> &'a [&'b Surveyed] {
    if after_gaps { log.unbroken() } else { &log.segments[..] }
}

/// The topics that are meant. All of what can be refused by what was read is refused here, before anything is put.
fn choose<'a, 'b>(
    all: &'a [TopicLog<'b>],
    wanted: &Wanted,
) -> Result<Vec<&'a TopicLog<'b>>, Failure> {
    let named = |topic: &&TopicLog<'_>| {
        let id = topic.id.to_string();
        wanted.topics.is_empty()
            || wanted.topics.iter().any(|name| *name == topic.name || *name == id)
    };
    let chosen: Vec<_> =
        all.iter().filter(|topic| topic.namespace == NAMESPACE).filter(named).collect();
    for name in &wanted.topics {
        if !chosen.iter().any(|topic| *name == topic.name || *name == topic.id.to_string()) {
            return Err(Failure::new(format!(
                "no object is of topic {name}: `geminga restore scan` lists what there is"
            ))
            .because("UNKNOWN_TOPIC"));
        }
    }
    if chosen.is_empty() {
        return Err(Failure::new("the object store holds no segment of any topic")
            .because("NOTHING_TO_IMPORT"));
    }
    let mut names: BTreeMap<&str, TopicId> = BTreeMap::new();
    for topic in &chosen {
        if names.insert(topic.name, topic.id).is_some() {
            return Err(Failure::new(format!(
                "several topics were called {}: say which by its id, with --topic; `geminga restore scan` lists them",
                topic.name
            ))
            .because("AMBIGUOUS_TOPIC"));
        }
        for (partition, log) in &topic.partitions {
            let place = format!("{}/{partition}", topic.name);
            if let Some(Conflict { ledger_id, objects }) = log.conflicts.first() {
                let objects: Vec<_> = objects
                    .iter()
                    .map(|(key, end)| format!("{key} ends at offset {end}"))
                    .collect();
                return Err(Failure::new(format!(
                    "ledger {ledger_id} of {place} was uploaded with different ends, in two histories: {}; remove the objects of one",
                    objects.join(", ")
                ))
                .because("CONFLICTING_UPLOADS"));
            }
            if let Some(over) = log.overlaps().first() {
                return Err(Failure::new(format!(
                    "offsets {} to {} of {place} are in two segments that are not the same: remove the objects of one history",
                    over.from, over.to
                ))
                .because("OVERLAPPING_SEGMENTS"));
            }
            if let Some(gap) = log.gaps().first().filter(|_| !wanted.after_gaps) {
                return Err(Failure::new(format!(
                    "offsets {} to {} of {place} are in no object: bring it back, or leave what is before with --after-gaps",
                    gap.from, gap.to
                ))
                .because("MISSING_SEGMENTS"));
            }
            if *partition >= caps::MAX_PARTITIONS_PER_TOPIC {
                return Err(Failure::new(format!("{place} is no partition that there can be")));
            }
        }
    }
    Ok(chosen)
}

fn one_cluster(chosen: &[&TopicLog<'_>]) -> Result<ClusterUuid, Failure> {
    let clusters: BTreeSet<_> = chosen.iter().map(|topic| topic.cluster).collect();
    let names: Vec<_> = clusters.iter().map(ClusterUuid::to_string).collect();
    match (clusters.first(), clusters.len()) {
        (Some(one), 1) => Ok(*one),
        _ => Err(Failure::new(format!(
            "the object store holds segments of several clusters: say which with --cluster: {}",
            names.join(", ")
        ))
        .because("SEVERAL_CLUSTERS")),
    }
}

/// The cluster that the topics come into: the one that there is, or a new one with the old identity. It has handed out, or its epoch is
/// above, the ids of all objects; `highest` is of the highest of them.
async fn cluster_for(
    store: &dyn MetaStore,
    uuid: ClusterUuid,
    highest: Option<LedgerId>,
) -> Result<Cluster, Failure> {
    if let Some(found) = Horizon::read(store).await? {
        return fits(found, uuid, highest);
    }
    if let Some(item) = store.range("", None, 1).await?.items.first() {
        return Err(cluster::ClusterError::NotEmpty(item.key.clone()).into());
    }
    let first = Cluster {
        uuid,
        epoch: 0,
        group_shards: DEFAULT_GROUP_SHARDS,
        next_broker: BrokerId(1),
        groups_topic: TopicId::from_random(SystemRandom.next_u128()),
        created_ms: SystemClock.now_ms(),
        restored: None,
        features: Features::NONE,
    };
    let epoch = highest.map_or(0, LedgerId::cluster_epoch);
    let raised = restored::raised(&first, SystemClock.now_ms(), epoch)?;
    // No bookie has a ledger that this could be compared with: those that there were are gone, and new ones have none.
    let audited = raised.restored.map(|restored| Restored { audited: true, ..restored });
    let made = Cluster { restored: audited, ..raised };
    let put = store.put_if(keys::CLUSTER, None, made.encode()).await;
    match (put, Horizon::read(store).await?) {
        (_, Some(found)) => fits(found, uuid, highest),
        (Err(error), None) => Err(error.into()),
        (Ok(_), None) => Err(MetaError::Unknown("making the cluster".to_owned()).into()),
    }
}

/// What this metadata handed out is its own, whatever became of it: folded, deleted, or not removed yet.
fn fits(found: Horizon, uuid: ClusterUuid, highest: Option<LedgerId>) -> Result<Cluster, Failure> {
    let cluster = &found.cluster;
    if cluster.uuid != uuid {
        return Err(Failure::new(format!(
            "the objects are of cluster {uuid} and cannot be read by cluster {}: import them into a metadata store without a cluster",
            cluster.uuid
        ))
        .because("OTHER_CLUSTER"));
    }
    if let Some(beyond) = highest.filter(|highest| found.is_beyond(*highest)) {
        let epoch = beyond.cluster_epoch();
        return Err(Failure::new(format!(
            "there is an object of ledger {beyond}, whose id this metadata, in epoch {}, never handed out, and would give again: run `geminga cluster epoch-bump --above {epoch}` first",
            cluster.epoch
        ))
        .because("EPOCH_REUSED"));
    }
    Ok(found.cluster)
}

/// Puts one topic.
async fn topic_in(
    store: &dyn MetaStore,
    topic: &TopicLog<'_>,
    epoch: u16,
    after_gaps: bool,
) -> Result<ImportedTopic, Failure> {
    let (id, name) = (topic.id, topic.name);
    let key = keys::topic(NAMESPACE, name);
    let told = told(topic);
    if let Some(found) = store.get(&key).await? {
        let stands = Topic::decode(&found.value).is_ok_and(|found| found.id == id);
        return if stands { Ok(told) } else { Err(exists(name)) };
    }
    if store.get(&keys::deleted_topic(id)).await?.is_some() {
        return Err(Failure::new(format!(
            "topic {name} ({id}) is being deleted in this cluster: its objects go with it"
        ))
        .because("TOPIC_DELETED"));
    }
    let record = record(topic);
    let mut puts = Vec::new();
    let mut terms = vec![Term(0); record.partitions as usize];
    for (partition, log) in &topic.partitions {
        let segments = imported(log, after_gaps);
        let index = PartitionIndex(*partition);
        puts.extend(of_log(id, index, segments));
        terms[*partition as usize] = term_above(segments, epoch);
    }
    for (chunk, terms) in (0..).zip(terms.chunks(caps::ASSIGN_CHUNK as usize)) {
        let nobody = |term: &Term| Assignment { broker: None, term: *term };
        let assign = Assign { partitions: terms.iter().map(nobody).collect() };
        puts.push((keys::assign(id, chunk), assign.encode()));
    }
    for batch in puts.chunks(TXN_KEYS) {
        put_absent(store, batch).await?;
    }
    // The topic exists from here on.
    match store.put_if(&key, None, record.encode()).await {
        Ok(Some(_)) => return Ok(told),
        Ok(None) | Err(MetaError::Unknown(_)) => {}
        Err(error) => return Err(error.into()),
    }
    match store.get(&key).await? {
        Some(found) if Topic::decode(&found.value).is_ok_and(|found| found.id == id) => Ok(told),
        Some(_) => Err(exists(name)),
        None => Err(MetaError::Unknown(format!("creating topic {name}")).into()),
    }
}

/// Above the terms of all segments, also of those whose objects cannot be read: terms rise by a step with each epoch, and the cluster's is
/// above those of all.
fn term_above(segments: &[&Surveyed], epoch: u16) -> Term {
    let of = |segment: &&Surveyed| {
        let Header { ledger, custom, .. } = &segment.header;
        let epochs = epoch.saturating_sub(ledger.cluster_epoch()).max(1);
        custom.term.saturating_add(restored::TERM_STEP.saturating_mul(i32::from(epochs)))
    };
    Term(segments.iter().map(of).max().unwrap_or(restored::TERM_STEP))
}

fn exists(name: &str) -> Failure {
    Failure::new(format!(
        "topic {name} exists already: choose others with --topic, or delete it first"
    ))
    .because("TOPIC_EXISTS")
}

fn record(topic: &TopicLog<'_>) -> Topic {
    let headers = || {
        let logs = topic.partitions.values();
        logs.flat_map(|log| &log.segments).map(|segment| &segment.header)
    };
    let most = caps::MAX_WRITE_QUORUM;
    // Ledgers that were made while bookies were away had fewer copies.
    let write_quorum = headers().map(|header| header.qw).max().unwrap_or(1).clamp(1, most);
    let ack_quorum = headers().map(|header| header.qa).max().unwrap_or(1).clamp(1, write_quorum);
    Topic {
        id: topic.id,
        partitions: topic.partitions.keys().max().map_or(1, |last| last + 1),
        write_quorum,
        ack_quorum,
        replication_factor: None,
        configs: CONFIGS.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        created_ms: SystemClock.now_ms(),
    }
}

/// The keys of a partition's log.
fn of_log(
    topic: TopicId,
    partition: PartitionIndex,
    segments: &[&Surveyed],
) -> Vec<(String, Bytes)> {
    let mut puts = Vec::new();
    for (seq, segment) in (0..).zip(segments) {
        let custom = &segment.header.custom;
        let record = Segment {
            ledger: segment.header.ledger,
            base_offset: Offset(custom.first_offset),
            term: Term(custom.term),
            end_offset: Some(Offset(segment.end_offset)),
            max_timestamp: Some(segment.running_max_timestamp).filter(|ms| *ms >= 0),
            bytes: Some(segment.footer.length),
        };
        puts.push((keys::ledger(segment.header.ledger), ledger(segment).encode()));
        puts.push((keys::segment(topic, partition, seq), record.encode()));
    }
    let begin = segments.first().map_or(0, |first| first.header.custom.first_offset);
    if begin > 0 {
        let start = LogStart { offset: Offset(begin) };
        puts.push((keys::log_start(topic, partition), start.encode()));
    }
    puts
}

/// A ledger that is in its object and nowhere else. Who held it before is not known, and asked by nobody.
fn ledger(segment: &Surveyed) -> LedgerMeta {
    let Surveyed { at, header, footer, .. } = segment;
    let qw = header.qw.clamp(1, caps::MAX_WRITE_QUORUM);
    let member = |number: u8| {
        let bookie: BookieId = format!("gone-{number}").parse().expect("letters and a digit");
        Member { bookie, incarnation: Incarnation(1) }
    };
    LedgerMeta {
        id: header.ledger,
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw,
        qa: header.qa.clamp(1, qw),
        digest: Digest::Crc32c,
        fragments: vec![Fragment {
            first_entry: EntryId(0),
            ensemble: (1..=qw).map(member).collect(),
        }],
        last_entry: Some(footer.last_entry),
        length: footer.length,
        entries_crc: Some(footer.entries_crc),
        tier: Tier::Trimmed(at.clone()),
        close_kind: Some(CloseKind::Writer),
        recoverer: String::new(),
        // The same each time, so that a second run finds what a first one put.
        last_op: at.attempt,
        custom: header.custom.clone(),
        created_ms: at.at_ms,
        owner: "restore import".to_owned(),
        degraded: false,
    }
}

/// Puts keys where nothing is. The same values may be there, from an earlier run.
async fn put_absent(store: &dyn MetaStore, batch: &[(String, Bytes)]) -> Result<(), Failure> {
    let mut missing: Vec<&(String, Bytes)> = batch.iter().collect();
    while !missing.is_empty() {
        let mut txn = Txn::new();
        for (key, value) in &missing {
            txn = txn.guard(Guard::Absent(key.clone())).put(key.clone(), value.clone());
        }
        match store.txn(txn).await {
            Ok(TxnOutcome::Committed(_)) => return Ok(()),
            Ok(TxnOutcome::GuardFailed) | Err(MetaError::Unknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let mut left = Vec::new();
        for (key, value) in missing {
            match store.get(key).await? {
                None => left.push((key, value)),
                Some(found) if found.value == *value => {}
                Some(_) => {
                    return Err(Failure::new(format!(
                        "metadata key {key} is of something else: nothing was made of this topic"
                    ))
                    .because("METADATA_NOT_EMPTY"));
                }
            }
        }
        missing = batch.iter().filter(|(key, _)| left.iter().any(|(one, _)| *one == key)).collect();
    }
    Ok(())
}

/// What was imported.
#[derive(Debug, Serialize)]
struct Imported {
    cluster: String,
    cluster_epoch: u16,
    topics: Vec<ImportedTopic>,
    /// Objects that the metadata names of these topics, and that are not there.
    gone: Vec<String>,
    /// Objects that could not be used.
    broken: Vec<String>,
    /// Objects whose names do not say what they are of.
    other_objects: u64,
}

#[derive(Debug, Serialize)]
struct ImportedTopic {
    topic: String,
    topic_id: String,
    partitions: Vec<ImportedPartition>,
}

#[derive(Debug, Serialize)]
struct ImportedPartition {
    partition: u32,
    segments: usize,
    first_offset: i64,
    end_offset: i64,
}

fn told(topic: &TopicLog<'_>) -> ImportedTopic {
    let partition = |(partition, log): (&u32, &plan::Log<'_>)| {
        let segments = log.unbroken();
        ImportedPartition {
            partition: *partition,
            segments: segments.len(),
            first_offset: segments.first().map_or(0, |first| first.header.custom.first_offset),
            end_offset: segments.last().map_or(0, |last| last.end_offset),
        }
    };
    ImportedTopic {
        topic: topic.name.to_owned(),
        topic_id: topic.id.to_string(),
        partitions: topic.partitions.iter().map(partition).collect(),
    }
}

impl View for Imported {
    fn text(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let mut line = |what: std::fmt::Arguments<'_>| {
            writeln!(text, "{what}").expect("memory takes it");
        };
        line(format_args!("Cluster {}, epoch {}", self.cluster, self.cluster_epoch));
        for topic in &self.topics {
            line(format_args!("{}  id {}", topic.topic, topic.topic_id));
            for found in &topic.partitions {
                let ImportedPartition { partition, segments, first_offset, end_offset } = found;
                line(format_args!(
                    "  {partition}  offsets {first_offset} to {end_offset} in {segments} segments"
                ));
            }
        }
        for key in &self.gone {
            line(format_args!("GONE {key} is not there: its records cannot be read"));
        }
        for key in &self.broken {
            line(format_args!("BROKEN {key} was left out"));
        }
        if self.other_objects > 0 {
            line(format_args!(
                "{} other objects: what of them was a segment once is not counted in ids and terms",
                self.other_objects
            ));
        }
        line(format_args!(
            "Nothing is deleted by age or size until retention.ms or retention.bytes says so."
        ));
        text
    }
}

#[cfg(test)]
mod tests;

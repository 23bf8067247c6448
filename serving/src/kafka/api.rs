//! The APIs that are served: one table, from which requests are dispatched, `ApiVersions` is answered and
//! `docs/kafka-compatibility.md` is made. One file each.

mod alter_configs;
mod api_versions;
mod create_partitions;
mod create_topics;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_log_dirs;
mod describe_producers;
mod describe_topic_partitions;
mod elect_leaders;
mod fetch;
mod find_coordinator;
mod incremental_alter_configs;
mod init_producer_id;
mod list_offsets;
mod list_partition_reassignments;
mod metadata;
mod offset_for_leader_epoch;
mod produce;

use std::fmt::Write as _;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::call::{Call, Hangup, Served};
use super::codec;
use super::codec::messages::KafkaRequest;

/// Partitions that one request is served for at one time.
const PARALLEL: usize = 16;

type Serve = fn(Call, Bytes) -> BoxFuture<'static, Served>;

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Api {
    key: i16,
    name: &'static str,
    /// Lowest version that is served; `advertised` may say a lower one.
    min: i16,
    max: i16,
    advertised: i16,
    is_flexible: fn(i16) -> bool,
    serve: Serve,
    outlives_client: bool,
    /// What there is to know, for people.
    note: &'static str,
}

impl Api {
    /// A row for the versions `min..=max` of a request.
    const fn new<R: KafkaRequest>(
        name: &'static str,
        min: i16,
        max: i16,
        serve: Serve,
        note: &'static str,
    ) -> Self {
        let (key, is_flexible) = (R::API_KEY.value(), codec::is_flexible::<R> as fn(i16) -> bool);
        Self {
            key,
            name,
            min,
            max,
            advertised: min,
            is_flexible,
            serve,
            outlives_client: false,
            note,
        }
    }

    /// `ApiVersions` names a lower version than is served: some clients judge a broker by it.
    const fn advertised_from(self, advertised: i16) -> Self {
        Self { advertised, ..self }
    }

    /// What was sent is done although nobody waits for the answer any more.
    const fn done_without_client(self) -> Self {
        Self { outlives_client: true, ..self }
    }

    /// As `ApiVersions` names it.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Whether what was sent is done although nobody waits for the answer any more.
    pub(super) fn outlives_client(&self) -> bool {
        self.outlives_client
    }

    /// Serves a request whose header is read as far as all versions agree.
    pub(super) fn serve(&self, mut call: Call, mut bytes: Bytes) -> BoxFuture<'static, Served> {
        let version = call.header.version;
        if !(self.min..=self.max).contains(&version) {
            // The one request that is answered whatever its version is, so that the client can step down.
            if self.key == api_versions::API.key {
                return async move { api_versions::refuse(&call) }.boxed();
            }
            return futures::future::ready(Err(Hangup::Unsupported)).boxed();
        }
        if let Err(malformed) = call.header.rest(&mut bytes, (self.is_flexible)(version)) {
            return futures::future::ready(Err(malformed.into())).boxed();
        }
        (self.serve)(call, bytes)
    }
}

/// All that is served, by key.
pub(super) const TABLE: &[Api] = &[
    produce::API,
    fetch::API,
    list_offsets::API,
    metadata::API,
    find_coordinator::API,
    api_versions::API,
    create_topics::API,
    delete_topics::API,
    delete_records::API,
    init_producer_id::API,
    offset_for_leader_epoch::API,
    describe_configs::API,
    alter_configs::API,
    describe_log_dirs::API,
    create_partitions::API,
    elect_leaders::API,
    incremental_alter_configs::API,
    list_partition_reassignments::API,
    describe_cluster::API,
    describe_producers::API,
    describe_topic_partitions::API,
];

/// The row of a key.
pub(super) fn find(key: i16) -> Option<&'static Api> {
    TABLE.iter().find(|api| api.key == key)
}

/// `docs/kafka-compatibility.md`.
pub fn document() -> String {
    let mut out = String::from(
        "# Kafka compatibility\n\n\
         Generated from the table in `serving/src/kafka/api.rs` by its test; do not edit.\n\n\
         What is not in this table is not advertised, and a request for it closes the connection, as at any Kafka broker.\n\
         Every version within a range is served.\n\n\
         | key | API | versions | notes |\n|---|---|---|---|\n",
    );
    for api in TABLE {
        let Api { key, name, min, max, note, .. } = api;
        writeln!(out, "| {key} | {name} | {min}-{max} | {note} |")
            .expect("writing to a string never fails");
    }
    out
}

#[cfg(test)]
mod tests;

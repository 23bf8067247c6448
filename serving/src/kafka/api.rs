//! The APIs that are served: one table, from which requests are dispatched, `ApiVersions` is answered and
//! `docs/kafka-compatibility.md` is made. One file each.

mod alter_configs;
mod api_versions;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_log_dirs;
mod describe_producers;
mod describe_topic_partitions;
mod elect_leaders;
mod fetch;
mod find_coordinator;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_groups;
mod list_offsets;
mod list_partition_reassignments;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod sized;
mod sync_group;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::call::{Call, Hangup, Served};
use super::codec::messages::KafkaRequest;
use super::codec::{self, Header, Malformed};

/// Partitions that one request is served for at one time.
const PARALLEL: usize = 16;

use crate::quotas::Kind;

/// What is named more than once. Nobody can know which of them is meant, so nothing of it is done, and it is answered once.
fn named_twice<T: Ord + Clone>(names: impl IntoIterator<Item = T>) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    let again = names.into_iter().filter(|name| !seen.insert(name.clone()));
    again.collect()
}

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
    decodes: fn(Bytes, i16) -> bool,
    serve: Serve,
    keeps_room: bool,
    waits: bool,
    waits_for_others: bool,
    /// What there is to know, for people.
    note: &'static str,
    /// Fields of its answers that say the same whatever there is, and what.
    constants: &'static [(&'static str, &'static str)],
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
        Self {
            key: R::API_KEY.value(),
            name,
            min,
            max,
            advertised: min,
            is_flexible: codec::is_flexible::<R>,
            decodes: |body, version| codec::decode::<R>(body, version).is_ok(),
            serve,
            keeps_room: false,
            waits: false,
            waits_for_others: false,
            note,
            constants: &[],
        }
    }

    /// `ApiVersions` names a lower version than is served: some clients judge a broker by it.
    const fn advertised_from(self, advertised: i16) -> Self {
        Self { advertised, ..self }
    }

    /// Clients want these fields, and nothing here stands behind them.
    const fn always_saying(self, constants: &'static [(&'static str, &'static str)]) -> Self {
        Self { constants, ..self }
    }

    /// What was sent is in use until it is answered.
    const fn keeping_room(self) -> Self {
        Self { keeps_room: true, ..self }
    }

    /// It may wait for something to happen, which is of no use to a client that has gone.
    const fn waiting(self) -> Self {
        Self { waits: true, ..self }
    }

    /// And what it waits for are other clients, which is no slowness of ours.
    const fn waiting_for_others(self) -> Self {
        Self { waits: true, waits_for_others: true, ..self }
    }

    /// As `ApiVersions` names it.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Which API.
    #[cfg(test)]
    pub(super) fn key(&self) -> i16 {
        self.key
    }

    /// In which versions it is served.
    #[cfg(test)]
    pub(super) fn versions(&self) -> std::ops::RangeInclusive<i16> {
        self.min..=self.max
    }

    /// Whether what was sent is in use until it is answered: else only what was made of it is.
    pub(super) fn keeps_room(&self) -> bool {
        self.keeps_room
    }

    /// Whether it may wait for something to happen.
    pub(super) fn waits(&self) -> bool {
        self.waits
    }

    /// Whether all of its time is for other clients to do something.
    pub(super) fn waits_for_others(&self) -> bool {
        self.waits_for_others
    }

    /// Whether its client wants it to wait: for records, or for others.
    pub(super) fn is_patient(&self) -> bool {
        self.waits_for_others || self.key == fetch::API.key
    }

    /// Which quota of bytes its client must have paid before it is served.
    pub(super) fn quota(&self) -> Kind {
        match self.key {
            key if key == produce::API.key => Kind::Produce,
            key if key == fetch::API.key => Kind::Consume,
            _ => Kind::Request,
        }
    }

    /// Reads what of a header depends on the version; of one that is not served there is nothing to know.
    ///
    /// # Errors
    /// When the bytes are no such header.
    pub(super) fn read_header(
        &self,
        header: &mut Header,
        bytes: &mut Bytes,
    ) -> Result<(), Malformed> {
        let version = header.version;
        if !(self.min..=self.max).contains(&version) {
            return Ok(());
        }
        header.rest(bytes, (self.is_flexible)(version))
    }

    /// Serves a request.
    pub(super) fn serve(&self, call: Call, bytes: Bytes) -> BoxFuture<'static, Served> {
        if (self.min..=self.max).contains(&call.header.version) {
            return (self.serve)(call, bytes);
        }
        // The one request that is answered whatever its version is, so that the client can step down.
        if self.key == api_versions::API.key {
            return async move { api_versions::refuse(&call) }.boxed();
        }
        futures::future::ready(Err(Hangup::Unsupported)).boxed()
    }
}

/// All that is served, by key.
pub(super) const TABLE: &[Api] = &[
    produce::API,
    fetch::API,
    list_offsets::API,
    metadata::API,
    offset_commit::API,
    offset_fetch::API,
    find_coordinator::API,
    join_group::API,
    heartbeat::API,
    leave_group::API,
    sync_group::API,
    describe_groups::API,
    list_groups::API,
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
    delete_groups::API,
    elect_leaders::API,
    incremental_alter_configs::API,
    list_partition_reassignments::API,
    offset_delete::API,
    describe_cluster::API,
    describe_producers::API,
    describe_topic_partitions::API,
];

/// The row of a key.
pub(super) fn find(key: i16) -> Option<&'static Api> {
    TABLE.iter().find(|api| api.key == key)
}

/// Whether a frame, without its length, is a request that would be served: the whole of reading one, for whoever looks for
/// bytes that break it.
pub fn understands(mut frame: Bytes) -> bool {
    let Ok(mut header) = Header::fixed(&mut frame) else { return false };
    let Some(api) = find(header.key) else { return false };
    let version = header.version;
    (api.min..=api.max).contains(&version)
        && api.read_header(&mut header, &mut frame).is_ok()
        && (api.decodes)(frame, version)
}

/// Every API that is served, by its key, in which versions.
pub fn served() -> impl Iterator<Item = (i16, std::ops::RangeInclusive<i16>)> {
    TABLE.iter().map(|api| (api.key, api.min..=api.max))
}

/// `docs/kafka-compatibility.md`.
pub fn document() -> String {
    let mut out = String::from(
        "# Kafka compatibility\n\n\
         Generated from the table in `serving/src/kafka/api.rs` by its test; do not edit.\n\n\
         What is not in this table is not advertised, and a request for it closes the connection, as at any Kafka broker.\n\
         Every version within a range is served. *Advertised* are fields of answers that say the same whatever there is: clients\n\
         want them, and nothing here stands behind them.\n\n\
         | key | API | versions | notes |\n|---|---|---|---|\n",
    );
    for api in TABLE {
        let Api { key, name, min, max, note, constants, .. } = api;
        let says: Vec<_> =
            constants.iter().map(|(field, value)| format!("`{field}` {value}")).collect();
        let says = if says.is_empty() {
            says.concat()
        } else {
            format!(" *Advertised*: {}.", says.join(", "))
        };
        writeln!(out, "| {key} | {name} | {min}-{max} | {note}{says} |")
            .expect("writing to a string never fails");
    }
    out
}

#[cfg(test)]
mod tests;

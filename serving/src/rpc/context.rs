//! What the public services share: handles only, cheap to clone.

use std::sync::Arc;

use geminga_metastore::{MetaStore, ProducerIds, record};
use geminga_runtime::requests::Requests;
use geminga_runtime::{Random, Tasks, WallClock};

use super::produce::ProduceRoom;
use crate::groups::client::GroupClient;
use crate::ownership::operator::Operator;
use crate::quotas::Quotas;
use crate::room::Streams;
use crate::router::{LocalPartitions, Router, Source};
use crate::topics::TopicAdmin;

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// The cluster's own record.
    pub(crate) cluster: record::Cluster,
    /// The metadata store, for what no view holds.
    pub(crate) store: Arc<dyn MetaStore>,
    /// Who owns what.
    pub(crate) router: Router,
    /// What this broker owns.
    pub(crate) partitions: Arc<dyn LocalPartitions>,
    /// Partitions as readers reach them, wherever they are.
    pub(crate) source: Arc<dyn Source>,
    /// Consumer groups, wherever their shards are.
    pub(crate) groups: GroupClient,
    /// Bytes of elements that produce streams may hold together.
    pub(crate) produce_room: ProduceRoom,
    /// For records on their way to clients.
    pub(crate) streams: Streams,
    /// What client ids may do here.
    pub(crate) quotas: Quotas,
    /// Ids of idempotent producers.
    pub(crate) producer_ids: Arc<ProducerIds>,
    /// Makes and removes topics, with the defaults of this server.
    pub(crate) admin: TopicAdmin,
    /// Drains brokers and moves partitions.
    pub(crate) operator: Operator,
    /// Dates records that come without a time.
    pub(crate) clock: Arc<dyn WallClock>,
    /// Spreads keyless records.
    pub(crate) random: Arc<dyn Random>,
    /// What requests are called in logs and traces, and which are slow.
    pub(crate) requests: Requests,
    /// Cancelled when no new work is taken; streams then finish what they took and end.
    pub(crate) intake: Tasks,
    /// Runs what a stream needs beside itself.
    pub(crate) tasks: Tasks,
}

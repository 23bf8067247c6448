//! `Cluster`: who is there and who owns what, from this broker's view; bookies by their cookies, so that one that is down
//! is shown as such.

mod summary;

use std::collections::BTreeMap;
use std::sync::Arc;

use geminga_metastore::keys;
use geminga_metastore::record::{Cookie, LiveBookie};
use geminga_proto::ids::{BookieId, BrokerId, EntryId, LedgerId};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1::cluster_server::{Cluster, ClusterServer};
use geminga_proto::{caps, v1};
use tonic::{Request, Response, Status};

use self::summary::Summary;
use super::context::Context;
use super::metadata::api_error;
use crate::ownership::topology::{Broker, Topic};

const PAGE: usize = 1_000;

/// The service.
#[derive(Debug)]
pub(crate) struct ClusterService {
    ctx: Arc<Context>,
    under: Summary,
}

impl ClusterService {
    pub(crate) fn server(ctx: Arc<Context>) -> ClusterServer<Self> {
        ClusterServer::new(Self { ctx, under: Summary::default() })
    }

    fn brokers(&self) -> Vec<v1::BrokerStatus> {
        let topology = self.ctx.router.topology();
        let (loads, drains) = (topology.loads(), topology.drains());
        let status = |broker: &Arc<Broker>| v1::BrokerStatus {
            broker_id: broker.id.0,
            address: broker.grpc_address.clone(),
            zone: broker.zone.clone(),
            partitions: loads.get(&broker.id).copied().unwrap_or(0),
            draining: drains.contains_key(&broker.id),
            bytes_per_second: broker.load.as_ref().map_or(0, |load| load.bytes),
        };
        topology.brokers().iter().map(status).collect()
    }

    async fn bookies(&self) -> Result<Vec<v1::BookieStatus>, ApiError> {
        let mut known: BTreeMap<BookieId, Option<Arc<LiveBookie>>> = BTreeMap::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.ctx.store.range(keys::BOOKIE_COOKIES, after.as_deref(), PAGE).await;
            let mut page = page.map_err(|e| api_error(&e))?;
            for item in &page.items {
                match Cookie::decode(&item.value.value) {
                    Ok(cookie) => {
                        known.insert(cookie.bookie, None);
                    }
                    Err(error) => tracing::warn!(key = item.key, %error, "cookie is ignored"),
                }
            }
            after = page.items.pop().map(|last| last.key);
            if !page.more || after.is_none() {
                break;
            }
        }
        for live in self.ctx.router.topology().live_bookies() {
            known.insert(live.id.clone(), Some(live));
        }
        let draining = self.ctx.store.range(keys::BOOKIES_DRAINING, None, PAGE).await;
        let draining = draining.map_err(|e| api_error(&e))?.items;
        let draining: Vec<BookieId> =
            draining.iter().filter_map(|item| keys::parse_bookie_draining(&item.key)).collect();
        let status = |(id, live): (BookieId, Option<Arc<LiveBookie>>)| v1::BookieStatus {
            draining: draining.contains(&id),
            ..bookie_status(&id, live.as_deref())
        };
        Ok(known.into_iter().map(status).collect())
    }

    /// `None` when it is not known now: the rest of the state does not wait for it.
    async fn repair(&self) -> Option<v1::RepairStatus> {
        let summary = self.under.get(&*self.ctx.store).await?;
        let rates = self.ctx.router.topology().live_bookies();
        let rates: Vec<u64> = rates.iter().map(|live| live.repair_rate).collect();
        let limited = !rates.is_empty() && rates.iter().all(|rate| *rate > 0);
        let rate: u64 = rates.iter().sum();
        let estimate = limited.then(|| summary.bytes.div_ceil(rate.max(1)));
        let lost = |(ledger, topic, entry): (LedgerId, String, EntryId)| v1::LostLedger {
            ledger_id: ledger.to_string(),
            topic,
            entry: entry.0,
        };
        Some(v1::RepairStatus {
            ledgers: summary.ledgers,
            fragments: summary.fragments,
            bytes: summary.bytes,
            oldest_ms: summary.oldest_ms,
            // What is being written is copied once it ends, whenever that is.
            estimate_seconds: estimate.filter(|_| summary.fragments > summary.open_fragments),
            lost: summary.lost.into_iter().map(lost).collect(),
            partial: summary.partial,
            open_fragments: summary.open_fragments,
        })
    }
}

fn bookie_status(id: &BookieId, live: Option<&LiveBookie>) -> v1::BookieStatus {
    let sum = |of: fn(&geminga_metastore::record::LiveDisk) -> u64| {
        live.map_or(0, |live| live.disks.iter().map(of).sum())
    };
    v1::BookieStatus {
        bookie_id: id.as_str().to_owned(),
        address: live.map(|live| live.address.clone()).unwrap_or_default(),
        zone: live.map(|live| live.zone.clone()).unwrap_or_default(),
        live: live.is_some(),
        writable: live.is_some_and(|live| live.disks.iter().any(|disk| disk.writable)),
        free_bytes: sum(|disk| disk.free_bytes),
        total_bytes: sum(|disk| disk.total_bytes),
        draining: false,
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn get_status(
        &self,
        _request: Request<v1::GetStatusRequest>,
    ) -> Result<Response<v1::GetStatusResponse>, Status> {
        let topology = self.ctx.router.topology();
        let topics = topology.topics().iter().filter(|topic| !topic.is_internal()).count();
        let quorum = self.ctx.admin.default_quorum;
        Ok(Response::new(v1::GetStatusResponse {
            cluster_uuid: self.ctx.cluster.uuid.to_string(),
            cluster_epoch: u32::from(self.ctx.cluster.epoch),
            coordinator_broker: topology.coordinator().map_or(-1, |elected| elected.broker.0),
            brokers: self.brokers(),
            bookies: self.bookies().await?,
            repair: self.repair().await,
            topics: u32::try_from(topics).unwrap_or(u32::MAX),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            default_write_quorum: u32::from(quorum.write),
            default_ack_quorum: u32::from(quorum.ack),
        }))
    }

    async fn get_metadata(
        &self,
        request: Request<v1::GetMetadataRequest>,
    ) -> Result<Response<v1::GetMetadataResponse>, Status> {
        let v1::GetMetadataRequest { topics: names, brokers_only } = request.into_inner();
        if brokers_only && !names.is_empty() {
            let why = "brokers_only asks for no topics: name none";
            return Err(ApiError::new(Reason::InvalidRequest, why).into());
        }
        let topology = self.ctx.router.topology();
        if names.len() > caps::MAX_TOPICS {
            let why =
                format!("{} topics are named: ask for {} at most", names.len(), caps::MAX_TOPICS);
            return Err(ApiError::new(Reason::LimitExceeded, why).into());
        }
        let mut topics = Vec::new();
        if names.is_empty() && !brokers_only {
            let all = topology.topics();
            topics.extend(all.iter().filter(|t| !t.is_internal()).map(|t| self.owners(t)));
        }
        for name in names {
            topics.push(match topology.resolve(&name).await {
                Ok(topic) => self.owners(&topic),
                Err(error) if error.reason == Reason::UnknownTopic => v1::TopicOwners {
                    topic: name,
                    topic_id: String::new(),
                    owners: Vec::new(),
                    exists: false,
                    revision: 0,
                },
                Err(error) => return Err(error.into()),
            });
        }
        Ok(Response::new(v1::GetMetadataResponse {
            brokers: self.brokers(),
            topics,
            answered_by: Some(self.ctx.router.me().0),
        }))
    }

    async fn drain_broker(
        &self,
        request: Request<v1::DrainBrokerRequest>,
    ) -> Result<Response<v1::DrainBrokerResponse>, Status> {
        self.ctx.operator.drain(BrokerId(request.into_inner().broker_id)).await?;
        Ok(Response::new(v1::DrainBrokerResponse {}))
    }

    async fn undrain_broker(
        &self,
        request: Request<v1::UndrainBrokerRequest>,
    ) -> Result<Response<v1::UndrainBrokerResponse>, Status> {
        self.ctx.operator.undrain(BrokerId(request.into_inner().broker_id)).await?;
        Ok(Response::new(v1::UndrainBrokerResponse {}))
    }

    async fn move_partition(
        &self,
        request: Request<v1::MovePartitionRequest>,
    ) -> Result<Response<v1::MovePartitionResponse>, Status> {
        let v1::MovePartitionRequest { topic, partition, to_broker } = request.into_inner();
        let operator = &self.ctx.operator;
        let (from, owner) = operator.move_partition(&topic, partition, BrokerId(to_broker)).await?;
        let (from_broker, term) = (from.0, owner.term.0);
        Ok(Response::new(v1::MovePartitionResponse { from_broker, term }))
    }

    async fn list_quotas(
        &self,
        _request: Request<v1::ListQuotasRequest>,
    ) -> Result<Response<v1::ListQuotasResponse>, Status> {
        Ok(Response::new(self.ctx.quotas.list()))
    }

    async fn set_quota(
        &self,
        request: Request<v1::SetQuotaRequest>,
    ) -> Result<Response<v1::SetQuotaResponse>, Status> {
        let quota = request.into_inner().quota.unwrap_or_default();
        self.ctx.quotas.set(&*self.ctx.store, quota).await?;
        Ok(Response::new(v1::SetQuotaResponse {}))
    }

    async fn remove_quota(
        &self,
        request: Request<v1::RemoveQuotaRequest>,
    ) -> Result<Response<v1::RemoveQuotaResponse>, Status> {
        self.ctx.quotas.remove(&*self.ctx.store, request.into_inner()).await?;
        Ok(Response::new(v1::RemoveQuotaResponse {}))
    }
}

impl ClusterService {
    fn owners(&self, topic: &Topic) -> v1::TopicOwners {
        let (owners, revision) = self.ctx.router.topology().owners_at(topic);
        v1::TopicOwners {
            topic: topic.name.clone(),
            topic_id: topic.id.to_string(),
            owners: owners.iter().map(|o| o.broker.map_or(-1, |broker| broker.0)).collect(),
            exists: true,
            revision: revision.0,
        }
    }
}

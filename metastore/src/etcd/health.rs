//! How an etcd is, as its members say: for people who look at it. Nothing is decided by it.

use futures::future::join_all;
use geminga_tls::Dial;

use super::{EtcdStore, EtcdUrl, etcd};
use crate::store::Error;

/// What its members say.
#[derive(Debug, Clone, Default)]
pub struct EtcdHealth {
    /// Each endpoint of the URL, in its order: what is there, or why nothing is known of it.
    pub members: Vec<(String, Result<EtcdMember, Error>)>,
    /// What was raised and not disarmed yet, by any member.
    pub alarms: Vec<EtcdAlarm>,
    /// Members that were added and have never started.
    pub unstarted: usize,
    /// Why the alarms, or the members that have never started, are not known although a member answers.
    pub unknown: Option<Error>,
}

/// One member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EtcdMember {
    /// Whether it knows a leader.
    pub led: bool,
    /// What its database takes on the disk.
    pub database_bytes: u64,
    /// What it may take; `None` where the version does not say.
    pub quota_bytes: Option<u64>,
}

/// What keeps an etcd from its work until an operator says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdAlarm {
    /// Its quota is used up: it takes no writes.
    NoSpace,
    /// Members hold different data.
    Corrupt,
}

impl EtcdHealth {
    /// Asks all, beside each other. Who does not answer is part of it.
    pub async fn of(url: &EtcdUrl, dial: &Dial) -> Self {
        let asked = url.endpoints.iter().map(|endpoint| async move {
            let alone = EtcdUrl { endpoints: vec![endpoint.clone()], cluster: url.cluster.clone() };
            let answer = EtcdStore::connect_by(&alone, dial).await;
            match answer {
                Ok(store) => (endpoint.clone(), store.status().await, Some(store)),
                Err(error) => (endpoint.clone(), Err(error), None),
            }
        });
        let mut health = Self::default();
        let mut one = None;
        for (endpoint, status, store) in join_all(asked).await {
            if status.is_ok() {
                one = one.or(store);
            }
            health.members.push((endpoint, status));
        }
        // All know the same of these.
        if let Some(store) = one {
            match store.alarms().await {
                Ok(alarms) => health.alarms = alarms,
                Err(error) => health.unknown = Some(error),
            }
            match store.unstarted().await {
                Ok(unstarted) => health.unstarted = unstarted,
                Err(error) => health.unknown = Some(error),
            }
        }
        health
    }
}

impl EtcdStore {
    async fn status(&self) -> Result<EtcdMember, Error> {
        let mut maintenance = self.client.maintenance_client();
        let status = self.read(maintenance.status()).await?;
        let bytes = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(EtcdMember {
            led: status.leader() != 0,
            database_bytes: bytes(status.db_size()),
            quota_bytes: Some(bytes(status.db_size_quota())).filter(|bytes| *bytes > 0),
        })
    }

    async fn alarms(&self) -> Result<Vec<EtcdAlarm>, Error> {
        let mut maintenance = self.client.maintenance_client();
        let call = maintenance.alarm(etcd::AlarmAction::Get, etcd::AlarmType::None, None);
        let answer = self.read(call).await?;
        let raised = answer.alarms().iter().filter_map(|raised| match raised.alarm() {
            etcd::AlarmType::None => None,
            etcd::AlarmType::Nospace => Some(EtcdAlarm::NoSpace),
            etcd::AlarmType::Corrupt => Some(EtcdAlarm::Corrupt),
        });
        Ok(raised.collect())
    }

    async fn unstarted(&self) -> Result<usize, Error> {
        let mut cluster = self.client.cluster_client();
        let answer = self.read(cluster.member_list()).await?;
        Ok(answer.members().iter().filter(|member| member.name().is_empty()).count())
    }
}

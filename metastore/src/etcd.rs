//! The store in etcd. Keys live below `/geminga/<cluster>/`; every read is linearizable.
//!
//! An outcome is *unknown* whenever a write was sent and not answered: etcd may have applied it, or may still (M9).
//! Watches own their place and reconnect by themselves: from the revision after the last one seen, or with a fresh list when that
//! history is compacted away.

mod health;
mod members;

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client as etcd;
use futures::StreamExt;
use futures::stream::unfold;
use geminga_runtime::{Random as _, SystemRandom};
use geminga_tls::{Dial, status_cause};
use tonic::transport::Endpoint;
use tower::util::BoxCloneSyncService;

pub use self::health::{EtcdAlarm, EtcdHealth, EtcdMember};
use self::members::Members;
use crate::mutation::{Mutation, Mutations};
use crate::store::{
    Change, Error, Guard, KeyValue, LeaseId, MetaStore, Op, Range, Revision, Txn, TxnOutcome,
    Version, Versioned, WatchEvent, WatchStream,
};
use crate::tree;

/// How long a connection may take, and how long a member may be silent.
const CONNECT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// How long a request may take before its outcome counts as unknown.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a watch connects again; doubles up to the maximum.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Keys asked for at a time.
const PAGE: usize = 2_000;
/// Keys asked for when those of a page are too large together: so many of the largest fit into an answer.
const SMALL_PAGE: usize = 100;
/// The largest answer that is accepted.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// Where an etcd is: `etcd://HOST:PORT[,HOST:PORT...][/CLUSTER]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdUrl {
    /// `HOST:PORT` of each member.
    pub endpoints: Vec<String>,
    /// Names the prefix; `default` unless given.
    pub cluster: String,
}

/// Why a text is not an etcd URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a metadata store: write etcd://HOST:PORT[,HOST:PORT...][/CLUSTER]")]
pub struct InvalidUrl(String);

impl FromStr for EtcdUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let invalid = || InvalidUrl(text.to_owned());
        let rest = text.strip_prefix("etcd://").ok_or_else(invalid)?;
        let (hosts, cluster) = rest.split_once('/').unwrap_or((rest, "default"));
        let cluster = if cluster.is_empty() { "default" } else { cluster };
        let name_ok =
            cluster.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        let endpoints: Vec<String> = hosts.split(',').map(str::to_owned).collect();
        let host_ok = |host: &String| {
            host.rsplit_once(':')
                .is_some_and(|(name, port)| !name.is_empty() && port.parse::<u16>().is_ok())
        };
        if !name_ok || !endpoints.iter().all(host_ok) {
            return Err(invalid());
        }
        Ok(Self { endpoints, cluster: cluster.to_owned() })
    }
}

impl fmt::Display for EtcdUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd://{}/{}", self.endpoints.join(","), self.cluster)
    }
}

/// A metadata store in etcd. Cloning shares the connections.
#[derive(Clone)]
pub struct EtcdStore {
    client: etcd::Client,
    url: EtcdUrl,
    prefix: String,
    timeout: Duration,
    mutations: Mutations,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EtcdStore({})", self.url)
    }
}

impl EtcdStore {
    /// Connects, and reads once to see that somebody answers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when nobody does, [`Error::Invalid`] when the URL names what cannot be an address.
    pub async fn connect(url: &EtcdUrl) -> Result<Self, Error> {
        Self::connect_with_timeout(url, TIMEOUT).await
    }

    /// [`EtcdStore::connect`] over connections that are made as `dial` says.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when nobody answers.
    pub async fn connect_by(url: &EtcdUrl, dial: &Dial) -> Result<Self, Error> {
        Self::open(url, dial, TIMEOUT).await
    }

    /// [`EtcdStore::connect`] with another limit for each request.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when nobody answers.
    pub async fn connect_with_timeout(url: &EtcdUrl, timeout: Duration) -> Result<Self, Error> {
        Self::open(url, &Dial::Plain, timeout).await
    }

    async fn open(url: &EtcdUrl, dial: &Dial, timeout: Duration) -> Result<Self, Error> {
        // A member cut off from the others says so, instead of keeping a watch silent.
        let options = etcd::ConnectOptions::new().with_require_leader(true);
        // An address that is none will not become one.
        let is_none = |address: &&String| address.parse::<tonic::transport::Uri>().is_err();
        if let Some(wrong) = url.endpoints.iter().find(is_none) {
            return Err(Error::Invalid(format!("{url}: `{wrong}` is no address")));
        }
        let connect =
            async { etcd::Client::from_channel(channel(url, dial)?, Some(options)).await };
        let client = match tokio::time::timeout(timeout, connect).await {
            Ok(Ok(client)) => client,
            Ok(Err(error @ (etcd::Error::InvalidUri(_) | etcd::Error::InvalidArgs(_)))) => {
                return Err(Error::Invalid(format!("{url}: {error}")));
            }
            Ok(Err(error)) => return Err(Error::Unavailable(format!("{url}: {error}"))),
            Err(_) => {
                return Err(Error::Unavailable(format!("{url}: no answer within {timeout:?}")));
            }
        };
        let prefix = format!("/geminga/{}/", url.cluster);
        let mutations = Mutations::default();
        let store = Self { client, url: url.clone(), prefix, timeout, mutations };
        // Another member may answer where one does not.
        let mut others = url.endpoints.len();
        loop {
            others = others.saturating_sub(1);
            match store.get(crate::keys::CLUSTER).await {
                Err(Error::Unavailable(_)) if others > 0 => {}
                answered => return answered.map(|_| store),
            }
        }
    }

    fn kv(&self) -> etcd::KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES)
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// A read: what got no answer had no effect.
    async fn read<R>(
        &self,
        call: impl Future<Output = Result<R, etcd::Error>>,
    ) -> Result<R, Error> {
        self.write(call).await.map_err(|error| match error {
            Error::Unknown(why) => Error::Unavailable(why),
            other => other,
        })
    }

    /// A write: what got no answer may have taken place.
    async fn write<R>(
        &self,
        call: impl Future<Output = Result<R, etcd::Error>>,
    ) -> Result<R, Error> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(result) => result.map_err(|error| self.classify(&error)),
            Err(_) => {
                let (url, timeout) = (&self.url, self.timeout);
                Err(Error::Unknown(format!("{url}: no answer within {timeout:?}")))
            }
        }
    }

    /// What an error says about a write.
    fn classify(&self, error: &etcd::Error) -> Error {
        let url = &self.url;
        let etcd::Error::GRpcStatus(status) = error else {
            return Error::Unknown(format!("{url}: {error}"));
        };
        let why = status_cause(status);
        match status.code() {
            tonic::Code::ResourceExhausted if why.contains("space exceeded") => Error::NoSpace,
            // Refused before anything was proposed.
            _ if why.contains("too many requests") || why.contains("etcdserver: no leader") => {
                Error::Unavailable(format!("{url}: {why}"))
            }
            tonic::Code::InvalidArgument
            | tonic::Code::ResourceExhausted
            | tonic::Code::PermissionDenied
            | tonic::Code::Unauthenticated => Error::Invalid(format!("{url}: {why}")),
            _ => Error::Unknown(format!("{url}: {why}")),
        }
    }

    fn item(&self, kv: &etcd::KeyValue) -> Option<KeyValue> {
        let key = std::str::from_utf8(kv.key()).ok()?.strip_prefix(&self.prefix)?;
        Some(KeyValue { key: key.to_owned(), value: versioned(kv) })
    }

    /// Part of a range; cut at `limit`, or earlier when the values are large.
    async fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Range, Error> {
        let end = prefix_end(self.key(prefix));
        let start = match after.filter(|after| *after >= prefix) {
            Some(after) => format!("{}\0", self.key(after)),
            None => self.key(prefix),
        };
        let count = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut options = read_options(self.mutations).with_range(end).with_limit(count);
        if let Some(revision) = at {
            options = options.with_revision(revision.0);
        }
        let mut kv = self.kv();
        let call = async move {
            match kv.get(start, Some(options)).await {
                Err(error) if limit > SMALL_PAGE && too_large(&error) => Ok(None),
                other => other.map(Some),
            }
        };
        let Some(answer) = self.read(call).await? else {
            return Box::pin(self.page(prefix, after, SMALL_PAGE, at)).await;
        };
        let revision = answer.header().map_or(0, etcd::ResponseHeader::revision);
        Ok(Range {
            items: answer.kvs().iter().filter_map(|kv| self.item(kv)).collect(),
            revision: at.unwrap_or(Revision(revision)),
            more: answer.more(),
        })
    }

    /// A range as of one revision, however many pages it takes.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        let mut all = self.page(prefix, after, limit.min(PAGE), None).await?;
        while all.more && all.items.len() < limit {
            let after = all.items.last().map(|item| item.key.clone());
            let rest = PAGE.min(limit - all.items.len());
            let page = self.page(prefix, after.as_deref(), rest, Some(all.revision)).await?;
            all.items.extend(page.items);
            all.more = page.more;
        }
        Ok(all)
    }
}

/// How everything is read: linearizably (M8), for decisions follow from it.
fn read_options(mutations: Mutations) -> etcd::GetOptions {
    let options = etcd::GetOptions::new();
    if mutations.is(Mutation::SerializableReads) { options.with_serializable() } else { options }
}

/// All members.
fn channel(url: &EtcdUrl, dial: &Dial) -> Result<etcd::Channel, etcd::Error> {
    let endpoints: Result<Vec<Endpoint>, _> =
        url.endpoints.iter().map(|host| Endpoint::from_shared(format!("http://{host}"))).collect();
    let endpoints: Vec<Endpoint> = endpoints?
        .into_iter()
        .map(|endpoint| {
            endpoint
                .connect_timeout(CONNECT)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .keep_alive_while_idle(true)
        })
        .collect();
    // Not all processes ask the same one. Their ids would not do: in containers these are all alike.
    let first = usize::try_from(SystemRandom.below(url.endpoints.len() as u64)).unwrap_or_default();
    let members = Members::new(&endpoints, dial, first)
        .ok_or_else(|| etcd::Error::InvalidArgs("no endpoint".to_owned()))?;
    Ok(etcd::Channel::Custom(BoxCloneSyncService::new(tower::util::MapErr::new(
        members,
        Into::into,
    ))))
}

fn versioned(kv: &etcd::KeyValue) -> Versioned {
    Versioned {
        value: Bytes::copy_from_slice(kv.value()),
        version: Version(kv.mod_revision()),
        created: Revision(kv.create_revision()),
    }
}

/// The first key after all keys with this prefix.
fn prefix_end(prefix: String) -> Vec<u8> {
    let mut end = prefix.into_bytes();
    // Our prefixes are ASCII, so the last byte can always be raised.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Whether an answer was refused for its size.
fn too_large(error: &etcd::Error) -> bool {
    match error {
        etcd::Error::GRpcStatus(status) => {
            status.code() == tonic::Code::OutOfRange && status.message().contains("too large")
        }
        _ => false,
    }
}

fn lease_gone(error: &etcd::Error) -> bool {
    match error {
        etcd::Error::LeaseKeepAliveError(_) => true,
        etcd::Error::GRpcStatus(status) => status.code() == tonic::Code::NotFound,
        _ => false,
    }
}

#[async_trait]
impl MetaStore for EtcdStore {
    async fn get(&self, key: &str) -> Result<Option<Versioned>, Error> {
        let mut kv = self.kv();
        let options = read_options(self.mutations);
        let answer = self.read(kv.get(self.key(key), Some(options))).await?;
        Ok(answer.kvs().first().map(versioned))
    }

    async fn range(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Range, Error> {
        self.list(prefix, after, limit.max(1)).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, Error> {
        tree::check(&txn)?;
        let leases: Vec<LeaseId> = txn
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::Put { lease, .. } => *lease,
                Op::Delete { .. } => None,
            })
            .collect();
        let guards: Vec<etcd::Compare> =
            txn.guards.iter().map(|guard| self.compare(guard)).collect();
        let ops: Vec<etcd::TxnOp> = txn.ops.into_iter().map(|op| self.operation(op)).collect();
        let mut kv = self.kv();
        let request = etcd::Txn::new().when(guards).and_then(ops);
        let call = async move {
            match kv.txn(request).await {
                Err(error) if !leases.is_empty() && lease_gone(&error) => {
                    Ok(Err(Error::LeaseGone(leases[0])))
                }
                other => other.map(Ok),
            }
        };
        let answer = self.write(call).await??;
        let revision = answer.header().map_or(0, etcd::ResponseHeader::revision);
        Ok(if answer.succeeded() {
            TxnOutcome::Committed(Revision(revision))
        } else {
            TxnOutcome::GuardFailed
        })
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, Error> {
        let watch = Watch {
            store: self.clone(),
            prefix: prefix.to_owned(),
            seen: from,
            stream: None,
            pause: RETRY_MIN,
            ready: VecDeque::new(),
        };
        Ok(unfold(watch, |mut watch| async move {
            let event = watch.next().await;
            Some((event, watch))
        })
        .boxed())
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let mut leases = self.client.lease_client();
        Ok(LeaseId(self.write(leases.grant(seconds, None)).await?.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        let mut leases = self.client.lease_client();
        let call = async move {
            match leases.keep_alive(lease.0).await {
                Err(error) if lease_gone(&error) => Ok(Err(Error::LeaseGone(lease))),
                other => other.map(|_| Ok(())),
            }
        };
        self.read(call).await?
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        let mut leases = self.client.lease_client();
        let call = async move {
            match leases.revoke(lease.0).await {
                Err(error) if lease_gone(&error) => Ok(()),
                other => other.map(|_| ()),
            }
        };
        self.write(call).await
    }
}

impl EtcdStore {
    fn compare(&self, guard: &Guard) -> etcd::Compare {
        let equal = etcd::CompareOp::Equal;
        match guard {
            Guard::Absent(key) => etcd::Compare::create_revision(self.key(key), equal, 0),
            Guard::Version(key, version) => {
                etcd::Compare::mod_revision(self.key(key), equal, version.0)
            }
            Guard::Created(key, created) => {
                etcd::Compare::create_revision(self.key(key), equal, created.0)
            }
        }
    }

    fn operation(&self, op: Op) -> etcd::TxnOp {
        match op {
            Op::Put { key, value, lease } => {
                let options = lease.map(|lease| etcd::PutOptions::new().with_lease(lease.0));
                etcd::TxnOp::put(self.key(&key), value.to_vec(), options)
            }
            Op::Delete { key } => etcd::TxnOp::delete(self.key(&key), None),
        }
    }
}

/// A watch and its place.
struct Watch {
    store: EtcdStore,
    prefix: String,
    /// Everything up to here was yielded; `None` = start with a list.
    seen: Option<Revision>,
    stream: Option<etcd::WatchStream>,
    pause: Duration,
    ready: VecDeque<WatchEvent>,
}

impl Watch {
    async fn next(&mut self) -> WatchEvent {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            if let Err(why) = self.advance().await {
                tracing::debug!(prefix = self.prefix, why, "watch connects again");
                self.stream = None;
                tokio::time::sleep(self.pause).await;
                self.pause = RETRY_MAX.min(self.pause * 2);
            }
        }
    }

    /// One step: list, connect, or take a message. An error means: connect again.
    async fn advance(&mut self) -> Result<(), String> {
        let Some(seen) = self.seen else {
            let range = self
                .store
                .list(&self.prefix, None, usize::MAX)
                .await
                .map_err(|error| error.to_string())?;
            self.seen = Some(range.revision);
            self.ready.push_back(WatchEvent::Snapshot(range));
            return Ok(());
        };
        let Some(stream) = &mut self.stream else {
            self.stream = Some(self.open(seen).await?);
            return Ok(());
        };
        let message = stream.message().await;
        if message.as_ref().is_err_and(too_large) {
            // It would be no smaller the next time: list instead, page by page.
            self.seen = None;
        }
        let answer = message.map_err(|error| error.to_string())?.ok_or("the stream ended")?;
        if answer.canceled() {
            if answer.compact_revision() > 0 {
                // What happened since is no longer there: list again.
                self.seen = None;
            }
            return Err(format!("canceled: {}", answer.cancel_reason()));
        }
        self.pause = RETRY_MIN;
        for event in answer.events() {
            self.push(event);
        }
        Ok(())
    }

    async fn open(&self, seen: Revision) -> Result<etcd::WatchStream, String> {
        let options = etcd::WatchOptions::new().with_prefix().with_start_revision(seen.0 + 1);
        let mut client =
            self.store.client.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES);
        let key = self.store.key(&self.prefix);
        self.store.read(client.watch(key, Some(options))).await.map_err(|error| error.to_string())
    }

    /// Events of one revision are one event of ours.
    fn push(&mut self, event: &etcd::Event) {
        let Some(kv) = event.kv() else { return };
        let Some(item) = self.store.item(kv) else { return };
        let revision = Revision(kv.mod_revision());
        let change = match event.event_type() {
            etcd::EventType::Put => Change::Put(item),
            etcd::EventType::Delete => Change::Delete { key: item.key },
        };
        match self.ready.back_mut() {
            Some(WatchEvent::Changes { revision: last, changes }) if *last == revision => {
                changes.push(change)
            }
            _ => self.ready.push_back(WatchEvent::Changes { revision, changes: vec![change] }),
        }
        self.seen = Some(revision);
    }
}

#[cfg(test)]
mod tests;

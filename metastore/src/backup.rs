//! A backup of a cluster's metadata as one file: every key of one revision, but for those that live by a lease.
//!
//! ```text
//! header  u64 magic | u16 version | 6 zero bytes | cluster uuid (16) | i64 revision | i64 taken, ms | u64 keys
//! key     u32 length of the key | u32 length of the value | key | value        in key order
//! end     u32 crc32c of all before it
//! ```
//!
//! All numbers are big-endian. A restore goes into an empty prefix only; the cluster's own record comes last and makes it a
//! cluster, so that one that was cut off is no cluster, and is run again.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use geminga_proto::ids::ClusterUuid;
use geminga_runtime::WallClock;

use crate::cluster::ClusterError;
use crate::record::Cluster;
use crate::{Error, Guard, MetaStore, Range, Revision, Txn, TxnOutcome, keys, restored};

const MAGIC: u64 = u64::from_be_bytes(*b"GEMINGAM");
/// The version that is written, and the only one there is.
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 56;
const CRC_BYTES: usize = 4;
/// Keys and bytes of one transaction of a restore.
const TXN_KEYS: usize = 40;
const TXN_BYTES: usize = 512 << 10;

/// Why a file is no backup that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackup {
    /// Of something else.
    #[error("it is no backup of metadata")]
    Foreign,
    /// Written by a later version.
    #[error("it is of version {0}, newer than this program reads: upgrade it")]
    Version(u16),
    /// Cut off, or changed.
    #[error("it is damaged ({0}): use another one")]
    Damaged(&'static str),
}

/// Why a backup was not restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Something is there.
    #[error(
        "the metadata prefix is not empty (found key {0}): restore into another cluster name, or into an etcd without one"
    )]
    NotEmpty(String),
    /// The backup's record of the cluster is none.
    #[error("the backup holds no valid cluster: {0}")]
    NoCluster(String),
    /// As everywhere.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

impl From<Error> for RestoreError {
    fn from(error: Error) -> Self {
        Self::Cluster(error.into())
    }
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Whose metadata.
    pub cluster: ClusterUuid,
    /// As of when.
    pub revision: Revision,
    /// When it was made, milliseconds since the Unix epoch.
    pub taken_ms: i64,
    /// The keys, relative to the cluster's prefix.
    pub items: BTreeMap<String, Bytes>,
}

impl Backup {
    /// What of a listing of all keys is to be kept.
    ///
    /// # Errors
    /// [`RestoreError::NoCluster`] when there is none in it.
    pub fn of(range: Range, taken_ms: i64) -> Result<Self, RestoreError> {
        let kept = range.items.into_iter().filter(|item| !keys::is_leased(&item.key));
        let items: BTreeMap<_, _> = kept.map(|item| (item.key, item.value.value)).collect();
        let cluster = cluster_of(&items)?.uuid;
        Ok(Self { cluster, revision: range.revision, taken_ms, items })
    }

    /// The file.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES);
        out.put_u64(MAGIC);
        out.put_u16(VERSION);
        out.put_bytes(0, 6);
        out.put_slice(self.cluster.as_bytes());
        out.put_i64(self.revision.0);
        out.put_i64(self.taken_ms);
        out.put_u64(self.items.len() as u64);
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("at most a MiB");
        for (key, value) in &self.items {
            out.put_u32(length(key.as_bytes()));
            out.put_u32(length(value));
            out.put_slice(key.as_bytes());
            out.put_slice(value);
        }
        out.put_u32(crc32c::crc32c(&out));
        out.freeze()
    }

    /// From a file.
    ///
    /// # Errors
    /// [`InvalidBackup`].
    pub fn decode(file: &Bytes) -> Result<Self, InvalidBackup> {
        use InvalidBackup::Damaged;
        let mut start = &file[..];
        if start.try_get_u64() != Ok(MAGIC) {
            return Err(InvalidBackup::Foreign);
        }
        match start.try_get_u16() {
            Ok(VERSION) => {}
            Ok(newer) => return Err(InvalidBackup::Version(newer)),
            Err(_) => return Err(Damaged("it is cut off")),
        }
        if file.len() < HEADER_BYTES + CRC_BYTES {
            return Err(Damaged("it is cut off"));
        }
        let covered = file.slice(..file.len() - CRC_BYTES);
        if crc32c::crc32c(&covered).to_be_bytes() != file[covered.len()..] {
            return Err(Damaged("its checksum"));
        }
        let mut rest = covered.slice(16..);
        let cluster = ClusterUuid::from_slice(&rest.split_to(16)).ok_or(Damaged("the cluster"))?;
        let (revision, taken_ms, count) =
            (Revision(rest.get_i64()), rest.get_i64(), rest.get_u64());
        let mut items = BTreeMap::new();
        while !rest.is_empty() {
            let short = |_| Damaged("a length");
            let key = rest.try_get_u32().map_err(short)? as usize;
            let value = rest.try_get_u32().map_err(short)? as usize;
            if key.checked_add(value).is_none_or(|both| both > rest.len()) {
                return Err(Damaged("a length"));
            }
            let key = String::from_utf8(rest.split_to(key).to_vec());
            let value = rest.split_to(value);
            items.insert(key.map_err(|_| Damaged("a key"))?, value);
        }
        if items.len() as u64 != count {
            return Err(Damaged("the number of keys"));
        }
        Ok(Self { cluster, revision, taken_ms, items })
    }

    /// Puts everything into a store in which there is nothing, and raises what a backup may have missed ([`restored`]), with an
    /// epoch above `above`. What an earlier run put there stands.
    ///
    /// # Errors
    /// [`RestoreError`].
    pub async fn restore(
        &self,
        store: &dyn MetaStore,
        clock: &dyn WallClock,
        above: u16,
    ) -> Result<Cluster, RestoreError> {
        let cluster = cluster_of(&self.items)?;
        let raised = restored::raised(&cluster, clock.now_ms(), above)?;
        self.check_room(store).await?;
        // An absence of the past would have the copies of whoever was away then made anew at once.
        let is_put = |key: &str| key != keys::CLUSTER && !key.starts_with(keys::BOOKIES_ABSENT);
        let rest = self.items.iter().filter(|(key, _)| is_put(key));
        let (mut batch, mut bytes) = (Vec::new(), 0);
        for (key, value) in rest {
            if batch.len() == TXN_KEYS || bytes + value.len() > TXN_BYTES {
                put_absent(store, std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += value.len();
            batch.push((key, value));
        }
        put_absent(store, batch).await?;
        restored::raise_terms(store, raised.groups_topic, raised.group_shards).await?;
        let put = store.put_if(keys::CLUSTER, None, raised.encode()).await;
        match (put, crate::cluster::read(store).await?) {
            (_, Some((found, _))) if found == raised => Ok(raised),
            (_, Some((found, _))) => Err(ClusterError::Exists(found.uuid).into()),
            (Err(error), None) => Err(error.into()),
            (Ok(_), None) => Err(Error::Unknown("restoring the cluster".to_owned()).into()),
        }
    }

    /// Nothing may be there but what an earlier run put there. That raises assignments.
    async fn check_room(&self, store: &dyn MetaStore) -> Result<(), RestoreError> {
        let there = store.range("", None, usize::MAX).await?;
        for item in there.items {
            let same = self.items.get(&item.key).is_some_and(|value| *value == item.value.value);
            let ours = item.key != keys::CLUSTER && (same || item.key.starts_with(keys::ASSIGN));
            if !ours {
                return Err(RestoreError::NotEmpty(item.key));
            }
        }
        Ok(())
    }
}

fn cluster_of(items: &BTreeMap<String, Bytes>) -> Result<Cluster, RestoreError> {
    let value = items.get(keys::CLUSTER);
    let value = value.ok_or_else(|| RestoreError::NoCluster("it has no such key".to_owned()))?;
    Cluster::decode(value).map_err(|invalid| RestoreError::NoCluster(invalid.to_string()))
}

/// Puts keys that are not there; whatever stands was put by an earlier run, or by this one with its answer lost (M9).
async fn put_absent(
    store: &dyn MetaStore,
    mut batch: Vec<(&String, &Bytes)>,
) -> Result<(), RestoreError> {
    loop {
        let mut txn = Txn::new();
        for (key, value) in &batch {
            txn = txn.guard(Guard::Absent((*key).clone())).put(*key, (*value).clone());
        }
        if batch.is_empty() {
            return Ok(());
        }
        match store.txn(txn).await {
            Ok(TxnOutcome::Committed(_)) => return Ok(()),
            Ok(TxnOutcome::GuardFailed) | Err(Error::Unknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let mut missing = Vec::new();
        for (key, value) in batch {
            match store.get(key).await? {
                None => missing.push((key, value)),
                Some(found) if found.value == *value || key.starts_with(keys::ASSIGN) => {}
                Some(_) => return Err(RestoreError::NotEmpty(key.clone())),
            }
        }
        batch = missing;
    }
}

#[cfg(test)]
mod tests;

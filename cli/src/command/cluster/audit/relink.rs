//! Gives a ledger the object back that its metadata knew before it was lost: bookies dropped their copies for it and remember which
//! upload it was. It is read and held against its sums first.

use geminga_ledger::core::audit::Dropped;
use geminga_metastore::record::{CloseKind, LedgerMeta, LedgerState, Tier};
use geminga_metastore::{Error as MetaError, MetaStore, keys};

use geminga_proto::ids::{ClusterUuid, SealEpoch};
use geminga_runtime::Random;
use geminga_tier::{ObjectError, Store, Surveyed};

/// Why it was not.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("its entries are in an object store: give --object-store")]
    NoStore,
    #[error("its object {0} is not in the object store")]
    NoObject(String),
    #[error(
        "it was uploaded with different ends, in {0} and {1}: remove the object of one history"
    )]
    Conflict(String, String),
    #[error("its object ends elsewhere than its metadata says")]
    OtherEnd,
    #[error("its metadata is gone, or changed meanwhile")]
    Changed,
    #[error(transparent)]
    Object(#[from] ObjectError),
    #[error(transparent)]
    Metadata(#[from] MetaError),
}

/// The object of one of these uploads, whole. Several are good when they have the same content.
async fn the_object(
    objects: &Store,
    cluster: ClusterUuid,
    meta: &LedgerMeta,
    attempts: &[u128],
) -> Result<Surveyed, Error> {
    let (mut found, mut last) = (None::<Surveyed>, None);
    for attempt in attempts {
        match read(objects, cluster, meta, *attempt).await {
            Ok(object) => match &found {
                Some(first) if !first.is_same(&object) => {
                    return Err(Error::Conflict(first.at.key.clone(), object.at.key));
                }
                Some(_) => {}
                None => found = Some(object),
            },
            Err(Error::Object(error)) if !error.is_permanent() => return Err(error.into()),
            Err(error) => last = Some(error),
        }
    }
    found.ok_or_else(|| last.unwrap_or(Error::NoObject(meta.id.to_string())))
}

async fn read(
    objects: &Store,
    cluster: ClusterUuid,
    meta: &LedgerMeta,
    attempt: u128,
) -> Result<Surveyed, Error> {
    let name = objects.key(cluster, &meta.custom, meta.id, attempt);
    let listed = objects.head(&name).await?.ok_or_else(|| Error::NoObject(name.clone()))?;
    let (_, parsed) = objects.parse_any_key(&name).ok_or_else(|| Error::NoObject(name.clone()))?;
    let object = Surveyed::read(objects, cluster, &parsed, &listed).await?;
    object.verify(objects).await?;
    Ok(object)
}

/// Closes the ledger where its object ends, if it was open, and refers to the object.
pub(super) async fn relink(
    store: &dyn MetaStore,
    objects: &Store,
    cluster: ClusterUuid,
    dropped: &Dropped,
    random: &dyn Random,
) -> Result<LedgerMeta, Error> {
    let &Dropped { ledger, sealed_epoch, .. } = dropped;
    let key = keys::ledger(ledger);
    let found = store.get(&key).await?.ok_or(Error::Changed)?;
    let mut meta = LedgerMeta::decode(ledger, &found.value).map_err(|_| Error::Changed)?;
    let object = the_object(objects, cluster, &meta, &dropped.attempts).await?;
    let last = object.footer.last_entry;
    match meta.state {
        LedgerState::Closed if meta.last_entry == Some(last) => {}
        LedgerState::Open | LedgerState::InRecovery => {
            // The object was made of a closed ledger: this is the end that it had, for ever (M2).
            meta.state = LedgerState::Closed;
            meta.seal_epoch = SealEpoch(meta.seal_epoch.max(sealed_epoch).0.saturating_add(1));
            meta.last_entry = Some(last);
            meta.length = object.footer.length;
            meta.close_kind = Some(CloseKind::Recovered);
            meta.fragments.retain(|fragment| fragment.first_entry <= last);
        }
        LedgerState::Closed => return Err(Error::OtherEnd),
        LedgerState::Deleting => return Err(Error::Changed),
    }
    meta.entries_crc = Some(object.footer.entries_crc);
    meta.tier = Tier::Trimmed(object.at);
    meta.last_op = random.next_u128();
    let put = store.put_if(&key, Some(found.version), meta.encode()).await;
    match put {
        Ok(Some(_)) => Ok(meta),
        Ok(None) => Err(Error::Changed),
        Err(error) => {
            // What is there now tells (M9).
            let now = store.get(&key).await?.ok_or(Error::Changed)?;
            let ours = now.value == meta.encode();
            if ours { Ok(meta) } else { Err(error.into()) }
        }
    }
}

//! How operators see and set quotas. Any broker takes the request; it becomes a key, changed under the guard of the version
//! that was read, or of its absence, which every broker follows.

use geminga_metastore::record::Quota;
use geminga_metastore::{Error, Guard, MetaStore, Txn, TxnOutcome, keys};
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::{caps, v1};

use super::core::Kind;
use super::handle::Quotas;
use crate::rpc::metadata::api_error;

/// Attempts at one transaction whose outcome stays unknown, or that others come before.
const ATTEMPTS: usize = 5;
/// Most client ids that have quotas of their own: every broker holds all of them in memory.
const MAX_QUOTAS: usize = 10_000;
/// How many of those that wait are shown.
const SHOWN: usize = 10;

impl Quotas {
    /// What is set, and who waits, as this broker knows it.
    pub(crate) fn list(&self) -> v1::ListQuotasResponse {
        let limits = self.limits();
        let of_all = (!limits.default.is_empty()).then_some((None, limits.default));
        let own = limits.clients.into_iter().map(|(client, quota)| (Some(client), quota));
        let quotas = of_all.into_iter().chain(own).map(|(client_id, quota)| v1::Quota {
            client_id,
            producer_byte_rate: quota.producer_byte_rate,
            consumer_byte_rate: quota.consumer_byte_rate,
            request_rate: quota.request_rate,
        });
        let held_back = self.debts(SHOWN).into_iter().map(|debt| v1::HeldBack {
            client_id: debt.client.as_ref().to_owned(),
            quota: debt.kind.name().to_owned(),
            for_ms: u64::try_from(debt.wait.as_millis()).unwrap_or(u64::MAX),
        });
        v1::ListQuotasResponse { quotas: quotas.collect(), held_back: held_back.collect() }
    }

    /// Sets what is named, and leaves the rest as it is. Twice is once.
    ///
    /// # Errors
    /// INVALID_REQUEST, LIMIT_EXCEEDED: nothing was done. METADATA_UNAVAILABLE: it may yet be set.
    pub(crate) async fn set(
        &self,
        store: &dyn MetaStore,
        asked: v1::Quota,
    ) -> Result<(), ApiError> {
        let v1::Quota { client_id, producer_byte_rate, consumer_byte_rate, request_rate } = asked;
        check_client(client_id.as_deref())?;
        let rates = [producer_byte_rate, consumer_byte_rate, request_rate];
        if rates == [None; 3] {
            return Err(invalid("no quota is named: name one, such as producer_byte_rate"));
        }
        if rates.contains(&Some(0)) {
            return Err(invalid(
                "a quota of 0 would stop the client for ever: give one of at least 1",
            ));
        }
        if let Some(client) = &client_id {
            let clients = self.limits().clients;
            if clients.len() >= MAX_QUOTAS && !clients.contains_key(client) {
                let why = format!(
                    "{MAX_QUOTAS} client ids have quotas: remove those of others, or set the default"
                );
                return Err(ApiError::new(Reason::LimitExceeded, why));
            }
        }
        change(store, client_id.as_deref(), |quota| {
            for (rate, kind) in rates.into_iter().zip(Kind::ALL) {
                if rate.is_some() {
                    *kind.rate_in(quota) = rate;
                }
            }
        })
        .await
    }

    /// Takes quotas away; all, when none is named. What is not there is no error.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub(crate) async fn remove(
        &self,
        store: &dyn MetaStore,
        asked: v1::RemoveQuotaRequest,
    ) -> Result<(), ApiError> {
        let v1::RemoveQuotaRequest { client_id, quotas } = asked;
        check_client(client_id.as_deref())?;
        let mut kinds = Vec::new();
        for name in quotas.iter().take(Kind::ALL.len()) {
            kinds.push(Kind::parse(name).ok_or_else(|| {
                let shown: String = name.chars().take(64).collect();
                let known = Kind::ALL.map(Kind::name).join(", ");
                invalid(&format!("quota {shown:?} is unknown: name some of {known}"))
            })?);
        }
        if kinds.is_empty() {
            kinds.extend(Kind::ALL);
        }
        change(store, client_id.as_deref(), |quota| {
            kinds.iter().for_each(|kind| *kind.rate_in(quota) = None);
        })
        .await
    }
}

/// Changes what stands at a client's key, whoever else does so meanwhile.
async fn change(
    store: &dyn MetaStore,
    client: Option<&str>,
    alter: impl Fn(&mut Quota),
) -> Result<(), ApiError> {
    let key = keys::quota(client);
    for _ in 0..ATTEMPTS {
        let found = store.get(&key).await.map_err(|e| api_error(&e))?;
        let before = match &found {
            Some(found) => Quota::decode(&found.value).map_err(|error| {
                let why = format!(
                    "the quotas that are set cannot be read ({error}): upgrade this broker"
                );
                ApiError::new(Reason::Internal, why)
            })?,
            None => Quota::default(),
        };
        // Made from what stands, never from what was read before a guard failed.
        let mut after = before;
        alter(&mut after);
        if after == before {
            return Ok(());
        }
        let txn = Txn::new().guard(match &found {
            Some(found) => Guard::Version(key.clone(), found.version),
            None => Guard::Absent(key.clone()),
        });
        let txn = if after.is_empty() { txn.delete(&key) } else { txn.put(&key, after.encode()) };
        match store.txn(txn).await {
            Ok(TxnOutcome::Committed(_)) => {
                tracing::info!(client_id = client.unwrap_or("(default)"), ?after, "quotas changed");
                return Ok(());
            }
            // Somebody else's came first, or ours took place after all.
            Ok(TxnOutcome::GuardFailed) | Err(Error::Unknown(_)) => {}
            Err(error) => return Err(api_error(&error)),
        }
    }
    let why = "whether the quotas were changed is not known: list them, then try again";
    Err(ApiError::new(Reason::MetadataUnavailable, why))
}

fn check_client(client: Option<&str>) -> Result<(), ApiError> {
    let Some(client) = client else { return Ok(()) };
    let limit = caps::MAX_CLIENT_ID_BYTES;
    if client.is_empty() || client.len() > limit || client.chars().any(char::is_control) {
        let why =
            format!("a client id with quotas has 1 to {limit} bytes, and no control characters");
        return Err(invalid(&why));
    }
    Ok(())
}

fn invalid(why: &str) -> ApiError {
    ApiError::new(Reason::InvalidRequest, why)
}

#[cfg(test)]
mod tests {
    use geminga_metastore::MemoryStore;

    use super::*;

    fn asked(client: Option<&str>, rates: [Option<u64>; 3]) -> v1::Quota {
        let [producer_byte_rate, consumer_byte_rate, request_rate] = rates;
        let client_id = client.map(str::to_owned);
        v1::Quota { client_id, producer_byte_rate, consumer_byte_rate, request_rate }
    }

    async fn stored(store: &MemoryStore, client: Option<&str>) -> Option<Quota> {
        let found = store.get(&keys::quota(client)).await.unwrap();
        found.map(|found| Quota::decode(&found.value).unwrap())
    }

    #[tokio::test]
    async fn what_is_named_is_changed_and_the_rest_stays() {
        let (store, quotas) = (MemoryStore::new(), Quotas::new());
        let set = |client, rates| quotas.set(&store, asked(client, rates));
        set(Some("a"), [Some(5), None, None]).await.unwrap();
        set(Some("a"), [None, Some(6), Some(7)]).await.unwrap();
        set(None, [Some(8), None, None]).await.unwrap();
        let all = Quota {
            producer_byte_rate: Some(5),
            consumer_byte_rate: Some(6),
            request_rate: Some(7),
        };
        assert_eq!(stored(&store, Some("a")).await, Some(all));
        let remove = |client: Option<&str>, names: &[&str]| {
            let quotas_named = names.iter().map(|name| (*name).to_owned()).collect();
            let client_id = client.map(str::to_owned);
            quotas.remove(&store, v1::RemoveQuotaRequest { client_id, quotas: quotas_named })
        };
        remove(Some("a"), &["request_rate"]).await.unwrap();
        assert_eq!(stored(&store, Some("a")).await, Some(Quota { request_rate: None, ..all }));
        remove(Some("a"), &[]).await.unwrap();
        remove(Some("a"), &[]).await.unwrap();
        assert_eq!(stored(&store, Some("a")).await, None, "a key without quotas is none");
        assert!(stored(&store, None).await.is_some(), "the default is another's");
        let unknown = remove(None, &["controller_mutation_rate"]).await.unwrap_err();
        assert_eq!(unknown.reason, Reason::InvalidRequest);
    }

    #[tokio::test]
    async fn what_would_stop_a_client_or_name_none_is_refused() {
        let (store, quotas) = (MemoryStore::new(), Quotas::new());
        let long = "x".repeat(caps::MAX_CLIENT_ID_BYTES + 1);
        for bad in [
            asked(Some("a"), [Some(0), Some(1), None]),
            asked(Some("a"), [None; 3]),
            asked(Some(""), [Some(1), None, None]),
            asked(Some("a\n"), [Some(1), None, None]),
            asked(Some(&long), [Some(1), None, None]),
        ] {
            let refused = quotas.set(&store, bad).await.unwrap_err();
            assert_eq!(refused.reason, Reason::InvalidRequest);
        }
        assert!(store.range(keys::QUOTAS, None, 10).await.unwrap().items.is_empty());
    }
}

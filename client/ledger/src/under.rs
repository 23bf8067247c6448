//! Under-replication marks (protocol 2.5 step 6, 4.3 S7): who lacks entries of which ledger. A hint for whoever repairs, so
//! a mark that is too many costs a look, and one that got lost is found by the audit.

use geminga_metastore::record::{Under, UnderReason};
use geminga_metastore::{Error, MetaStore, keys};
use geminga_proto::ids::{LedgerId, Member};

/// How often a mark is tried against others' before its caller has to try again.
const ATTEMPTS: usize = 8;

/// Adds `members` to the mark of `ledger`. Cancel-safe: made whole or not at all.
///
/// # Errors
/// When the store did not do it; it may have all the same.
pub async fn mark_under(
    store: &dyn MetaStore,
    ledger: LedgerId,
    members: &[Member],
    reason: UnderReason,
    now_ms: i64,
) -> Result<(), Error> {
    let key = keys::under(ledger);
    for _ in 0..ATTEMPTS {
        let found = store.get(&key).await?;
        let version = found.as_ref().map(|found| found.version);
        let old = match found.map(|found| Under::decode(ledger, &found.value)).transpose() {
            Ok(old) => old,
            Err(invalid) => return Err(Error::Corrupt { key, why: invalid.to_string() }),
        };
        let mut mark =
            old.unwrap_or(Under { ledger, members: Vec::new(), reason, created_ms: now_ms });
        let known = mark.members.len();
        for member in members {
            if !mark.members.contains(member) {
                mark.members.push(member.clone());
            }
        }
        if version.is_some() && mark.members.len() == known {
            return Ok(());
        }
        match store.put_if(&key, version, mark.encode()).await {
            Ok(Some(_)) => return Ok(()),
            // Somebody else marked it; or nobody knows, and the next read tells (M9).
            Ok(None) | Err(Error::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Unknown(format!("marking ledger {ledger} as under-replicated")))
}

#[cfg(test)]
mod tests {
    use geminga_metastore::MemoryStore;
    use geminga_proto::ids::Incarnation;

    use super::*;

    fn member(number: u64) -> Member {
        Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
    }

    #[tokio::test]
    async fn marks_of_one_ledger_add_up() {
        let store = MemoryStore::new();
        let ledger = LedgerId(7);
        for (numbers, now_ms) in [(vec![1, 2], 10), (vec![2, 3], 20), (vec![1], 30)] {
            let members: Vec<Member> = numbers.into_iter().map(member).collect();
            mark_under(&store, ledger, &members, UnderReason::Replaced, now_ms).await.unwrap();
        }
        let found = store.get(&keys::under(ledger)).await.unwrap().unwrap();
        let mark = Under::decode(ledger, &found.value).unwrap();
        assert_eq!(mark.members, [member(1), member(2), member(3)]);
        assert_eq!((mark.created_ms, mark.reason), (10, UnderReason::Replaced));
    }
}

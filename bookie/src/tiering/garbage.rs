//! Which objects may be removed: pure (protocol 7.5, 7.8 (3)). Whoever removes them reads the metadata linearizably right before, for each
//! object on its own (M8). What a ledger superseded stays so; what has no metadata may be named again, by `geminga restore import`.

use geminga_metastore::Horizon;
use geminga_metastore::record::{LedgerMeta, LedgerState, TierObject};
use geminga_proto::ids::LedgerId;

use super::{Mutation, Mutations};

/// What refers to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Its ledger does, or may.
    Kept,
    /// Its ledger names another upload, which was published.
    Superseded,
    /// There is no such ledger, and no manifest that could list it.
    Absent,
}

/// The fate of the object of an upload, by the metadata of its ledger.
pub fn of_named(meta: &LedgerMeta, attempt: u128, mutations: Mutations) -> Fate {
    // Only an object that was published in its place makes one superfluous. A ledger that names none may have named this
    // one before its metadata was restored from a backup, when no bookie has a copy any more.
    let superseded = match meta.tier.object() {
        Some(published) => published.attempt != attempt,
        None => mutations.is(Mutation::SweepUnnamed),
    };
    if superseded { Fate::Superseded } else { Fate::Kept }
}

/// The fate of an object whose ledger has no metadata, and is not known to be listed by a manifest: one that cannot be read may
/// list it.
pub fn of_absent(may_be_listed: bool) -> Fate {
    if may_be_listed { Fate::Kept } else { Fate::Absent }
}

/// An object that nothing refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// Its key.
    pub key: String,
    /// Whose entries it has; `None` of a list of segments, which can be of any epoch.
    pub ledger: Option<LedgerId>,
    /// Why.
    pub fate: Fate,
}

/// What of it is due, by a record of the cluster that was read after all that refers to objects. After a restore nothing of the time before
/// goes in the week in which `geminga cluster audit` and `geminga restore import` may refer to it again (6.8): a backup does not know it,
/// or names what it superseded. `None`: the metadata went back, since it never handed one of these ledgers out (M1).
pub fn due(
    found: Vec<Garbage>,
    horizon: &Horizon,
    now_ms: i64,
    mutations: Mutations,
) -> Option<Vec<Garbage>> {
    if mutations.is(Mutation::SweepRestored) {
        return Some(found);
    }
    let beyond = |one: &Garbage| one.ledger.is_some_and(|ledger| horizon.is_beyond(ledger));
    if found.iter().any(beyond) {
        return None;
    }
    let is_kept = |one: &Garbage| match (one.fate, one.ledger) {
        (Fate::Absent, Some(ledger)) => horizon.cluster.quarantines(ledger, now_ms),
        _ => horizon.cluster.is_quarantined(now_ms),
    };
    Some(found.into_iter().filter(|one| !is_kept(one)).collect())
}

/// The object that goes with a ledger that is being deleted, before its metadata does.
pub fn of_deleted(meta: &LedgerMeta) -> Option<&TierObject> {
    meta.tier.object().filter(|_| meta.state == LedgerState::Deleting)
}

#[cfg(test)]
mod tests {
    use geminga_metastore::record::{Cluster, Features, QUARANTINE_MS, Restored};
    use geminga_proto::ids::{BrokerId, ClusterUuid, TopicId};
    use geminga_runtime::holds_only_with;

    use super::*;

    const RESTORED_MS: i64 = 1_000;

    fn id(epoch: u16, number: u64) -> LedgerId {
        LedgerId::from_parts(epoch, number).unwrap()
    }

    /// In epoch 2, of which ten ids were handed out.
    fn horizon(restored: bool) -> Horizon {
        let cluster = Cluster {
            uuid: ClusterUuid::from_random(1),
            epoch: 2,
            group_shards: 8,
            next_broker: BrokerId(1),
            groups_topic: TopicId::from_random(2),
            created_ms: 0,
            restored: restored.then_some(Restored { at_ms: RESTORED_MS, audited: true }),
            features: Features::NONE,
        };
        Horizon::new(cluster, 11)
    }

    fn found() -> Vec<Garbage> {
        let of = |ledger, fate| Garbage { key: "k".to_owned(), ledger, fate };
        vec![
            of(Some(id(1, 5)), Fate::Absent),
            of(Some(id(2, 5)), Fate::Absent),
            of(Some(id(1, 6)), Fate::Superseded),
            of(None, Fate::Superseded),
            of(None, Fate::Absent),
        ]
    }

    /// 6.8: a backup names what was superseded since, and not what came in its place.
    #[test]
    fn scenario_43_what_a_backup_does_not_name_is_kept_for_a_week() {
        holds_only_with(Mutation::SweepRestored, |mutations| {
            let due = |horizon: &Horizon, now_ms| due(found(), horizon, now_ms, mutations).unwrap();
            let during = due(&horizon(true), RESTORED_MS + QUARANTINE_MS - 1);
            // Of this epoch is only what came after the restore.
            assert_eq!(during, found()[1..2]);
            assert_eq!(due(&horizon(true), RESTORED_MS + QUARANTINE_MS), found());
            assert_eq!(due(&horizon(false), RESTORED_MS), found(), "never restored");
        });
    }

    /// M1.
    #[test]
    fn nothing_is_due_by_metadata_that_went_back() {
        let beyond = Garbage { key: "k".to_owned(), ledger: Some(id(2, 11)), fate: Fate::Absent };
        let found = [found(), vec![beyond]].concat();
        assert_eq!(due(found, &horizon(false), 0, Mutations::default()), None);
    }
}

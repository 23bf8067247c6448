//! What was lost, where an operator allowed to go on after a loss (protocol 5.7, loss boot): a pure function of the metadata
//! store's cookie and what the disks say. A disk that lost anything gets another life; its former one is recorded as lost
//! before anything is served, so that it neither acknowledges for, nor votes in, what it does not have any more.
//!
//! Metadata that was restored says less than the disks know, and that is no loss of theirs: a disk that is ahead of the store keeps its
//! life, and until bookies were compared with the store no disk is taken for a copy that is older, or for one that was replaced. One whose
//! life the store itself calls lost was: a start that did so ended before it came to the disk, and is repeated.

use geminga_metastore::record::{Cookie, CookieDisk};
use geminga_proto::ids::{BookieId, DiskUuid, Incarnation};

use super::cookie::Stage;
use super::decide::{self, Found, Refusal, Standing, Store};

/// How one directory goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// The disk of the store that it is.
    pub(super) disk: DiskUuid,
    /// Whether that disk lost anything.
    pub(super) lost: bool,
}

/// Whether a refusal says that something was lost, rather than that something is mistaken.
pub(super) fn is_loss(refusal: &Refusal, store: Store) -> bool {
    match refusal {
        Refusal::DiskMissing { .. } | Refusal::LogMissing(_) => true,
        // Another life than the store knows may be a later one, unless the store has ended it.
        Refusal::Replaced { lost, .. } => store.audited || *lost,
        Refusal::OlderCopy { .. } => store.audited,
        Refusal::OtherCluster { .. }
        | Refusal::OtherBookie { .. }
        | Refusal::Decommissioned { .. }
        | Refusal::NoCookie(_)
        | Refusal::DiskCount { .. }
        | Refusal::Twice(..)
        | Refusal::OtherFirstBoot(_)
        | Refusal::EpochBack { .. }
        | Refusal::AheadOfStore { .. }
        | Refusal::Clone(_) => false,
    }
}

/// Which disk each directory is, and which of them lost something. A directory that is empty stands for a disk that none of the
/// others is. What is a mistake and no loss was refused before.
///
/// # Errors
/// [`Refusal`] when the directories cannot be these disks.
pub(super) fn plan(
    bookie: &BookieId,
    store: Store,
    known: &Cookie,
    disks: &[Found],
) -> Result<Vec<Plan>, Refusal> {
    if disks.len() != known.disks.len() {
        let (known, given) = (known.disks.len(), disks.len());
        return Err(Refusal::DiskCount { bookie: bookie.clone(), known, given });
    }
    let of = |disk: DiskUuid| known.disks.iter().find(|one| one.disk == disk);
    let there = |disk: DiskUuid| {
        disks.iter().filter_map(|found| found.cookie.as_ref()).any(|cookie| cookie.disk == disk)
    };
    let mut missing = known.disks.iter().map(|one| one.disk).filter(|disk| !there(*disk));
    let plan = |found: &Found| match &found.cookie {
        None => match missing.next() {
            Some(disk) => Ok(Plan { disk, lost: true }),
            None => Err(Refusal::NoCookie(found.dir.clone())),
        },
        Some(cookie) => match of(cookie.disk) {
            Some(now) if cookie.incarnation() != now.incarnation => {
                let refusal = decide::replaced(&found.dir, bookie, cookie, Some(now));
                match is_loss(&refusal, store) {
                    true => Ok(Plan { disk: now.disk, lost: true }),
                    false => Err(refusal),
                }
            }
            Some(now) => Ok(Plan { disk: now.disk, lost: lost(found, now, store)? }),
            None => Err(decide::replaced(&found.dir, bookie, cookie, None)),
        },
    };
    disks.iter().map(plan).collect()
}

/// Whether a disk in the life that the store names is not in the state that it knows.
fn lost(found: &Found, now: &CookieDisk, store: Store) -> Result<bool, Refusal> {
    let Some(cookie) = &found.cookie else { return Ok(true) };
    if cookie.stage == Stage::InService && !found.data {
        return Ok(true);
    }
    match decide::standing(cookie, now, store.epoch) {
        Standing::DiskIsOlder if store.audited => Ok(true),
        standing => {
            let (disk, store) = (cookie.boot_counter, now.boot_counter);
            decide::refuse_a_copy(standing, &found.dir, disk, store).map(|()| false)
        }
    }
}

/// Gives a disk another life in the store's cookie.
pub(super) fn replace(disk: &mut CookieDisk, new: Incarnation) {
    let former = std::mem::replace(&mut disk.incarnation, new);
    if !disk.lost.contains(&former) {
        disk.lost.push(former);
    }
}

#[cfg(test)]
mod tests {
    use super::super::cookie::DiskCookie;
    use super::*;

    fn bookie() -> BookieId {
        "b-1".parse().unwrap()
    }

    fn disk(number: u64) -> CookieDisk {
        CookieDisk {
            disk: DiskUuid::from_random(u128::from(number)),
            incarnation: Incarnation(number),
            boot_counter: 50,
            lost: vec![],
        }
    }

    fn known() -> Cookie {
        let cluster = geminga_proto::ids::ClusterUuid::from_random(1);
        Cookie { cluster, bookie: bookie(), disks: vec![disk(1), disk(2)] }
    }

    fn found(number: u64, change: impl FnOnce(&mut DiskCookie)) -> Found {
        let of = |disk: CookieDisk| (disk.disk, disk.incarnation);
        let mut cookie = DiskCookie {
            cluster: known().cluster,
            cluster_epoch: 1,
            bookie: bookie(),
            disk: disk(number).disk,
            disks: vec![of(disk(1)), of(disk(2)), of(disk(9))],
            boot_counter: 50,
            earlier: vec![],
            stage: Stage::InService,
        };
        change(&mut cookie);
        Found { dir: format!("d{number}").into(), cookie: Some(cookie), data: true }
    }

    /// In the epoch that the disks have seen.
    fn store(audited: bool) -> Store {
        Store { cluster: known().cluster, epoch: 1, audited }
    }

    fn planned(store: Store, found: &[Found]) -> Result<Vec<(DiskUuid, bool)>, Refusal> {
        let plan = plan(&bookie(), store, &known(), found)?;
        Ok(plan.into_iter().map(|plan| (plan.disk, plan.lost)).collect())
    }

    fn lost(found: &[Found]) -> Vec<(DiskUuid, bool)> {
        planned(store(true), found).unwrap()
    }

    #[test]
    fn only_what_differs_is_lost() {
        let (one, two) = (disk(1).disk, disk(2).disk);
        let whole = || found(1, |_| {});
        assert_eq!(lost(&[found(2, |_| {}), whole()]), [(two, false), (one, false)]);
        let empty = Found { dir: "new".into(), cookie: None, data: false };
        assert_eq!(lost(&[empty.clone(), whole()]), [(two, true), (one, false)]);
        assert_eq!(lost(&[empty.clone(), empty.clone()]), [(one, true), (two, true)]);
        let older = found(2, |cookie| cookie.boot_counter = 40);
        assert_eq!(lost(&[whole(), older]), [(one, false), (two, true)]);
        let former = found(2, |cookie| cookie.disks[1].1 = Incarnation(7));
        assert_eq!(lost(&[whole(), former]), [(one, false), (two, true)]);
        let no_log = Found { data: false, ..found(2, |_| {}) };
        assert_eq!(lost(&[whole(), no_log]), [(one, false), (two, true)]);
        // What is a mistake stays one.
        let stranger = found(9, |_| {});
        for mistaken in
            [vec![whole(), stranger], vec![whole()], vec![whole(), empty.clone(), empty]]
        {
            assert!(planned(store(true), &mistaken).is_err());
        }
    }

    /// 6.8: one disk is gone, and the others are ahead of a store that was restored. They have lost nothing.
    #[test]
    fn what_a_restored_store_does_not_know_is_not_lost() {
        let (one, two) = (disk(1).disk, disk(2).disk);
        let empty = Found { dir: "new".into(), cookie: None, data: false };
        let with = |boot_counter| found(2, |cookie| cookie.boot_counter = boot_counter);
        let next = |audited| Store { epoch: 2, ..store(audited) };
        for audited in [false, true] {
            let plan = planned(next(audited), &[empty.clone(), with(70)]);
            assert_eq!(plan, Ok(vec![(one, true), (two, false)]));
            // Nothing says that the store went back: it may have, and the disk keeps its life.
            let plan = planned(store(audited), &[empty.clone(), with(70)]);
            assert!(matches!(plan, Err(Refusal::AheadOfStore { disk: 70, store: 50, .. })));
        }
        let plan = planned(next(false), &[empty.clone(), with(40)]);
        assert!(matches!(plan, Err(Refusal::OlderCopy { .. })), "{plan:?}");
        assert_eq!(planned(next(true), &[empty, with(40)]), Ok(vec![(one, true), (two, true)]));
    }

    /// 6.8: the store names a life of before a disk was replaced. What the later one holds was acknowledged.
    #[test]
    fn only_an_audited_store_calls_a_life_lost() {
        let empty = Found { dir: "new".into(), cookie: None, data: false };
        let later = found(2, |cookie| cookie.disks[1].1 = Incarnation(7));
        let refused = planned(store(false), &[empty.clone(), later.clone()]).unwrap_err();
        assert!(matches!(refused, Refusal::Replaced { .. }), "{refused:?}");
        assert!(!is_loss(&refused, store(false)) && is_loss(&refused, store(true)));
        assert!(planned(store(true), &[empty, later.clone()]).is_ok());
        // This store has ended that life itself.
        let mut ended = known();
        ended.disks[1].lost.push(Incarnation(7));
        let plan = plan(&bookie(), store(false), &ended, &[found(1, |_| {}), later.clone()]);
        let lost: Vec<bool> = plan.unwrap().iter().map(|plan| plan.lost).collect();
        assert_eq!(lost, [false, true]);
        let disks = [found(1, |_| {}), later];
        let none = crate::ledger::Mutations::default();
        let refused = decide::decide(store(false), &bookie(), Some(&ended), &disks, none);
        assert!(is_loss(&refused.unwrap_err(), store(false)));
    }

    /// The same where no disk is missing.
    #[test]
    fn only_an_audited_store_calls_a_disk_old() {
        let dir = || "d".into();
        let older = Refusal::OlderCopy { dir: dir(), disk: 40, store: 50 };
        assert!(is_loss(&older, store(true)) && !is_loss(&older, store(false)));
        let ahead = Refusal::AheadOfStore { dir: dir(), disk: 70, store: 50 };
        assert!(!is_loss(&ahead, store(true)) && !is_loss(&ahead, store(false)));
        let missing = Refusal::DiskMissing { dir: dir(), bookie: bookie(), disks: 2 };
        assert!(is_loss(&missing, store(false)));
    }

    #[test]
    fn a_life_is_recorded_as_lost_once() {
        let mut disk = disk(1);
        for new in [5, 6] {
            replace(&mut disk, Incarnation(new));
        }
        assert_eq!(
            (disk.incarnation, &disk.lost[..]),
            (Incarnation(6), &[Incarnation(1), Incarnation(5)][..])
        );
    }
}

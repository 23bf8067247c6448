//! The boot decision table of protocol 5.7 as a pure function of the metadata store's cookie and what the disks say. Every row that
//! does not start is a [`Refusal`] that tells what to do.
//!
//! A store that was restored from a backup knows a boot of long ago. It is told from a disk that was copied by the epoch, which is raised
//! for each restore: see [`Standing`].
//!
//! What must stay true: a disk starts only if the metadata store names exactly this disk in exactly this life, and not from a
//! state older than one that was started before. So neither an empty directory nor a copy ever speaks for data
//! that it does not have (H7, H11).

use std::path::{Path, PathBuf};

use geminga_metastore::record::{Cluster, Cookie, CookieDisk};
use geminga_proto::ids::{BookieId, ClusterUuid};

use super::cookie::{DiskCookie, Stage};
use crate::ledger::{Mutation, Mutations};

/// What a data directory says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// Where.
    pub(super) dir: PathBuf,
    /// Its cookie.
    pub(super) cookie: Option<DiskCookie>,
    /// Whether its log holds anything.
    pub(super) data: bool,
}

/// What the metadata store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Store {
    /// Its cluster.
    pub(super) cluster: ClusterUuid,
    /// Its epoch, raised whenever it was restored (M1).
    pub(super) epoch: u16,
    /// Whether bookies were compared with it since it was restored; true when it never was.
    pub(super) audited: bool,
}

impl From<&Cluster> for Store {
    fn from(cluster: &Cluster) -> Self {
        let audited = cluster.restored.is_none_or(|restored| restored.audited);
        Self { cluster: cluster.uuid, epoch: cluster.epoch, audited }
    }
}

/// How a disk's count of its boots stands to the store's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The store holds a number that this disk put there, or may have.
    Same,
    /// The disk is ahead, and meets a raised epoch for the first time: the store went back.
    StoreIsOlder,
    /// The store holds a number of another copy that is ahead of this one.
    DiskIsOlder,
    /// The disk is ahead of a store that says nothing of having gone back.
    Ahead,
}

/// Compares them. The disk is raised first, so it knows every number that it may have put there. Comparing sizes is not enough: a copy
/// that lost the race of two boots has raised its own counter, perhaps above the winner's.
pub(super) fn standing(disk: &DiskCookie, store: &CookieDisk, epoch: u16) -> Standing {
    if disk.is_at(store.boot_counter) {
        Standing::Same
    } else if disk.boot_counter < store.boot_counter {
        Standing::DiskIsOlder
    } else if disk.cluster_epoch < epoch {
        Standing::StoreIsOlder
    } else {
        Standing::Ahead
    }
}

/// How to boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Boot {
    /// All directories are new: make an identity.
    First,
    /// A first boot that did not come to its end: go on with the identity it had chosen.
    Resume,
    /// Everything matches.
    Normal,
    /// Something was lost, and going on is allowed.
    Loss,
}

/// Why this bookie does not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The directory belongs to another cluster.
    #[error("{} belongs to cluster {found}, and --metastore names cluster {expected}: correct one of them", .dir.display())]
    OtherCluster {
        /// The directory.
        dir: PathBuf,
        /// Its cluster.
        found: ClusterUuid,
        /// The store's.
        expected: ClusterUuid,
    },
    /// The directory belongs to another bookie.
    #[error("{} belongs to bookie {found}, not to {expected}: correct --id or --data-dir", .dir.display())]
    OtherBookie {
        /// The directory.
        dir: PathBuf,
        /// Its bookie.
        found: BookieId,
        /// Who this should be.
        expected: BookieId,
    },
    /// The metadata store does not know the bookie, but the directory was in use.
    #[error("{} belongs to bookie {bookie}, which the metadata store does not know: it was decommissioned, or --metastore names the wrong store; empty the directory to start as a new bookie", .dir.display())]
    Decommissioned {
        /// The directory.
        dir: PathBuf,
        /// Its bookie.
        bookie: BookieId,
    },
    /// A log without a cookie.
    #[error("{} holds a log but no cookie: restore the file `cookie`, or empty the directory", .0.display())]
    NoCookie(PathBuf),
    /// A directory that should hold a disk of this bookie is empty.
    #[error("{} is empty, but bookie {bookie} is known with {disks} disks: mount the right disk, or start with --auto-heal to have what was lost restored from the other bookies", .dir.display())]
    DiskMissing {
        /// The directory.
        dir: PathBuf,
        /// Who this should be.
        bookie: BookieId,
        /// How many disks it has.
        disks: usize,
    },
    /// More or fewer directories than the bookie has disks.
    #[error(
        "bookie {bookie} has {known} disks, and --data-dir names {given}: give each of its directories once (a lost disk is replaced by an empty directory, with --auto-heal)"
    )]
    DiskCount {
        /// Who.
        bookie: BookieId,
        /// How many disks it has.
        known: usize,
        /// How many directories were given.
        given: usize,
    },
    /// A disk, or a life of it, that the metadata store does not name.
    #[error("{} is not a disk of bookie {bookie} any more: it was replaced after a loss; start with --auto-heal to serve what it still holds (after a restore of metadata not before `geminga cluster audit` has passed), or empty the directory", .dir.display())]
    Replaced {
        /// The directory.
        dir: PathBuf,
        /// Who this should be.
        bookie: BookieId,
        /// Whether the metadata store itself calls this life lost. Else it may be a later one than a restored store knows.
        lost: bool,
    },
    /// One disk in two directories.
    #[error("{} and {} hold the same disk: one is a copy; remove it from --data-dir", .0.display(), .1.display())]
    Twice(PathBuf, PathBuf),
    /// A state older than one that was started since, from another copy.
    #[error("{} is an older copy: it was last started as number {disk}, and another copy of it since as number {store}; use that one, or start with --auto-heal to serve what this one holds (after a restore of metadata not before `geminga cluster audit` has passed)", .dir.display())]
    OlderCopy {
        /// The directory.
        dir: PathBuf,
        /// The disk's boot counter.
        disk: u64,
        /// The metadata store's.
        store: u64,
    },
    /// The store knows a boot of long ago, and its epoch does not say that it was restored; or another copy of the disk was started.
    /// Nothing says that the disk lost anything.
    #[error("{} was last started as number {disk}, and the metadata store knows number {store} only: it was restored from a backup (again) and its epoch was not raised since; stop all servers and run `geminga cluster epoch-bump`. Where it was not, another copy of this disk was started: use that one", .dir.display())]
    AheadOfStore {
        /// The directory.
        dir: PathBuf,
        /// The disk's boot counter.
        disk: u64,
        /// The metadata store's.
        store: u64,
    },
    /// The cookie says that there is a log, and there is none.
    #[error("the log of {} is gone: bring it back, or start with --auto-heal to go on without it", .0.display())]
    LogMissing(PathBuf),
    /// First boots that do not belong together.
    #[error("{} was prepared by a first start with other directories: give the same --data-dir as then, or empty them all", .0.display())]
    OtherFirstBoot(PathBuf),
    /// The metadata store went back to before an epoch that the disk has seen (M1).
    #[error("{} has seen cluster epoch {disk}, and the metadata store is at {store}: it was restored from a backup; run `geminga cluster epoch-bump --above {disk}` first", .dir.display())]
    EpochBack {
        /// The directory.
        dir: PathBuf,
        /// The disk's.
        disk: u16,
        /// The store's.
        store: u16,
    },
    /// Another process started from the same disks at the same time, or took the same name.
    #[error("another process started as bookie {0} at the same time: stop one of them")]
    Clone(BookieId),
}

/// Who the directories, or the operator, say this bookie is; `None` when nobody says.
pub(super) fn name(disks: &[Found], given: Option<&BookieId>) -> Result<Option<BookieId>, Refusal> {
    let mut name = given.cloned();
    for disk in disks {
        let Some(cookie) = &disk.cookie else { continue };
        match &name {
            Some(expected) if *expected != cookie.bookie => {
                return Err(Refusal::OtherBookie {
                    dir: disk.dir.clone(),
                    found: cookie.bookie.clone(),
                    expected: expected.clone(),
                });
            }
            _ => name = Some(cookie.bookie.clone()),
        }
    }
    Ok(name)
}

/// The decision table.
pub(super) fn decide(
    store: Store,
    bookie: &BookieId,
    known: Option<&Cookie>,
    disks: &[Found],
    mutations: Mutations,
) -> Result<Boot, Refusal> {
    for disk in disks {
        match &disk.cookie {
            Some(cookie) if cookie.cluster != store.cluster => {
                return Err(Refusal::OtherCluster {
                    dir: disk.dir.clone(),
                    found: cookie.cluster,
                    expected: store.cluster,
                });
            }
            Some(cookie) if cookie.cluster_epoch > store.epoch => {
                return Err(Refusal::EpochBack {
                    dir: disk.dir.clone(),
                    disk: cookie.cluster_epoch,
                    store: store.epoch,
                });
            }
            None if disk.data => return Err(Refusal::NoCookie(disk.dir.clone())),
            _ => {}
        }
    }
    no_disk_twice(disks)?;
    match known {
        None => unknown_to_the_store(bookie, disks),
        Some(known) => known_to_the_store(bookie, known, store.epoch, disks, mutations),
    }
}

fn no_disk_twice(disks: &[Found]) -> Result<(), Refusal> {
    for (at, disk) in disks.iter().enumerate() {
        let same = |other: &&Found| match (&disk.cookie, &other.cookie) {
            (Some(one), Some(two)) => one.disk == two.disk,
            _ => false,
        };
        if let Some(other) = disks[..at].iter().find(same) {
            return Err(Refusal::Twice(other.dir.clone(), disk.dir.clone()));
        }
    }
    Ok(())
}

fn unknown_to_the_store(bookie: &BookieId, disks: &[Found]) -> Result<Boot, Refusal> {
    let mut prepared: Option<&DiskCookie> = None;
    for disk in disks {
        let Some(cookie) = &disk.cookie else { continue };
        if cookie.stage > Stage::Provisional || disk.data {
            let dir = disk.dir.clone();
            return Err(Refusal::Decommissioned { dir, bookie: bookie.clone() });
        }
        let same_set = prepared.is_none_or(|first| first.disks == cookie.disks);
        if !same_set || cookie.disks.len() != disks.len() {
            return Err(Refusal::OtherFirstBoot(disk.dir.clone()));
        }
        prepared = Some(cookie);
    }
    Ok(if prepared.is_some() { Boot::Resume } else { Boot::First })
}

fn known_to_the_store(
    bookie: &BookieId,
    known: &Cookie,
    cluster_epoch: u16,
    disks: &[Found],
    mutations: Mutations,
) -> Result<Boot, Refusal> {
    for disk in disks {
        let dir = disk.dir.clone();
        let Some(cookie) = &disk.cookie else {
            let (bookie, disks) = (bookie.clone(), known.disks.len());
            return Err(Refusal::DiskMissing { dir, bookie, disks });
        };
        let now = known.disks.iter().find(|one| one.disk == cookie.disk);
        let Some(now) = now.filter(|now| now.incarnation == cookie.incarnation()) else {
            return Err(replaced(&disk.dir, bookie, cookie, now));
        };
        if !mutations.is(Mutation::IgnoreBootCounter) {
            let standing = standing(cookie, now, cluster_epoch);
            refuse_a_copy(standing, &disk.dir, cookie.boot_counter, now.boot_counter)?;
        }
        if cookie.stage == Stage::InService && !disk.data {
            return Err(Refusal::LogMissing(dir));
        }
    }
    if disks.len() != known.disks.len() {
        let (known, given) = (known.disks.len(), disks.len());
        return Err(Refusal::DiskCount { bookie: bookie.clone(), known, given });
    }
    Ok(Boot::Normal)
}

/// The refusal of a disk, or a life of it, that is not the one that the store names.
pub(super) fn replaced(
    dir: &Path,
    bookie: &BookieId,
    cookie: &DiskCookie,
    now: Option<&CookieDisk>,
) -> Refusal {
    let lost = now.is_some_and(|now| now.lost.contains(&cookie.incarnation()));
    Refusal::Replaced { dir: dir.to_owned(), bookie: bookie.clone(), lost }
}

/// Whoever is not the disk that the store knows.
pub(super) fn refuse_a_copy(
    standing: Standing,
    dir: &Path,
    disk: u64,
    store: u64,
) -> Result<(), Refusal> {
    let dir = dir.to_owned();
    match standing {
        Standing::Same | Standing::StoreIsOlder => Ok(()),
        Standing::DiskIsOlder => Err(Refusal::OlderCopy { dir, disk, store }),
        Standing::Ahead => Err(Refusal::AheadOfStore { dir, disk, store }),
    }
}

#[cfg(test)]
mod tests;

//! Carries a boot decision out. Every step can be the last one before a crash, and the next boot goes on from there.
//!
//! The boot counter is raised on the disks first and in the metadata store second, so a disk that does not know the store's number is
//! an older copy. It rises by a random step: two copies that start at the same moment never agree on a number, so the
//! loser sees that it lost even where its own outcome is unknown (M9), and at every later boot.

use std::path::PathBuf;

use geminga_metastore::cluster::{self, ClusterError};
use geminga_metastore::record::{Cluster, Cookie, CookieDisk};
use geminga_metastore::{Error as MetaError, MetaStore, Version, keys};
use geminga_proto::ids::{BookieId, ClusterUuid, DiskUuid, Incarnation};
use geminga_runtime::{Random, WallClock};

use super::cookie::{DiskCookie, Stage};
use super::decide::{self, Boot, Found, Refusal};
use super::dir::{DataDir, DirError};
use super::heal;
use crate::ledger::Mutations;

/// Attempts at a transaction of unknown outcome.
const ATTEMPTS: u32 = 3;
/// The boot counter rises by 1 to this.
const MAX_STEP: u64 = 1 << 32;

/// Why a bookie did not get its identity.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// No directory, or too many.
    #[error("give 1 to 64 data directories, {0} were given")]
    DirCount(usize),
    /// A directory cannot be used.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The decision table says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store holds no cluster, but a directory belongs to one.
    #[error("the metadata store holds no cluster, but {} belongs to cluster {cluster}: --metastore names the wrong store, or its data is lost", .dir.display())]
    NoCluster {
        /// The directory.
        dir: PathBuf,
        /// Its cluster.
        cluster: ClusterUuid,
    },
    /// There is no cluster to belong to.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The metadata store did not answer.
    #[error(transparent)]
    Metadata(#[from] MetaError),
}

/// A bookie that may serve.
#[derive(Debug)]
pub(crate) struct Booted {
    /// The cluster it belongs to.
    pub(crate) cluster: ClusterUuid,
    /// Its name.
    pub(crate) bookie: BookieId,
    /// Version of its cookie in the metadata store; another boot of the same identity changes it.
    pub(crate) cookie: Version,
    /// That cookie.
    stored: Cookie,
    /// Its disks, in the order of the directories.
    pub(crate) disks: Vec<BootedDisk>,
}

/// One disk of it.
#[derive(Debug)]
pub(crate) struct BootedDisk {
    /// The locked directory.
    pub(crate) dir: DataDir,
    cookie: DiskCookie,
}

impl BootedDisk {
    /// Which disk.
    pub(crate) fn disk(&self) -> DiskUuid {
        self.cookie.disk
    }

    /// Its present life.
    pub(crate) fn incarnation(&self) -> Incarnation {
        self.cookie.incarnation()
    }

    /// The logs of its lost lives. Blocking.
    ///
    /// # Errors
    /// [`DirError`].
    pub(crate) fn lost_lives(&self) -> Result<Vec<(Incarnation, PathBuf)>, DirError> {
        self.dir.aside()
    }

    /// Its log is open: from now on an empty log is a loss. Blocking.
    ///
    /// # Errors
    /// [`DirError`].
    pub(crate) fn in_service(&mut self) -> Result<(), DirError> {
        if self.cookie.stage < Stage::InService {
            self.cookie.stage = Stage::InService;
            self.dir.write_cookie(&self.cookie)?;
        }
        Ok(())
    }
}

/// Locks the directories, decides, and carries the decision out. Not cancel-safe, but the next boot goes on from
/// wherever this one stopped.
///
/// # Errors
/// [`BootError`]; nothing may be served then.
pub(crate) async fn boot(
    store: &dyn MetaStore,
    dirs: &[PathBuf],
    id: Option<BookieId>,
    auto_heal: bool,
    random: &dyn Random,
    clock: &dyn WallClock,
) -> Result<Booted, BootError> {
    if dirs.is_empty() || dirs.len() > 64 {
        return Err(BootError::DirCount(dirs.len()));
    }
    let dirs = dirs.iter().map(|dir| DataDir::open(dir)).collect::<Result<Vec<_>, _>>()?;
    let mut found = Vec::with_capacity(dirs.len());
    for dir in &dirs {
        let (cookie, data) = (dir.read_cookie()?, dir.has_data()?);
        found.push(Found { dir: dir.path().to_owned(), cookie, data });
    }
    let cluster = cluster_of(store, &found, random, clock).await?;
    let bookie = decide::name(&found, id.as_ref())?.unwrap_or_else(|| random_name(random));
    let known = read_cookie(store, &bookie).await?;
    let stored = known.as_ref().map(|(cookie, _)| cookie);
    let says = decide::Store::from(&cluster);
    let decided = decide::decide(says, &bookie, stored, &found, Mutations::default());
    let boot = match decided {
        Err(refusal) if auto_heal && heal::is_loss(&refusal, says) => {
            tracing::warn!(%refusal, "going on without what was lost, as --auto-heal says");
            Boot::Loss
        }
        decided => decided?,
    };
    let shared = Shared { store, bookie, cluster, random };
    let Settled { cookies, stored, version } = match (boot, known) {
        (Boot::Normal, Some((cookie, version))) => {
            let cookies = found.into_iter().filter_map(|disk| disk.cookie).collect();
            shared.raise(&dirs, cookies, cookie, version).await?
        }
        (Boot::Loss, Some((cookie, version))) => {
            shared.heal(&dirs, &found, cookie, version).await?
        }
        (Boot::First | Boot::Resume | Boot::Normal | Boot::Loss, _) => {
            shared.register(&dirs, &found).await?
        }
    };
    tracing::info!(bookie = %shared.bookie, ?boot, boot_counter = cookies[0].boot_counter, "identity settled");
    let disks =
        dirs.into_iter().zip(cookies).map(|(dir, cookie)| BootedDisk { dir, cookie }).collect();
    let Shared { bookie, cluster, .. } = shared;
    Ok(Booted { cluster: cluster.uuid, bookie, cookie: version, stored, disks })
}

impl Booted {
    /// A disk lost data that it had acknowledged (K8): it gets another life, which the store knows before this returns, and
    /// what is left of its log is set aside.
    ///
    /// # Errors
    /// [`BootError`]; nothing may be served then.
    pub(crate) async fn lose(
        &mut self,
        store: &dyn MetaStore,
        at: usize,
        random: &dyn Random,
    ) -> Result<(), BootError> {
        let former = self.disks[at].incarnation();
        let new = Incarnation(random.next_u64());
        let disk = self.disks[at].disk();
        let stored = self.stored.disks.iter_mut().filter(|stored| stored.disk == disk);
        stored.for_each(|stored| heal::replace(stored, new));
        tracing::warn!(bookie = %self.bookie, %former, %new, "a life of a disk is recorded as lost");
        self.cookie = put(store, &self.bookie, Some(self.cookie), &self.stored).await?;
        self.disks[at].dir.set_log_aside(former)?;
        self.disks[at].cookie.stage = Stage::Registered;
        for one in &mut self.disks {
            let lives = one.cookie.disks.iter_mut().filter(|(known, _)| *known == disk);
            lives.for_each(|(_, incarnation)| *incarnation = new);
            one.dir.write_cookie(&one.cookie)?;
        }
        Ok(())
    }
}

/// The cluster. Made only where the store and every directory are empty: a used directory with an empty store is a
/// mistake, not a new cluster.
async fn cluster_of(
    store: &dyn MetaStore,
    found: &[Found],
    random: &dyn Random,
    clock: &dyn WallClock,
) -> Result<Cluster, BootError> {
    let used = found.iter().find_map(|disk| disk.cookie.as_ref().map(|c| (disk, c.cluster)));
    let Some((disk, of)) = used else {
        return Ok(cluster::open_or_init(store, random, clock).await?);
    };
    match cluster::read(store).await? {
        Some((cluster, _)) => Ok(cluster),
        None => Err(BootError::NoCluster { dir: disk.dir.clone(), cluster: of }),
    }
}

fn random_name(random: &dyn Random) -> BookieId {
    let name = format!("bookie-{:08x}", random.next_u64() >> 32);
    name.parse().expect("letters, digits and a dash")
}

async fn read_cookie(
    store: &dyn MetaStore,
    bookie: &BookieId,
) -> Result<Option<(Cookie, Version)>, MetaError> {
    let key = keys::bookie_cookie(bookie);
    let Some(found) = store.get(&key).await? else { return Ok(None) };
    match Cookie::decode(&found.value) {
        Ok(cookie) => Ok(Some((cookie, found.version))),
        Err(invalid) => Err(MetaError::Corrupt { key, why: invalid.to_string() }),
    }
}

struct Shared<'a> {
    store: &'a dyn MetaStore,
    bookie: BookieId,
    cluster: Cluster,
    random: &'a dyn Random,
}

/// An identity that the store knows.
struct Settled {
    /// In the order of the directories.
    cookies: Vec<DiskCookie>,
    stored: Cookie,
    version: Version,
}

impl Shared<'_> {
    /// First boot: provisional cookies on all disks, create in the store, then final ones.
    async fn register(&self, dirs: &[DataDir], found: &[Found]) -> Result<Settled, BootError> {
        let mut cookies = self.provisional(found);
        write_all(dirs, &cookies)?;
        let stored = stored_form(&cookies);
        let version = put(self.store, &self.bookie, None, &stored).await?;
        for cookie in &mut cookies {
            cookie.stage = Stage::Registered;
        }
        write_all(dirs, &cookies)?;
        Ok(Settled { cookies, stored, version })
    }

    /// The identity that an earlier attempt chose, or a new one.
    fn provisional(&self, found: &[Found]) -> Vec<DiskCookie> {
        let prepared = found.iter().find_map(|disk| disk.cookie.as_ref());
        let new = |_: &Found| {
            let disk = DiskUuid::from_random(self.random.next_u128());
            (disk, Incarnation(self.random.next_u64()))
        };
        let disks = match prepared {
            Some(cookie) => cookie.disks.clone(),
            None => found.iter().map(new).collect(),
        };
        // Raised at a second attempt, too: copies of what the first one left must not agree on a number.
        let tried = found.iter().filter_map(|disk| disk.cookie.as_ref());
        let tried = tried.max_by_key(|cookie| cookie.boot_counter);
        let boot_counter = tried.map_or(0, |cookie| cookie.boot_counter) + self.step();
        // Directories that the earlier attempt had reached keep their disk; the others take what is left.
        let taken = |disk: &DiskUuid| {
            found.iter().filter_map(|f| f.cookie.as_ref()).any(|cookie| cookie.disk == *disk)
        };
        let mut left = disks.iter().map(|(disk, _)| *disk).filter(|disk| !taken(disk));
        let mut disk_of = |found: &Found| match &found.cookie {
            Some(cookie) => cookie.disk,
            None => left.next().expect("as many disks as directories: the table checked it"),
        };
        let provisional = |one: &Found| {
            let mut cookie = DiskCookie {
                cluster: self.cluster.uuid,
                cluster_epoch: self.cluster.epoch,
                bookie: self.bookie.clone(),
                disk: disk_of(one),
                disks: disks.clone(),
                boot_counter,
                earlier: Vec::new(),
                stage: Stage::Provisional,
            };
            if let Some(tried) = tried {
                cookie.earlier.clone_from(&tried.earlier);
                cookie.boot_counter = tried.boot_counter;
                cookie.raise(None, boot_counter);
            }
            cookie
        };
        found.iter().map(provisional).collect()
    }

    /// Normal boot: raise the counter on all disks, then in the store.
    async fn raise(
        &self,
        dirs: &[DataDir],
        mut cookies: Vec<DiskCookie>,
        mut stored: Cookie,
        version: Version,
    ) -> Result<Settled, BootError> {
        let highest = cookies.iter().map(|cookie| cookie.boot_counter).max().unwrap_or(0);
        let boot_counter = highest + self.step();
        let former: Vec<u64> = cookies.iter().map(|cookie| cookie.boot_counter).collect();
        let known = stored.clone();
        for cookie in &mut cookies {
            cookie.raise(number_of(&known, cookie.disk), boot_counter);
            cookie.cluster_epoch = self.cluster.epoch;
            cookie.stage = cookie.stage.max(Stage::Registered);
        }
        write_all(dirs, &cookies)?;
        for disk in &mut stored.disks {
            disk.boot_counter = boot_counter;
        }
        let version = put(self.store, &self.bookie, Some(version), &stored).await?;
        for ((dir, cookie), former) in dirs.iter().zip(&mut cookies).zip(former) {
            let number = number_of(&known, cookie.disk).filter(|number| *number != former);
            if number.is_some_and(|number| cookie.forget(number)) {
                dir.write_cookie(cookie)?;
            }
        }
        Ok(Settled { cookies, stored, version })
    }

    /// Loss boot: disks that lost anything get another life. Those that did not are raised as ever, on the disk first; the others
    /// are written behind the store, so that a life that a disk names was always known there.
    async fn heal(
        &self,
        dirs: &[DataDir],
        found: &[Found],
        mut stored: Cookie,
        version: Version,
    ) -> Result<Settled, BootError> {
        let plan = heal::plan(&self.bookie, (&self.cluster).into(), &stored, found)?;
        let seen = found.iter().filter_map(|found| found.cookie.as_ref());
        let highest = seen.map(|cookie| cookie.boot_counter);
        let highest = highest.chain(stored.disks.iter().map(|disk| disk.boot_counter)).max();
        let boot_counter = highest.unwrap_or(0).saturating_add(self.step());
        let former = stored.clone();
        for plan in plan.iter().filter(|plan| plan.lost) {
            let disk = stored.disks.iter_mut().filter(|disk| disk.disk == plan.disk);
            disk.for_each(|disk| heal::replace(disk, Incarnation(self.random.next_u64())));
        }
        let disks: Vec<_> = stored.disks.iter().map(|disk| (disk.disk, disk.incarnation)).collect();
        let cookie = |plan: &heal::Plan, found: &Found| {
            let new = DiskCookie {
                cluster: self.cluster.uuid,
                cluster_epoch: self.cluster.epoch,
                bookie: self.bookie.clone(),
                disk: plan.disk,
                disks: disks.clone(),
                boot_counter,
                earlier: Vec::new(),
                stage: Stage::Registered,
            };
            let Some(kept) = found.cookie.clone().filter(|_| !plan.lost) else { return new };
            let mut kept = DiskCookie { disks: disks.clone(), ..kept };
            kept.raise(number_of(&former, kept.disk), boot_counter);
            kept.cluster_epoch = self.cluster.epoch;
            kept
        };
        let mut cookies: Vec<_> =
            plan.iter().zip(found).map(|(plan, found)| cookie(plan, found)).collect();
        for ((dir, cookie), _) in
            dirs.iter().zip(&cookies).zip(&plan).filter(|(_, plan)| !plan.lost)
        {
            dir.write_cookie(cookie)?;
        }
        for disk in &mut stored.disks {
            disk.boot_counter = boot_counter;
        }
        let version = put(self.store, &self.bookie, Some(version), &stored).await?;
        for (at, _) in plan.iter().enumerate().filter(|(_, plan)| plan.lost) {
            if let Some(lost) = &found[at].cookie {
                dirs[at].set_log_aside(lost.incarnation())?;
            }
            dirs[at].write_cookie(&cookies[at])?;
        }
        for (at, _) in plan.iter().enumerate().filter(|(_, plan)| !plan.lost) {
            let own = found[at].cookie.as_ref().map(|cookie| cookie.boot_counter);
            let number = number_of(&former, cookies[at].disk).filter(|number| Some(*number) != own);
            if number.is_some_and(|number| cookies[at].forget(number)) {
                dirs[at].write_cookie(&cookies[at])?;
            }
        }
        Ok(Settled { cookies, stored, version })
    }

    fn step(&self) -> u64 {
        1 + self.random.below(MAX_STEP)
    }
}

/// Compare-and-swap of a bookie's cookie; an unknown outcome is resolved by reading, never by assuming (M9).
async fn put(
    store: &dyn MetaStore,
    bookie: &BookieId,
    expected: Option<Version>,
    cookie: &Cookie,
) -> Result<Version, BootError> {
    let key = keys::bookie_cookie(bookie);
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match store.put_if(&key, expected, cookie.encode()).await {
            Ok(Some(version)) => return Ok(version),
            Ok(None) => {}
            Err(error @ MetaError::Unknown(_)) => last = Some(error),
            Err(error) => return Err(error.into()),
        }
        let now = read_cookie(store, bookie).await?;
        match now {
            Some((now, version)) if now == *cookie => return Ok(version),
            now if now.as_ref().map(|(_, version)| *version) == expected => {}
            _ => return Err(Refusal::Clone(bookie.clone()).into()),
        }
    }
    let never = || MetaError::Unknown("writing the bookie's cookie".to_owned());
    Err(last.unwrap_or_else(never).into())
}

/// The boot counter that the store holds for a disk.
fn number_of(stored: &Cookie, disk: DiskUuid) -> Option<u64> {
    stored.disks.iter().find(|known| known.disk == disk).map(|known| known.boot_counter)
}

fn write_all(dirs: &[DataDir], cookies: &[DiskCookie]) -> Result<(), DirError> {
    dirs.iter().zip(cookies).try_for_each(|(dir, cookie)| dir.write_cookie(cookie))
}

/// The cookies of all disks as the store keeps them.
fn stored_form(cookies: &[DiskCookie]) -> Cookie {
    let disk = |cookie: &DiskCookie| CookieDisk {
        disk: cookie.disk,
        incarnation: cookie.incarnation(),
        boot_counter: cookie.boot_counter,
        lost: Vec::new(),
    };
    Cookie {
        cluster: cookies[0].cluster,
        bookie: cookies[0].bookie.clone(),
        disks: cookies.iter().map(disk).collect(),
    }
}

#[cfg(test)]
mod tests;

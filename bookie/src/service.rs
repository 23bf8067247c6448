//! Builds a bookie from its parts, in the order that safety asks for: identity, logs, owners, then the server, and only
//! then the registration that brings writers. Stops in the reverse order.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use geminga_metastore::MetaStore;
use geminga_proto::ids::{BookieId, ClusterUuid, Incarnation, Member};
use geminga_runtime::requests::Requests;
use geminga_runtime::{Random, Tasks, WallClock};
use geminga_tier::ClaimError;
use geminga_tls::{Dial, Security};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::folded::Folded;
use crate::gc::Gc;
use crate::handle::BookieHandle;
use crate::identity::{self, BootError, Booted, BootedDisk};
use crate::io::{Disk, RealDisk};
use crate::ledger::{Checker, DiskLedgers, DiskParts, Limits, Mutations, Reporter, Salvaged};
use crate::log::{self, Log, OpenError, Opened};
use crate::registration::{self, RegisterError, Registration};
use crate::repair::{self, RepairConfig, RepairParts};
use crate::rpc;
use crate::tiering::{self, TieringError, TieringParts};
use crate::watermark;

/// Readers that may wait for a LAC, over all disks.
const MAX_WAITING: usize = 64 * 1024;

/// What an operator may tune.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The log of each disk.
    pub log: log::Config,
    /// Tasks that share the ledgers of one disk. Default 4, minimum 1.
    pub owners_per_disk: usize,
    /// Time to live of the registration. Default 10 s, minimum 3 s.
    pub lease_ttl: Duration,
    /// What a disk that fills up still takes.
    pub limits: Limits,
    /// Whether to go on after a loss: lost lives of disks are recorded as lost, and the copies elsewhere restore what they
    /// held. Default false: refused.
    pub auto_heal: bool,
    /// How often it is looked for ledgers that were deleted. Default 5 min.
    pub gc_interval: Duration,
    /// How copies that were lost are made anew; `None`: others do that. Default `None`.
    pub repair: Option<RepairConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            log: log::Config::default(),
            owners_per_disk: 4,
            lease_ttl: Duration::from_secs(10),
            limits: Limits::default(),
            auto_heal: false,
            gc_interval: Duration::from_secs(300),
            repair: None,
        }
    }
}

/// What a bookie is made from.
#[derive(Debug)]
pub struct BookieParts {
    /// Where metadata is.
    pub store: Arc<dyn MetaStore>,
    /// One directory a disk.
    pub dirs: Vec<PathBuf>,
    /// Its name; `None` keeps the one that the directories were given, or makes one.
    pub id: Option<BookieId>,
    /// Failure domain; empty when none was given.
    pub zone: String,
    /// Where brokers reach it, `HOST:PORT`.
    pub advertise: String,
    /// Where health and metrics are; empty when nowhere.
    pub http_address: String,
    /// How other bookies are reached.
    pub dial: Dial,
    /// Identities.
    pub random: Arc<dyn Random>,
    /// Dates its registration.
    pub clock: Arc<dyn WallClock>,
    /// What requests are called, and which are logged and traced.
    pub requests: Requests,
    /// Owns its tasks. Stopped by the bookie when it cannot go on: the process must restart through the boot checks.
    pub tasks: Tasks,
    /// Limits and timeouts.
    pub config: Config,
}

/// Why a bookie did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It did not get its identity.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A log cannot be used.
    #[error("the log of {} cannot be opened: {source}", .dir.display())]
    Log {
        /// The data directory.
        dir: PathBuf,
        /// What is wrong with it.
        source: OpenError,
    },
    /// A directory's disk cannot be used.
    #[error("{} cannot be used: {source}", .dir.display())]
    Disk {
        /// The data directory.
        dir: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It could not tell the cluster that it is there.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The object store is not the cluster's.
    #[error(transparent)]
    ObjectStore(ClaimError),
}

/// A running bookie. Dropping it leaves its tasks running until their group stops; [`Bookie::shutdown`] stops it in
/// order.
#[derive(Debug)]
pub struct Bookie {
    handle: BookieHandle,
    cluster: ClusterUuid,
    registration: Registration,
    /// Begins once the cluster knows the bookie: nobody is to miss it then.
    repairs: Mutex<Option<RepairParts>>,
    watermarks: watermark::Keeper,
    /// Is told where objects are when tiering begins.
    folded: Folded,
    dial: Dial,
    tasks: Tasks,
    /// Set when stopping is wanted, so that it is not taken for a failure.
    stopping: Arc<AtomicBool>,
    /// Hold the directories' locks.
    disks: Vec<BootedDisk>,
}

impl Bookie {
    /// Boots: identity, replay of the logs, owners. Nobody is told yet and nothing is served but through [`Bookie::handle`].
    ///
    /// # Errors
    /// [`StartError`]; each says what to do.
    pub async fn start(parts: BookieParts) -> Result<Self, StartError> {
        let mut booted = identity::boot(
            &*parts.store,
            &parts.dirs,
            parts.id.clone(),
            parts.config.auto_heal,
            &*parts.random,
            &*parts.clock,
        )
        .await?;
        let tasks = parts.tasks.child("bookie");
        let stopping = Arc::new(AtomicBool::new(false));
        stop_together(&parts.tasks, &tasks, &stopping);
        let checker = Checker::new(Arc::clone(&parts.store));
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        let (mut ledgers, mut disks, mut salvaged) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..booted.disks.len() {
            let opening;
            (booted, opening) = open_disk(booted, at, &parts).await?;
            let OpenedDisk { disk, opened, lost } = opening;
            let member = |incarnation| Member { bookie: booted.bookie.clone(), incarnation };
            let reporter = Reporter {
                store: Arc::clone(&parts.store),
                member: member(booted.disks[at].incarnation()),
                clock: Arc::clone(&parts.clock),
            };
            let found = DiskParts {
                cluster: booted.cluster,
                member: member(booted.disks[at].incarnation()),
                log: opened.log,
                ledgers: opened.ledgers,
                tombstones: opened.tombstones,
                owners: parts.config.owners_per_disk,
                reporter,
                checker: checker.clone(),
                waiting: Arc::clone(&waiting),
                mutations: Mutations::default(),
            };
            ledgers.push(DiskLedgers::start(found, &tasks));
            disks.push(disk);
            for (incarnation, opened) in lost {
                let waiting = Arc::clone(&waiting);
                let member = member(incarnation);
                salvaged.push(Salvaged::new(booted.cluster, member, opened, waiting));
            }
        }
        let bookie = booted.bookie.clone();
        let handle =
            BookieHandle::new(booted.cluster, bookie, ledgers, salvaged, parts.requests.apart());
        let identity = registration::Identity {
            bookie: booted.bookie,
            cookie: booted.cookie,
            address: parts.advertise,
            http_address: parts.http_address,
            zone: parts.zone,
            repair_rate: parts.config.repair.as_ref().map_or(0, |repair| repair.rate),
            started_ms: parts.clock.now_ms(),
        };
        let Config { lease_ttl, limits, gc_interval, repair, .. } = parts.config;
        let folded = Folded::new(booted.cluster, Arc::clone(&parts.store));
        let gc = Gc::new(
            Arc::clone(&parts.store),
            folded.clone(),
            handle.clone(),
            gc_interval,
            Arc::clone(&parts.clock),
        );
        tasks.spawn("ledger gc", gc.run(tasks.clone()));
        let store = Arc::clone(&parts.store);
        let watermarks = watermark::Keeper { store, handle: handle.clone(), cookie: booted.cookie };
        tasks.spawn("watermarks", watermarks.clone().run(tasks.clone()));
        let repairs = repair.map(|config| RepairParts {
            store: Arc::clone(&parts.store),
            cluster: booted.cluster,
            handle: handle.clone(),
            folded: folded.clone(),
            dial: parts.dial.clone(),
            random: Arc::clone(&parts.random),
            clock: Arc::clone(&parts.clock),
            lease_ttl,
            config,
        });
        let registration =
            Registration::new(parts.store, identity, handle.clone(), disks, lease_ttl, limits);
        let (cluster, dial) = (booted.cluster, parts.dial);
        let (repairs, disks) = (Mutex::new(repairs), booted.disks);
        Ok(Self {
            handle,
            cluster,
            registration,
            repairs,
            watermarks,
            folded,
            dial,
            tasks,
            stopping,
            disks,
        })
    }

    /// The cluster that it belongs to.
    pub fn cluster(&self) -> ClusterUuid {
        self.cluster
    }

    /// Its name.
    pub fn id(&self) -> &BookieId {
        self.handle.id()
    }

    /// The present lives of its disks, in the order of the directories.
    pub fn incarnations(&self) -> Vec<Incarnation> {
        self.disks.iter().map(BootedDisk::incarnation).collect()
    }

    /// A way to it for callers in this process.
    pub fn handle(&self) -> BookieHandle {
        self.handle.clone()
    }

    /// Whether it takes requests and the cluster knows.
    pub fn is_ready(&self) -> bool {
        self.registration.stands() && !self.tasks.is_cancelled()
    }

    /// Serves connections of `listener`, taken as `security` says, until it stops, and tells the cluster.
    ///
    /// # Errors
    /// [`StartError::Register`].
    pub async fn serve(&self, listener: TcpListener, security: Security) -> Result<(), StartError> {
        let (handle, tasks) = (self.handle.clone(), self.tasks.clone());
        self.tasks.spawn("bookie server", async move {
            if let Err(error) = rpc::serve(listener, security, handle, tasks.clone()).await {
                tracing::error!(%error, "the bookie's server ended");
                tasks.cancel();
            }
        });
        self.register().await
    }

    /// Tells the cluster without serving a network: for a bookie whose only callers are in this process.
    ///
    /// # Errors
    /// [`StartError::Register`].
    pub async fn register(&self) -> Result<(), StartError> {
        self.registration.start(&self.tasks).await?;
        let repairs = self.repairs.lock().take();
        if let Some(repairs) = repairs {
            repair::start(repairs, &self.tasks).await.map_err(RegisterError::from)?;
        }
        Ok(())
    }

    /// Begins to tier: closed ledgers are uploaded as their topics say, and local copies go once metadata says so. To be called
    /// once, after it was registered.
    ///
    /// # Errors
    /// [`StartError::ObjectStore`] when the store is not the cluster's, [`StartError::Register`] when the metadata store cannot be read.
    pub async fn tier(&self, parts: TieringParts) -> Result<(), StartError> {
        let (objects, dial, folded) =
            (parts.objects.clone(), self.dial.clone(), self.folded.clone());
        let started = tiering::start(parts, self.handle.clone(), folded, dial, &self.tasks).await;
        started.map_err(|error| match error {
            TieringError::Claim(error) => StartError::ObjectStore(error),
            TieringError::Metadata(error) => RegisterError::Metadata(error).into(),
        })?;
        self.folded.objects_are_in(&objects);
        Ok(())
    }

    /// Stops in order: no new writers, no new requests, answers for what was accepted, the logs' final marks. Waits up to
    /// `deadline` for answers; what is not answered by then may or may not be stored, as after a crash.
    pub async fn shutdown(&self, deadline: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        self.registration.leave().await;
        self.tasks.finish(deadline).await;
        self.watermarks.mark().await;
        for disk in self.handle.disks() {
            if let Err(error) = disk.log().shutdown().await {
                tracing::error!(member = %disk.member(), %error, "a log did not end well");
            }
        }
        tracing::info!(bookie = %self.id(), "bookie stopped");
    }
}

/// A part that fails stops the bookie, and a bookie that fails stops the process's group.
fn stop_together(process: &Tasks, bookie: &Tasks, stopping: &Arc<AtomicBool>) {
    let (cancelled, process) = (bookie.cancelled(), process.clone());
    let stopping = Arc::clone(stopping);
    bookie.spawn("bookie guard", async move {
        cancelled.await;
        if !stopping.load(Ordering::SeqCst) {
            process.cancel();
        }
    });
}

/// A disk whose log is open.
struct OpenedDisk {
    disk: Arc<dyn Disk>,
    opened: Opened,
    /// What is left of its lost lives.
    lost: Vec<(Incarnation, Opened)>,
}

/// Opens a disk's log. One that lost data which it had acknowledged is a loss: the disk gets another life, where that is
/// allowed (5.7).
async fn open_disk(
    booted: Booted,
    at: usize,
    parts: &BookieParts,
) -> Result<(Booted, OpenedDisk), StartError> {
    let known = watermark::read(&*parts.store, &booted.bookie).await.map_err(BootError::from)?;
    let known_frame = known.frame(booted.disks[at].incarnation());
    let config = log::Config { known_frame, ..parts.config.log.clone() };
    let (mut booted, opening) = open_log(booted, at, config).await;
    match opening {
        Err(StartError::Log { dir, source }) if source.is_loss() && parts.config.auto_heal => {
            tracing::error!(dir = %dir.display(), %source, "going on without what was lost, as --auto-heal says");
            booted.lose(&*parts.store, at, &*parts.random).await?;
            let (booted, opening) = open_log(booted, at, parts.config.log.clone()).await;
            Ok((booted, opening?))
        }
        opening => Ok((booted, opening?)),
    }
}

/// Opens a log on the blocking pool: it replays, and fills files with zeros.
async fn open_log(
    mut booted: Booted,
    at: usize,
    config: log::Config,
) -> (Booted, Result<OpenedDisk, StartError>) {
    let opening = tokio::task::spawn_blocking(move || {
        let opened = open_log_blocking(&mut booted, at, config);
        (booted, opened)
    });
    match opening.await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn open_log_blocking(
    booted: &mut Booted,
    at: usize,
    config: log::Config,
) -> Result<OpenedDisk, StartError> {
    let dir = booted.disks[at].dir.path().to_owned();
    let failed = |source| StartError::Disk { dir: dir.clone(), source };
    let identity = log::Identity {
        cluster: booted.cluster,
        bookie: booted.bookie.clone(),
        incarnation: booted.disks[at].incarnation(),
        disk: booted.disks[at].disk(),
    };
    let mut lost = Vec::new();
    for (incarnation, path) in booted.disks[at].lost_lives().map_err(BootError::from)? {
        let former = log::Identity { incarnation, ..identity.clone() };
        let disk = Arc::new(RealDisk::open(path).map_err(failed)?);
        lost.push((
            incarnation,
            Log::open_salvaged(disk, &former, config.index_bytes).map_err(failed)?,
        ));
    }
    let path = booted.disks[at].dir.make_log().map_err(BootError::from)?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(path).map_err(failed)?);
    let opened = Log::open(Arc::clone(&disk), identity, config)
        .map_err(|source| StartError::Log { dir: dir.clone(), source })?;
    booted.disks[at].in_service().map_err(BootError::from)?;
    Ok(OpenedDisk { disk, opened, lost })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part that fails takes the process down with it; one that is stopped does not.
    #[tokio::test]
    async fn only_a_failure_stops_the_process() {
        for stopping in [false, true] {
            let process = Tasks::new("process");
            let bookie = process.child("bookie");
            stop_together(&process, &bookie, &Arc::new(AtomicBool::new(stopping)));
            bookie.spawn("part", async { panic!("on purpose") });
            assert!(bookie.finish(Duration::from_secs(5)).await);
            assert_eq!(process.is_cancelled(), !stopping);
        }
    }
}

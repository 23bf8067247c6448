//! `geminga bookie`: one storage node, and what an operator does with all of them.

mod decommission;
mod list;

use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use geminga_bookie::log::OpenError;
use geminga_bookie::{
    Bookie, BookieParts, BootError, Config, DirError, Refusal, RegisterError, StartError,
    TieringParts,
};
use geminga_metastore::MetaStore;
use geminga_proto::ids::{BookieId, InvalidBookieId};
use geminga_runtime::{SystemClock, SystemRandom};
use geminga_tier::Store;

pub(crate) use list::holders;

use crate::broker::believe;
use crate::config::{self, BookieOptions, BookieSettings, SourceArgs, TierOptions, reached};
use crate::exit::Failure;
use crate::server::{DRAIN, Reached, Server, bind, door, http_address};
use crate::traces::Service;
use crate::{logging, server};

/// Arguments of `geminga bookie`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Example:\n  geminga bookie --metastore etcd://127.0.0.1:2379 --data-dir /var/lib/geminga"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Option<Action>,
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) options: BookieOptions,
}

/// What to do with bookies, instead of running one.
#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// List bookies: where they are, what they hold, and whether they are to be counted on.
    #[command(
        after_help = "Example:\n  geminga bookie list --metastore etcd://127.0.0.1:2379/prod"
    )]
    List(list::Args),
    /// Take bookies out for good: they take no new data, what they hold is copied to others, and then they are forgotten. Their
    /// processes run until then and stop by themselves. Safe to interrupt and to run again.
    #[command(
        after_help = "Examples:\n  geminga bookie decommission bookie-4 --wait --metastore etcd://127.0.0.1:2379/prod\n  \
                      geminga bookie decommission --ordinal-from 3 --set bookie --wait --metastore etcd://127.0.0.1:2379/prod"
    )]
    Decommission(decommission::Args),
}

/// Runs until a signal stops it.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Some(Action::List(args)) => return server::block_on_command(list::run(args)),
        Some(Action::Decommission(args)) => {
            return server::block_on_command(decommission::run(args));
        }
        None => {}
    }
    let file = config::read_file(args.source.config.as_deref())?;
    let settings = args.options.settle(file)?;
    if args.source.print_config {
        return config::show(&settings);
    }
    server::block_on_beside_log(Box::pin(serve(settings)))
}

async fn serve(settings: BookieSettings) -> Result<(), Failure> {
    let instance = settings.advertise.clone().unwrap_or_else(|| settings.listen.to_string());
    let service = Service { name: "geminga-bookie", instance: &instance };
    let traces = logging::start(&settings.log, &settings.trace, &service)?;
    let ended = Box::pin(serve_traced(settings)).await;
    traces.end().await;
    ended
}

async fn serve_traced(settings: BookieSettings) -> Result<(), Failure> {
    let requests = settings.trace.requests(&settings.log);
    let id = settings.id.as_deref().map(str::parse::<BookieId>).transpose();
    let id = id.map_err(|error: InvalidBookieId| Failure::usage(format!("--id: {error}")))?;
    let tls = settings.tls.load(&settings.etcd)?;
    let listener = bind("--listen", settings.listen).await?;
    let http = match settings.http {
        Some(address) => Some(bind("--http", address).await?),
        None => None,
    };
    let bound = listener.local_addr()?;
    let advertise = reached("--listen", settings.advertise.as_deref(), bound, &tls)?;
    let http_address = http_address(http.as_ref(), &advertise)?;

    let objects = settings.object_store.open(false)?;
    let repair = settings.repair();
    let http = http.map(|listener| door(listener, &tls));
    let mut server = Server::start(http, &tls)?;
    server.look_after(objects.as_ref());
    let Reached { store, unwaited } = server.reach(&settings.metastore, &tls, &requests).await?;
    // The boot opens the cluster, and makes one only when no data directory belongs to another already.
    let parts = BookieParts {
        store,
        dirs: settings.data_dir,
        id,
        zone: settings.zone,
        advertise,
        http_address,
        dial: tls.dial(),
        random: Arc::new(SystemRandom),
        clock: Arc::new(SystemClock),
        requests,
        tasks: server.parts.clone(),
        config: Config {
            auto_heal: settings.auto_heal,
            gc_interval: settings.gc_interval.0,
            limits: settings.disk.limits(),
            repair: Some(repair),
            ..Config::default()
        },
    };
    let bookie = Arc::new(server.starting(Box::pin(Bookie::start(parts))).await?);
    // Whoever is refused has not served before: it would count as a bookie that comes and goes.
    if let Some(objects) = &objects {
        server.starting(believe(&*unwaited, objects, bookie.cluster())).await?;
    }
    server.starting(bookie.serve(listener, tls.internal("bookie"))).await?;
    if let Some(objects) = objects {
        server.starting(bookie.tier(tiering(unwaited, objects, &settings.tier))).await?;
    }
    tracing::info!(bookie = %bookie.id(), cluster = %bookie.cluster(), listen = %bound, "bookie serves");

    let checked = Arc::clone(&bookie);
    server.readiness.running(vec![Box::new(move || {
        if checked.is_ready() { Ok(()) } else { Err("not registered".to_owned()) }
    })]);
    server.run(Duration::ZERO, async move { bookie.shutdown(DRAIN).await }).await
}

/// What a bookie tiers with.
pub(crate) fn tiering(
    store: Arc<dyn MetaStore>,
    objects: Store,
    options: &TierOptions,
) -> TieringParts {
    let (random, clock) = (Arc::new(SystemRandom), Arc::new(SystemClock));
    TieringParts { store, objects, random, clock, config: options.config() }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Boot(error) => error.into(),
            StartError::Register(RegisterError::Metadata(error)) => error.into(),
            StartError::Register(RegisterError::Replaced(_)) => {
                Self::new(error).because("BOOKIE_REPLACED")
            }
            StartError::ObjectStore(error) => Self::new(error).because("OTHER_OBJECT_STORE"),
            StartError::Log { source: OpenError::Corrupt { .. }, .. } => {
                Self::new(error).because("DATA_DIR_CORRUPT")
            }
            StartError::Log { .. } | StartError::Disk { .. } => {
                Self::new(error).because("DATA_DIR_UNUSABLE")
            }
        }
    }
}

impl From<BootError> for Failure {
    fn from(error: BootError) -> Self {
        let reason = match error {
            BootError::DirCount(_) => return Self::usage(error),
            BootError::Metadata(error) => return error.into(),
            BootError::Cluster(error) => return error.into(),
            BootError::NoCluster { .. } | BootError::Refused(Refusal::OtherCluster { .. }) => {
                "DATA_DIR_OF_ANOTHER_CLUSTER"
            }
            BootError::Refused(Refusal::OtherBookie { .. }) => "DATA_DIR_OF_ANOTHER_BOOKIE",
            BootError::Refused(_) => "DATA_DIR_REFUSED",
            BootError::Dir(DirError::InUse(_)) => "DATA_DIR_IN_USE",
            BootError::Dir(DirError::Cookie { .. } | DirError::Io { .. }) => "DATA_DIR_UNUSABLE",
        };
        Self::new(error).because(reason)
    }
}

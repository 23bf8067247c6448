//! `geminga serving`: one broker.

use std::time::Duration;

use crate::broker::{self, Kind, Setting};
use crate::config::{self, ServingOptions, ServingSettings, SourceArgs, reached};
use crate::exit::Failure;
use crate::server::{Reached, Server, bind, door, http_address};
use crate::traces::Service;
use crate::{logging, metadata, server};

/// Arguments of `geminga serving`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  geminga serving --metastore etcd://127.0.0.1:2379")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) options: ServingOptions,
}

/// Runs until a signal stops it.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let file = config::read_file(args.source.config.as_deref())?;
    let settings = args.options.settle(file)?;
    if args.source.print_config {
        return config::show(&settings);
    }
    server::block_on(Box::pin(serve(settings)))
}

async fn serve(settings: ServingSettings) -> Result<(), Failure> {
    let instance = settings.advertise.clone().unwrap_or_else(|| settings.grpc.to_string());
    let service = Service { name: "geminga-serving", instance: &instance };
    let traces = logging::start(&settings.log, &settings.trace, &service)?;
    let ended = Box::pin(serve_traced(settings)).await;
    traces.end().await;
    ended
}

async fn serve_traced(settings: ServingSettings) -> Result<(), Failure> {
    let requests = settings.trace.requests(&settings.log);
    let tls = settings.tls.load(&settings.etcd)?;
    let listener = bind("--grpc", settings.grpc).await?;
    let http = bind("--http", settings.http).await?;
    let kafka = settings.kafka.bind(&tls).await?;
    let bound = listener.local_addr()?;
    let grpc_address = reached("--grpc", settings.advertise.as_deref(), bound, &tls)?;
    let http_address = http_address(Some(&http), &grpc_address)?;

    let objects = settings.object_store.open(false)?;
    let mut server = Server::start(Some(door(http, &tls)), &tls)?;
    server.look_after(objects.as_ref());
    let Reached { store, unwaited } = server.reach(&settings.metastore, &tls, &requests).await?;
    let cluster = server.starting(metadata::open(&*store)).await?;
    let uuid = cluster.uuid;
    let kind = Kind::Distributed;
    let hand_over = Duration::from_secs(u64::from(settings.drain_timeout));
    let setting = Setting {
        store,
        unwaited,
        cluster,
        grpc_address,
        http_address,
        zone: settings.zone,
        min_zones: settings.min_zones.get(),
        min_ack_zones: settings.min_ack_zones.get(),
        kafka,
        kafka_offer: settings.kafka.offer(),
        hand_over,
        retention_interval: settings.retention_interval.0,
        memory: settings.memory.0,
        catch_up_floor: settings.catch_up_floor.0 as u64,
        producer_expiry: settings.producer_expiry.0,
        max_producers: settings.max_producers as usize,
        strict_records: settings.strict_records,
        objects,
        cold_cache: settings.cold_cache.clone(),
        kind,
        dial: tls.dial(),
        requests,
    };
    let tasks = server.parts.clone();
    let broker = server.starting(Box::pin(broker::start(setting, &tasks))).await?;
    broker.serve(listener, tls.grpc());
    server.admin.of(broker.clone());
    tracing::info!(broker = %broker.id(), cluster = %uuid, grpc = %bound, "broker serves");

    let checked = broker.clone();
    server.readiness.running(vec![Box::new(move || checked.is_ready())]);
    server.run(hand_over, async move { broker.shutdown().await }).await
}

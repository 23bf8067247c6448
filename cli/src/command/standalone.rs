//! `geminga standalone`: everything in one process.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use geminga_bookie::{Bookie, BookieParts};
use geminga_ledger::BookieConnection;
use geminga_metastore::{EmbeddedStore, MetaStore, WatchedStore};
use geminga_proto::ids::BookieId;
use geminga_runtime::requests::Requests;
use geminga_runtime::{SystemClock, SystemRandom, Tasks};
use geminga_tls::Dial;

use crate::broker::{self, Kind, Setting};
use crate::command::bookie::tiering;
use crate::config::{
    self, EtcdTlsOptions, SourceArgs, StandaloneOptions, StandaloneSettings, advertised,
};
use crate::exit::Failure;
use crate::server::{DRAIN, Server, bind, door, http_address};
use crate::traces::Service;
use crate::{logging, metadata, server};

/// The program's.
const NAME: &str = "geminga";
/// The bookie's name, which its data directory keeps.
const BOOKIE: &str = "standalone";
/// What is zero-filled before the first record: little, since somebody waits for the prompt.
const PREFILL_BYTES: u64 = 2 * 1024 * 1024;

/// Arguments of `geminga standalone`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  geminga standalone --data-dir ./data")]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) source: SourceArgs,
    #[command(flatten)]
    pub(crate) options: StandaloneOptions,
}

/// Runs until a signal stops it.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let file = config::read_file(args.source.config.as_deref())?;
    let settings = args.options.settle(file)?;
    if args.source.print_config {
        return config::show(&settings);
    }
    server::block_on_beside_log(Box::pin(serve(settings)))
}

async fn serve(settings: StandaloneSettings) -> Result<(), Failure> {
    let instance = settings.grpc.to_string();
    let service = Service { name: "geminga-standalone", instance: &instance };
    let traces = logging::start(&settings.log, &settings.trace, &service)?;
    let ended = Box::pin(serve_traced(settings)).await;
    traces.end().await;
    ended
}

async fn serve_traced(settings: StandaloneSettings) -> Result<(), Failure> {
    let requests = settings.trace.requests(&settings.log);
    let tls = settings.tls.load(&EtcdTlsOptions::default())?;
    let listener = bind("--grpc", settings.grpc).await?;
    let http = bind("--http", settings.http).await?;
    let kafka = settings.kafka.bind(&tls).await?;
    let (grpc_bound, http_bound) = (listener.local_addr()?, http.local_addr()?);
    // Nobody but clients reads it, and they have come already.
    let grpc_address = advertised("--grpc", None, grpc_bound).unwrap_or(grpc_bound.to_string());
    let http_address = http_address(Some(&http), &grpc_address)?;

    let objects = settings.object_store.open(true)?;
    let mut server = Server::start(Some(door(http, &tls)), &tls)?;
    server.look_after(objects.as_ref());
    let tasks = server.parts.clone();
    let store = server.starting(open_store(settings.data_dir.clone())).await?;
    end_with(&store, &tasks);
    let shared = WatchedStore::around(Arc::new(store.clone()), requests.clone());
    let bookie = server.starting(start_bookie(&settings, &shared, &requests, &tasks)).await?;
    let bookie = Arc::new(bookie);
    if let Some(objects) = &objects {
        let parts = tiering(Arc::clone(&shared), objects.clone(), &settings.tier);
        server.starting(bookie.tier(parts)).await?;
    }
    // There by now: the bookie's boot made it.
    let cluster = server.starting(metadata::open(&*shared)).await?;
    let connection: Arc<dyn BookieConnection> = Arc::new(bookie.handle());
    let kind = Kind::Standalone(HashMap::from([(bookie.id().clone(), connection)]));
    let setting = Setting {
        unwaited: Arc::clone(&shared),
        store: shared,
        cluster,
        grpc_address,
        http_address,
        zone: String::new(),
        // There is one bookie.
        min_zones: 1,
        min_ack_zones: 1,
        kafka,
        kafka_offer: settings.kafka.offer(),
        hand_over: Duration::ZERO,
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
    let broker = server.starting(Box::pin(broker::start(setting, &tasks))).await?;
    broker.serve(listener, tls.grpc());
    server.admin.of(broker.clone());
    tracing::info!(grpc = %grpc_bound, data_dir = %settings.data_dir.display(), "standalone serves");
    greet(grpc_bound, http_bound, &settings);

    let (checked_broker, checked_bookie) = (broker.clone(), Arc::clone(&bookie));
    server.readiness.running(vec![
        Box::new(move || checked_broker.is_ready()),
        Box::new(
            move || {
                if checked_bookie.is_ready() { Ok(()) } else { Err("no bookie".to_owned()) }
            },
        ),
    ]);
    let stop = async move {
        broker.shutdown().await;
        bookie.shutdown(DRAIN).await;
    };
    server.run(Duration::ZERO, stop).await
}

async fn open_store(data_dir: PathBuf) -> Result<EmbeddedStore, Failure> {
    let opening = tokio::task::spawn_blocking(move || {
        make_dir(&data_dir).map_err(|error| {
            Failure::new(format!("--data-dir {} cannot be made: {error}", data_dir.display()))
                .because("DATA_DIR_UNUSABLE")
        })?;
        Ok(EmbeddedStore::open(&data_dir.join("metadata.redb"))?)
    });
    match opening.await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Makes a directory that a crash does not take back: its name is durable before anything in it is acknowledged.
fn make_dir(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_dir(parent)?;
    std::fs::create_dir(path)?;
    std::fs::File::open(parent)?.sync_all()
}

/// A process whose metadata file failed ends, so that its supervisor starts it again.
fn end_with(store: &EmbeddedStore, tasks: &Tasks) {
    let (store, group, cancelled) = (store.clone(), tasks.clone(), tasks.cancelled());
    tasks.spawn("metadata file", async move {
        tokio::select! {
            () = cancelled => {}
            () = store.failed() => group.cancel(),
        }
    });
}

async fn start_bookie(
    settings: &StandaloneSettings,
    store: &Arc<dyn MetaStore>,
    requests: &Requests,
    tasks: &Tasks,
) -> Result<Bookie, Failure> {
    let id: BookieId = BOOKIE.parse().expect("a plain name");
    let mut config = geminga_bookie::Config::default();
    config.log.prefill_bytes = PREFILL_BYTES;
    config.auto_heal = settings.auto_heal;
    config.gc_interval = settings.gc_interval.0;
    config.limits = settings.disk.limits();
    let parts = BookieParts {
        store: Arc::clone(store),
        dirs: vec![settings.data_dir.join("bookie")],
        id: Some(id),
        zone: String::new(),
        advertise: "in-process".to_owned(),
        http_address: String::new(),
        dial: Dial::Plain,
        random: Arc::new(SystemRandom),
        clock: Arc::new(SystemClock),
        requests: requests.clone(),
        tasks: tasks.clone(),
        config,
    };
    let bookie = Box::pin(Bookie::start(parts)).await?;
    bookie.register().await?;
    Ok(bookie)
}

/// Tells a person what to do next; programs read `/readyz`. Nobody has to listen.
fn greet(grpc: SocketAddr, http: SocketAddr, settings: &StandaloneSettings) {
    let program = std::env::current_exe().map(|path| program(&path, std::env::var_os("PATH")));
    let program = program.unwrap_or_else(|_| NAME.to_owned());
    let text = greeting(&program, grpc, http, settings.tls.is_on(), &settings.data_dir);
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        tracing::debug!(%error, "nobody reads standard output");
    }
}

/// What another terminal calls this program: its name when the search path leads to it, else its path.
fn program(path: &Path, search: Option<OsString>) -> String {
    let same = |found: &Path| found.canonicalize().is_ok_and(|found| found == path);
    let search = search.unwrap_or_default();
    let found = std::env::split_paths(&search).map(|dir| dir.join(NAME)).find(|f| f.is_file());
    if found.is_some_and(|found| same(&found)) {
        return NAME.to_owned();
    }
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

fn greeting(
    program: &str,
    grpc: SocketAddr,
    http: SocketAddr,
    tls: bool,
    data_dir: &Path,
) -> String {
    let (scheme, shown) = if tls { ("https", "https://") } else { ("http", "") };
    // The default needs no flag; who listens on all addresses is there too.
    let default = grpc.ip() == Ipv4Addr::LOCALHOST || grpc.ip().is_unspecified();
    let server = match (default, grpc.port()) {
        (true, 7070) if !tls => String::new(),
        (true, port) => format!(" --server {shown}127.0.0.1:{port}"),
        (false, _) => format!(" --server {shown}{grpc}"),
    };
    format!(
        "Geminga serves on {grpc}, with health and metrics on {scheme}://{http}, and keeps its data in {}.\n\
         Try it in another terminal:\n\n\
         \x20 {program} topic create demo --partitions 1{server}\n\
         \x20 echo hello | {program} produce demo{server}\n\
         \x20 {program} consume demo --from-beginning --until-end{server}\n\n",
        data_dir.display()
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn the_lines_to_copy_are_valid_commands() {
        for (grpc, shown) in [
            ("127.0.0.1:7070", ""),
            ("0.0.0.0:7070", ""),
            ("127.0.0.1:9", " --server 127.0.0.1:9"),
            ("10.0.0.1:7070", " --server 10.0.0.1:7070"),
            ("[::1]:7070", " --server [::1]:7070"),
        ] {
            let http = "127.0.0.1:7080".parse().expect("an address");
            let grpc = grpc.parse().expect("an address");
            let text = greeting(NAME, grpc, http, false, Path::new("data"));
            let commands: Vec<&str> = text
                .lines()
                .filter_map(|line| line.split_once("geminga "))
                .map(|(_, c)| c)
                .collect();
            assert_eq!(commands.len(), 3, "{text}");
            for command in commands {
                assert!(command.ends_with(shown), "{command}");
                let words = std::iter::once("geminga").chain(command.split(' '));
                Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{command}: {error}"));
            }
        }
    }

    #[test]
    fn the_program_is_called_by_what_finds_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [with, without] = ["it's here", "other"].map(|name| dir.path().join(name));
        for dir in [&with, &without] {
            std::fs::create_dir(dir).expect("made");
        }
        let path = with.canonicalize().expect("there").join(NAME);
        std::fs::write(&path, "").expect("writable");
        let search = |dirs: &[&PathBuf]| Some(std::env::join_paths(dirs).expect("plain paths"));
        assert_eq!(program(&path, search(&[&without, &with])), NAME);
        let quoted = program(&path, search(&[&without]));
        assert_eq!(quoted, program(&path, None));
        let line = format!("printf %s {quoted}");
        let said = std::process::Command::new("sh").args(["-c", &line]).output().expect("a shell");
        assert_eq!(said.stdout, path.as_os_str().as_encoded_bytes());
        // Another program of the same name stands before it.
        std::fs::write(without.join(NAME), "").expect("writable");
        assert_ne!(program(&path, search(&[&without, &with])), NAME);
    }

    #[test]
    fn a_directory_is_made_with_its_parents_and_found_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a/b/c");
        make_dir(&path).expect("made");
        make_dir(&path).expect("there");
        assert!(path.is_dir());
        std::fs::write(dir.path().join("file"), "x").expect("writable");
        assert!(make_dir(&dir.path().join("file/d")).is_err());
    }
}

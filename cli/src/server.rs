//! What all servers do alike: settle the configuration, bind ports before anything else happens, serve HTTP, run
//! until a signal, stop in order under a deadline.

mod awaited;
mod objects;

use std::future::Future;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use geminga_metastore::{MetaStore, WatchedStore};
use geminga_runtime::Tasks;
use geminga_runtime::requests::Requests;
use geminga_tier::Store;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Listen, MetastoreUrl, ServerTls};
use crate::exit::{Exit, Failure};
use crate::http::{self, Admin, Door, Readiness};
use crate::metadata::Way;
use awaited::{Awaited, Patience};

/// How long a server may take to finish what it accepted.
pub(crate) const DRAIN: Duration = Duration::from_secs(20);

/// How long the process waits for calls that cannot be cancelled, once all else has ended: a name that is looked up where no
/// name server answers takes tens of seconds.
const LAST: Duration = Duration::from_secs(1);

/// The metadata store of a server.
pub(crate) struct Reached {
    /// Waits, while the server starts.
    pub(crate) store: Arc<dyn MetaStore>,
    /// Says at once that it does not answer: for steps with a deadline, which go on without.
    pub(crate) unwaited: Arc<dyn MetaStore>,
}

/// The frame of one server process.
pub(crate) struct Server {
    /// Everything the server's parts run; cancelled by a signal.
    pub(crate) parts: Tasks,
    /// What `/readyz` answers.
    pub(crate) readiness: Readiness,
    /// Who answers `/api/v1`.
    pub(crate) admin: Admin,
    frame: Tasks,
    signals: Signals,
}

impl Server {
    /// Starts metrics, signal handling and, where asked for, HTTP. Must run inside the runtime.
    pub(crate) fn start(http: Option<Door>, tls: &ServerTls) -> Result<Self, Failure> {
        let signals = Signals::new().map_err(Failure::new)?;
        let frame = Tasks::new("frame");
        let (readiness, admin) = (Readiness::default(), Admin::default());
        let metrics: PrometheusHandle = http::install_metrics()?;
        http::keep_up(metrics.clone(), &frame);
        for (certificate, credentials) in tls.credentials() {
            credentials.keep_up(certificate, &frame);
        }
        if let Some(door) = http {
            http::serve(door, readiness.clone(), metrics, admin.clone(), &frame);
        }
        Ok(Self { parts: Tasks::new("server"), readiness, admin, frame, signals })
    }

    /// Runs a step of the start, which a signal ends: every step is one that a crash may interrupt.
    pub(crate) async fn starting<T, E: Into<Failure>>(
        &mut self,
        step: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            result = step => result.map_err(Into::into),
            name = self.signals.next() => {
                Err(Failure::with(Exit::Interrupted, format!("stopped by {name} before it was ready")))
            }
        }
    }

    /// The metadata store, whose answers are timed. It is waited for: now, and whenever it does not answer before the server is
    /// ready.
    pub(crate) async fn reach(
        &mut self,
        url: &MetastoreUrl,
        tls: &ServerTls,
        requests: &Requests,
    ) -> Result<Reached, Failure> {
        let way = Way::to(url, tls.of_etcd())?;
        let patience = Patience::new(url.clone(), self.readiness.clone());
        let store = self.starting(patience.connected(&way)).await?;
        let store = WatchedStore::around(store, requests.clone());
        let unwaited = Arc::clone(&store);
        Ok(Reached { store: Arc::new(Awaited { store, patience }), unwaited })
    }

    /// Tells by `/readyz` when this object store does not answer.
    pub(crate) fn look_after(&self, objects: Option<&Store>) {
        if let Some(objects) = objects {
            objects::look_after(objects.clone(), &self.readiness, &self.parts);
        }
    }

    /// Waits for a signal, or for a part to fail, and then stops: `drain` finishes what was accepted, after which
    /// all tasks are waited for. A second signal ends the waiting. `more`: what `drain` may take beside that.
    pub(crate) async fn run<F: Future<Output = ()>>(
        mut self,
        more: Duration,
        drain: F,
    ) -> Result<(), Failure> {
        let failed = self.parts.cancelled();
        let by_signal = tokio::select! {
            name = self.signals.next() => {
                tracing::info!(signal = name, "stopping");
                true
            }
            () = failed => false,
        };
        self.readiness.stopping();
        let stop = async {
            if tokio::time::timeout(DRAIN + more, drain).await.is_err() {
                tracing::warn!("stopping without having finished everything that was accepted");
            }
            self.parts.finish(DRAIN).await;
            self.frame.finish(Duration::from_secs(1)).await;
        };
        tokio::select! {
            () = stop => {}
            name = self.signals.next() => {
                tracing::warn!(signal = name, "stopping at once");
                return Err(Failure::with(Exit::Interrupted, "stopped before the drain was done"));
            }
        }
        if by_signal {
            Ok(())
        } else {
            Err(Failure::new("a part of the server failed: see the log lines above"))
        }
    }
}

/// SIGTERM and SIGINT, from the moment it is made.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The next one's name. Cancel-safe.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Runs a server on a runtime of its own until it ends: a thread for each processor.
pub(crate) fn block_on<F>(future: F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    run(&mut tokio::runtime::Builder::new_multi_thread(), future)
}

/// [`block_on`] for a server with a log: its threads need a processor, too. With as many others as processors, the thread that
/// has to begin the next write waits its turn behind those that wait for what it writes.
pub(crate) fn block_on_beside_log<F>(future: F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // The variable is tokio's own; whoever set it knows better.
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        builder.worker_threads(processors.saturating_sub(1).max(1));
    }
    run(&mut builder, future)
}

/// Runs a command on a runtime of its own until it ends. One thread does what goes on beside the command itself: it has one
/// connection to serve, and several would mostly wake each other.
pub(crate) fn block_on_command<F>(future: F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    run(tokio::runtime::Builder::new_multi_thread().worker_threads(1), future)
}

fn run<F>(builder: &mut tokio::runtime::Builder, future: F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let runtime = builder.enable_all().build().map_err(Failure::new)?;
    let ended = runtime.block_on(future);
    runtime.shutdown_timeout(LAST);
    ended
}

/// What others connect to for health and metrics: the listener's address, by the advertised host when it listens on
/// all addresses; empty when it listens nowhere.
pub(crate) fn http_address(
    listener: Option<&TcpListener>,
    advertised: &str,
) -> Result<String, Failure> {
    let Some(listener) = listener else { return Ok(String::new()) };
    let bound = listener.local_addr()?;
    match advertised.rsplit_once(':') {
        Some((host, _)) if bound.ip().is_unspecified() => Ok(format!("{host}:{}", bound.port())),
        _ => Ok(bound.to_string()),
    }
}

/// Where HTTP is served.
pub(crate) fn door(listener: TcpListener, tls: &ServerTls) -> Door {
    Door { listener, security: tls.http(), certified_only: tls.requires() }
}

/// Binds a listener, so that a port that is taken is found out before anything is written anywhere.
pub(crate) async fn bind(flag: &str, listen: Listen) -> Result<TcpListener, Failure> {
    TcpListener::bind(listen.0).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => Failure::new(format!(
            "{flag} {listen} is in use by another process: stop it, or choose another port"
        ))
        .because("PORT_IN_USE"),
        io::ErrorKind::PermissionDenied => Failure::new(format!(
            "{flag} {listen} needs more rights than this process has: choose a port above 1023"
        )),
        _ => Failure::new(format!("{flag} {listen} cannot be listened on: {error}")),
    })
}

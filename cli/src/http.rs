//! The HTTP side of every server: `/livez` (the process answers), `/readyz` (it can do its work now), `/metrics`
//! (Prometheus text) and, at brokers, `/api/v1`. Read only. It starts before the server's parts and ends after them, so that a probe sees a
//! slow start and a drain for what they are.

mod admin;
mod guard;
mod process;
mod serve;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use geminga_runtime::Tasks;
use geminga_tls::Incoming;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;

pub(crate) use admin::Admin;
pub(crate) use guard::Door;
use guard::guard;

use crate::exit::Failure;

/// Upper bounds of latency histograms in seconds: from a memory copy to a hung disk.
const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
];
/// Those of calls that may take a minute, and are tried again meanwhile.
const SLOW_SECONDS: &[f64] = &[
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    120.0,
];
/// Those of a group commit, which every acknowledgement waits for: close enough together to tell a 99th percentile.
const FLUSH_SECONDS: &[f64] = &[
    0.000_1, 0.000_15, 0.000_2, 0.000_3, 0.000_4, 0.000_6, 0.000_8, 0.001, 0.001_5, 0.002, 0.003,
    0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];
/// Upper bounds of size histograms in bytes.
const BYTES: &[f64] =
    &[256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];
/// Most connections at a time.
const MAX_CONNECTIONS: usize = 1_024;
/// How often histograms are folded, so that an unscraped server does not grow.
const UPKEEP: Duration = Duration::from_secs(5);

/// What a part answers when it is asked whether it can work: `Err` says why not.
type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What a part says of what it has to do without, while it can work.
type Lack = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// Whether the process can do its work. Not ready until a server part has given its check. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Readiness(Arc<Mutex<Phase>>, Arc<Mutex<Vec<Lack>>>);

enum Phase {
    /// And what it waits for, in words.
    Starting(Option<String>),
    Running(Vec<Check>),
    Stopping,
}

impl Default for Phase {
    fn default() -> Self {
        Self::Starting(None)
    }
}

impl Readiness {
    /// Whether the parts are not all there yet.
    pub(crate) fn is_starting(&self) -> bool {
        matches!(&*self.0.lock(), Phase::Starting(_))
    }

    /// Why the start does not get on, from now on; `None` when it does. No effect once it is over.
    pub(crate) fn waits(&self, why: Option<String>) {
        if let Phase::Starting(waits) = &mut *self.0.lock() {
            *waits = why;
        }
    }

    /// From now on ready whenever every check says so.
    pub(crate) fn running(&self, checks: Vec<Check>) {
        *self.0.lock() = Phase::Running(checks);
    }

    /// From now on said beside that the process is ready.
    pub(crate) fn lacking(&self, lack: Lack) {
        self.1.lock().push(lack);
    }

    /// What it has to do without now.
    fn lacks(&self) -> Vec<String> {
        self.1.lock().iter().filter_map(|lack| lack()).collect()
    }

    /// From now on not ready.
    pub(crate) fn stopping(&self) {
        *self.0.lock() = Phase::Stopping;
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        match &*self.0.lock() {
            Phase::Starting(None) => Err("starting".to_owned()),
            Phase::Starting(Some(why)) => Err(why.clone()),
            Phase::Running(checks) => checks.iter().try_for_each(|check| check()),
            Phase::Stopping => Err("stopping".to_owned()),
        }
    }
}

/// Starts collecting metrics for the process. To be called once, before the parts start.
pub(crate) fn install_metrics() -> Result<PrometheusHandle, Failure> {
    let full = |name: &str| Matcher::Full(name.to_owned());
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .and_then(|b| b.set_buckets_for_metric(full("geminga_bookie_flush_seconds"), FLUSH_SECONDS))
        .and_then(|b| b.set_buckets_for_metric(full("geminga_bookie_sync_seconds"), FLUSH_SECONDS))
        .and_then(|b| {
            b.set_buckets_for_metric(full("geminga_object_store_request_seconds"), SLOW_SECONDS)
        })
        .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), BYTES))
        .and_then(PrometheusBuilder::install_recorder)
        .inspect(|_| process::started())
        .map_err(Failure::new)
}

/// Serves until the tasks are cancelled.
pub(crate) fn serve(
    door: Door,
    readiness: Readiness,
    metrics: PrometheusHandle,
    admin: Admin,
    tasks: &Tasks,
) {
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness.clone()))
        .route("/metrics", get(render).with_state((readiness, metrics, admin.clone())))
        .merge(admin::routes(admin))
        .layer(axum::middleware::from_fn_with_state(door.certified_only, guard));
    let incoming = Incoming::new(door.listener, door.security, MAX_CONNECTIONS, tasks);
    serve::serve(incoming, app, tasks);
}

/// Keeps histograms folded until the tasks are cancelled, scraped or not.
pub(crate) fn keep_up(metrics: PrometheusHandle, tasks: &Tasks) {
    let stop = tasks.cancelled();
    tasks.spawn("metrics-upkeep", async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => return,
                _ = ticks.tick() => metrics.run_upkeep(),
            }
        }
    });
}

async fn readyz(State(readiness): State<Readiness>) -> impl IntoResponse {
    match readiness.check() {
        Ok(()) => {
            let lacks = readiness.lacks().into_iter().map(|lack| format!("but {lack}\n"));
            (StatusCode::OK, std::iter::once("ready\n".to_owned()).chain(lacks).collect())
        }
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

async fn render(
    State((readiness, metrics, admin)): State<(Readiness, PrometheusHandle, Admin)>,
) -> impl IntoResponse {
    process::observe_ready(readiness.check().is_ok());
    let mut page = metrics.render();
    page.push_str(&admin.metrics());
    page.push_str(&process::used());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_only_while_every_part_is() {
        let readiness = Readiness::default();
        assert_eq!(readiness.check(), Err("starting".to_owned()));
        assert!(readiness.is_starting());
        readiness.waits(Some("no store".to_owned()));
        assert_eq!(readiness.check(), Err("no store".to_owned()));
        readiness.running(vec![Box::new(|| Ok(())), Box::new(|| Err("no lease".to_owned()))]);
        assert_eq!(readiness.check(), Err("no lease".to_owned()));
        readiness.running(vec![Box::new(|| Ok(()))]);
        readiness.waits(Some("no store".to_owned()));
        assert_eq!(readiness.check(), Ok(()));
        assert!(!readiness.is_starting());
        readiness.lacking(Box::new(|| None));
        readiness.lacking(Box::new(|| Some("one thing".to_owned())));
        assert_eq!((readiness.check(), readiness.lacks()), (Ok(()), vec!["one thing".to_owned()]));
        readiness.stopping();
        assert_eq!(readiness.check(), Err("stopping".to_owned()));
    }
}

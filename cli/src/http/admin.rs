//! `/api/v1`: topics and groups as JSON, the same that commands print with `--output json`. Read only, and of brokers only: it
//! answers once the process has one.

use std::sync::{Arc, OnceLock};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use geminga_proto::reason::{ApiError, Reason};
use geminga_serving::broker::Broker;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde::Serialize;

use crate::view::{Description, Group, Groups, Topics};

/// Whom requests are about. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Admin(Arc<OnceLock<Broker>>);

impl Admin {
    /// From now on answered by this broker; the first one stays.
    pub(crate) fn of(&self, broker: Broker) {
        self.0.get_or_init(|| broker);
    }

    /// The metrics whose series come and go: a recorder of its own has them, for this page only, since the process's one forgets
    /// none.
    pub(super) fn metrics(&self) -> String {
        let Some(broker) = self.0.get() else { return String::new() };
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || broker.observe());
        recorder.handle().render()
    }

    fn broker(&self) -> Result<&Broker, Refused> {
        let why = "no broker serves in this process now: ask another, or try again";
        self.0.get().ok_or_else(|| Refused(ApiError::new(Reason::NotReady, why)))
    }
}

/// The routes.
pub(super) fn routes(admin: Admin) -> Router {
    Router::new()
        .route("/api/v1/topics", get(topics))
        .route("/api/v1/topics/{topic}", get(topic))
        .route("/api/v1/groups", get(groups))
        .route("/api/v1/groups/{group}", get(group))
        .with_state(admin)
}

async fn topics(State(admin): State<Admin>) -> Result<Json<Topics>, Refused> {
    Ok(Json(admin.broker()?.list_topics().await?.topics.into()))
}

async fn topic(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<Description>, Refused> {
    Ok(Json(admin.broker()?.describe_topic(name).await?.into()))
}

async fn groups(State(admin): State<Admin>) -> Result<Json<Groups>, Refused> {
    Ok(Json(admin.broker()?.list_groups().await?.groups.into()))
}

async fn group(
    State(admin): State<Admin>,
    Path(name): Path<String>,
) -> Result<Json<Group>, Refused> {
    Ok(Json(admin.broker()?.describe_group(name).await?.into()))
}

/// An error as JSON, with the reason that gRPC callers see.
struct Refused(ApiError);

#[derive(Serialize)]
struct Complaint {
    reason: &'static str,
    message: String,
    retriable: bool,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(ApiError { reason, message, .. }) = self;
        let status = match reason {
            Reason::UnknownTopic | Reason::UnknownGroup => StatusCode::NOT_FOUND,
            reason if reason.retriable() => StatusCode::SERVICE_UNAVAILABLE,
            Reason::InvalidName | Reason::InvalidRequest | Reason::LimitExceeded => {
                StatusCode::BAD_REQUEST
            }
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let complaint =
            Complaint { reason: reason.as_str(), message, retriable: reason.retriable() };
        (status, Json(complaint)).into_response()
    }
}

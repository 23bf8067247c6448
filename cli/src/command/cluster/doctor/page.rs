//! What one process says of itself over HTTP: whether it is ready, and its metrics.

use std::time::Duration;

use axum::body::{self, Body};
use axum::http::{Request, StatusCode, header};
use geminga_tls::{Dial, Protocol};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::metrics::{self, Sample};

/// How long a process may take for both.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer that is read.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Why it is not ready.
    pub(super) unready: Option<String>,
    /// Its metrics.
    pub(super) samples: Vec<Sample>,
}

/// Asks the process at `HOST:PORT`. In words, why that did not work.
pub(super) async fn read(dial: &Dial, address: &str) -> Result<Page, String> {
    let both = async {
        let (status, text) = get(dial, address, "/readyz").await?;
        let why = text.trim().trim_start_matches("not ready: ");
        let unready = (status != StatusCode::OK).then(|| why.to_owned());
        let (status, text) = get(dial, address, "/metrics").await?;
        if status != StatusCode::OK && unready.is_none() {
            return Err(format!("/metrics answers {status}: {}", text.trim()));
        }
        Ok(Page { unready, samples: metrics::parse(&text) })
    };
    timeout(TIMEOUT, both).await.unwrap_or_else(|_| Err(format!("no answer in {TIMEOUT:?}")))
}

/// The metrics of what serves nothing else for us. In words, why there are none.
pub(super) async fn metrics(dial: &Dial, address: &str) -> Result<Vec<Sample>, String> {
    match timeout(TIMEOUT, get(dial, address, "/metrics")).await {
        Ok(Ok((StatusCode::OK, text))) => Ok(metrics::parse(&text)),
        Ok(Ok((status, text))) => Err(format!("/metrics answers {status}: {}", text.trim())),
        Ok(Err(why)) => Err(why),
        Err(_) => Err(format!("no answer in {TIMEOUT:?}")),
    }
}

async fn get(dial: &Dial, address: &str, path: &str) -> Result<(StatusCode, String), String> {
    let said = |error: &dyn std::error::Error| error.to_string();
    let stream = dial.open(address, Protocol::Http).await.map_err(|error| said(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| said(&error))?;
    let request = Request::get(path).header(header::HOST, address).body(Body::empty());
    let request = request.map_err(|error| said(&error))?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| said(&error))?;
        let status = answer.status();
        let bytes = body::to_bytes(Body::new(answer.into_body()), MAX_BYTES).await;
        let bytes = bytes.map_err(|error| said(&error))?;
        // With it the connection ends.
        drop(sender);
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    };
    let (answer, _ended) = tokio::join!(answer, connection);
    answer
}

//! Who may ask what over HTTP. Probes of an orchestrator have no certificate, so `/livez` and `/readyz` answer all. The rest
//! needs one where clients have to show certificates. And until users are known by name, nobody changes anything under
//! `/api/v1` but who shows a certificate or is on this machine.

use axum::extract::{ConnectInfo, Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use geminga_tls::{Peer, Security};
use tokio::net::TcpListener;

/// Where HTTP is served.
#[derive(Debug)]
pub(crate) struct Door {
    /// The listener.
    pub(crate) listener: TcpListener,
    /// How it takes connections.
    pub(crate) security: Security,
    /// Whether clients have to show a certificate.
    pub(crate) certified_only: bool,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Who(pub(super) Peer);

/// Answers who may not ask; passes on who may.
pub(super) async fn guard(
    State(certified_only): State<bool>,
    ConnectInfo(Who(peer)): ConnectInfo<Who>,
    request: Request,
    next: Next,
) -> Response {
    match refusal(certified_only, peer, request.method(), request.uri().path()) {
        Some((status, why)) => (status, format!("{why}\n")).into_response(),
        None => next.run(request).await,
    }
}

fn refusal(
    certified_only: bool,
    peer: Peer,
    method: &Method,
    path: &str,
) -> Option<(StatusCode, &'static str)> {
    if matches!(path, "/livez" | "/readyz") {
        return None;
    }
    if certified_only && !peer.certified {
        return Some((
            StatusCode::UNAUTHORIZED,
            "clients have to show a certificate here: one of the cluster's authority",
        ));
    }
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && !peer.is_trusted() {
        return Some((
            StatusCode::FORBIDDEN,
            "nothing is changed for who is not known: show a certificate of the cluster's authority, or ask from \
             the machine itself",
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str, certified: bool) -> Peer {
        Peer { address: Some(address.parse().unwrap()), encrypted: certified, certified }
    }

    #[test]
    fn only_who_is_known_changes_anything() {
        let topics = "/api/v1/topics";
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let status = |peer| refusal(false, peer, &method, topics).map(|(status, _)| status);
            assert_eq!(status(peer("10.0.0.1:1", false)), Some(StatusCode::FORBIDDEN), "{method}");
            assert_eq!(status(peer("10.0.0.1:1", true)), None);
            assert_eq!(status(peer("127.0.0.1:1", false)), None);
        }
        assert_eq!(refusal(false, peer("10.0.0.1:1", false), &Method::GET, topics), None);
    }

    #[test]
    fn probes_need_no_certificate_and_the_rest_does_where_it_is_required() {
        let (get, stranger) = (Method::GET, peer("127.0.0.1:1", false));
        for open in ["/livez", "/readyz"] {
            assert_eq!(refusal(true, stranger, &get, open), None);
        }
        for path in ["/metrics", "/api/v1/topics", "/"] {
            let status = refusal(true, stranger, &get, path).map(|(status, _)| status);
            assert_eq!(status, Some(StatusCode::UNAUTHORIZED), "{path}");
            assert_eq!(refusal(true, peer("10.0.0.1:1", true), &get, path), None);
        }
    }
}

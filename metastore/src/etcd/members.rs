//! The members of an etcd as one channel, over connections that this process makes: plain, or by TLS with the certificates that
//! are in force when a connection is made. All handles ask one member, until a request to it fails or is given up, or it says
//! that it cannot serve, as one that is cut off from the others does; then all ask the next one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use geminga_tls::Dial;
use tonic::body::Body;
use tonic::codegen::http::HeaderMap;
use tonic::codegen::http::{Request, Response};
use tonic::transport::{Channel, Endpoint, Error};
use tonic::{Code, Status};
use tower::Service;

/// A handle; clones ask the same member.
#[derive(Debug, Clone)]
pub(super) struct Members {
    channels: Arc<[Channel]>,
    asked: Arc<AtomicUsize>,
}

/// Moves on to the next member when it is dropped without an answer that another would give as well.
struct MovesOn {
    asked: Arc<AtomicUsize>,
    from: usize,
    answered: bool,
}

impl MovesOn {
    /// There was an answer.
    fn stays(mut self) {
        self.answered = true;
    }
}

impl Drop for MovesOn {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        // Of many requests that fail at once, one moves.
        let to = self.from.wrapping_add(1);
        let _ = self.asked.compare_exchange(self.from, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Members {
    /// Connections are made on first use; the first member to be asked is the `first`, counted round. `None` without an endpoint.
    pub(super) fn new(endpoints: &[Endpoint], dial: &Dial, first: usize) -> Option<Self> {
        let channels: Arc<[Channel]> = endpoints.iter().map(|one| dial.lazily(one)).collect();
        let first = first.checked_rem(channels.len())?;
        Some(Self { channels, asked: Arc::new(AtomicUsize::new(first)) })
    }
}

impl Service<Request<Body>> for Members {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // That of the member that is asked is waited for with the request.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let from = self.asked.load(Ordering::Relaxed);
        let mut channel = self.channels[from % self.channels.len()].clone();
        let moves_on = MovesOn { asked: Arc::clone(&self.asked), from, answered: false };
        Box::pin(async move {
            std::future::poll_fn(|cx| Service::poll_ready(&mut channel, cx)).await?;
            let answer = channel.call(request).await?;
            if serves(answer.headers()) {
                moves_on.stays();
            }
            Ok(answer)
        })
    }
}

/// Whether a member that answers so takes requests. One without a leader, or that stops, says at once that it does not.
fn serves(headers: &HeaderMap) -> bool {
    Status::from_header_map(headers).is_none_or(|status| status.code() != Code::Unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(first: usize) -> Members {
        // Nobody listens there.
        let endpoints = ["http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"];
        let endpoints = endpoints.map(Endpoint::from_static);
        Members::new(&endpoints, &Dial::Plain, first).unwrap()
    }

    #[tokio::test]
    async fn a_member_that_fails_is_followed_by_the_next() {
        let members = members(5);
        let ask = || members.clone().call(Request::new(Body::empty()));
        assert_eq!(members.asked.load(Ordering::Relaxed), 2);
        // Two at once are one step.
        let (one, other) = (ask(), ask());
        assert!(one.await.is_err() && other.await.is_err());
        assert_eq!(members.asked.load(Ordering::Relaxed), 3);
        assert!(ask().await.is_err());
        assert_eq!(members.asked.load(Ordering::Relaxed), 4);
        // One that is given up says nothing good of its member, either.
        drop(ask());
        assert_eq!(members.asked.load(Ordering::Relaxed), 5);
    }

    #[test]
    fn a_refusal_that_others_would_give_as_well_moves_nobody() {
        let says = |code: Code| Status::new(code, "etcdserver: so it is").into_http::<()>();
        assert!(!serves(says(Code::Unavailable).headers()));
        for code in [Code::Ok, Code::ResourceExhausted, Code::NotFound, Code::OutOfRange] {
            assert!(serves(says(code).headers()), "{code}");
        }
        // The answer itself follows.
        assert!(serves(&HeaderMap::new()));
    }
}

//! The members of an etcd as one channel that asks them in turn, over connections that this process makes: by TLS, with the
//! certificates that are in force when a connection is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use geminga_tls::Dial;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::{Channel, Endpoint, Error};
use tower::Service;

/// A handle; each clone asks another member first.
#[derive(Debug)]
pub(super) struct Members {
    channels: Arc<[Channel]>,
    next: Arc<AtomicUsize>,
    /// Whom this handle asks.
    own: Channel,
}

impl Members {
    /// Connections are made on first use. `None` without an endpoint.
    pub(super) fn new(endpoints: &[Endpoint], dial: &Dial) -> Option<Self> {
        let channels: Arc<[Channel]> = endpoints.iter().map(|one| dial.lazily(one)).collect();
        let own = channels.first()?.clone();
        Some(Self { channels, next: Arc::default(), own })
    }

    fn pick(&self) -> Channel {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.channels[next % self.channels.len()].clone()
    }
}

impl Clone for Members {
    fn clone(&self) -> Self {
        Self {
            channels: Arc::clone(&self.channels),
            next: Arc::clone(&self.next),
            own: self.pick(),
        }
    }
}

impl Service<Request<Body>> for Members {
    type Response = Response<Body>;
    type Error = Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Service::poll_ready(&mut self.own, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let asked = self.own.call(request);
        self.own = self.pick();
        asked
    }
}

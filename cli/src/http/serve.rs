//! Serves HTTP/1.1 on the connections of a door. Who begins a request ends its head in time, or the connection ends: places are
//! few, and held by nobody who has nothing to ask.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use futures::{FutureExt, StreamExt};
use geminga_runtime::Tasks;
use geminga_tls::{Connection, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tower::ServiceExt;

use super::guard::Who;

/// How long the head of a request may take, from the end of the answer before.
const HEAD: Duration = Duration::from_secs(30);

/// Serves `app` until `tasks` stops. Requests that are being answered then are answered to their end.
pub(super) fn serve(mut incoming: Incoming, app: Router, tasks: &Tasks) {
    let (connections, stop) = (tasks.clone(), tasks.cancelled());
    tasks.spawn("http", async move {
        let mut stop = pin!(stop);
        loop {
            let next = tokio::select! {
                biased;
                () = &mut stop => return,
                next = incoming.next() => next,
            };
            if let Some(Ok(connection)) = next {
                let answered = answer(connection, app.clone(), connections.cancelled());
                connections.spawn("http connection", async move {
                    // What one request comes upon ends its connection, and nobody else's.
                    if AssertUnwindSafe(answered).catch_unwind().await.is_err() {
                        tracing::error!("an HTTP request panicked");
                    }
                });
            }
        }
    });
}

async fn answer(connection: Connection, app: Router, stop: impl Future<Output = ()>) {
    let who = ConnectInfo(Who(connection.peer()));
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(who);
        app.clone().oneshot(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut served = pin!(http.serve_connection(TokioIo::new(connection), service));
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = stop => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection ended");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use geminga_tls::Security;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_end_a_request_holds_no_place_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Tasks::new("test");
        let incoming = Incoming::new(listener, Security::plain("http"), 8, &tasks);
        serve(incoming, Router::new().route("/", get(|| async { "here" })), &tasks);

        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 4096];
        let read = client.read(&mut answer).await.unwrap();
        assert!(answer[..read].ends_with(b"here"), "{}", String::from_utf8_lossy(&answer[..read]));

        let began = Instant::now();
        client.write_all(b"GET / HT").await.unwrap();
        while client.read(&mut answer).await.is_ok_and(|read| read > 0) {}
        assert!((HEAD..HEAD * 2).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert!(tasks.finish(Duration::from_secs(1)).await);
    }
}

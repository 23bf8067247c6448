//! How a process connects to others by gRPC: plain, or by TLS with what is in force when the connection is made.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::pki_types::{IpAddr, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint, Error};
use tower_service::Service;

use crate::credentials::Credentials;
use crate::trouble::{Side, Trouble};

/// The port where an address names none.
const HTTPS: u16 = 443;

/// How connections are made; cheap to clone.
#[derive(Debug, Clone, Default)]
pub enum Dial {
    /// Nothing is encrypted.
    #[default]
    Plain,
    /// By TLS; the server must show a certificate for the name that it is connected by.
    Tls(Credentials),
}

impl Dial {
    /// Whether what is said is encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// A channel that connects on its first use. The endpoint is `http://HOST:PORT` in either case.
    pub fn lazily(&self, endpoint: &Endpoint) -> Channel {
        match self {
            Self::Plain => endpoint.connect_lazy(),
            Self::Tls(credentials) => {
                let connector = Connector { credentials: credentials.clone() };
                encrypted(endpoint).connect_with_connector_lazy(connector)
            }
        }
    }

    /// A channel that is connected.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, Error> {
        match self {
            Self::Plain => endpoint.connect().await,
            Self::Tls(credentials) => {
                let connector = Connector { credentials: credentials.clone() };
                encrypted(endpoint).connect_with_connector(connector).await
            }
        }
    }
}

/// Requests say `https`, though the transport is ours.
fn encrypted(endpoint: &Endpoint) -> Endpoint {
    let authority = endpoint.uri().authority().map_or("", |authority| authority.as_str());
    match format!("https://{authority}").parse() {
        Ok(origin) => endpoint.clone().origin(origin),
        Err(_) => endpoint.clone(),
    }
}

/// Makes one connection. Its time is the endpoint's to bound.
#[derive(Debug, Clone)]
struct Connector {
    credentials: Credentials,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Encrypted>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let config = Arc::clone(&self.credentials.now().client);
        Box::pin(async move {
            let host = uri.host().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let stream =
                TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(HTTPS))).await?;
            stream.set_nodelay(true)?;
            let name = server_name(&host)?;
            match TlsConnector::from(config).connect(name, stream).await {
                Ok(tls) => Ok(TokioIo::new(Encrypted { tls })),
                Err(error) => Err(explained(&error)),
            }
        })
    }
}

fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    if let Ok(ip) = host.parse::<std::net::IpAddr>() {
        return Ok(ServerName::IpAddress(IpAddr::from(ip)));
    }
    ServerName::try_from(host.to_owned()).map_err(|_| {
        let why = format!("`{host}` is no name that a certificate can be for");
        io::Error::new(io::ErrorKind::InvalidInput, why)
    })
}

fn explained(error: &io::Error) -> io::Error {
    Trouble::of(error).to_io(Side::Client)
}

/// A connection. A server refuses a client's certificate only when the client takes the handshake for done: what it says
/// then is explained, too.
#[derive(Debug)]
pub(crate) struct Encrypted {
    tls: TlsStream<TcpStream>,
}

impl Encrypted {
    fn io(self: Pin<&mut Self>) -> Pin<&mut TlsStream<TcpStream>> {
        Pin::new(&mut self.get_mut().tls)
    }
}

fn explain<T>(result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    result.map_err(|error| match Trouble::of(&error) {
        trouble @ Trouble::Refused(_) => trouble.to_io(Side::Client),
        _ => error,
    })
}

impl AsyncRead for Encrypted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        explain(self.io().poll_read(cx, buffer))
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}

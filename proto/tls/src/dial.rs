//! How a process connects to others by gRPC: plain, or by TLS with what is in force when the connection is made.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::client::ClientConfig;
use rustls::pki_types::{IpAddr, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint, Error};
use tower_service::Service;

use crate::credentials::Credentials;
use crate::delegate::{Bytes, delegate_writes};
use crate::files::Protocol;
use crate::trouble::{Side, Trouble};

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
            Self::Tls(credentials) => encrypted(endpoint)
                .connect_with_connector_lazy(Connector::new(credentials, endpoint)),
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
                encrypted(endpoint)
                    .connect_with_connector(Connector::new(credentials, endpoint))
                    .await
            }
        }
    }
}

impl Dial {
    /// A connection to `HOST:PORT` for a protocol. How long it may take is the caller's to bound. Cancel-safe.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn open(&self, address: &str, protocol: Protocol) -> io::Result<Box<dyn Stream>> {
        let tcp = TcpStream::connect(address).await?;
        // What is asked goes at once.
        tcp.set_nodelay(true)?;
        let Self::Tls(credentials) = self else { return Ok(Box::new(tcp)) };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let mut config = ClientConfig::clone(&credentials.now().client);
        config.alpn_protocols = protocol.alpn();
        Ok(Box::new(shake(Arc::new(config), server_name(host)?, tcp).await?))
    }
}

/// What a connection is read from and written to.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn shake(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    tcp: TcpStream,
) -> io::Result<Encrypted> {
    match TlsConnector::from(config).connect(name, tcp).await {
        Ok(tls) => Ok(Encrypted { tls }),
        Err(error) => Err(Trouble::of(&error).to_io(Side::Client)),
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

/// Makes one connection. Its time is the endpoint's to bound; where a name has several addresses, that of connecting is shared
/// among them, so that one which does not answer leaves time for the next.
#[derive(Debug, Clone)]
struct Connector {
    credentials: Credentials,
    tcp: HttpConnector,
}

impl Connector {
    fn new(credentials: &Credentials, endpoint: &Endpoint) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(endpoint.get_connect_timeout());
        Self { credentials: credentials.clone(), tcp }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Encrypted>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_ready(cx).map_err(io::Error::other)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let config = Arc::clone(&self.credentials.now().client);
        let host = uri.host().unwrap_or_default();
        let name = server_name(host);
        let connecting = self.tcp.call(uri);
        Box::pin(async move {
            let name = name?;
            let stream = connecting.await.map_err(io::Error::other)?.into_inner();
            Ok(TokioIo::new(shake(config, name, stream).await?))
        })
    }
}

/// What the certificate has to be for of who is connected to by `host`.
pub(crate) fn server_name(host: &str) -> io::Result<ServerName<'static>> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = host.parse::<std::net::IpAddr>() {
        return Ok(ServerName::IpAddress(IpAddr::from(ip)));
    }
    ServerName::try_from(host.to_owned()).map_err(|_| {
        let why = format!("`{host}` is no name that a certificate can be for");
        io::Error::new(io::ErrorKind::InvalidInput, why)
    })
}

/// A connection. A server refuses a client's certificate only when the client takes the handshake for done: what it says
/// then is explained, too.
#[derive(Debug)]
pub(crate) struct Encrypted {
    tls: TlsStream<TcpStream>,
}

impl Encrypted {
    fn io(self: Pin<&mut Self>) -> Pin<&mut dyn Bytes> {
        Pin::new(&mut self.get_mut().tls)
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buffer).map_err(|error| match Trouble::of(&error) {
            trouble @ Trouble::Refused(_) => trouble.to_io(Side::Client),
            _ => error,
        })
    }
}

delegate_writes!(Encrypted);

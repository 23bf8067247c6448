//! A client by TLS that a test looks at servers with.

use std::io::Read;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::{Pair, wait};

/// Whom it believes, and what it shows.
#[derive(Debug, Clone)]
pub struct Tls {
    ca: PathBuf,
    pair: Option<Pair>,
}

impl Tls {
    /// Believes that authority and shows that certificate.
    pub fn new(ca: PathBuf, pair: Option<Pair>) -> Self {
        Self { ca, pair }
    }

    /// What commands are told by variables.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = vec![("GEMINGA_TLS_CA", &self.ca)];
        if let Some(pair) = &self.pair {
            variables.extend([("GEMINGA_TLS_CERT", &pair.cert), ("GEMINGA_TLS_KEY", &pair.key)]);
        }
        let text = |path: &PathBuf| path.display().to_string();
        variables.into_iter().map(|(name, path)| (name.to_owned(), text(path))).collect()
    }

    /// The certificate that a server on this machine shows now; `None` when there is no handshake.
    pub fn shown_by(&self, address: &str) -> Option<CertificateDer<'static>> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(wait::PATIENCE)).ok()?;
        let mut tls = self.over(stream);
        tls.conn.complete_io(&mut tls.sock).ok()?;
        Some(tls.conn.peer_certificates()?.first()?.clone().into_owned())
    }

    /// Why there is no connection with a server on this machine that is to be `name`: what this end says. `None`: there is one.
    ///
    /// # Panics
    /// When nobody listens there, or nobody says anything.
    pub fn refused_by(&self, address: &str, name: &str) -> Option<String> {
        let stream = TcpStream::connect(address).expect("somebody listens");
        stream.set_read_timeout(Some(wait::PATIENCE)).expect("a timeout");
        let mut tls = self.to(name, stream);
        // A server refuses a client's certificate when that takes the handshake for done.
        let read = tls.conn.complete_io(&mut tls.sock).and_then(|_| tls.read(&mut [0; 1]));
        match read {
            Ok(0) => Some("the connection ended".to_owned()),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    /// # Panics
    /// When a file is none.
    pub(crate) fn over(&self, stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
        self.to("127.0.0.1", stream)
    }

    fn to(&self, name: &str, stream: TcpStream) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(&self.ca).expect("a certificate");
        roots.add(ca).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match &self.pair {
            None => config.with_no_client_auth(),
            Some(pair) => {
                let cert = CertificateDer::from_pem_file(&pair.cert).expect("a certificate");
                let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
                config.with_client_auth_cert(vec![cert], key).expect("a pair")
            }
        };
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a client");
        StreamOwned::new(connection, stream)
    }
}

impl Pair {
    /// Its certificate.
    ///
    /// # Panics
    /// When the file is none.
    pub fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.cert).expect("a certificate")
    }
}

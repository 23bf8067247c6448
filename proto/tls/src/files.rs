//! From PEM files to what connections are made with. Everything is checked before it is used: that a key belongs to its
//! certificate, and that the peers, who trust the same authority, would accept it now.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ClientConfig, Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoServerSessionStorage, ParsedCertificate, ServerConfig, WebPkiClientVerifier,
};
use rustls::{CertificateError, Error, RootCertStore};

use crate::credentials::Host;
use crate::dial::server_name;
use crate::trouble::{Trouble, names};

/// Largest file that is read: authorities of a whole system fit.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;
/// A name that no certificate is for.
const NOBODY: &str = "nobody.invalid";
/// By then every certificate has expired: to ask when.
const FAR: Duration = Duration::from_secs(250 * 365 * 24 * 3_600);

/// Where an identity is, in PEM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// The certificate, and those between it and the authority.
    pub cert: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
    /// The authorities whose certificates are believed; those of the system when there is none.
    pub ca: Option<PathBuf>,
}

/// Why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("{} cannot be read ({why}): correct the path, or its rights", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no {what} in PEM: give it one", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// One of a pair is missing.
    #[error("--tls-cert and --tls-key belong together: give both, or none")]
    Half,
    /// The pair does not fit, or is of a kind that is not known.
    #[error("{} and {} cannot be used together: {why}", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        why: Error,
    },
    /// The others would not accept it.
    #[error("{} {}", path.display(), reason(why))]
    Unacceptable {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        why: Trouble,
    },
    /// Somebody else's, or so it seems.
    #[error(
        "{} is for {}, and the certificate in force is for {}: a renewed one has to share a name with it; to change all \
         names, start the process again", path.display(), is.join(", "), was.join(", ")
    )]
    OtherNames {
        /// The certificate's file.
        path: PathBuf,
        /// Whom it is for.
        is: Vec<String>,
        /// Whom that in force is for.
        was: Vec<String>,
    },
    /// Nobody could connect who checks the name.
    #[error(
        "{} is for {}, not for {host}, by which others are told to connect ({flag}): issue it for that name, or advertise one that \
         it is for", path.display(), if is.is_empty() { "no name".to_owned() } else { is.join(", ") }
    )]
    NotForHost {
        /// The certificate's file.
        path: PathBuf,
        /// Whom it is for.
        is: Vec<String>,
        /// What others connect to.
        host: String,
        /// What says so.
        flag: &'static str,
    },
    /// The authorities cannot be used.
    #[error("the authorities cannot be used: {0}")]
    Authorities(String),
}

impl LoadError {
    /// Whether the same files are good later.
    pub(crate) fn is_early(&self) -> bool {
        matches!(self, Self::Unacceptable { why: Trouble::NotYetValid, .. })
    }

    /// Whether another one in force would not keep them from being used.
    pub(crate) fn is_for_the_former(&self) -> bool {
        matches!(self, Self::OtherNames { .. } | Self::NotForHost { .. })
    }
}

fn reason(why: &Trouble) -> String {
    match why {
        Trouble::Expired => "has expired: renew it".to_owned(),
        Trouble::NotYetValid => "is not valid yet: set the clock, or issue it anew".to_owned(),
        Trouble::UnknownAuthority => {
            "is not signed by an authority in the file of --tls-ca: they must belong together"
                .to_owned()
        }
        Trouble::WrongPurpose => {
            "is not for both server and client authentication, as that of a component must be: issue it \
             for both"
                .to_owned()
        }
        other => format!("is of no use: {other:?}"),
    }
}

/// What a listener speaks inside of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2, as gRPC does.
    Grpc,
    /// HTTP/1.1.
    Http,
    /// Kafka's, which is not negotiated.
    Kafka,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::Grpc, Self::Http, Self::Kafka];

    pub(crate) fn alpn(self) -> Vec<Vec<u8>> {
        match self {
            Self::Grpc => vec![b"h2".to_vec()],
            Self::Http => vec![b"http/1.1".to_vec()],
            Self::Kafka => Vec::new(),
        }
    }
}

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// They are not asked.
    None,
    /// They are asked, and what they show must be good.
    Optional,
    /// Who shows none is sent away.
    Required,
}

impl ClientAuth {
    const ALL: [Self; 3] = [Self::None, Self::Optional, Self::Required];
}

/// What a certificate has to be to be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// One that all others of its authority take, as a client and as a server.
    Component,
    /// Of its time: whose it is and what for is the server's to judge.
    Time,
    /// A test shows whatever it likes.
    #[cfg(test)]
    Nothing,
}

/// The bytes of the files.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    ca: Option<Vec<u8>>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}

impl Contents {
    /// Reads all files; blocks.
    pub(crate) fn read(files: &Files) -> Result<Self, LoadError> {
        let all = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        Ok(Self { cert: all(&files.cert)?, key: all(&files.key)?, ca: all(&files.ca)? })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    use io::Read;
    let unreadable = |why| LoadError::Unreadable { path: path.to_owned(), why };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// Checked, and ready for connections.
pub(crate) struct Loaded {
    servers: Vec<(Protocol, ClientAuth, Arc<ServerConfig>)>,
    pub(crate) client: Arc<ClientConfig>,
    /// When the certificate expires, in seconds since the Unix epoch, where that is known.
    pub(crate) expires: Option<u64>,
    /// Whom the certificate is for, where that is known.
    names: Vec<String>,
    /// The certificate itself.
    cert: Option<CertificateDer<'static>>,
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").field("expires", &self.expires).finish_non_exhaustive()
    }
}

/// A certificate, the others of its chain, its key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Loaded {
    pub(crate) fn new(files: &Files, contents: &Contents, check: Check) -> Result<Self, LoadError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots(files, contents)?);
        let identity = identity(files, contents)?;
        let own = files.ca.is_some();
        let authority = own.then(|| Authority::new(&roots, &provider)).transpose()?;
        let found = match (&identity, &authority, check) {
            (Some(identity), Some(authority), Check::Component) => {
                authority.check(files, identity)?
            }
            (Some(identity), _, Check::Time) => check_time(files, identity, &provider)?,
            _ => Found::default(),
        };
        let servers = match &identity {
            Some(identity) => servers(files, identity, authority.as_ref(), &provider)?,
            None => Vec::new(),
        };
        let cert = identity.as_ref().and_then(|identity| identity.chain.first().cloned());
        let client = Arc::new(client(files, roots, identity, &provider)?);
        Ok(Self { servers, client, expires: found.expires, names: found.names, cert })
    }

    /// The same, to be in force after `former`: one that shares no name with it is likely to be somebody else's, with which
    /// nobody could talk to this process any more, as nobody could with one that is not for all `hosts`.
    pub(crate) fn after(
        self,
        former: &Self,
        files: &Files,
        hosts: &[Host],
    ) -> Result<Self, LoadError> {
        let known = !self.names.is_empty() && !former.names.is_empty();
        // With one that has expired nobody could talk either.
        let expired = former.is_over();
        if known && !expired && !self.names.iter().any(|name| former.names.contains(name)) {
            let path = files.cert.clone().unwrap_or_default();
            return Err(LoadError::OtherNames { path, is: self.names, was: former.names.clone() });
        }
        if !expired {
            hosts.iter().try_for_each(|host| self.check_host(files, host))?;
        }
        Ok(self)
    }

    /// Whether it has expired.
    pub(crate) fn is_over(&self) -> bool {
        self.expires.is_some_and(|at| at <= UnixTime::now().as_secs())
    }

    /// Whether who connects to a host takes the certificate for that of this process.
    pub(crate) fn check_host(&self, files: &Files, told: &Host) -> Result<(), LoadError> {
        let Host { flag, host } = told;
        let Some(cert) = &self.cert else { return Ok(()) };
        let path = files.cert.clone().unwrap_or_default();
        let unreadable =
            |error| LoadError::Unacceptable { path: path.clone(), why: Trouble::of_tls(&error) };
        let cert = ParsedCertificate::try_from(cert).map_err(unreadable)?;
        let is = match server_name(host).map(|name| verify_server_name(&cert, &name)) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented,
                ..
            }))) => names(&presented),
            // A host that is no name, or a certificate without any.
            Ok(Err(_)) | Err(_) => self.names.clone(),
        };
        Err(LoadError::NotForHost { path, is, host: host.clone(), flag })
    }

    /// What a listener takes connections with; `None` when there is no certificate to show, or no authority to check
    /// clients by.
    pub(crate) fn server(&self, protocol: Protocol, auth: ClientAuth) -> Option<Arc<ServerConfig>> {
        let found = self.servers.iter().find(|(p, a, _)| (*p, *a) == (protocol, auth));
        found.map(|(_, _, config)| Arc::clone(config))
    }
}

fn roots(files: &Files, contents: &Contents) -> Result<RootCertStore, LoadError> {
    let mut roots = RootCertStore::empty();
    match (&files.ca, &contents.ca) {
        (Some(path), Some(bytes)) => {
            for cert in certificates(path, bytes)? {
                roots.add(cert).map_err(|error| LoadError::Authorities(error.to_string()))?;
            }
        }
        _ => {
            // A damaged one among the system's must not keep the others from being used.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

fn certificates(path: &Path, bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(LoadError::Empty { path: path.to_owned(), what: "certificate" }),
    }
}

fn identity(files: &Files, contents: &Contents) -> Result<Option<Identity>, LoadError> {
    let (Some(cert), Some(key)) = (&files.cert, &files.key) else {
        return if files.cert.is_none() && files.key.is_none() {
            Ok(None)
        } else {
            Err(LoadError::Half)
        };
    };
    let bytes = |contents: &Option<Vec<u8>>| contents.clone().unwrap_or_default();
    let chain = certificates(cert, &bytes(&contents.cert))?;
    let key = PrivateKeyDer::from_pem_slice(&bytes(&contents.key))
        .map_err(|_| LoadError::Empty { path: key.clone(), what: "private key" })?;
    Ok(Some(Identity { chain, key }))
}

/// What a certificate says.
#[derive(Default)]
struct Found {
    /// When it expires, in seconds since the Unix epoch.
    expires: Option<u64>,
    /// Whom it is for.
    names: Vec<String>,
}

/// Checks certificates as the other components do.
struct Authority {
    clients: Arc<dyn ClientCertVerifier>,
    optional: Arc<dyn ClientCertVerifier>,
    servers: Arc<WebPkiServerVerifier>,
}

impl Authority {
    fn new(roots: &Arc<RootCertStore>, provider: &Arc<CryptoProvider>) -> Result<Self, LoadError> {
        let wrong =
            |error: rustls::client::VerifierBuilderError| LoadError::Authorities(error.to_string());
        let clients =
            || WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
        Ok(Self {
            clients: clients().build().map_err(wrong)?,
            optional: clients().allow_unauthenticated().build().map_err(wrong)?,
            servers: WebPkiServerVerifier::builder_with_provider(
                Arc::clone(roots),
                Arc::clone(provider),
            )
            .build()
            .map_err(wrong)?,
        })
    }

    /// Whether the others would take it, as a client and as a server; what it says.
    fn check(&self, files: &Files, identity: &Identity) -> Result<Found, LoadError> {
        let Some((cert, between)) = identity.chain.split_first() else {
            return Ok(Found::default());
        };
        let unacceptable = |error: Error| LoadError::Unacceptable {
            path: files.cert.clone().unwrap_or_default(),
            why: Trouble::of_tls(&error),
        };
        let now = UnixTime::now();
        self.clients.verify_client_cert(cert, between, now).map_err(unacceptable)?;
        let nobody = ServerName::try_from(NOBODY).expect("a plain name");
        // Which names it is for, those who connect will see; that it is not for nobody says which they are.
        let is_for = match self.servers.verify_server_cert(cert, between, &nobody, &[], now) {
            Ok(_) | Err(Error::InvalidCertificate(CertificateError::NotValidForName)) => Vec::new(),
            Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                presented,
                ..
            })) => names(&presented),
            Err(error) => return Err(unacceptable(error)),
        };
        Ok(Found { expires: self.expiry(cert, between, now), names: is_for })
    }

    /// When it will not be taken any more, in seconds since the Unix epoch.
    fn expiry(
        &self,
        cert: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Option<u64> {
        let then = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + FAR);
        match self.clients.verify_client_cert(cert, between, then) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext {
                not_after, ..
            })) => Some(not_after.as_secs()),
            _ => None,
        }
    }

    fn verifier(&self, auth: ClientAuth) -> Option<Arc<dyn ClientCertVerifier>> {
        match auth {
            ClientAuth::None => None,
            ClientAuth::Optional => Some(Arc::clone(&self.optional)),
            ClientAuth::Required => Some(Arc::clone(&self.clients)),
        }
    }
}

/// Whether a certificate is of its time, whoever signed it, and when that ends: it is looked at before the signature.
fn check_time(
    files: &Files,
    identity: &Identity,
    provider: &Arc<CryptoProvider>,
) -> Result<Found, LoadError> {
    let mut roots = RootCertStore::empty();
    for cert in &identity.chain {
        // One that cannot be an authority leaves nothing to check by: the server judges.
        if roots.add(cert.clone()).is_err() {
            return Ok(Found::default());
        }
    }
    let authority = Authority::new(&Arc::new(roots), provider)?;
    let Some((cert, between)) = identity.chain.split_first() else {
        return Ok(Found::default());
    };
    let now = UnixTime::now();
    if let Err(error) = authority.clients.verify_client_cert(cert, between, now)
        && let why @ (Trouble::Expired | Trouble::NotYetValid) = Trouble::of_tls(&error)
    {
        let path = files.cert.clone().unwrap_or_default();
        return Err(LoadError::Unacceptable { path, why });
    }
    Ok(Found { expires: authority.expiry(cert, between, now), names: Vec::new() })
}

fn servers(
    files: &Files,
    identity: &Identity,
    authority: Option<&Authority>,
    provider: &Arc<CryptoProvider>,
) -> Result<Vec<(Protocol, ClientAuth, Arc<ServerConfig>)>, LoadError> {
    let mut configs = Vec::new();
    for auth in ClientAuth::ALL {
        let verifier = authority.and_then(|authority| authority.verifier(auth));
        if verifier.is_none() && auth != ClientAuth::None {
            continue;
        }
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(|why| pair(files, why))?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder
            .with_single_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|why| pair(files, why))?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        for protocol in Protocol::ALL {
            let mut config = config.clone();
            config.alpn_protocols = protocol.alpn();
            configs.push((protocol, auth, Arc::new(config)));
        }
    }
    Ok(configs)
}

fn client(
    files: &Files,
    roots: Arc<RootCertStore>,
    identity: Option<Identity>,
    provider: &Arc<CryptoProvider>,
) -> Result<ClientConfig, LoadError> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(|why| pair(files, why))?
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(Identity { chain, key }) => {
            builder.with_client_auth_cert(chain, key).map_err(|why| pair(files, why))?
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = Protocol::Grpc.alpn();
    Ok(config)
}

fn pair(files: &Files, why: Error) -> LoadError {
    let path = |path: &Option<PathBuf>| path.clone().unwrap_or_default();
    LoadError::Pair { cert: path(&files.cert), key: path(&files.key), why }
}

//! The identity of a server, and whom its listeners serve: the same flags for all. With a certificate every listener speaks
//! TLS, and so does every way to another component; a listener for Kafka clients may say otherwise.

use std::path::PathBuf;

use clap::ValueEnum;
use geminga_tls::{ClientAuth, Credentials, Dial, Files, LoadError, Protocol, Security};
use serde::{Deserialize, Serialize};

use super::MetastoreUrl;
use crate::exit::Failure;

/// What flags, variables and the file can say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct TlsOptions {
    /// This server's certificate and those between it and the authority, in PEM; with it everything is encrypted.
    #[arg(
        id = "tls_cert",
        long = "tls-cert",
        value_name = "FILE",
        env = "GEMINGA_TLS_CERT",
        help_heading = "TLS"
    )]
    pub(crate) cert: Option<PathBuf>,
    /// The private key of --tls-cert, in PEM.
    #[arg(
        id = "tls_key",
        long = "tls-key",
        value_name = "FILE",
        env = "GEMINGA_TLS_KEY",
        help_heading = "TLS"
    )]
    pub(crate) key: Option<PathBuf>,
    /// The authorities, in PEM, whose certificates the other components and clients show, and etcd without --etcd-ca.
    #[arg(
        id = "tls_ca",
        long = "tls-ca",
        value_name = "FILE",
        env = "GEMINGA_TLS_CA",
        help_heading = "TLS"
    )]
    pub(crate) ca: Option<PathBuf>,
    /// Whether clients have to show a certificate of --tls-ca; other components always have to [default: none].
    #[arg(
        id = "tls_client_auth",
        long = "tls-client-auth",
        value_name = "WHETHER",
        value_enum,
        env = "GEMINGA_TLS_CLIENT_AUTH",
        help_heading = "TLS"
    )]
    pub(crate) client_auth: Option<Whether>,
}

/// What an etcd is shown and believed that has authorities of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct EtcdTlsOptions {
    /// The authorities, in PEM, of an etcd that is not of those in --tls-ca; the two below are then shown to it.
    #[arg(
        id = "etcd_ca",
        long = "etcd-ca",
        value_name = "FILE",
        env = "GEMINGA_ETCD_CA",
        help_heading = "TLS"
    )]
    pub(crate) ca: Option<PathBuf>,
    /// The certificate to show to etcd, in PEM, with --etcd-ca.
    #[arg(
        id = "etcd_cert",
        long = "etcd-cert",
        value_name = "FILE",
        env = "GEMINGA_ETCD_CERT",
        help_heading = "TLS"
    )]
    pub(crate) cert: Option<PathBuf>,
    /// The private key of --etcd-cert, in PEM.
    #[arg(
        id = "etcd_key",
        long = "etcd-key",
        value_name = "FILE",
        env = "GEMINGA_ETCD_KEY",
        help_heading = "TLS"
    )]
    pub(crate) key: Option<PathBuf>,
}

impl EtcdTlsOptions {
    /// These options where they are set, those of `file` elsewhere.
    pub(crate) fn over(self, file: Self) -> Self {
        Self { ca: self.ca.or(file.ca), cert: self.cert.or(file.cert), key: self.key.or(file.key) }
    }

    /// What does not go together. `metadata`: the metadata store is reached by TLS.
    pub(crate) fn check(&self, metadata: bool) -> Result<(), Failure> {
        let wrong = |why: &str| Err(Failure::usage(why));
        match (&self.ca, &self.cert, &self.key) {
            (None, None, None) => Ok(()),
            _ if !metadata => wrong(
                "--etcd-ca, --etcd-cert and --etcd-key are for an etcd that speaks TLS: --metastore https://HOST:PORT",
            ),
            (_, Some(_), None) | (_, None, Some(_)) => {
                wrong("--etcd-cert and --etcd-key belong together: give both")
            }
            (None, ..) => wrong("--etcd-cert needs --etcd-ca: whom etcd is believed to be by"),
            _ => Ok(()),
        }
    }

    /// What a command shows etcd, and believes: these files, or those that are for all.
    pub(crate) fn or(&self, tls: &TlsArgs) -> Result<Option<Credentials>, Failure> {
        match self.load()? {
            Some(own) => Ok(Some(own)),
            None => tls.load(),
        }
    }

    /// Reads the files; `None` when none is named.
    fn load(&self) -> Result<Option<Credentials>, Failure> {
        let files = Files { cert: self.cert.clone(), key: self.key.clone(), ca: self.ca.clone() };
        of_client(files)
    }
}

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Whether {
    /// They need none.
    None,
    /// They need one of the authority.
    Required,
}

impl TlsOptions {
    /// These options where they are set, those of `file` elsewhere.
    pub(crate) fn over(self, file: Self) -> Self {
        Self {
            cert: self.cert.or(file.cert),
            key: self.key.or(file.key),
            ca: self.ca.or(file.ca),
            client_auth: self.client_auth.or(file.client_auth),
        }
    }

    /// Whether listeners speak TLS.
    pub(crate) fn is_on(&self) -> bool {
        self.cert.is_some()
    }

    fn requires(&self) -> bool {
        self.client_auth == Some(Whether::Required)
    }

    /// What does not go together. `alone`: no other component is talked to.
    pub(crate) fn check(&self, alone: bool) -> Result<(), Failure> {
        let wrong = |why: &str| Err(Failure::usage(why));
        match (&self.cert, &self.key, &self.ca) {
            (Some(_), None, _) | (None, Some(_), _) => {
                wrong("--tls-cert and --tls-key belong together: give both")
            }
            (Some(_), Some(_), None) if !alone => wrong(
                "--tls-cert needs --tls-ca here: components know each other by the authority of their certificates",
            ),
            (Some(_), Some(_), None) if self.requires() => wrong(
                "--tls-client-auth required needs --tls-ca: whose certificates clients are to show",
            ),
            (None, None, _) if self.requires() => {
                wrong("--tls-client-auth required needs --tls-cert, --tls-key and --tls-ca")
            }
            (None, None, Some(_)) => wrong(
                "--tls-ca alone encrypts nothing: add --tls-cert and --tls-key, or give --etcd-ca where it is for etcd only",
            ),
            _ => Ok(()),
        }
    }

    /// Reads the files. `etcd`: those that are for etcd only.
    pub(crate) fn load(&self, etcd: &EtcdTlsOptions) -> Result<ServerTls, Failure> {
        let files = Files { cert: self.cert.clone(), key: self.key.clone(), ca: self.ca.clone() };
        let own = (files != Files::default()).then(|| Credentials::load(files)).transpose();
        Ok(ServerTls { own: own.map_err(unusable)?, etcd: etcd.load()?, required: self.requires() })
    }
}

/// The host of `HOST:PORT`.
fn host_of(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

fn of_client(files: Files) -> Result<Option<Credentials>, Failure> {
    let own = (files != Files::default()).then(|| Credentials::of_client(files)).transpose();
    own.map_err(unusable)
}

pub(super) fn unusable(error: LoadError) -> Failure {
    Failure::usage(error).because("TLS_FILES")
}

/// What a server takes connections by, and makes them.
#[derive(Debug, Clone)]
pub(crate) struct ServerTls {
    own: Option<Credentials>,
    /// Where etcd has authorities of its own.
    etcd: Option<Credentials>,
    required: bool,
}

impl ServerTls {
    /// All that follows files, and what metrics call it.
    pub(crate) fn credentials(&self) -> impl Iterator<Item = (&'static str, &Credentials)> {
        let named = [("own", &self.own), ("etcd", &self.etcd)];
        named.into_iter().filter_map(|(name, credentials)| Some((name, credentials.as_ref()?)))
    }

    /// What etcd is shown and believed.
    pub(crate) fn of_etcd(&self) -> Option<&Credentials> {
        self.etcd.as_ref().or(self.own.as_ref())
    }

    fn identity(&self) -> Option<&Credentials> {
        self.own.as_ref().filter(|credentials| credentials.has_identity())
    }

    /// How other components are reached.
    pub(crate) fn dial(&self) -> Dial {
        self.identity().cloned().map_or(Dial::Plain, Dial::Tls)
    }

    /// Whether the certificate is for the host of `HOST:PORT`, to which others connect as `flag` says: if not, this server
    /// would be ready, and nobody could talk to it.
    pub(crate) fn require_host(&self, flag: &'static str, address: &str) -> Result<(), Failure> {
        let required = self.identity().map(|own| own.require_host(flag, host_of(address)));
        required.unwrap_or(Ok(())).map_err(unusable)
    }

    /// The same of those who are free to go by other names.
    pub(crate) fn check_host(&self, flag: &'static str, address: &str) -> Result<(), Failure> {
        let checked = self.identity().map(|own| own.check_host(flag, host_of(address)));
        checked.unwrap_or(Ok(())).map_err(unusable)
    }

    /// Whether clients without a certificate are sent away.
    pub(crate) fn requires(&self) -> bool {
        self.required
    }

    /// Of a listener whose clients all are components.
    pub(crate) fn internal(&self, listener: &'static str) -> Security {
        self.of(listener, Protocol::Grpc, ClientAuth::Required)
    }

    /// Of the listener for gRPC. Components use it, too, so that all are asked for a certificate.
    pub(crate) fn grpc(&self) -> Security {
        self.of(
            "grpc",
            Protocol::Grpc,
            if self.required { ClientAuth::Required } else { self.asked() },
        )
    }

    /// Of the listener for HTTP, whose probes have no certificate: what needs one is decided by path.
    pub(crate) fn http(&self) -> Security {
        self.of("http", Protocol::Http, self.asked())
    }

    /// Of a listener for Kafka clients, unless it is to be plain.
    pub(crate) fn kafka(&self, plain: bool) -> Security {
        if plain {
            return Security::plain("kafka");
        }
        let auth = if self.required { ClientAuth::Required } else { ClientAuth::None };
        self.of("kafka", Protocol::Kafka, auth)
    }

    /// Without an authority nothing could be checked.
    fn asked(&self) -> ClientAuth {
        let can_check = self.identity().is_some_and(Credentials::has_authority);
        if can_check { ClientAuth::Optional } else { ClientAuth::None }
    }

    fn of(&self, listener: &'static str, protocol: Protocol, auth: ClientAuth) -> Security {
        match self.identity() {
            Some(credentials) => Security::tls(listener, credentials.clone(), protocol, auth),
            None => Security::plain(listener),
        }
    }
}

/// Whom a command believes, and what it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct TlsArgs {
    /// Encrypt, and believe servers whose certificates these authorities signed, in PEM.
    #[arg(long, value_name = "FILE", env = "GEMINGA_TLS_CA", help_heading = "Connection")]
    tls_ca: Option<PathBuf>,
    /// The certificate to show, in PEM, where servers ask for one.
    #[arg(long, value_name = "FILE", env = "GEMINGA_TLS_CERT", help_heading = "Connection")]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, in PEM.
    #[arg(long, value_name = "FILE", env = "GEMINGA_TLS_KEY", help_heading = "Connection")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    /// Reads the files; `None` when none is named.
    pub(crate) fn load(&self) -> Result<Option<Credentials>, Failure> {
        let Self { tls_ca, tls_cert, tls_key } = self.clone();
        of_client(Files { cert: tls_cert, key: tls_key, ca: tls_ca })
    }

    /// How bookies are reached: by TLS, for which they ask a certificate, or plain when no file is named.
    pub(crate) fn dial(&self) -> Result<Dial, Failure> {
        match self.load()? {
            None => Ok(Dial::Plain),
            Some(credentials) if credentials.has_identity() => Ok(Dial::Tls(credentials)),
            Some(_) => Err(Failure::usage(
                "bookies that speak TLS ask for a certificate: add --tls-cert and --tls-key",
            )),
        }
    }
}

/// The same of a command that talks to etcd, which may have authorities of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct EtcdTlsArgs {
    #[command(flatten)]
    tls: TlsArgs,
    #[command(flatten)]
    etcd: EtcdTlsOptions,
}

impl EtcdTlsArgs {
    /// Reads the files for this place; `None` when none is named.
    pub(crate) fn load(&self, metastore: &MetastoreUrl) -> Result<Option<Credentials>, Failure> {
        self.etcd.check(metastore.is_tls())?;
        self.etcd.or(&self.tls)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_together_is_refused() {
        let file = || Some(PathBuf::from("x"));
        let options = |cert: bool, key: bool, ca: bool, required: bool| TlsOptions {
            cert: file().filter(|_| cert),
            key: file().filter(|_| key),
            ca: file().filter(|_| ca),
            client_auth: required.then_some(Whether::Required),
        };
        for (given, alone, good) in [
            (options(false, false, false, false), false, true),
            (options(true, true, true, true), false, true),
            (options(true, true, false, false), true, true),
            (options(true, true, false, false), false, false),
            (options(true, true, false, true), true, false),
            (options(true, false, true, false), false, false),
            (options(false, true, true, false), false, false),
            (options(false, false, true, false), false, false),
            (options(false, false, false, true), false, false),
        ] {
            assert_eq!(given.check(alone).is_ok(), good, "{given:?}");
        }
        let etcd = |ca: bool, cert: bool, key: bool| EtcdTlsOptions {
            ca: file().filter(|_| ca),
            cert: file().filter(|_| cert),
            key: file().filter(|_| key),
        };
        for (given, metadata, good) in [
            (etcd(false, false, false), false, true),
            (etcd(true, false, false), true, true),
            (etcd(true, true, true), true, true),
            (etcd(true, false, false), false, false),
            (etcd(true, true, false), true, false),
            (etcd(false, true, true), true, false),
        ] {
            assert_eq!(given.check(metadata).is_ok(), good, "{given:?}");
        }
    }
}

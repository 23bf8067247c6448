//! Where the cluster is, and what all of the client's parts share. Connections are made on first use, and again, to
//! another broker where there is one, after they broke. Each producer, consumer and reader has connections of its own, so
//! that records that nobody takes from one do not fill the window that another's acknowledgements need.

use std::sync::Arc;
use std::time::Duration;

use geminga_runtime::{Random, SystemClock, SystemRandom, Tasks, WallClock};
use geminga_tls::{Credentials, Dial, Files};

use crate::admin::Admin;
use crate::consumer::{Consumer, ConsumerConfig, Reader, ReaderConfig};
use crate::directory::Directory;
use crate::error::Error;
use crate::producer::{Producer, ProducerConfig};
use crate::writer::BatchWriter;

/// How long [`Client::close`] waits for what was accepted.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// Settings of a [`Client`].
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// What servers call this client. Default `geminga-client`.
    pub client_id: String,
    /// How long a call of [`Admin`] is repeated while partitions or groups are moving. Default 30 s.
    pub request_timeout: Duration,
    /// How long a call of [`Admin`] is repeated while nobody answers, once every known broker was asked. Default 3 s.
    pub unreachable_timeout: Duration,
    /// Whom this client believes, and what it shows, by TLS. Default `None`: TLS with the authorities of the system when an
    /// address begins with `https://`, else nothing is encrypted.
    pub tls: Option<Credentials>,
    /// Dates records that have no timestamp.
    pub clock: Arc<dyn WallClock>,
    /// Spreads retries and keyless records.
    pub random: Arc<dyn Random>,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            client_id: "geminga-client".to_owned(),
            request_timeout: Duration::from_secs(30),
            unreachable_timeout: Duration::from_secs(3),
            tls: None,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        }
    }
}

/// A handle on a cluster. Cloning is cheap and shares everything.
#[derive(Debug, Clone)]
pub struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    server: String,
    directory: Directory,
    config: ClientConfig,
    tasks: Tasks,
}

impl Client {
    /// A client of the cluster that the brokers at `servers` belong to: HOST:PORT, several with commas between them,
    /// `https://` before each where it is to be TLS. One is enough while it lives; the others are learned from it. Nothing is sent yet. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// `Config` when one is not an address.
    pub fn connect(servers: &str) -> Result<Self, Error> {
        Self::with(servers, ClientConfig::default())
    }

    /// [`Client::connect`] with settings.
    ///
    /// # Errors
    /// `Config` when one of `servers` is not an address, or contradicts the others or the settings about TLS.
    pub fn with(servers: &str, config: ClientConfig) -> Result<Self, Error> {
        let tasks = Tasks::new("client");
        let (servers, scheme) = without_scheme(servers)?;
        let dial = dial(scheme, config.tls.clone())?;
        if let Dial::Tls(credentials) = &dial {
            credentials.keep_up("own", &tasks);
        }
        let directory = Directory::new(&servers, dial, Arc::clone(&config.random), &tasks)?;
        let server = servers;
        Ok(Self(Arc::new(Inner { server, directory, config, tasks })))
    }

    /// Topics, groups and the cluster.
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// A producer; it stops when it is closed or dropped.
    pub fn producer(&self, config: ProducerConfig) -> Producer {
        Producer::start(self, config)
    }

    /// Writes batches that are ready. `patience`: how long they are tried while nothing goes forward.
    pub fn batch_writer(&self, patience: Duration) -> BatchWriter {
        BatchWriter::new(self, patience)
    }

    /// A new member of a consumer group; it joins with its first [`Consumer::next`].
    pub fn consumer(&self, config: ConsumerConfig) -> Consumer {
        Consumer::new(self.clone(), config)
    }

    /// A reader of the partitions of `topic` that `starts` names, from there on.
    pub fn reader(
        &self,
        topic: &str,
        starts: impl IntoIterator<Item = (u32, i64)>,
        config: ReaderConfig,
    ) -> Reader {
        Reader::new(self.clone(), topic, starts, config)
    }

    /// The addresses it was given.
    pub fn server(&self) -> &str {
        &self.0.server
    }

    /// Stops everything that was started from this client, and waits for it. Producers that were not closed before
    /// fail what they still hold.
    pub async fn close(&self) {
        self.0.tasks.finish(CLOSE_TIMEOUT).await;
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.0.config
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.0.tasks
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.0.directory
    }
}

/// What stands before addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

/// Addresses without what stands before them, which must be the same for all.
fn without_scheme(servers: &str) -> Result<(String, Option<Scheme>), Error> {
    let mut schemes = Vec::new();
    let mut hosts = Vec::new();
    for server in servers.split(',').map(str::trim) {
        let (scheme, host) = match (server.strip_prefix("https://"), server.strip_prefix("http://"))
        {
            (Some(host), _) => (Some(Scheme::Https), host),
            (_, Some(host)) => (Some(Scheme::Http), host),
            (None, None) => (None, server),
        };
        hosts.push(host.trim_end_matches('/'));
        schemes.push(scheme);
    }
    schemes.dedup();
    if schemes.len() > 1 {
        let why = "write https:// before each of the servers, or before none";
        return Err(Error::Config(why.to_owned()));
    }
    Ok((hosts.join(","), schemes.into_iter().next().flatten()))
}

fn dial(scheme: Option<Scheme>, tls: Option<Credentials>) -> Result<Dial, Error> {
    match (scheme, tls) {
        (Some(Scheme::Http), Some(_)) => {
            let why = "http:// says that nothing is encrypted, and certificates are given: write https://";
            Err(Error::Config(why.to_owned()))
        }
        (_, Some(credentials)) => Ok(Dial::Tls(credentials)),
        (Some(Scheme::Https), None) => {
            let system = Credentials::load(Files::default());
            Ok(Dial::Tls(system.map_err(|error| Error::Config(error.to_string()))?))
        }
        (_, None) => Ok(Dial::Plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_says_whether_it_is_tls() {
        for (servers, hosts, scheme) in [
            ("a:1", "a:1", None),
            ("https://a:1, https://b:2/", "a:1,b:2", Some(Scheme::Https)),
            ("http://a:1", "a:1", Some(Scheme::Http)),
        ] {
            assert_eq!(without_scheme(servers).unwrap(), (hosts.to_owned(), scheme));
        }
        assert!(without_scheme("https://a:1,b:1").is_err());
        assert!(dial(Some(Scheme::Https), None).unwrap().is_tls());
        assert!(!dial(None, None).unwrap().is_tls());
        let system = Credentials::load(Files::default()).unwrap();
        assert!(dial(None, Some(system.clone())).unwrap().is_tls());
        assert!(dial(Some(Scheme::Http), Some(system)).is_err());
    }
}

//! Where Kafka clients connect, what they are told to connect to, and what they are offered: the same flags for a broker and for
//! standalone, which listens where Kafka does unless it is told otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::str::FromStr;

use geminga_metastore::record::KafkaListener;
use geminga_proto::caps;
use geminga_tls::Security;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::{Listen, ServerTls, check_exposure};
use crate::args::host_port;
use crate::exit::Failure;
use crate::server::bind;

/// The name of a listener that is given none.
const UNNAMED: &str = "default";
/// The value that says: no listener.
const NONE: &str = "none";
/// What stands before the address of a listener that is encrypted, or is not, whatever the others are.
const SSL: &str = "ssl://";
const PLAINTEXT: &str = "plaintext://";
/// Longest name of a listener.
const MAX_NAME_BYTES: usize = 64;

/// Something of one listener: `[NAME=]WHAT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String", bound = "")]
pub(crate) struct Of<T: Clone + fmt::Display + FromStr<Err = String>> {
    listener: String,
    what: T,
}

impl<T: Clone + fmt::Display + FromStr<Err = String>> FromStr for Of<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (listener, what) = text.split_once('=').unwrap_or((UNNAMED, text));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if listener.is_empty() || listener.len() > MAX_NAME_BYTES || !listener.bytes().all(plain) {
            return Err(format!(
                "`{listener}` is no name of a listener: use letters, digits, . _ -"
            ));
        }
        Ok(Self { listener: listener.to_owned(), what: what.parse()? })
    }
}

impl<T: Clone + fmt::Display + FromStr<Err = String>> fmt::Display for Of<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.listener.as_str() {
            UNNAMED => self.what.fmt(f),
            name => write!(f, "{name}={}", self.what),
        }
    }
}

impl<T: Clone + fmt::Display + FromStr<Err = String>> TryFrom<String> for Of<T> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl<T: Clone + fmt::Display + FromStr<Err = String>> From<Of<T>> for String {
    fn from(of: Of<T>) -> Self {
        of.to_string()
    }
}

/// Where a listener is, and whether it is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    listen: Listen,
    /// As all listeners unless it says so.
    encrypted: Option<bool>,
}

impl Place {
    fn plain(self, tls: bool) -> bool {
        !self.encrypted.unwrap_or(tls)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (encrypted, address) = match (text.strip_prefix(SSL), text.strip_prefix(PLAINTEXT)) {
            (Some(address), _) => (Some(true), address),
            (None, Some(address)) => (Some(false), address),
            (None, None) => (None, text),
        };
        Ok(Self { listen: address.parse()?, encrypted })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.encrypted {
            Some(true) => SSL,
            Some(false) => PLAINTEXT,
            None => "",
        };
        write!(f, "{scheme}{}", self.listen)
    }
}

/// Where to listen, or the word for not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// Here.
    Address(Place),
    /// Nowhere.
    Nowhere,
}

impl FromStr for At {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            NONE => Ok(Self::Nowhere),
            address => address.parse().map(Self::Address),
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(place) => place.fmt(f),
            Self::Nowhere => f.write_str(NONE),
        }
    }
}

/// What clients are told: a host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPort(String);

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        host_port(text).map(Self)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What flags, variables and the file can say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, clap::Args)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(crate) struct KafkaOptions {
    /// Where Kafka clients connect; may be given for several networks, each with a name, or be `none`. `ssl://` or
    /// `plaintext://` before the address say whether it is encrypted; else it is when there is --tls-cert.
    #[arg(
        id = "kafka",
        long = "kafka",
        value_name = "[NAME=][SCHEME://]IP:PORT",
        env = "GEMINGA_KAFKA",
        value_delimiter = ',',
        help_heading = "Kafka"
    )]
    listen: Option<Vec<Of<At>>>,
    /// What Kafka clients are told to connect to, when that is not the address of --kafka.
    #[arg(
        id = "kafka_advertise",
        long = "kafka-advertise",
        value_name = "[NAME=]HOST:PORT",
        env = "GEMINGA_KAFKA_ADVERTISE",
        value_delimiter = ',',
        help_heading = "Kafka"
    )]
    advertise: Option<Vec<Of<HostPort>>>,
    /// Create a topic when a Kafka client asks for one that does not exist.
    #[arg(
        long,
        value_name = "BOOL",
        env = "GEMINGA_AUTO_CREATE_TOPICS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        help_heading = "Kafka"
    )]
    auto_create_topics: Option<bool>,
    /// Partitions of a topic that a Kafka client creates without saying how many [default: 1].
    #[arg(
        long,
        value_name = "PARTITIONS",
        env = "GEMINGA_DEFAULT_PARTITIONS",
        help_heading = "Kafka"
    )]
    default_partitions: Option<NonZeroU32>,
}

/// What the server is built from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct KafkaSettings {
    listen: Vec<Of<At>>,
    advertise: Vec<Of<HostPort>>,
    auto_create_topics: bool,
    default_partitions: u32,
}

/// What decides whether a listener may be where others reach it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exposure {
    pub(super) insecure: bool,
    /// There is a certificate.
    pub(super) tls: bool,
}

/// What holds where nothing is said.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    /// Where it is listened.
    pub(super) port: Option<u16>,
    pub(super) auto_create_topics: bool,
}

impl KafkaOptions {
    /// These options over those of the file, over the defaults; checked.
    pub(super) fn settle(
        self,
        file: Self,
        exposure: Exposure,
        defaults: Defaults,
    ) -> Result<KafkaSettings, Failure> {
        let default = || {
            let listen = defaults
                .port
                .map(|port| At::Address(Place { listen: Listen::local(port), encrypted: None }));
            listen.into_iter().map(|what| Of { listener: UNNAMED.to_owned(), what }).collect()
        };
        let settings = KafkaSettings {
            listen: self.listen.or(file.listen).unwrap_or_else(default),
            advertise: self.advertise.or(file.advertise).unwrap_or_default(),
            auto_create_topics: self
                .auto_create_topics
                .or(file.auto_create_topics)
                .unwrap_or(defaults.auto_create_topics),
            default_partitions: self
                .default_partitions
                .or(file.default_partitions)
                .map_or(1, NonZeroU32::get),
        };
        settings.check(exposure)?;
        Ok(settings)
    }
}

impl KafkaSettings {
    fn check(&self, exposure: Exposure) -> Result<(), Failure> {
        if self.default_partitions > caps::MAX_PARTITIONS_PER_TOPIC {
            return Err(Failure::usage(format!(
                "--default-partitions {} is above {}, the most of one topic",
                self.default_partitions,
                caps::MAX_PARTITIONS_PER_TOPIC
            )));
        }
        let nowhere = self.listen.iter().any(|of| of.what == At::Nowhere);
        if nowhere && self.listen.len() > 1 {
            return Err(Failure::usage(
                "--kafka none says not to listen: leave it out, or the addresses",
            ));
        }
        let listeners = self.listeners()?;
        let mut told = BTreeSet::new();
        for Of { listener, what } in &self.advertise {
            if !told.insert(listener.as_str()) {
                return Err(Failure::usage(format!(
                    "--kafka-advertise names the listener {listener} twice: a listener has one address"
                )));
            }
            if is_everywhere(&what.0) {
                return Err(Failure::usage(format!(
                    "--kafka-advertise {} is no address that clients can connect to: name the host",
                    what.0
                )));
            }
            if !listeners.contains_key(listener.as_str()) {
                return Err(Failure::usage(format!(
                    "--kafka-advertise {listener}=… has no --kafka {listener}=IP:PORT: add it, or correct the name"
                )));
            }
        }
        for place in listeners.values() {
            if place.encrypted == Some(true) && !exposure.tls {
                return Err(Failure::usage(format!(
                    "--kafka {place} is to be encrypted: give --tls-cert and --tls-key"
                )));
            }
            let allowed = exposure.insecure || !place.plain(exposure.tls);
            check_exposure(allowed, &[("--kafka", Some(place.listen))])?;
        }
        Ok(())
    }

    /// By name.
    fn listeners(&self) -> Result<BTreeMap<&str, Place>, Failure> {
        let mut listeners = BTreeMap::new();
        for Of { listener, what } in &self.listen {
            let At::Address(place) = what else { continue };
            if listeners.insert(listener.as_str(), *place).is_some() {
                return Err(Failure::usage(format!(
                    "--kafka names the listener {listener} twice: give each a name of its own, NAME=IP:PORT"
                )));
            }
        }
        Ok(listeners)
    }

    /// Listens everywhere, before anything else happens.
    pub(crate) async fn bind(&self, tls: &ServerTls) -> Result<Vec<BoundKafka>, Failure> {
        let mut bound = Vec::new();
        for (name, place) in self.listeners()? {
            let tcp = bind("--kafka", place.listen).await?;
            let security = tls.kafka(place.encrypted == Some(false));
            let told = self.advertise.iter().find(|of| of.listener == name);
            let told = told.map(|of| of.what.0.as_str());
            let advertised = advertised(name, told, tcp.local_addr()?)?;
            // Where nothing is told, nobody said by which name clients come; and how they verify is theirs to say.
            if let Some(told) = told.filter(|_| security.is_tls())
                && let Err(failure) = tls.check_host("--kafka-advertise", told)
            {
                tracing::warn!(
                    "{}; Kafka clients that verify names do not connect",
                    failure.message()
                );
            }
            bound.push(BoundKafka { tcp, security, advertised });
        }
        Ok(bound)
    }

    /// What clients are offered.
    pub(crate) fn offer(&self) -> geminga_serving::kafka::Config {
        geminga_serving::kafka::Config {
            auto_create_topics: self.auto_create_topics,
            default_partitions: self.default_partitions,
            ..geminga_serving::kafka::Config::default()
        }
    }
}

/// Whether `HOST:PORT` stands for every address of a machine.
fn is_everywhere(told: &str) -> bool {
    let host = told.rsplit_once(':').map_or(told, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// A listener that has its port.
#[derive(Debug)]
pub(crate) struct BoundKafka {
    pub(crate) tcp: TcpListener,
    /// How it takes connections.
    pub(crate) security: Security,
    pub(crate) advertised: KafkaListener,
}

fn advertised(name: &str, told: Option<&str>, bound: SocketAddr) -> Result<KafkaListener, Failure> {
    let name = name.to_owned();
    let Some((host, port)) = told.and_then(|told| told.rsplit_once(':')) else {
        if bound.ip().is_unspecified() {
            return Err(Failure::usage(format!(
                "--kafka {bound} is no address that clients can connect to: add --kafka-advertise HOST:PORT"
            )));
        }
        return Ok(KafkaListener { name, host: bound.ip().to_string(), port: bound.port() });
    };
    // Kafka clients take the bare address.
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = port.parse().map_err(Failure::new)?;
    Ok(KafkaListener { name, host, port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EtcdTlsOptions, TlsOptions};

    const STANDALONE: Defaults = Defaults { port: Some(9092), auto_create_topics: true };

    fn settle(options: KafkaOptions) -> Result<KafkaSettings, Failure> {
        let exposure = Exposure { insecure: false, tls: false };
        options.settle(KafkaOptions::default(), exposure, STANDALONE)
    }

    fn listeners(kafka: &[&str], advertise: &[&str]) -> KafkaOptions {
        KafkaOptions {
            listen: Some(kafka.iter().map(|text| text.parse().expect("a listener")).collect()),
            advertise: Some(
                advertise.iter().map(|text| text.parse().expect("an address")).collect(),
            ),
            ..KafkaOptions::default()
        }
    }

    #[tokio::test]
    async fn clients_are_told_what_the_operator_says_or_where_it_is_listened() {
        let options =
            listeners(&["127.0.0.1:0", "outside=127.0.0.1:0"], &["outside=kafka.example:19092"]);
        let plain =
            TlsOptions::default().load(&EtcdTlsOptions::default()).expect("nothing to read");
        let bound = settle(options).expect("good").bind(&plain).await.expect("free ports");
        let [own, outside] = bound.as_slice() else { panic!("{bound:?}") };
        let port = own.tcp.local_addr().expect("bound").port();
        let name = UNNAMED.to_owned();
        assert_eq!(own.advertised, KafkaListener { name, host: "127.0.0.1".to_owned(), port });
        let (name, host) = ("outside".to_owned(), "kafka.example".to_owned());
        assert_eq!(outside.advertised, KafkaListener { name, host, port: 19092 });
    }

    #[test]
    fn standalone_listens_unless_it_is_told_not_to() {
        let default = settle(KafkaOptions::default()).expect("good");
        assert_eq!(default.listeners().expect("one")[UNNAMED].listen, Listen::local(9092));
        assert!(default.auto_create_topics);
        let none = settle(listeners(&["none"], &[])).expect("good");
        assert!(none.listeners().expect("none").is_empty());
    }

    #[test]
    fn a_listener_is_encrypted_as_the_others_or_as_it_says() {
        let with = |listener: &str, insecure| {
            let options = listeners(&[listener], &["a:1"]);
            let exposure = Exposure { insecure, tls: true };
            options.settle(KafkaOptions::default(), exposure, STANDALONE)
        };
        for (listener, plain) in [("0.0.0.0:1", false), ("ssl://0.0.0.0:1", false)] {
            let settings = with(listener, false).expect(listener);
            assert_eq!(settings.listeners().expect("one")[UNNAMED].plain(true), plain);
            let shown = String::from(settings.listen[0].clone());
            assert_eq!(shown, listener);
        }
        assert!(with("plaintext://127.0.0.1:1", false).is_ok());
        let open = with("plaintext://0.0.0.0:1", false).expect_err("open to others");
        assert!(format!("{open:?}").contains("--insecure"), "{open:?}");
        assert!(with("plaintext://0.0.0.0:1", true).is_ok());
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (kafka, advertise, why) in [
            (&["127.0.0.1:1", "127.0.0.1:2"][..], &[][..], "twice"),
            (&["127.0.0.1:1"], &["other=a:1"], "no --kafka other="),
            (&["127.0.0.1:1"], &["a:1", "b:1"], "twice"),
            (&["127.0.0.1:1"], &["0.0.0.0:1"], "no address"),
            (&["127.0.0.1:1"], &["[::]:1"], "no address"),
            (&["0.0.0.0:9092"], &[], "--insecure"),
            (&["ssl://127.0.0.1:1"], &[], "--tls-cert"),
            (&["none", "127.0.0.1:1"], &[], "--kafka none"),
        ] {
            let error = settle(listeners(kafka, advertise)).expect_err(why);
            assert!(format!("{error:?}").contains(why), "{error:?}");
        }
        assert!("a b=127.0.0.1:1".parse::<Of<At>>().is_err());
        assert!("=127.0.0.1:1".parse::<Of<At>>().is_err());
        assert!("x=nowhere".parse::<Of<At>>().is_err());
        let open = "0.0.0.0:9092".parse().expect("an address");
        assert!(advertised(UNNAMED, None, open).is_err());
        let six = advertised(UNNAMED, Some("[::1]:9"), open).expect("an address");
        assert_eq!((six.host.as_str(), six.port), ("::1", 9));
    }
}

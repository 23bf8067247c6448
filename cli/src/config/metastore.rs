//! Where the metadata is: `etcd://HOST:PORT[,HOST:PORT...][/CLUSTER]`, the same with `https://` for an etcd that speaks TLS, or `file://PATH` for what a standalone
//! server keeps.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use axum::http::Uri;
use serde::{Deserialize, Serialize};

use crate::args::host_port;
use crate::exit::Failure;

/// The cluster's name when the URL has none.
const DEFAULT_CLUSTER: &str = "default";
/// Of an etcd that speaks TLS.
const HTTPS: &str = "https://";

/// A metadata store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum MetastoreUrl {
    /// An etcd cluster, and the prefix within it.
    Etcd {
        /// `HOST:PORT` each, at least one.
        endpoints: Vec<String>,
        /// Keys are below `/geminga/<cluster>/`.
        cluster: String,
        /// Whether it is reached by TLS.
        tls: bool,
    },
    /// The file of a standalone server that is not running.
    File(PathBuf),
}

impl MetastoreUrl {
    /// The parts of an etcd URL: several processes cannot share a file.
    pub(crate) fn require_etcd(&self) -> Result<(&[String], &str), Failure> {
        match self {
            Self::Etcd { endpoints, cluster, .. } => Ok((endpoints, cluster)),
            Self::File(_) => Err(Failure::usage(format!(
                "--metastore {self}: a file serves one process only: use etcd://HOST:PORT here, \
                 or run `geminga standalone`"
            ))),
        }
    }
}

impl MetastoreUrl {
    /// Whether it is reached by TLS.
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Etcd { tls: true, .. })
    }
}

impl FromStr for MetastoreUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |why: &str| format!("`{text}` {why}: write etcd://HOST:PORT[,HOST:PORT...][/CLUSTER]");
        if let Some(path) = text.strip_prefix("file://") {
            if path.is_empty() {
                return Err(format!("`{text}` names no file: write file://PATH"));
            }
            return Ok(Self::File(PathBuf::from(path)));
        }
        let (tls, rest) = match (text.strip_prefix("etcd://"), text.strip_prefix(HTTPS)) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(wrong("has no known scheme")),
        };
        let (hosts, cluster) = match rest.split_once('/') {
            Some((hosts, "")) => (hosts, DEFAULT_CLUSTER),
            Some((hosts, cluster)) => (hosts, cluster),
            None => (rest, DEFAULT_CLUSTER),
        };
        let endpoints = hosts
            .split(',')
            .map(|host| if tls { host.strip_prefix(HTTPS).unwrap_or(host) } else { host })
            .map(|host| address(host).map_err(|why| wrong(&format!("is wrong ({why})"))))
            .collect::<Result<Vec<_>, _>>()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if cluster.len() > 64 || !cluster.chars().all(plain) {
            return Err(wrong(
                "has a cluster name with other characters than letters, digits, - _ .",
            ));
        }
        Ok(Self::Etcd { endpoints, cluster: cluster.to_owned(), tls })
    }
}

/// What can be connected to: whatever else has the shape of `HOST:PORT`, such as one with a space, would be waited for without end.
fn address(text: &str) -> Result<String, String> {
    let text = host_port(text)?;
    match format!("http://{text}").parse::<Uri>() {
        Ok(uri) if !text.contains('@') && uri.authority().is_some_and(|whole| *whole == *text) => {
            Ok(text)
        }
        _ => Err(format!("`{text}` is not HOST:PORT")),
    }
}

impl TryFrom<String> for MetastoreUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MetastoreUrl> for String {
    fn from(url: MetastoreUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for MetastoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Etcd { endpoints, cluster, tls } => {
                let scheme = if *tls { HTTPS } else { "etcd://" };
                write!(f, "{scheme}{}/{cluster}", endpoints.join(","))
            }
            Self::File(path) => write!(f, "file://{}", path.display()),
        }
    }
}

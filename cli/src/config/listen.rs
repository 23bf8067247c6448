//! Addresses that a server listens on, and the one it tells others to use.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ServerTls;
use crate::exit::Failure;

/// An address to listen on: `IP:PORT`, or `localhost:PORT` for 127.0.0.1. Port 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Listen(pub(crate) SocketAddr);

impl Listen {
    /// A port on 127.0.0.1.
    pub(crate) fn local(port: u16) -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numeric = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        numeric.parse().map(Self).map_err(|_| {
            format!("`{text}` is not IP:PORT (use 0.0.0.0:PORT to listen on all addresses)")
        })
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Refuses listeners that other machines can reach, unless they are encrypted, or the operator says that the network is to
/// be trusted.
pub(crate) fn check_exposure(
    allowed: bool,
    listeners: &[(&str, Option<Listen>)],
) -> Result<(), Failure> {
    for (flag, listen) in listeners {
        if let Some(Listen(address)) = listen
            && !allowed
            && !address.ip().to_canonical().is_loopback()
        {
            return Err(Failure::usage(format!(
                "{flag} {address} is reachable from other machines without encryption or \
                 authentication: give --tls-cert and --tls-key, listen on 127.0.0.1, or add --insecure if the \
                 network is trusted"
            )));
        }
    }
    Ok(())
}

/// What others connect to: as told, else the listener's own address, which must then be a specific one.
pub(crate) fn advertised(
    flag: &str,
    advertise: Option<&str>,
    bound: SocketAddr,
) -> Result<String, Failure> {
    match advertise {
        Some(address) => Ok(address.to_owned()),
        None if bound.ip().is_unspecified() => Err(Failure::usage(format!(
            "{flag} {bound} is no address that others can connect to: add --advertise HOST:PORT"
        ))),
        None => Ok(bound.to_string()),
    }
}

/// The same where other components connect: they look whom the certificate is for.
pub(crate) fn reached(
    flag: &'static str,
    advertise: Option<&str>,
    bound: SocketAddr,
    tls: &ServerTls,
) -> Result<String, Failure> {
    let address = advertised(flag, advertise, bound)?;
    tls.require_host(advertise.map_or(flag, |_| "--advertise"), &address)?;
    Ok(address)
}

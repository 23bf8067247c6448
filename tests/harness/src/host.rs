//! Where a process of a test runs: on this machine as it is, or in a network namespace with an address of its own.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::port;

/// See the [module](self). Whoever made the namespace owns it; this only names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    ip: Ipv4Addr,
    namespace: Option<String>,
}

impl Host {
    /// This machine, by its loopback address.
    pub fn here() -> Self {
        Self { ip: Ipv4Addr::LOCALHOST, namespace: None }
    }

    /// The network namespace of this name, in which this address is.
    pub fn within(namespace: &str, ip: Ipv4Addr) -> Self {
        Self { ip, namespace: Some(namespace.to_owned()) }
    }

    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Its namespace, if it has one.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// `IP:PORT` with a port that was handed out to nobody else.
    ///
    /// # Panics
    /// When there is none.
    pub fn address(&self) -> String {
        format!("{}:{}", self.ip, port::free())
    }

    /// What runs `program` there, and the arguments before its own. The process that is started is the program itself, so that
    /// signals reach it.
    pub fn command(&self, program: &Path) -> (PathBuf, Vec<OsString>) {
        match &self.namespace {
            None => (program.to_owned(), Vec::new()),
            Some(name) => {
                let before = ["netns", "exec", name].map(OsString::from);
                ("ip".into(), before.into_iter().chain([program.into()]).collect())
            }
        }
    }

    /// Flags of a server that others reach from outside its machine without encryption.
    pub(crate) fn exposure(&self) -> Option<String> {
        self.namespace.as_ref().map(|_| "--insecure".to_owned())
    }
}

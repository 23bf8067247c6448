//! Who this process is and whom it believes, now. A task reads the files again every few seconds; what is in force changes
//! when they have changed and are good, for connections that are made from then on.
//!
//! Bytes are compared, not times: secrets that are mounted into a container change by a link, with whatever times. A change
//! counts when two looks saw the same, so that a pair of which one file is written is not taken for a broken one.

use std::sync::Arc;
use std::time::Duration;

use geminga_runtime::Tasks;
use parking_lot::RwLock;
use tokio::time::{MissedTickBehavior, interval};

use crate::files::{Check, Contents, Files, LoadError, Loaded};
use crate::metrics;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// A handle; cheap to clone, all clones see the same.
#[derive(Debug, Clone)]
pub struct Credentials(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Files,
    check: Check,
    /// What was last tried, good or not, and what is in force.
    state: RwLock<State>,
    /// The hosts that the certificate was found to be for, and what says that others connect to them: a few of the command line.
    hosts: RwLock<Vec<Host>>,
}

/// Where others connect to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// What says so.
    pub(crate) flag: &'static str,
    /// A name or an address.
    pub(crate) host: String,
}

#[derive(Debug)]
struct State {
    tried: Contents,
    /// Whether that is good later, and so is tried again.
    early: bool,
    /// Whether that is refused for what is in force, and so is tried again once that has expired.
    refused: bool,
    loaded: Arc<Loaded>,
}

impl Credentials {
    /// Reads and checks the files of a component; blocks. Its certificate has to be one of its authority, valid now.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(files: Files) -> Result<Self, LoadError> {
        Self::read(files, Check::Component)
    }

    /// Reads the files of a client; blocks. Its certificate has to be valid now; whose it is, is the server's to judge.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn of_client(files: Files) -> Result<Self, LoadError> {
        Self::read(files, Check::Time)
    }

    /// With whatever certificate.
    #[cfg(test)]
    pub(crate) fn unchecked(files: Files) -> Result<Self, LoadError> {
        Self::read(files, Check::Nothing)
    }

    fn read(files: Files, check: Check) -> Result<Self, LoadError> {
        let tried = Contents::read(&files)?;
        let loaded = Arc::new(Loaded::new(&files, &tried, check)?);
        let state = RwLock::new(State { tried, early: false, refused: false, loaded });
        Ok(Self(Arc::new(Inner { files, check, state, hosts: RwLock::default() })))
    }

    /// Whether there is a certificate to show.
    pub fn has_identity(&self) -> bool {
        self.0.files.cert.is_some()
    }

    /// Whether who connects to `host` takes the certificate to show for that of this process. `flag`: what says that they do.
    ///
    /// # Errors
    /// That it is for others.
    pub fn check_host(&self, flag: &'static str, host: &str) -> Result<(), LoadError> {
        let host = Host { flag, host: host.to_owned() };
        self.now().check_host(&self.0.files, &host)
    }

    /// The same, and from then on no other certificate is taken from the files that is not for it, while the one in force is good.
    ///
    /// # Errors
    /// As [`Credentials::check_host`].
    pub fn require_host(&self, flag: &'static str, host: &str) -> Result<(), LoadError> {
        self.check_host(flag, host)?;
        let host = Host { flag, host: host.to_owned() };
        let mut hosts = self.0.hosts.write();
        if !hosts.contains(&host) {
            hosts.push(host);
        }
        Ok(())
    }

    /// Whether clients' certificates can be checked.
    pub fn has_authority(&self) -> bool {
        self.0.files.ca.is_some()
    }

    /// Follows the files until `tasks` stops. `certificate`: what metrics call that in them.
    pub fn keep_up(&self, certificate: &'static str, tasks: &Tasks) {
        let (own, cancelled) = (self.clone(), tasks.cancelled());
        own.report_expiry(certificate);
        tasks.spawn("certificates", async move {
            tokio::select! {
                () = cancelled => {}
                () = own.follow(certificate) => {}
            }
        });
    }

    async fn follow(&self, certificate: &'static str) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = None;
        loop {
            ticks.tick().await;
            let files = self.0.files.clone();
            let read = tokio::task::spawn_blocking(move || Contents::read(&files).ok()).await;
            // Files that are gone for a moment are being replaced; those that stay away are told of at the next start.
            let Ok(Some(found)) = read else { continue };
            if seen.as_ref() == Some(&found) {
                self.take(found);
                self.report_expiry(certificate);
                seen = None;
            } else {
                seen = Some(found);
            }
        }
    }

    /// From now on these, if they are new and good, or good at last.
    pub(crate) fn take(&self, found: Contents) {
        let (known, again) = {
            let state = self.0.state.read();
            (state.tried == found, state.early || state.refused && state.loaded.is_over())
        };
        if known && !again {
            return;
        }
        let hosts = self.0.hosts.read().clone();
        let loaded = Loaded::new(&self.0.files, &found, self.0.check)
            .and_then(|new| new.after(&self.now(), &self.0.files, &hosts));
        match loaded {
            Ok(loaded) => {
                let loaded = Arc::new(loaded);
                *self.0.state.write() =
                    State { tried: found, early: false, refused: false, loaded };
                metrics::count_reload(true);
                tracing::info!(expires = ?self.now().expires, "new certificates are in force for new connections");
            }
            // Told already.
            Err(_) if known => {}
            Err(error) => {
                let mut state = self.0.state.write();
                (state.tried, state.early) = (found, error.is_early());
                state.refused = error.is_for_the_former();
                drop(state);
                metrics::count_reload(false);
                tracing::error!(%error, "new certificates cannot be used, and the former ones stay in force");
            }
        }
    }

    fn report_expiry(&self, certificate: &'static str) {
        if let Some(expires) = self.now().expires {
            metrics::set_expiry(certificate, expires);
        }
    }

    /// What is in force.
    pub(crate) fn now(&self) -> Arc<Loaded> {
        Arc::clone(&self.0.state.read().loaded)
    }
}

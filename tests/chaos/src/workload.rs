//! The load: what producers and groups share, and how each ends.

mod group;
mod member;
mod producer;

use geminga_client::{Client, ClientConfig};
use geminga_runtime::Tasks;
use tokio::sync::watch;

use crate::history::History;

pub(crate) use group::{groups, look};
pub(crate) use producer::producers;

/// The topic.
pub(crate) const TOPIC: &str = "chaos";

/// What every client of a run has.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) servers: String,
    pub(crate) history: History,
    pub(crate) seed: u64,
    pub(crate) partitions: u32,
    pub(crate) idempotence: bool,
    pub(crate) tasks: Tasks,
    /// How far the run is.
    pub(crate) phase: watch::Receiver<Phase>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Records go in and out, and members come and go.
    Load,
    /// No more records are sent, and members stay.
    Settle,
    /// Members leave.
    Over,
}

impl Context {
    /// A new client of the cluster.
    pub(crate) fn client(&self, name: &str) -> anyhow::Result<Client> {
        let config = ClientConfig { client_id: name.to_owned(), ..ClientConfig::default() };
        Ok(Client::with(&self.servers, config)?)
    }

    /// Waits until the run has come so far.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut now = self.phase.clone();
        // The run keeps its end until all have ended.
        drop(now.wait_for(|now| *now >= phase).await);
    }
}

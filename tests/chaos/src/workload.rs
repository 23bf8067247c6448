//! The load: what producers and groups share, and how each ends. Every client is a process of its own: see [`hired`].

mod client;
mod group;
mod hired;
mod load;
mod member;
mod order;
mod producer;
mod producers;
mod statics;

use std::path::PathBuf;

use geminga_client::{Client, ClientConfig};
use geminga_runtime::Tasks;
use tokio::sync::watch;

use crate::history::History;
use crate::tally::Tally;

pub use client::{Role, act};
pub(crate) use group::look;
pub(crate) use load::{Kafka, Load};
pub use statics::python;

/// The topic.
pub(crate) const TOPIC: &str = "chaos";
/// A client that gave up ends with this code.
pub const GAVE_UP: u8 = 3;
/// What happens to producers and members in every run that is long enough.
const KINDS: [&str; 4] = ["kill producer", "pause producer", "kill member", "pause member"];

/// What all that watches over clients has.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) servers: String,
    pub(crate) history: History,
    pub(crate) seed: u64,
    pub(crate) partitions: u32,
    pub(crate) idempotence: bool,
    pub(crate) tasks: Tasks,
    pub(crate) tally: Tally,
    /// Where their logs go.
    pub(crate) dir: PathBuf,
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
    /// A new client of the cluster in this process.
    pub(crate) fn client(&self, name: &str) -> anyhow::Result<Client> {
        connect(&self.servers, name)
    }

    /// Waits until the run has come so far.
    pub(crate) async fn reached(&self, phase: Phase) {
        let mut now = self.phase.clone();
        // The run keeps its end until all have ended.
        drop(now.wait_for(|now| *now >= phase).await);
    }
}

fn connect(servers: &str, name: &str) -> anyhow::Result<Client> {
    let config = ClientConfig { client_id: name.to_owned(), ..ClientConfig::default() };
    Ok(Client::with(servers, config)?)
}

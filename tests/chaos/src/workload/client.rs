//! A client as a process of its own, from its arguments to its end.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use geminga_client::Client;

use super::{connect, member, producer};
use crate::dice::Dice;
use crate::history::History;

/// What every client is told when it is started.
#[derive(Debug, Clone, clap::Args)]
pub struct Start {
    /// Its name, which no earlier client had.
    #[arg(long)]
    name: String,
    /// Where the cluster is.
    #[arg(long)]
    servers: String,
    /// Where it writes what it does and is told.
    #[arg(long)]
    history: PathBuf,
    /// How long the run has lasted, in microseconds.
    #[arg(long)]
    before: u64,
    /// Decides what it does.
    #[arg(long)]
    seed: u64,
}

/// A client of a run: started by the run itself, and told by standard input what to do.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Role {
    /// A producer, for one life.
    Producer {
        /// What every client is told.
        #[command(flatten)]
        start: Start,
        /// Partitions of the topic.
        #[arg(long)]
        partitions: u32,
        /// Lets records be stored twice.
        #[arg(long)]
        no_idempotence: bool,
    },
    /// A member of a group, for one life.
    Member {
        /// What every client is told.
        #[command(flatten)]
        start: Start,
        /// The group.
        #[arg(long)]
        group: String,
    },
}

/// What a client has.
#[derive(Debug, Clone)]
pub(super) struct Own {
    pub(super) name: String,
    pub(super) client: Client,
    pub(super) history: History,
}

impl Start {
    fn own(self) -> Result<(Own, Dice)> {
        let history = History::join(&self.history, Duration::from_micros(self.before))?;
        let client = connect(&self.servers, &self.name)?;
        Ok((Own { name: self.name, client, history }, Dice::new(self.seed, 0)))
    }
}

/// Lives one life.
///
/// # Errors
/// When the client gives up, or its part of the history cannot be written.
pub async fn act(role: Role) -> Result<()> {
    match role {
        Role::Producer { start, partitions, no_idempotence } => {
            let (own, dice) = start.own()?;
            producer::produce(&own, &dice, partitions, !no_idempotence).await?;
            own.history.check()
        }
        Role::Member { start, group } => {
            let (own, dice) = start.own()?;
            member::consume(&own, &dice, &group).await?;
            own.history.check()
        }
    }
}

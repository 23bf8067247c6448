//! All clients of a run, from their start to their end.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use geminga_harness::Host;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::group::{group_names, groups};
use super::producers::producers;
use super::statics::{GROUP, STATIC_KINDS, statics};
use super::{Context, KINDS};

type Part = JoinHandle<Option<Result<()>>>;

/// Kafka's static members, where there is a client for them.
#[derive(Debug)]
pub(crate) struct Kafka {
    /// What has the client.
    pub(crate) python: PathBuf,
    /// Where brokers listen to it.
    pub(crate) servers: String,
    /// Where it runs.
    pub(crate) host: Host,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Load {
    producers: Part,
    groups: Part,
    statics: Option<Part>,
    /// The names of all groups.
    pub(crate) names: Vec<String>,
}

impl Load {
    /// Starts as many producers and groups as there are hosts for each.
    pub(crate) fn start(
        context: &Context,
        senders: Vec<Host>,
        readers: Vec<Host>,
        kafka: Option<Kafka>,
    ) -> Self {
        let mut names = group_names(readers.len());
        names.extend(kafka.is_some().then(|| GROUP.to_owned()));
        let tasks = &context.tasks;
        Self {
            producers: tasks.spawn("producers", producers(context.clone(), senders)),
            groups: tasks.spawn("groups", groups(context.clone(), readers)),
            statics: kafka
                .map(|kafka| tasks.spawn("static members", statics(context.clone(), kafka))),
            names,
        }
    }

    /// What is to happen to these clients in every run that is long enough, whatever its schedule says.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = String> {
        let of_statics = self.statics.iter().flat_map(|_| STATIC_KINDS);
        KINDS.into_iter().chain(of_statics).map(str::to_owned)
    }

    /// Waits until all producers have ended.
    ///
    /// # Errors
    /// When one failed, or does not end for so long.
    pub(crate) async fn sent(&mut self, patience: Duration) -> Result<()> {
        ended("producers", &mut self.producers, patience).await
    }

    /// Waits until all members of groups have ended.
    ///
    /// # Errors
    /// When one failed, or does not end for so long.
    pub(crate) async fn left(mut self, patience: Duration) -> Result<()> {
        ended("members", &mut self.groups, patience).await?;
        match &mut self.statics {
            Some(statics) => ended("static members", statics, patience).await,
            None => Ok(()),
        }
    }
}

async fn ended(what: &str, part: &mut Part, patience: Duration) -> Result<()> {
    let ended = timeout(patience, part).await;
    let ended = ended.with_context(|| format!("{what} do not end"))??;
    ended.with_context(|| format!("{what} panicked"))?
}

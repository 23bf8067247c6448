//! Where the cluster's brokers are: what the user gave, and what the cluster says of itself. Shared by everything that a
//! client starts, so that what one part finds out spares the others the attempt.
//!
//! * Any broker serves any request. Whoever asks any goes to one *entry*, until it fails or cannot help; then to another.
//! * An owner is asked directly once it has answered under its own number at the address that the cluster knows it by.
//!   That is tried here, by one task, so that no record ever waits for an address that is out of this network's reach.
//!
//! The task runs from the first [`Directory::follow`] on. It asks for owners now and then, and soon after trouble.

mod state;
mod task;
mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use geminga_proto::{caps, v1};
use geminga_runtime::{Random, Tasks};
use geminga_tls::Dial;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use self::state::State;
pub(crate) use self::view::{View, Way};
use crate::error::Error;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that vanished is noticed within the sum of both; one that is merely slow for a moment is not. By then its
/// partitions are served elsewhere, and what is sent there is to be acknowledged within four seconds (DESIGN 9).
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
const _: () = assert!(KEEP_ALIVE.as_millis() + KEEP_ALIVE_TIMEOUT.as_millis() < 4_000);
/// Most addresses that a user may give.
const MAX_SEEDS: usize = 64;
/// Most connections for single calls, one for each address.
const MAX_CHANNELS: usize = 128;

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Directory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    view: watch::Sender<Arc<View>>,
    /// Connections for single calls.
    channels: Mutex<HashMap<String, Channel>>,
    dial: Dial,
    random: Arc<dyn Random>,
    tasks: Tasks,
    started: AtomicBool,
    /// Wakes the task: what it knows is not true any more.
    trouble: Notify,
}

impl Directory {
    /// Nothing is asked yet. `servers`: HOST:PORT, several with commas between them.
    ///
    /// # Errors
    /// `Config` when one is not an address.
    pub(crate) fn new(
        servers: &str,
        dial: Dial,
        random: Arc<dyn Random>,
        tasks: &Tasks,
    ) -> Result<Self, Error> {
        let seeds: Vec<String> = servers.split(',').map(|seed| seed.trim().to_owned()).collect();
        if seeds.len() > MAX_SEEDS {
            let (count, limit) = (seeds.len(), MAX_SEEDS);
            return Err(Error::Config(format!("{count} servers: give {limit} at most")));
        }
        for seed in &seeds {
            endpoint(seed)?;
        }
        Ok(Self(Arc::new(Shared {
            state: Mutex::new(State::new(seeds)),
            view: watch::Sender::default(),
            channels: Mutex::default(),
            dial,
            random,
            tasks: tasks.clone(),
            started: AtomicBool::new(false),
            trouble: Notify::new(),
        })))
    }

    /// What is known of owners, now and later.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.0.view.subscribe()
    }

    /// Keeps up with a topic's owners from now on.
    pub(crate) fn follow(&self, topic: &str) {
        let new = self.0.state.lock().follow(topic);
        if !self.0.started.swap(true, Ordering::AcqRel) {
            let (keeper, cancelled) = (self.clone(), self.0.tasks.cancelled());
            self.0.tasks.spawn("directory", async move {
                tokio::select! {
                    () = cancelled => {}
                    () = keeper.keep_up() => {}
                }
            });
        } else if new {
            self.0.trouble.notify_one();
        }
    }

    /// Where to ask any broker now.
    pub(crate) fn entry(&self) -> String {
        self.0.state.lock().entry(Instant::now(), &*self.0.random)
    }

    /// How many addresses [`Directory::entry`] chooses from.
    pub(crate) fn choices(&self) -> usize {
        self.0.state.lock().choices()
    }

    /// The address of a way; `None` when that broker cannot be reached any more.
    pub(crate) fn address(&self, way: Way) -> Option<String> {
        match way {
            Way::Any => Some(self.entry()),
            Way::Broker(broker) => self.0.view.borrow().address(broker).map(str::to_owned),
        }
    }

    /// A connection for one stream's sake, made on its first use.
    pub(crate) fn own_channel(&self, address: &str) -> Result<Channel, Error> {
        Ok(self.0.dial.lazily(&endpoint(address)?))
    }

    /// The connection to an address that single calls share.
    pub(crate) fn shared_channel(&self, address: &str) -> Result<Channel, Error> {
        let mut channels = self.0.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = self.0.dial.lazily(&endpoint(address)?);
        if channels.len() < MAX_CHANNELS {
            channels.insert(address.to_owned(), channel.clone());
        }
        Ok(channel)
    }

    /// A broker described the cluster.
    pub(crate) fn learn(&self, answer: &v1::GetMetadataResponse) {
        self.change(|state| state.learn(answer));
    }

    /// Somebody answers at an address.
    pub(crate) fn answered(&self, address: &str) {
        self.change(|state| state.answered(address, None, Instant::now()));
    }

    /// Nobody answers at an address, or whoever does is about to stop. Others are asked from now on.
    pub(crate) fn failed(&self, address: &str) {
        // A connection of which that is known does not have to find it out again.
        self.0.channels.lock().remove(address);
        self.change(|state| state.failed(address, Instant::now()));
        self.trouble();
    }

    /// Whoever is at an address answers and cannot help now. Others are asked from now on, where there are some that answer;
    /// nothing is held against it.
    pub(crate) fn unhelpful(&self, address: &str) {
        self.0.state.lock().leave(address, Instant::now(), &*self.0.random);
        self.trouble();
    }

    /// A broker said that the owner of a partition listens at `address`.
    pub(crate) fn moved(&self, topic: &str, partition: u32, address: &str) {
        self.change(|state| state.moved(topic, partition, address));
        self.trouble();
    }

    /// Something went wrong that a look at the owners may explain.
    pub(crate) fn trouble(&self) {
        self.0.trouble.notify_one();
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.state.lock();
        change(&mut state);
        let view = state.view();
        // Under the lock, so that an older view never replaces a newer one.
        self.0.view.send_if_modified(|current| {
            let changed = **current != view;
            if changed {
                *current = Arc::new(view);
            }
            changed
        });
    }
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let wrong =
        |why: &dyn std::fmt::Display| Error::Config(format!("`{address}` is not HOST:PORT: {why}"));
    if address.is_empty() {
        return Err(wrong(&"it is empty"));
    }
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| wrong(&e))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .max_frame_size(caps::H2_MAX_FRAME_BYTES)
        .initial_stream_window_size(caps::H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(caps::H2_CONNECTION_WINDOW_BYTES))
}

#[cfg(test)]
mod tests;

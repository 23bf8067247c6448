//! One connection to each other broker, made on first use. A task drops those to brokers that vanished.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use geminga_proto::caps;
use geminga_proto::ids::BrokerId;
use geminga_proto::reason::{ApiError, Reason};
use geminga_runtime::Tasks;
use geminga_tls::Dial;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::ownership::topology::Topology;

/// Most connections to other brokers.
const MAX_PEERS: usize = 1_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Peer {
    address: String,
    channel: Channel,
}

/// The pool; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Peers {
    pool: Arc<Mutex<HashMap<BrokerId, Peer>>>,
    dial: Dial,
}

impl Peers {
    pub(super) fn start(topology: Topology, dial: Dial, tasks: &Tasks) -> Self {
        let peers = Self { pool: Arc::default(), dial };
        let (pool, cancelled) = (peers.clone(), tasks.cancelled());
        tasks.spawn("peer connections", async move {
            tokio::select! {
                () = cancelled => {}
                () = pool.follow(topology) => {}
            }
        });
        peers
    }

    async fn follow(&self, topology: Topology) {
        let mut changed = topology.changed();
        while changed.changed().await.is_ok() {
            self.pool.lock().retain(|broker, peer| {
                topology.broker(*broker).is_some_and(|b| b.grpc_address == peer.address)
            });
        }
    }

    pub(super) fn channel(&self, broker: BrokerId, address: &str) -> Result<Channel, ApiError> {
        let mut peers = self.pool.lock();
        if let Some(peer) = peers.get(&broker).filter(|p| p.address == address) {
            return Ok(peer.channel.clone());
        }
        if peers.len() >= MAX_PEERS && !peers.contains_key(&broker) {
            let why = format!("connected to {MAX_PEERS} brokers already: ask the owner directly");
            return Err(ApiError::new(Reason::LimitExceeded, why));
        }
        let channel = connect(&self.dial, address)?;
        peers.insert(broker, Peer { address: address.to_owned(), channel: channel.clone() });
        Ok(channel)
    }
}

/// A channel that connects on first use, with the settings that measured best between our processes.
fn connect(dial: &Dial, address: &str) -> Result<Channel, ApiError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
        let why = format!("broker address {address} cannot be used ({error}): check --advertise");
        ApiError::new(Reason::Internal, why)
    })?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .max_frame_size(caps::H2_MAX_FRAME_BYTES)
        .initial_stream_window_size(caps::H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(caps::H2_CONNECTION_WINDOW_BYTES);
    Ok(dial.lazily(&endpoint))
}

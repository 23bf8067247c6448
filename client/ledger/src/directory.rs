//! All bookies of the cluster: a watch-fed list of who is registered, and one connection each. Owned by one task that
//! follows the watch; readers see snapshots.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use futures::StreamExt;
use geminga_metastore::record::LiveBookie;
use geminga_metastore::{Change, Error, KeyValue, MetaStore, WatchEvent, WatchStream, keys};
use geminga_proto::bookie::Adds;
use geminga_proto::ids::BookieId;
use geminga_runtime::{Seldom, Tasks};
use geminga_tls::Dial;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::connection::{BookieConnection, Bookies, ConnectionLost};
use crate::read::Distance;
use crate::transport::GrpcConnection;

/// The production [`Bookies`].
pub struct BookieDirectory {
    tasks: Tasks,
    lane_bytes: usize,
    dial: Dial,
    live: Mutex<BTreeMap<BookieId, LiveBookie>>,
    /// Where each bookie was seen last. A registration that ended is no proof of death: a paused metadata store
    /// ends those of healthy bookies, and what they serve must go on.
    addresses: Mutex<HashMap<BookieId, String>>,
    changed: watch::Sender<u64>,
    connections: Mutex<HashMap<BookieId, Arc<GrpcConnection>>>,
    adds: Mutex<HashMap<BookieId, Adds>>,
    /// Who was lately said not to be reached.
    told: Arc<Seldom<BookieId>>,
    /// Bookies of this process, reached without a network.
    local: HashMap<BookieId, Arc<dyn BookieConnection>>,
}

impl fmt::Debug for BookieDirectory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BookieDirectory").field("live", &*self.live.lock()).finish_non_exhaustive()
    }
}

impl BookieDirectory {
    /// Reads who is registered and follows changes until `tasks` stops. `local` are bookies of this process, `dial` says
    /// how others are reached; in the connection
    /// to any other one at most `lane_bytes` wait ([`Config::lane_bytes`](crate::Config::lane_bytes)).
    ///
    /// # Errors
    /// When the metadata store cannot be read.
    pub async fn start(
        store: &dyn MetaStore,
        tasks: Tasks,
        local: HashMap<BookieId, Arc<dyn BookieConnection>>,
        lane_bytes: usize,
        dial: Dial,
    ) -> Result<Arc<Self>, Error> {
        let mut events = store.watch(keys::BOOKIES_LIVE, None).await?;
        let directory = Arc::new(Self {
            tasks: tasks.clone(),
            lane_bytes,
            dial,
            live: Mutex::default(),
            addresses: Mutex::default(),
            changed: watch::Sender::new(0),
            connections: Mutex::default(),
            adds: Mutex::default(),
            told: Arc::default(),
            local,
        });
        // A watch without a revision begins with everything there is.
        if let Some(first) = events.next().await {
            directory.apply(first);
        }
        let (follower, cancelled) = (Arc::clone(&directory), tasks.cancelled());
        tasks.spawn("bookie directory", async move {
            tokio::select! {
                () = cancelled => {}
                () = follower.follow(events) => {}
            }
        });
        Ok(directory)
    }

    async fn follow(&self, mut events: WatchStream) {
        while let Some(event) = events.next().await {
            self.apply(event);
        }
    }

    fn apply(&self, event: WatchEvent) {
        let mut live = self.live.lock();
        let before: Vec<BookieId> = live.keys().cloned().collect();
        match event {
            WatchEvent::Snapshot(range) => {
                live.clear();
                live.extend(range.items.iter().filter_map(decode));
            }
            WatchEvent::Changes { changes, .. } => {
                for change in changes {
                    match change {
                        Change::Put(item) => live.extend(decode(&item)),
                        Change::Delete { key } => {
                            if let Some(id) = keys::parse_bookie_live(&key) {
                                live.remove(&id);
                            }
                        }
                    }
                }
            }
        }
        // Most changes are of what is free on their disks.
        if !live.keys().eq(&before) {
            let names: Vec<&str> = live.keys().map(BookieId::as_str).collect();
            tracing::info!(live = ?names, "bookies registered");
        }
        let seen = live.values().map(|bookie| (bookie.id.clone(), bookie.address.clone()));
        self.addresses.lock().extend(seen);
        drop(live);
        self.changed.send_modify(|version| *version += 1);
    }
}

fn decode(item: &KeyValue) -> Option<(BookieId, LiveBookie)> {
    match LiveBookie::decode(&item.value.value) {
        Ok(bookie) => Some((bookie.id.clone(), bookie)),
        Err(error) => {
            tracing::warn!(key = item.key, %error, "registration of a bookie is ignored");
            None
        }
    }
}

impl Bookies for BookieDirectory {
    fn connection(&self, bookie: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        if let Some(local) = self.local.get(bookie) {
            return Ok(Arc::clone(local));
        }
        let Some(address) = self.addresses.lock().get(bookie).cloned() else {
            let why = "it was never registered while this process ran: start it".to_owned();
            return Err(ConnectionLost { bookie: bookie.clone(), why });
        };
        let mut connections = self.connections.lock();
        if let Some(connection) = connections.get(bookie).filter(|c| c.serves(&address)) {
            return Ok(Arc::<GrpcConnection>::clone(connection));
        }
        let (id, dial, told) = (bookie.clone(), self.dial.clone(), Arc::clone(&self.told));
        let connection =
            GrpcConnection::start(&self.tasks, id, address, self.lane_bytes, dial, told);
        let connection = Arc::new(connection);
        connections.insert(bookie.clone(), Arc::clone(&connection));
        Ok(connection)
    }

    fn live(&self) -> Vec<LiveBookie> {
        self.live.lock().values().cloned().collect()
    }

    fn distance(&self, bookie: &BookieId, zone: &str) -> Distance {
        Distance::of(self.live.lock().get(bookie), zone)
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn note_adds(&self, bookie: &BookieId, adds: Adds) {
        self.adds.lock().insert(bookie.clone(), adds);
    }

    fn adds(&self) -> Vec<(BookieId, Adds)> {
        self.adds.lock().iter().map(|(bookie, adds)| (bookie.clone(), *adds)).collect()
    }

    fn waiting_bytes(&self) -> usize {
        self.connections.lock().values().map(|connection| connection.waiting()).sum()
    }
}

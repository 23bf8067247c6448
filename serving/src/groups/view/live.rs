//! Where the shards are, as this broker watches it: partitions of the internal topic.
//!
//! A broker without a registration coordinates nothing, and its registration changes without the topology noticing;
//! so one task watches both and ticks when the owner of any shard is another than before.

use std::sync::Arc;

use geminga_proto::ids::{BrokerId, PartitionIndex};
use geminga_runtime::Tasks;
use tokio::sync::watch;

use super::{Owner, Placement};
use crate::ownership::registration::Registration;
use crate::router::{Route, Router};

/// Where the shards are, as this broker's router sees it.
#[derive(Debug)]
pub struct ShardPlacement {
    router: Router,
    registration: Registration,
    changed: watch::Sender<u64>,
}

impl ShardPlacement {
    /// Follows the owners until `tasks` stops.
    pub fn start(router: Router, registration: &Registration, tasks: &Tasks) -> Arc<Self> {
        let changed = watch::Sender::new(0);
        let placement = Arc::new(Self { router, registration: registration.clone(), changed });
        let (follower, cancelled) = (Arc::clone(&placement), tasks.cancelled());
        let standing = registration.watch();
        tasks.spawn("group placement", async move {
            tokio::select! {
                () = cancelled => {}
                () = follower.follow(standing) => {}
            }
        });
        placement
    }

    async fn follow<S>(&self, mut standing: watch::Receiver<S>) {
        let mut topology = self.router.topology().changed();
        let mut owners = Vec::new();
        loop {
            topology.mark_unchanged();
            standing.mark_unchanged();
            let now: Vec<Owner> = (0..self.shards()).map(|shard| self.owner(shard)).collect();
            if now != owners {
                owners = now;
                self.changed.send_modify(|version| *version += 1);
            }
            let goes_on = tokio::select! {
                changed = topology.changed() => changed.is_ok(),
                changed = standing.changed() => changed.is_ok(),
            };
            if !goes_on {
                return;
            }
        }
    }
}

impl Placement for ShardPlacement {
    fn shards(&self) -> u32 {
        self.router.topology().groups_topic().partitions
    }

    fn owner(&self, shard: u32) -> Owner {
        let topic = self.router.topology().groups_topic();
        match self.router.owner_of(&topic, PartitionIndex(shard)) {
            Route::Local { .. } => Owner::Local,
            Route::Remote { broker, address, .. } => Owner::Remote { broker, address },
            Route::NoOwner => Owner::Nobody,
        }
    }

    fn is_leased(&self) -> bool {
        self.registration.is_leased()
    }

    fn local_broker(&self) -> BrokerId {
        self.router.me()
    }

    /// Empty while this broker is not registered.
    fn local_address(&self) -> String {
        let me = self.router.topology().broker(self.router.me());
        me.map_or_else(String::new, |broker| broker.grpc_address.clone())
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

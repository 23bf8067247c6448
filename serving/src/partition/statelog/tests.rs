//! A shard on a real log: the state machine that groups run on, cut down to a sum.

use std::sync::Arc;

use bytes::Bytes;
use geminga_proto::ids::TopicId;
use tokio::sync::{mpsc, oneshot, watch};

use super::*;
use crate::partition::testing::TestCluster;
use crate::statelog::machine::{Damaged, Machine, Output};
use crate::statelog::shard::{Ended, Shard};

/// Adds up; answers with the sum once the addition is durable.
#[derive(Default)]
struct Sum {
    durable: u64,
    ahead: u64,
}

type Request = (u64, oneshot::Sender<u64>);

fn number(bytes: &[u8]) -> Result<u64, Damaged> {
    let bytes = bytes.try_into().map_err(|_| Damaged("not a number".to_owned()))?;
    Ok(u64::from_be_bytes(bytes))
}

impl Machine for Sum {
    type Request = Request;
    type Held = (u64, oneshot::Sender<u64>);

    const MAX_STEP_BYTES: usize = 100;

    fn load(&mut self, part: &[u8]) -> Result<(), Damaged> {
        self.durable = number(part)?;
        Ok(())
    }

    fn apply(&mut self, command: &[u8]) -> Result<(), Damaged> {
        self.durable += number(command)?;
        Ok(())
    }

    fn replayed(&mut self, _: u64) {
        self.ahead = self.durable;
    }

    fn request(&mut self, _: u64, (add, to): Request, out: &mut Output<Self::Held>) {
        self.ahead += add;
        if add > 0 {
            out.commands.push(Bytes::copy_from_slice(&add.to_be_bytes()));
        }
        out.held.push((self.ahead, to));
    }

    fn tick(&mut self, _: u64, _: &mut Output<Self::Held>) {}

    fn next_deadline(&self) -> Option<u64> {
        None
    }

    fn world_changed(&mut self, _: u64) {}

    fn release(&mut self, (sum, to): Self::Held) {
        let _ = to.send(sum);
    }

    fn snapshot(&self) -> Vec<Bytes> {
        vec![Bytes::copy_from_slice(&self.durable.to_be_bytes())]
    }
}

struct Running {
    mailbox: mpsc::Sender<Request>,
    _world: watch::Sender<u64>,
    ended: tokio::task::JoinHandle<Option<Ended>>,
}

impl Running {
    async fn open(cluster: &TestCluster, broker: i32, groups: TopicId) -> Result<Self, OpenError> {
        let parts = cluster.log_parts(broker);
        let tasks = &cluster.tasks;
        let topology = Topology::start(Arc::clone(&parts.store), tasks, (groups, 4)).await.unwrap();
        let logs = GroupLogs::new(parts, topology, Quorum::CLUSTER);
        let opened = logs.open(PartitionIndex(2)).await?;
        let (mailbox, requests) = mpsc::channel(16);
        let (world, changes) = watch::channel(0);
        let shard = Shard::load(PartitionIndex(2), Sum::default(), opened, requests, changes)
            .await
            .unwrap();
        let ended = tasks.spawn("shard", async move { shard.run().await });
        Ok(Self { mailbox, _world: world, ended })
    }

    async fn add(&self, add: u64) -> Option<u64> {
        let (to, answer) = oneshot::channel();
        self.mailbox.send((add, to)).await.ok()?;
        answer.await.ok()
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_lives_on_a_log_and_a_zombie_answers_nothing() {
    let cluster = TestCluster::new(3);
    let groups = TopicId::from_random(9);
    let refused = Running::open(&cluster, 1, groups).await.err();
    assert_eq!(refused, Some(OpenError::NotOwner(PartitionIndex(2))));
    cluster.assign(groups, 2, 1, 1).await;
    let first = Running::open(&cluster, 1, groups).await.unwrap();
    for (add, sum) in [(5, 5), (7, 12), (0, 12), (1, 13)] {
        assert_eq!(first.add(add).await, Some(sum));
    }
    cluster.assign(groups, 2, 2, 2).await;
    let second = Running::open(&cluster, 2, groups).await.unwrap();
    assert_eq!(first.add(0).await, None, "not even a read (S2)");
    assert_eq!(first.ended.await.unwrap(), Some(Ended::Lost(Lost::Deposed)));
    assert_eq!(second.add(0).await, Some(13));
    assert_eq!(second.add(4).await, Some(17));
}

//! The driver on a log in memory, with a sum as its machine.

use std::sync::Arc;

use bytes::Buf;
use geminga_runtime::Tasks;
use tokio::sync::oneshot;

use super::super::log::Logs;
use super::super::machine::Damaged;
use super::super::memory::MemoryLog;
use super::*;

/// Adds numbers. Requests see the running sum; the durable one is read when an answer leaves.
#[derive(Debug, Default)]
struct Sum {
    ahead: i64,
    durable: i64,
    ticks: u64,
}

enum Ask {
    Add(i64, oneshot::Sender<i64>),
    Get(oneshot::Sender<i64>),
}

impl Machine for Sum {
    type Request = Ask;
    type Held = oneshot::Sender<i64>;

    const MAX_STEP_BYTES: usize = 8;

    fn load(&mut self, part: &[u8]) -> Result<(), Damaged> {
        self.apply(part)
    }

    fn apply(&mut self, mut command: &[u8]) -> Result<(), Damaged> {
        self.durable += command.try_get_i64().map_err(|e| Damaged(e.to_string()))?;
        Ok(())
    }

    fn replayed(&mut self, _: u64) {
        self.ahead = self.durable;
    }

    fn request(&mut self, _: u64, request: Ask, out: &mut Output<Self::Held>) {
        match request {
            Ask::Add(n, respond) => {
                self.ahead += n;
                out.commands.push(Bytes::copy_from_slice(&n.to_be_bytes()));
                out.held.push(respond);
            }
            Ask::Get(respond) => out.held.push(respond),
        }
    }

    /// Once a second, for three seconds, something is due.
    fn tick(&mut self, _: u64, out: &mut Output<Self::Held>) {
        self.ticks += 1;
        self.ahead += 1_000;
        out.commands.push(Bytes::copy_from_slice(&1_000i64.to_be_bytes()));
    }

    fn next_deadline(&self) -> Option<u64> {
        (self.ticks < 3).then_some((self.ticks + 1) * 1_000)
    }

    fn world_changed(&mut self, _: u64) {}

    fn release(&mut self, held: Self::Held) {
        let _ = held.send(self.durable);
    }

    fn snapshot(&self) -> Vec<Bytes> {
        vec![Bytes::copy_from_slice(&self.durable.to_be_bytes())]
    }
}

struct Running {
    mailbox: mpsc::Sender<Ask>,
    ended: tokio::task::JoinHandle<Option<Ended>>,
    world: watch::Sender<u64>,
}

async fn start(tasks: &Tasks, log: &MemoryLog) -> Running {
    let opened = log.open(PartitionIndex(0)).await.unwrap();
    let (mailbox, inbox) = mpsc::channel(1024);
    let (world, changed) = watch::channel(0);
    let shard =
        Shard::load(PartitionIndex(0), Sum::default(), opened, inbox, changed).await.unwrap();
    Running { mailbox, ended: tasks.spawn("shard", shard.run()), world }
}

impl Running {
    async fn add(&self, n: i64) -> oneshot::Receiver<i64> {
        let (respond, answer) = oneshot::channel();
        self.mailbox.send(Ask::Add(n, respond)).await.ok().unwrap();
        answer
    }

    async fn get(&self) -> oneshot::Receiver<i64> {
        let (respond, answer) = oneshot::channel();
        self.mailbox.send(Ask::Get(respond)).await.ok().unwrap();
        answer
    }
}

#[tokio::test(start_paused = true)]
async fn answers_wait_for_the_log() {
    let (tasks, log) = (Tasks::new("test"), MemoryLog::default());
    let shard = start(&tasks, &log).await;
    log.pause(true);
    let (mut add, mut get) = (shard.add(5).await, shard.get().await);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(add.try_recv().is_err() && get.try_recv().is_err());
    log.pause(false);
    assert_eq!((add.await, get.await), (Ok(5), Ok(5)));
}

#[tokio::test(start_paused = true)]
async fn one_barrier_serves_many_reads() {
    let (tasks, log) = (Tasks::new("test"), MemoryLog::default());
    let shard = start(&tasks, &log).await;
    log.pause(true);
    let mut reads = Vec::new();
    for _ in 0..500 {
        reads.push(shard.get().await);
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    log.pause(false);
    for read in reads {
        assert_eq!(read.await, Ok(0));
    }
    let (_, _, barriers) = log.counts();
    assert!(barriers <= 3, "{barriers}");
}

#[tokio::test(start_paused = true)]
async fn a_deposed_shard_answers_nothing_and_the_next_one_knows_what_was_durable() {
    let (tasks, log) = (Tasks::new("test"), MemoryLog::default());
    let first = start(&tasks, &log).await;
    assert_eq!(first.add(5).await.await, Ok(5));
    log.pause(true);
    let lost = first.add(7).await;
    log.depose();
    assert!(lost.await.is_err());
    assert_eq!(first.ended.await.unwrap(), Some(Ended::Lost(Lost::Deposed)));
    log.pause(false);
    let second = start(&tasks, &log).await;
    assert_eq!(second.get().await.await, Ok(5));
    drop(second.mailbox);
    assert_eq!(second.ended.await.unwrap(), Some(Ended::Released));
    drop(second.world);
}

#[tokio::test(start_paused = true)]
async fn snapshots_hold_exactly_what_was_acknowledged() {
    let (tasks, log) = (Tasks::new("test"), MemoryLog::default());
    log.snapshot_every(3);
    let shard = start(&tasks, &log).await;
    let mut answers = Vec::new();
    for n in 1..=100 {
        answers.push(shard.add(n).await);
    }
    for answer in answers {
        answer.await.unwrap();
    }
    let (parts, commands, _) = log.counts();
    assert!(parts == 1 && commands <= 3, "{parts} {commands}");
    log.depose();
    let next = start(&tasks, &log).await;
    assert_eq!(next.get().await.await, Ok(5050));
}

#[tokio::test(start_paused = true)]
async fn what_is_due_is_done_without_requests() {
    let (tasks, log) = (Tasks::new("test"), MemoryLog::default());
    let shard = start(&tasks, &log).await;
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert_eq!(shard.get().await.await, Ok(3_000));
}

/// A request that lay in the mailbox while the log had no room was there before the time was up.
#[tokio::test(start_paused = true)]
async fn what_was_said_before_something_is_due_comes_first() {
    let (tasks, log) = (Tasks::new("test"), MemoryLog::default());
    let shard = start(&tasks, &log).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    log.pause(true);
    let said = super::super::log::MAX_OUTSTANDING_ENTRIES + 100;
    let mut last = shard.add(1).await;
    for _ in 1..said {
        last = shard.add(1).await;
    }
    // The log is slow, but has not stalled.
    tokio::time::sleep(Duration::from_millis(600)).await;
    log.pause(false);
    let said = i64::try_from(said).unwrap();
    assert_eq!(last.await, Ok(said), "without the thousand that are added when a second is over");
}

/// Nothing is due for as long as the log stalls, and nobody waits for it in a loop.
#[tokio::test(start_paused = true)]
async fn nothing_is_due_while_the_log_stalls() {
    let (tasks, log) = (Tasks::new("test"), MemoryLog::default());
    let shard = start(&tasks, &log).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    log.pause(true);
    let add = shard.add(5).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    log.pause(false);
    assert_eq!(add.await, Ok(5));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(
        shard.get().await.await,
        Ok(2_005),
        "one in the second before the stall counts, one after it"
    );
}

#[tokio::test(start_paused = true)]
async fn more_than_the_log_takes_at_once_is_worked_off() {
    let (tasks, log) = (Tasks::new("test"), MemoryLog::default());
    let shard = start(&tasks, &log).await;
    log.pause(true);
    let (mailbox, feeding) =
        (shard.mailbox.clone(), super::super::log::MAX_OUTSTANDING_ENTRIES + 2000);
    let answers = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let kept = answers.clone();
    let feeder = tasks.spawn("feeder", async move {
        for _ in 0..feeding {
            let (respond, answer) = oneshot::channel();
            mailbox.send(Ask::Add(1, respond)).await.ok().unwrap();
            kept.lock().push(answer);
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let accepted = answers.lock().len();
    assert!(accepted < feeding, "the mailbox pushes back: {accepted}");
    log.pause(false);
    feeder.await.unwrap();
    let last = answers.lock().pop().unwrap();
    assert_eq!(last.await, Ok(i64::try_from(feeding).unwrap()));
}

#[tokio::test]
async fn damage_is_said_and_not_served() {
    let log = MemoryLog::default();
    let opened = Opened {
        replay: futures::stream::iter([Ok(Replay::Command(Bytes::from_static(b"?")))]).boxed(),
        ..log.open(PartitionIndex(0)).await.unwrap()
    };
    let (_mailbox, inbox) = mpsc::channel(1);
    let (_world, changed) = watch::channel(0);
    let ended = Shard::load(PartitionIndex(7), Sum::default(), opened, inbox, changed).await.err();
    assert!(matches!(
        ended,
        Some(Ended::Replay(OpenError::Damaged { shard: PartitionIndex(7), .. }))
    ));
}

//! Logs on a small cluster in memory: owners come, go and are killed, bookies and metadata fail, and what was
//! acknowledged is there, once and in order.

mod cold;
mod faults;
mod head;
mod reading;
mod statelog;
mod takeover;
mod zones;

use std::collections::BTreeMap;

use futures::TryStreamExt;

use super::mutation::Mutation;
use super::*;
use crate::partition::testing::TestCluster;

/// Far more than any wait in these tests takes; the clock is paused.
const PATIENCE: Duration = Duration::from_secs(600);

/// An owner of a log: appends batches that name their offset, keeps what is acknowledged.
struct Owner {
    writer: LogWriter,
    reader: LogReader,
    head: LogHead,
    /// Appended and not acknowledged: number, first offset, count.
    waiting: BTreeMap<u64, (Offset, u32)>,
    acked: u64,
    high_watermark: Offset,
    snapshots: usize,
    /// Acknowledged appends before this opening.
    before: u64,
    lost: Option<Lost>,
}

/// A scenario in paused time: it must pass, and fail without the rule.
fn holds_only_with(rule: Mutation, scenario: impl AsyncFn(Mutations)) {
    geminga_runtime::holds_only_with(rule, |mutations| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().unwrap();
        runtime.block_on(scenario(mutations));
    });
}

fn payload(offset: Offset, count: u32) -> Vec<Bytes> {
    vec![Bytes::from(format!("batch {offset}")), Bytes::from(format!(" of {count}{:32}", ""))]
}

fn spec(topic: &Arc<Topic>, term: i32) -> OpenSpec {
    OpenSpec {
        topic: Arc::clone(topic),
        partition: PartitionIndex(0),
        term: Term(term),
        quorum: Quorum::CLUSTER,
        roll: Roll::default(),
    }
}

impl Owner {
    /// Assigns partition 0 to the broker and opens it.
    async fn open(cluster: &TestCluster, topic: &Arc<Topic>, broker: i32, term: i32) -> Self {
        cluster.assign(topic.id, 0, broker, term).await;
        Self::open_with(&cluster.log_parts(broker), spec(topic, term)).await
    }

    /// The same, without a rule.
    async fn without(
        mutations: Mutations,
        cluster: &TestCluster,
        topic: &Arc<Topic>,
        broker: i32,
        term: i32,
    ) -> Self {
        cluster.assign(topic.id, 0, broker, term).await;
        let mut parts = cluster.log_parts(broker);
        parts.config.mutations = mutations;
        Self::open_with(&parts, spec(topic, term)).await
    }

    async fn open_with(parts: &LogParts, spec: OpenSpec) -> Self {
        let opened = open(parts, spec).await.unwrap();
        let replay: Vec<Replay> = opened.replay.try_collect().await.unwrap();
        let mut before = 0;
        for step in replay {
            match step {
                Replay::SnapshotPart(part) if part.is_empty() => {}
                Replay::SnapshotPart(part) => {
                    before = String::from_utf8(part.to_vec()).unwrap().parse().unwrap();
                }
                Replay::Command(_) | Replay::Batches { .. } => before += 1,
            }
        }
        Self {
            high_watermark: opened.next_offset,
            writer: opened.writer,
            reader: opened.reader,
            head: opened.head,
            waiting: BTreeMap::new(),
            acked: 0,
            snapshots: 0,
            before,
            lost: None,
        }
    }

    fn append(&mut self, count: u32) {
        let offset = self.writer.next_offset();
        let what = What::Batches { offset_count: count, max_timestamp: offset.0 * 10 };
        let appended = self.writer.append(what, payload(offset, count)).unwrap();
        assert_eq!(appended.first_offset, offset);
        self.waiting.insert(appended.number, (offset, count));
    }

    /// Takes one event.
    async fn turn(&mut self) {
        let event = self.writer.event().await;
        self.take(event);
    }

    fn take(&mut self, event: Event) {
        assert!(self.lost.is_none(), "nothing comes after the end");
        match event {
            Event::Acked { through, high_watermark } => {
                assert!(through > self.acked, "in order");
                let rest = self.waiting.split_off(&(through + 1));
                let acked = std::mem::replace(&mut self.waiting, rest);
                let (offset, count) = *acked.values().next_back().expect("acknowledges something");
                assert_eq!(high_watermark.0, offset.0 + i64::from(count));
                (self.acked, self.high_watermark) = (through, high_watermark);
                assert_eq!(self.reader.ends().high_watermark, high_watermark);
            }
            Event::Snapshot(wanted) => {
                self.snapshots += 1;
                let state = self.before + self.acked;
                // Two parts, the second with nothing in it.
                wanted.answer(vec![Bytes::from(state.to_string()), Bytes::new()]);
            }
            Event::Lost(lost) => self.lost = Some(lost),
        }
    }

    async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let wait = async {
            while !done(self) {
                self.turn().await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            panic!("waited in vain for {what}: {:#?}", self.writer);
        }
    }

    async fn all_acked(&mut self) {
        self.until("acknowledgements", |owner| owner.waiting.is_empty()).await;
    }

    /// Lets time pass with whatever events it brings.
    async fn pass(&mut self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while let Ok(event) = tokio::time::timeout_at(end, self.writer.event()).await {
            self.take(event);
        }
    }
}

/// Reads everything, in pieces, and checks that offsets are dense and each payload is where it says.
async fn read_all(reader: &LogReader) -> Vec<ReadEntry> {
    let ends = reader.ends();
    let mut next = ends.log_start;
    let mut entries = Vec::new();
    while next < ends.high_watermark {
        let read = reader.read(next, 100).await.unwrap();
        assert!(!read.is_empty(), "there is more below the high watermark, at {next}");
        for entry in read {
            assert_eq!(entry.first_offset, next, "dense");
            assert_eq!(entry.payload, payload(next, entry.offset_count).concat());
            next = entry.end();
            entries.push(entry);
        }
    }
    assert_eq!(next, ends.high_watermark);
    assert_eq!(reader.read(next, 100).await.unwrap(), Vec::new());
    entries
}

#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_can_be_read() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    assert_eq!(cluster.segments(topic.id, 0).await, 0, "a quiet partition has no ledger");
    for count in [1, 3, 2] {
        owner.append(count);
    }
    assert_eq!(owner.reader.ends().high_watermark, Offset(0), "assigned is not committed (P1)");
    owner.all_acked().await;
    assert_eq!(owner.high_watermark, Offset(6));
    assert_eq!(read_all(&owner.reader).await.len(), 3);
    assert_eq!(owner.snapshots, 1, "one at the head of the ledger (P4)");
    assert_eq!(cluster.segments(topic.id, 0).await, 1);
}

#[tokio::test(start_paused = true)]
async fn rolling_under_load_keeps_order() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let mut parts = cluster.log_parts(1);
    parts.config.tail_bytes = 500;
    parts.config.snapshot_bytes = 3_000;
    let roll = Roll { bytes: 5_000, ..Roll::default() };
    let mut owner = Owner::open_with(&parts, OpenSpec { roll, ..spec(&topic, 1) }).await;
    for n in 0..1_000 {
        owner.append(n % 3 + 1);
        while owner.waiting.len() > 20 {
            owner.turn().await;
        }
    }
    owner.all_acked().await;
    assert_eq!(read_all(&owner.reader).await.len(), 1_000);
    let segments = cluster.segments(topic.id, 0).await;
    assert!((5..100).contains(&segments), "{segments} segments");
    assert!(owner.snapshots > segments, "and snapshots in between");
}

#[tokio::test(start_paused = true)]
async fn an_idle_ledger_is_closed_and_an_old_one_rolled() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let roll = Roll { age: Duration::from_secs(100), ..Roll::default() };
    let spec = OpenSpec { roll, ..spec(&topic, 1) };
    let mut owner = Owner::open_with(&cluster.log_parts(1), spec).await;
    owner.append(1);
    owner.all_acked().await;
    for _ in 0..150 {
        owner.append(1);
        owner.pass(Duration::from_secs(1)).await;
    }
    assert_eq!(cluster.segments(topic.id, 0).await, 2, "rolled by age");
    owner.pass(Duration::from_secs(10_000)).await;
    assert_eq!(cluster.segments(topic.id, 0).await, 2, "closed, and none opened");
    owner.append(1);
    owner.all_acked().await;
    assert_eq!(read_all(&owner.reader).await.len(), 152);
    assert_eq!(cluster.segments(topic.id, 0).await, 3);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_an_opening() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    let mut owner = Owner::open(&cluster, &topic, 1, 1).await;
    owner.append(1);
    owner.all_acked().await;
    cluster.tasks.cancel();
    owner.until("the end", |owner| owner.lost == Some(Lost::Stopping)).await;
    assert_eq!(owner.writer.append(What::Barrier, Vec::new()), Err(AppendError::Closed));
}

#[tokio::test(start_paused = true)]
async fn room_is_bounded_by_bytes_and_comes_back() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("flights", 1).await;
    cluster.assign(topic.id, 0, 1, 1).await;
    let mut parts = cluster.log_parts(1);
    parts.config.outstanding_bytes = 100;
    let mut owner = Owner::open_with(&parts, spec(&topic, 1)).await;
    assert!(owner.writer.has_room(1_000), "a large one goes alone");
    owner.append(1);
    assert!(owner.writer.has_room(30) && !owner.writer.has_room(80));
    owner.all_acked().await;
    assert!(owner.writer.has_room(80));
    let large = vec![Bytes::from(vec![0; caps::MAX_ENTRY_BYTES + 1])];
    assert_eq!(owner.writer.append(What::Command, large), Err(AppendError::TooLarge));
}

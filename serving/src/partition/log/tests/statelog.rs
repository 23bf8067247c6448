//! Commands and snapshots: the replay is the state.

use super::*;

/// The sum of numbers, as commands; its snapshot is the sum so far.
struct Sum {
    writer: LogWriter,
    durable: u64,
    unapplied: std::collections::VecDeque<(u64, u64)>,
    snapshots: usize,
}

impl Sum {
    async fn open(parts: &LogParts, spec: OpenSpec) -> Self {
        let opened = open(parts, spec).await.unwrap();
        let number =
            |bytes: Bytes| -> u64 { String::from_utf8(bytes.to_vec()).unwrap().parse().unwrap() };
        let replay: Vec<Replay> = opened.replay.try_collect().await.unwrap();
        let mut durable = 0u64;
        for (index, step) in replay.into_iter().enumerate() {
            match step {
                Replay::SnapshotPart(bytes) => {
                    assert!(index < 2, "parts come first");
                    durable += number(bytes);
                }
                Replay::Command(bytes) => durable += number(bytes),
                Replay::Batches { .. } => panic!("a statelog has no batches"),
            }
        }
        Self { writer: opened.writer, durable, unapplied: Default::default(), snapshots: 0 }
    }

    fn add(&mut self, number: u64) {
        let bytes = Bytes::from(number.to_string());
        let appended = self.writer.append(What::Command, vec![bytes]).unwrap();
        self.unapplied.push_back((appended.number, number));
    }

    async fn settle(&mut self) {
        while !self.unapplied.is_empty() {
            match self.writer.event().await {
                Event::Acked { through, .. } => {
                    while let Some((_, n)) = self.unapplied.pop_front_if(|(n, _)| *n <= through) {
                        self.durable += n;
                    }
                }
                Event::Snapshot(wanted) => {
                    self.snapshots += 1;
                    let half = self.durable / 2;
                    let parts = [half, self.durable - half];
                    wanted.answer(parts.iter().map(|n| Bytes::from(n.to_string())).collect());
                }
                Event::Lost(lost) => panic!("{lost}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_gives_the_state_across_rolls_and_snapshots() {
    let cluster = TestCluster::new(3);
    let topic = cluster.create_topic("groups", 1).await;
    let mut expected = 0;
    for term in 1..=6 {
        cluster.assign(topic.id, 0, term, term).await;
        let mut parts = cluster.log_parts(term);
        parts.config.snapshot_entries = 10;
        let roll = Roll { bytes: 60, ..Roll::default() };
        let mut sum = Sum::open(&parts, OpenSpec { roll, ..spec(&topic, term) }).await;
        assert_eq!(sum.durable, expected, "term {term}");
        for n in 0..u64::try_from(term).unwrap() * 17 {
            sum.add(n);
            expected += n;
            if n % 4 == 0 {
                sum.writer.append(What::Barrier, Vec::new()).unwrap();
            }
            if n % 5 == 0 {
                sum.settle().await;
            }
        }
        sum.settle().await;
        assert!(sum.snapshots > 1);
    }
    // S1: what is before the newest snapshot is dead weight, and goes.
    let segments = cluster.segments(topic.id, 0).await;
    assert!(segments < 6, "{segments} segments are left of dozens");
}

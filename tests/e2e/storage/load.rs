//! Who writes and reads all the while: an idempotent producer with a report, fed at a steady pace, and a group whose members keep up. Neither
//! may notice anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use geminga_harness::flights::Record;
use geminga_harness::{Client, Cluster, Copies, Input, Running, wait};

use crate::topic;

/// What it writes and reads.
pub(super) const TOPIC: &str = "live";
/// Rows that are fed at once, and the pause behind them: 1,000 a second.
const ROWS: u64 = 20;
const PAUSE: Duration = Duration::from_millis(20);
/// So many are written before a group begins to read.
const BEFORE: usize = 1_000;
const MEMBERS: usize = 2;
const FOLLOW: [&str; 7] =
    ["consume", TOPIC, "--group", "follows", "--from-beginning", "--format", "json"];
/// Longer than producer and group need for what is on its way, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// The load.
pub(super) struct Load {
    client: Client,
    producer: Running,
    members: Vec<Running>,
    report: PathBuf,
    copies: Arc<Copies>,
    done: Arc<AtomicBool>,
    feeder: Option<JoinHandle<u64>>,
}

impl Load {
    /// Makes the topic, and begins to write and to read it.
    pub(super) fn start(cluster: &Cluster, copies: &Arc<Copies>) -> Self {
        let client = cluster.client(0);
        // Small segments, so that many of them are closed and have copies to be made anew.
        let create = ["topic", "create", TOPIC, "--partitions", "3"];
        client.run(&[&create[..], &["--config", "segment.bytes=1048576"]].concat()).ok();
        let (mut producer, report) = topic::produce(&client, TOPIC, cluster.dir());
        let (input, done) = (producer.take_input(), Arc::new(AtomicBool::new(false)));
        let feeder = std::thread::spawn({
            let (copies, done) = (Arc::clone(copies), Arc::clone(&done));
            move || feed(input, &copies, &done)
        });
        topic::wait_acknowledged(&report, BEFORE);
        let brokers = cluster.brokers.len();
        let members = (0..MEMBERS).map(|member| cluster.client(member % brokers).spawn(&FOLLOW));
        let (members, copies) = (members.collect(), Arc::clone(copies));
        Self { client, producer, members, report, copies, done, feeder: Some(feeder) }
    }

    /// Waits until more is acknowledged and more is read than is now; nobody may have been told of an error.
    #[track_caller]
    pub(super) fn goes_on(&mut self, after: &str) {
        let before = self.progress();
        wait::until(&format!("{after}: producer and group to go on"), || {
            self.is_well(after);
            let now = self.progress();
            (now.0 > before.0 && now.1 > before.1).then_some(())
        });
    }

    /// Bytes of reports of acknowledgements, and of what was read.
    fn progress(&self) -> (u64, u64) {
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        let read = self.members.iter().map(|member| size(member.stdout_file())).sum();
        (size(&self.report), read)
    }

    #[track_caller]
    fn is_well(&mut self, after: &str) {
        for client in self.members.iter_mut().chain([&mut self.producer]) {
            let said = client.stderr();
            assert!(client.is_running() && said.is_empty(), "{after}: a client was told: {said}");
        }
    }

    /// Ends it, and judges: every row was acknowledged, is where its acknowledgement says and nowhere else, and was read from there by the
    /// group, once. Says how many rows that were.
    #[track_caller]
    pub(super) fn end(mut self) -> u64 {
        self.goes_on("at the end");
        self.done.store(true, Ordering::Relaxed);
        let fed = self.feeder.take().expect("it feeds").join().expect("it ends");
        let code = self.producer.end_within(PATIENCE);
        assert_eq!((code, self.producer.stderr().as_str()), (Some(0), ""));
        let report = topic::read_report(&self.report);
        assert_eq!(report.len() as u64, fed, "acknowledged rows");
        // One more member, which ends when the group has committed everything; what is committed was printed.
        let until_end = [&FOLLOW[..], &["--until-end"]].concat();
        let last = self.client.spawn(&until_end).finish_within(PATIENCE).ok();
        let mut read = vec![Record::parse_all(&last)];
        for mut member in std::mem::take(&mut self.members) {
            let said = member.stderr();
            assert!(member.is_running() && said.is_empty(), "a member was told: {said}");
            member.kill();
            read.push(Record::parse_all(&member.stdout()));
        }
        let log = topic::in_log_order(&read);
        self.copies.first(fed).judge(&log).exactly_once();
        topic::check_report(&report, &log);
        fed
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(feeder) = self.feeder.take() {
            // Whoever feeds it may be waiting for it to read.
            self.producer.kill();
            // That fails only in a test that has failed.
            let _ = feeder.join();
        }
    }
}

/// Feeds rows until it is told to end, or nobody reads them; says how many.
fn feed(mut input: Input, copies: &Copies, done: &AtomicBool) -> u64 {
    let mut fed = 0;
    while !done.load(Ordering::Relaxed) {
        if input.write(&copies.lines(fed..fed + ROWS)).is_err() {
            break;
        }
        fed += ROWS;
        std::thread::sleep(PAUSE);
    }
    fed
}

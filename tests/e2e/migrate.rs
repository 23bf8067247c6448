//! The bridge: another cluster's topics and groups come over, whatever happens to the bridge meanwhile. The other cluster is a
//! standalone of ours, which the bridge knows by its port for Kafka clients only.

use std::collections::BTreeMap;

use geminga_harness::{Authority, Client, Cluster, Kafka, Process, Tls, binary, http, port, wait};
use kafka_wire::OffsetCommitRequest;
use kafka_wire::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use serde_json::Value;
use tempfile::TempDir;

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];
/// Of each codec.
const RECORDS: usize = 2_000;
/// So many make a batch, or two, of each partition.
const AT_ONCE: usize = 125;
const PARTITIONS: usize = 3;
/// Deleted at the source, in the middle of a batch.
const DELETED: i64 = 7;
const GROUP: &str = "billing";

/// The other cluster.
struct Other {
    // Before the directory that it writes to.
    _process: Process,
    grpc: String,
    kafka: String,
    dir: TempDir,
}

impl Other {
    fn start(more: &[String], tls: Option<&Tls>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [grpc, http, kafka] = [(); 3].map(|()| port::free_address());
        let args = [
            "standalone".to_owned(),
            format!("--data-dir={}", dir.path().join("data").display()),
            format!("--grpc={grpc}"),
            format!("--http={http}"),
            format!("--kafka={kafka}"),
        ];
        let args = args.into_iter().chain(more.iter().cloned());
        let mut process = Process::start("other", &binary::geminga(), args, dir.path());
        wait::until("the other cluster", || {
            assert!(process.is_running(), "it ended instead of getting ready");
            let ready = match tls {
                None => http::is_ready(&http),
                Some(tls) => http::is_ready_by(tls, &http),
            };
            ready.then_some(())
        });
        Self { _process: process, grpc, kafka, dir }
    }

    fn client(&self) -> Client {
        Client::new(&self.grpc, self.dir.path())
    }
}

/// Records as a reader sees them, without their offsets; those by partition.
type Seen = BTreeMap<i64, Vec<Value>>;

fn read(client: &Client, topic: &str, more: &[&str]) -> (Seen, BTreeMap<i64, Vec<i64>>) {
    let args = ["consume", topic, "--from-beginning", "--until-end", "--format", "json"];
    let args: Vec<_> = args.iter().chain(more).copied().collect();
    let (mut seen, mut offsets) = (Seen::new(), BTreeMap::new());
    for line in client.run(&args).ok().split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
    {
        let mut record: Value = serde_json::from_slice(line).expect("JSON");
        let object = record.as_object_mut().expect("an object");
        let mut number = |name: &str| object.remove(name).and_then(|n| n.as_i64()).expect(name);
        let (partition, offset) = (number("partition"), number("offset"));
        offsets.entry(partition).or_insert_with(Vec::new).push(offset);
        seen.entry(partition).or_default().push(record);
    }
    (seen, offsets)
}

/// Values that do not compress to nothing.
fn lines(codec: &str) -> Vec<Vec<u8>> {
    let mut state = codec.len() as u64;
    let mut line = |n: usize| {
        let words: Vec<_> = (0..12)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                format!("{state:x}")
            })
            .collect();
        format!("key-{}|{codec} {n} {}\n", n % 97, words.join(""))
    };
    (0..RECORDS).map(|n| line(n).into_bytes()).collect()
}

fn commit(kafka: &str, topic: &str, offsets: &[(i32, i64)]) {
    let partition = |(index, offset): &(i32, i64)| {
        let mut partition = OffsetCommitRequestPartition::default();
        (partition.partition_index, partition.committed_offset) = (*index, *offset);
        partition.committed_metadata = Some("mine".into());
        partition
    };
    let mut named = OffsetCommitRequestTopic::default();
    (named.name, named.partitions) = (topic.into(), offsets.iter().map(partition).collect());
    let mut request = OffsetCommitRequest::default();
    (request.group_id, request.generation_id_or_member_epoch) = (GROUP.into(), -1);
    request.topics = vec![named];
    wait::until("the commit", || {
        let answer = Kafka::connect(kafka).call(7, &request);
        let parts = answer.topics.iter().flat_map(|topic| &topic.partitions);
        parts.map(|part| part.error_code).all(|code| code == 0).then_some(())
    });
}

/// Where the target ends, all partitions together, and how many of its records lie behind the checkpoints.
fn ends(client: &Client) -> (i64, i64) {
    let finished = client.run(&["group", "describe", "migrate.default", "--output", "json"]);
    if finished.code != Some(0) {
        return (0, 0);
    }
    let group: Value = serde_json::from_slice(&finished.stdout).expect("JSON");
    let sum = |name: &str| {
        let offsets = group["offsets"].as_array().into_iter().flatten();
        offsets.filter_map(|offset| offset[name].as_i64()).sum()
    };
    (sum("high_watermark"), sum("lag"))
}

/// The bridge is killed again and again, always when something is written that is not noted yet; what comes over is there once, in
/// order, and a group goes on exactly where it was.
#[test]
fn a_bridge_that_is_killed_copies_each_record_once() {
    let other = Other::start(&[], None);
    let source = other.client();
    let partitions = PARTITIONS.to_string();
    let create = ["topic", "create", "codecs", "--partitions", &partitions];
    source
        .run(
            &[
                &create[..],
                &["--config", "retention.ms=864000000", "--config", "segment.bytes=1048576"],
            ]
            .concat(),
        )
        .ok();
    source.run(&["topic", "create", "empty", "--partitions", "2"]).ok();
    for codec in CODECS {
        let args = ["produce", "codecs", "--key-separator", "|", "--compression", codec];
        let lines = lines(codec);
        for some in lines.chunks(AT_ONCE) {
            source.run_with(&args, &some.concat()).ok();
        }
    }
    let before = DELETED.to_string();
    source
        .run(&["topic", "delete-records", "codecs", "--partition", "0", "--before", &before])
        .ok();
    let (sent, sent_at) = read(&source, "codecs", &[]);
    assert_eq!(sent_at[&0][0], DELETED);
    // In the middle, at the start, and at the end.
    let committed = [(0, sent_at[&0][100]), (1, 0), (2, sent_at[&2].last().expect("records") + 1)];
    commit(&other.kafka, "codecs", &committed);

    let cluster = Cluster::start(3, 2);
    let target = cluster.client(0);
    let plan = target.json(&["migrate", "plan", "--from", &other.kafka]);
    let codecs = &plan["topics"][0];
    assert_eq!((&codecs["topic"], &codecs["target"]), (&"codecs".into(), &"create".into()));
    assert_eq!(codecs["offsets"].as_u64(), Some((CODECS.len() * RECORDS) as u64 - DELETED as u64));
    assert_eq!(codecs["configs"]["retention.ms"], "864000000");
    target.run(&["topic", "describe", "codecs"]).refused("UNKNOWN_TOPIC");

    let run = ["migrate", "run", "--from", &other.kafka];
    let mut before = 0;
    for _ in 0..4 {
        let mut bridge = target.spawn(&[&run[..], &["--rate", "200KiB"]].concat());
        before = wait::until("new records that are not noted", || {
            assert!(bridge.is_running(), "the bridge ended by itself");
            let (end, behind) = ends(&target);
            (end > before && behind > 0).then_some(end)
        });
        bridge.kill();
    }
    let done = target.json(&[&run[..], &["--until-caught-up"]].concat());
    assert!(done["partitions"].as_array().expect("a list").iter().all(|p| p["lag"] == 0), "{done}");

    let (seen, offsets) = read(&target, "codecs", &[]);
    for (partition, sent) in &sent {
        let seen = &seen[partition];
        assert_eq!(seen.len(), sent.len(), "partition {partition}");
        assert!(seen == sent, "partition {partition} has other records");
        let dense: Vec<_> = (0..).take(sent.len()).collect();
        assert_eq!(offsets[partition], dense, "partition {partition}");
    }
    let described = target.json(&["topic", "describe", "codecs"]);
    assert_eq!(described["topic"]["configs"]["segment.bytes"], "1048576");
    assert_eq!(target.json(&["topic", "describe", "empty"])["topic"]["partitions"], 2);

    the_group_goes_on(&target, &other, &sent, &sent_at, &committed);
    it_follows(&source, &target, &run, sent.values().map(Vec::len).sum());
}

/// What the group has read it does not get again, and nothing else is missing.
fn the_group_goes_on(
    target: &Client,
    other: &Other,
    sent: &Seen,
    sent_at: &BTreeMap<i64, Vec<i64>>,
    committed: &[(i32, i64)],
) {
    let offsets = ["migrate", "offsets", "--from", &other.kafka];
    let shown = target.json(&[&offsets[..], &["--dry-run"]].concat());
    assert_eq!(shown[0]["group"], GROUP, "{shown}");
    target.run(&["group", "describe", GROUP]).refused("UNKNOWN_GROUP");
    let set = target.json(&offsets);
    assert_eq!(set, shown);
    let again = target.json(&offsets);
    let states: Vec<_> =
        again[0]["offsets"].as_array().expect("a list").iter().map(|o| &o["state"]).collect();
    assert_eq!(states, ["ahead"; PARTITIONS], "{again}");
    let group = target.json(&["group", "describe", GROUP]);
    assert_eq!(group["offsets"][0]["metadata"], "mine");
    let (rest, _) = read(target, "codecs", &["--group", GROUP]);
    for (partition, at) in committed {
        let partition = i64::from(*partition);
        let from = sent_at[&partition].iter().filter(|offset| *offset < at).count();
        let expected = &sent[&partition][from..];
        let got = rest.get(&partition).map(Vec::as_slice).unwrap_or_default();
        assert!(got == expected, "partition {partition}: {} of {}", got.len(), expected.len());
    }
}

/// Without `--until-caught-up` what comes is copied as it comes, until somebody stops it.
fn it_follows(source: &Client, target: &Client, run: &[&str], records: usize) {
    let mut bridge = target.spawn(&[run, &["--output", "json"]].concat());
    source.run_with(&["produce", "codecs"], b"one\ntwo\nthree\n").ok();
    source.run(&["topic", "alter", "empty", "--partitions", "3"]).ok();
    wait::until("the new records", || {
        assert!(bridge.is_running(), "the bridge ended by itself");
        let (seen, _) = read(target, "codecs", &[]);
        (seen.values().map(Vec::len).sum::<usize>() == records + 3).then_some(())
    });
    let summary = bridge.interrupt().ok();
    let summary: Value = serde_json::from_slice(&summary).expect("JSON");
    assert_eq!((&summary["stopped"], &summary["records"]), (&true.into(), &3.into()), "{summary}");
    assert_eq!(ends(target).1, 0, "it noted what it had done");
    // A partition that came meanwhile is there after the next start at the latest.
    target.run(&[run, &["--until-caught-up"]].concat()).ok();
    assert_eq!(target.json(&["topic", "describe", "empty"])["topic"]["partitions"], 3);
}

/// What the bridge cannot do it says, before it does anything.
#[test]
fn a_bridge_refuses_what_it_cannot_copy() {
    let authority = Authority::new();
    let pair = authority.issue();
    let [cert, key] = pair.flags();
    let tls = Tls::new(authority.ca(), None);
    let other = Other::start(&[cert, key], Some(&tls));
    let ca = authority.ca().display().to_string();
    let source = other.client().by(&tls);
    source.run(&["topic", "create", "t", "--partitions", "2"]).ok();
    source.run_with(&["produce", "t"], b"one\ntwo\n").ok();

    let here = Other::start(&[], None);
    let target = here.client();
    let plan = |more: &[&str]| {
        let args = ["migrate", "plan", "--from", &other.kafka];
        target.run(&[&args[..], more].concat())
    };
    let plain = plan(&[]);
    assert_eq!(plain.code, Some(4));
    assert!(plain.refused("SOURCE").contains("--from-tls"));
    plan(&["--from-tls-ca", &ca, "--topic", "u"]).refused("UNKNOWN_TOPIC");
    plan(&["--from-tls-ca", &ca]).ok();
    let nobody = port::free_address();
    let unreachable = target.run(&["migrate", "run", "--from", &nobody]);
    assert_eq!(unreachable.code, Some(4));
    unreachable.refused("SOURCE");

    let run = ["migrate", "run", "--from", &other.kafka, "--from-tls-ca", &ca, "--until-caught-up"];
    target.run(&["topic", "create", "t", "--partitions", "3"]).ok();
    assert!(target.run(&run).refused("NOT_COPIED").contains("keys"));
    target.run(&["topic", "delete", "t"]).ok();
    target.run(&["topic", "create", "t", "--partitions", "2"]).ok();
    target.run_with(&["produce", "t"], b"mine\n").ok();
    assert!(target.run(&run).refused("NOT_COPIED").contains("records"));
    target.run(&["topic", "delete", "t"]).ok();
    target.run(&run).ok();
    let (seen, _) = read(&target, "t", &[]);
    assert_eq!(seen.values().map(Vec::len).sum::<usize>(), 2);
    // Made anew at the source: its records are others.
    source.run(&["topic", "delete", "t"]).ok();
    source.run(&["topic", "create", "t", "--partitions", "2"]).ok();
    assert!(target.run(&run).refused("NOT_COPIED").contains("another topic"));
}

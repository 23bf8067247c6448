//! The log on a disk in memory: what survives which crash, and what is refused.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use geminga_proto::ids::SealEpoch;

use super::*;
use crate::io::{FaultyDisk, MemoryDisk, Op};
use crate::scenario::holds_only_with;

mod boot;
mod crash;
mod reading;
mod reclaiming;
mod refused;
mod refusing;
mod running;
mod scrubbing;
mod spilling;
#[cfg(feature = "simulation")]
mod stepped;
mod throughput;
mod upkeep;

pub(super) fn identity() -> Identity {
    Identity {
        cluster: ClusterUuid::from_random(1),
        bookie: "bookie-1".parse().unwrap(),
        incarnation: Incarnation(7),
        disk: DiskUuid::from_random(2),
    }
}

/// Holds bytes against those of `tests/golden`, which are what is on disks already: a format may only grow.
/// `GEMINGA_UPDATE_GOLDEN=1` writes the file anew, for a new version. The bytes in the file.
pub(crate) fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let lines: Vec<String> =
        bytes.chunks(32).map(|line| line.iter().map(|b| format!("{b:02x}")).collect()).collect();
    let shown = lines.join("\n") + "\n";
    if std::env::var_os("GEMINGA_UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &shown).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap();
    assert_eq!(stored, shown, "{name} differs from what is on disks");
    let digits: Vec<_> = stored.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// Small segments, and marks only where a test asks for them.
fn small() -> Config {
    Config {
        segment_bytes: 16 << 10,
        prefill_bytes: 16 << 10,
        reserve_segments: 0,
        idle_mark: std::time::Duration::from_secs(3600),
        ..Config::default()
    }
}

fn open_with(disk: impl Disk, config: Config) -> Result<Opened, OpenError> {
    Log::open(Arc::new(disk), identity(), config)
}

fn open(disk: &MemoryDisk) -> Opened {
    open_with(disk.clone(), small()).unwrap()
}

/// A new log on a faulty disk, with its next segment ready: from here on only the committer writes and syncs, until
/// the log goes on to that segment.
fn open_faulty(faulty: &FaultyDisk, config: Config) -> Log {
    let log = open_with(faulty.clone(), config).unwrap().log;
    // Each of the two segments when it has its header and when it is filled, and the mark in the first.
    faulty.wait_calls(Op::Sync, 5);
    log
}

const LEDGER: LedgerId = LedgerId(1);

/// An entry's content says which it is.
fn entry(ledger: LedgerId, id: i64, bytes: usize) -> Bytes {
    let mut content = format!("{ledger}/{id}/").into_bytes();
    content.resize(content.len().max(bytes), b'.');
    content.into()
}

fn entries(ledger: LedgerId, first: i64, count: i64, bytes: usize) -> Record {
    Record::Entries {
        fragment_first: EntryId(0),
        first: EntryId(first),
        entries: (first..first + count).map(|id| entry(ledger, id, bytes)).collect(),
        lac: EntryId(first - 1),
    }
}

async fn append(log: &Log, ledger: LedgerId, record: Record) -> Lsn {
    let permit = log.reserve(Log::cost(&record)).await.unwrap();
    log.append(ledger, record, permit).unwrap()
}

async fn append_durably(log: &Log, ledger: LedgerId, record: Record) {
    let lsn = append(log, ledger, record).await;
    log.wait_durable(lsn).await.unwrap();
}

/// All entries `from..=to`, by as many reads as it takes.
async fn read_all(
    log: &Log,
    ledger: LedgerId,
    from: i64,
    to: i64,
) -> Result<Vec<Bytes>, ReadError> {
    let mut all = Vec::new();
    while from + (all.len() as i64) <= to {
        let next = EntryId(from + all.len() as i64);
        all.extend(log.read(ledger, next, EntryId(to), 4096).await?);
    }
    Ok(all)
}

async fn assert_reads(log: &Log, ledger: LedgerId, from: i64, to: i64, bytes: usize) {
    let expected: Vec<_> = (from..=to).map(|id| entry(ledger, id, bytes)).collect();
    assert_eq!(read_all(log, ledger, from, to).await.unwrap(), expected);
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

fn segments(disk: &MemoryDisk) -> Vec<u64> {
    let named = disk.list().unwrap().into_iter().filter_map(|name| segment::parse_name(&name));
    named
        .filter_map(|named| match named {
            segment::Named::Segment(seq) => Some(seq),
            segment::Named::Unfinished(_) | segment::Named::Spare => None,
        })
        .collect()
}

/// Frames of a segment, in order: their number, offset and bytes.
fn frames(disk: &MemoryDisk, seq: u64) -> Vec<(u64, usize, usize)> {
    let file = disk.open(&segment::file_name(seq)).unwrap();
    let mut bytes = vec![0; file.size().unwrap() as usize];
    file.read_exact_at(0, &mut bytes).unwrap();
    let (bytes, mut at, mut found) = (Bytes::from(bytes), HEADER_BYTES, Vec::new());
    while let Some(frame) = format::decode_frame(&bytes, at, seq, Seed::of(&identity())) {
        found.push((frame.head.seq, at, frame.end - at));
        at = frame.end;
    }
    found
}

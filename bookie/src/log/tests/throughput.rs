//! What appends cost on the disk below the temporary directory. Prints; asserts only that all came back.

use tokio::time::Instant;

use super::*;
use crate::io::RealDisk;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures the disk for some seconds"]
async fn appends_per_second() {
    for (bytes, count) in [(1024, 40_000), (64 << 10, 8_000), (1 << 20, 1_000)] {
        let directory = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(directory.path()).unwrap();
        let log = open_with(disk, Config::default()).unwrap().log;
        let content = Bytes::from(vec![7; bytes]);
        let started = Instant::now();
        for id in 0..count {
            let record = Record::Entries {
                fragment_first: EntryId(0),
                first: EntryId(id),
                entries: vec![content.clone()],
                lac: EntryId(id - 1),
            };
            append(&log, LEDGER, record).await;
        }
        log.wait_durable(log.tail()).await.unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let (per_second, total) = (count as f64 / seconds, bytes as f64 * count as f64);
        println!("{bytes} B: {per_second:.0} records/s, {:.0} MB/s", total / seconds / 1e6);
        let mut waits = Vec::new();
        for id in count..count + 200 {
            let started = Instant::now();
            append_durably(&log, LEDGER, entries(LEDGER, id, 1, bytes)).await;
            waits.push(started.elapsed());
        }
        waits.sort();
        println!("{bytes} B alone: p50 {:?}, p99 {:?}", waits[100], waits[197]);
        log.shutdown().await.unwrap();
        drop(log);
        let started = Instant::now();
        let opened =
            open_with(RealDisk::open(directory.path()).unwrap(), Config::default()).unwrap();
        println!("{bytes} B: opened in {:?}", started.elapsed());
        assert_eq!(opened.ledgers[&LEDGER].held().last(), EntryId(count + 199));
    }
}

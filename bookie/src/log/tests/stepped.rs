//! A log without threads does what a log with them does, when it is told to.

use super::*;

fn open(disk: &MemoryDisk) -> Stepped {
    Log::open_stepped(Arc::new(disk.clone()), identity(), small()).unwrap()
}

#[test]
fn only_a_step_makes_anything_durable() {
    let disk = MemoryDisk::new();
    let Stepped { opened, mut driver } = open(&disk);
    let log = opened.log;
    let lsn = log.append_unreserved(LEDGER, entries(LEDGER, 0, 3, 10)).unwrap();
    assert!(log.durable().borrow().lsn < lsn);
    assert!(open(&disk.crash()).opened.ledgers.is_empty());

    assert!(driver.flush().unwrap());
    assert_eq!(log.durable().borrow().lsn, lsn);
    assert!(!driver.flush().unwrap());
    assert!(driver.mark_idle().unwrap());
    assert!(!driver.mark_idle().unwrap());
    driver.prepare_segment().unwrap();
    let read = log.read_blocking(LEDGER, EntryId(1), EntryId(2), 1000).unwrap();
    assert_eq!(read, [entry(LEDGER, 1, 10), entry(LEDGER, 2, 10)]);

    driver.shut_down().unwrap();
    assert_eq!(log.durable().borrow().failed, Some(LogFailed::Closed));
    let again = open(&disk.crash()).opened;
    let read = again.log.read_blocking(LEDGER, EntryId(0), EntryId(2), 1000).unwrap();
    assert_eq!(read.len(), 3);
}

//! A slow disk stops the socket of whoever sends, and nothing of it is lost when it comes back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use geminga_metastore::MemoryStore;
use geminga_proto::bookie::{Scope, WriteOp, WriteRequest};
use geminga_proto::entry::{self, Attributes, Kind, NO_SNAPSHOT, Position};
use geminga_proto::ids::{
    ClusterUuid, DiskUuid, EntryId, Incarnation, LedgerId, Member, SealEpoch,
};
use geminga_proto::internal::bookie_client::BookieClient;
use geminga_runtime::requests::Requests;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::io::{FaultyDisk, MemoryDisk, Op};
use crate::ledger::{Checker, DiskLedgers, DiskParts, LedgerState, Mutations, Record};
use crate::log::{self, Log};

const LEDGER: LedgerId = LedgerId(5);
const MIB: usize = 1024 * 1024;

fn cluster() -> ClusterUuid {
    ClusterUuid::from_random(1)
}

/// A bookie on a disk in memory, with one ledger that was admitted before.
fn bookie(disk: &FaultyDisk, tasks: &Tasks) -> BookieHandle {
    let member = Member { bookie: "b-1".parse().unwrap(), incarnation: Incarnation(7) };
    let identity = log::Identity {
        cluster: cluster(),
        bookie: member.bookie.clone(),
        incarnation: member.incarnation,
        disk: DiskUuid::from_random(3),
    };
    let config = log::Config { queue_bytes: 4 * MIB, ..log::Config::default() };
    let log = Log::open(Arc::new(disk.clone()), identity, config).unwrap().log;
    let mut known = LedgerState::unknown(LEDGER);
    known.apply(&Record::RunStart { fragment_first: EntryId(0) });
    let parts = DiskParts {
        cluster: cluster(),
        member: member.clone(),
        log,
        ledgers: BTreeMap::from([(LEDGER, known)]),
        tombstones: crate::ledger::Tombstones::default(),
        owners: 1,
        reporter: crate::ledger::Reporter {
            store: Arc::new(MemoryStore::new()),
            member: member.clone(),
            clock: Arc::new(geminga_runtime::ManualClock::at(0)),
        },
        checker: Checker::new(Arc::new(MemoryStore::new())),
        waiting: Arc::new(Semaphore::new(1)),
        mutations: Mutations::default(),
    };
    BookieHandle::new(
        cluster(),
        member.bookie,
        vec![DiskLedgers::start(parts, tasks)],
        vec![],
        Requests::default(),
    )
}

/// One request of a megabyte.
fn request(id: i64) -> wire::WriteRequests {
    let position =
        Position { ledger: LEDGER, entry: EntryId(id), lac: EntryId(-1), cumulative_length: 0 };
    let attributes = Attributes {
        kind: Kind::Batches,
        first_offset: id,
        offset_count: 1,
        max_timestamp: 0,
        running_max_timestamp: 0,
        last_snapshot_entry: NO_SNAPSHOT,
    };
    let payload = Bytes::from(vec![7; MIB]).into();
    let entries = vec![entry::encode(cluster(), position, attributes, &payload).unwrap()];
    let scope = Scope {
        cluster: cluster(),
        ledger: LEDGER,
        fragment_first: EntryId(0),
        epoch: SealEpoch(0),
        incarnation: Incarnation(7),
    };
    let op = WriteOp::Add { first: EntryId(id), entries, lac: EntryId(-1) };
    wire::WriteRequests { requests: vec![WriteRequest { scope, op }.to_wire(id as u64)] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_disk_stops_the_sender() {
    const COUNT: i64 = 100;
    let (disk, tasks) = (FaultyDisk::new(MemoryDisk::new()), Tasks::new("test"));
    let handle = bookie(&disk, &tasks);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("server", serve(listener, Security::plain("bookie"), handle, tasks.clone()));
    let mut client = BookieClient::connect(format!("http://{address}")).await.unwrap();
    let (send, requests) = mpsc::channel(1);
    disk.hold(Op::Sync);
    let mut replies = client.write(ReceiverStream::new(requests)).await.unwrap().into_inner();

    let mut sent = 0;
    // Long enough for everything to pass, were it let.
    let all = async {
        while sent < COUNT {
            send.send(request(sent)).await.unwrap();
            sent += 1;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(1), all).await.is_err());
    let taken = usize::try_from(sent).unwrap() * MIB;
    let buffers = caps::H2_CONNECTION_WINDOW_BYTES as usize + 16 * MIB;
    assert!(taken <= intake::BUDGET + buffers, "{sent} MiB were taken from the sender");

    disk.release(Op::Sync);
    let sender = async {
        for id in sent..COUNT {
            send.send(request(id)).await.unwrap();
        }
        drop(send);
    };
    let receiver = async {
        let mut codes = Vec::new();
        while let Some(message) = replies.next().await {
            codes.extend(message.unwrap().replies.iter().map(wire::WriteReply::code));
        }
        codes
    };
    let ((), codes) = tokio::join!(sender, receiver);
    assert_eq!(codes, vec![wire::Code::Ok; usize::try_from(COUNT).unwrap()]);
    assert!(tasks.finish(Duration::from_secs(10)).await);
}

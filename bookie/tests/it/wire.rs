//! One bookie's protocol over a socket.

use bytes::Bytes;
use geminga_metastore::record::LedgerState;
use geminga_proto::bookie::{Code, QueryOp, QueryReply, QueryRequest, WriteOp, WriteRequest};
use geminga_proto::caps;
use geminga_proto::ids::{EntryId, Incarnation, SealEpoch};
use geminga_proto::internal as wire;
use geminga_proto::internal::bookie_client::BookieClient;
use geminga_runtime::lines::{Lines, field};
use geminga_runtime::requests::{self, RequestId};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{LEDGER, LONG, Single, open_ledger, put_ledger};

impl Single {
    async fn query(&self, op: QueryOp) -> QueryReply {
        let request = QueryRequest { scope: self.scope(0), op };
        let reply = self.connection.query(request);
        tokio::time::timeout(LONG, reply).await.expect("answered in time").unwrap()
    }

    async fn read(&self, from: i64, to: i64) -> QueryReply {
        let (from, to) = (EntryId(from), EntryId(to));
        self.query(QueryOp::Read { from, to, max_bytes: 1 << 20, prefix_bytes: None }).await
    }
}

#[tokio::test]
async fn a_ledgers_life() {
    let single = Single::start().await;
    let hello = single.ask(0, WriteOp::Hello).await;
    assert_eq!(
        (hello.code, hello.durable_tail, hello.authoritative),
        (Code::Ok, EntryId(-1), true)
    );
    assert_eq!(single.ask(0, single.add(0, 3)).await.durable_tail, EntryId(2));
    let gap = single.ask(0, single.add(4, 1)).await;
    assert_eq!((gap.code, gap.staged_tail), (Code::OutOfOrder, EntryId(2)));
    assert_eq!(single.ask(0, single.add(0, 3)).await.durable_tail, EntryId(2), "a duplicate");

    let waiting = single.query(QueryOp::WaitLac { after: EntryId(1), deadline_ms: 30_000 });
    let (woken, _) = tokio::join!(waiting, single.ask(0, WriteOp::AdvanceLac(EntryId(2))));
    assert_eq!((woken.code, woken.lac, woken.sealed), (Code::Ok, EntryId(2), false));
    let reply = single.read(1, 9).await;
    assert_eq!(reply.entries, [single.entry(1), single.entry(2)]);
    assert_eq!(single.read(3, 3).await.code, Code::NoSuchEntry);

    let seal = single.ask(2, WriteOp::Seal).await;
    assert_eq!((seal.code, seal.durable_tail, seal.max_lac), (Code::Ok, EntryId(2), EntryId(2)));
    let refused = single.ask(0, single.add(3, 1)).await;
    assert_eq!((refused.code, refused.sealed_epoch), (Code::Sealed, SealEpoch(2)));
    assert_eq!(single.ask(1, single.recovery_add(3, 1)).await.code, Code::StaleEpoch);
    assert_eq!(single.ask(2, single.recovery_add(3, 1)).await.durable_tail, EntryId(3));
    assert_eq!(single.ask(2, WriteOp::Closed(EntryId(3))).await.code, Code::Ok);
    single.node.stop().await;
}

/// Many requests in flight: they take effect in the order sent, and each is answered.
#[tokio::test]
async fn a_pipeline_stays_in_order() {
    let single = Single::start().await;
    let replies: Vec<_> = (0..2000).map(|id| single.ask(0, single.add(id, 1))).collect();
    for (id, reply) in (0..).zip(replies) {
        let reply = reply.await;
        assert_eq!((reply.code, reply.durable_tail), (Code::Ok, EntryId(id)));
    }
    let mut next = 0;
    while next < 2000 {
        let reply = single.read(next, 1999).await;
        assert_eq!(reply.entries[0], single.entry(next));
        next += i64::try_from(reply.entries.len()).unwrap();
    }
}

#[tokio::test]
async fn what_is_not_for_this_life_is_refused() {
    let single = Single::start().await;
    single.ask(0, single.add(0, 1)).await;
    let mut scope = single.scope(0);
    scope.incarnation = Incarnation(1);
    for op in [WriteOp::Hello, WriteOp::Seal, single.add(1, 1)] {
        let reply = single.connection.write(WriteRequest { scope, op }).await.unwrap();
        assert_eq!(reply.code, Code::WrongIncarnation);
    }
    let mut conflicting = single.add(0, 1);
    if let WriteOp::Add { entries, .. } = &mut conflicting {
        let mut other = entries[0].to_vec();
        other[100] ^= 1;
        entries[0] = other.into();
    }
    assert_eq!(single.ask(0, conflicting).await.code, Code::Corrupt);
}

/// Whoever looks for why a client's request was slow finds the bookie's part of it by the same id.
#[tokio::test]
async fn a_bookie_knows_which_request_an_entry_is_of() {
    let single = Single::start().await;
    let lines = Lines::capture();
    let id = RequestId::parse("order-17");
    requests::caused_by(id.clone(), || single.ask(0, single.add(0, 2))).await;
    let read = single.read(0, 1);
    requests::scope(id, read).await;
    single.ask(0, single.add(2, 1)).await;
    let told = |words: &[&str]| lines.with(&[&["slow request of a bookie"], words].concat());
    let [add] = &told(&["op=\"add\"", "request=order-17"])[..] else { panic!("{lines:?}") };
    assert_eq!(
        (field(add, "ledger"), field(add, "entry")),
        (Some("0000000000000005"), Some("0")),
        "{add}"
    );
    assert!(field(add, "disk_ms").is_some(), "{add}");
    assert_eq!(told(&["op=\"read\"", "request=order-17"]).len(), 1, "{lines:?}");
    let all = told(&["op=\"add\""]);
    assert_eq!((all.len(), field(&all[1], "request")), (2, None), "nobody said of which");
}

/// K2 over the wire: a closed ledger that the bookie never saw is not opened again by its stale writer (H12).
#[tokio::test]
async fn a_closed_ledger_is_not_created_again() {
    let single = Single::start().await;
    let mut meta = open_ledger(LEDGER, &[single.node.member()]);
    meta.state = LedgerState::Closed;
    meta.last_entry = Some(EntryId(3));
    put_ledger(&*single.store, &meta).await;
    assert_eq!(single.ask(0, WriteOp::Hello).await.code, Code::Sealed);
    assert_eq!(single.ask(0, single.add(0, 1)).await.code, Code::Sealed);
    assert_eq!(single.read(0, 0).await.code, Code::NoSuchLedger);
}

/// Bytes that are no request end their stream with a reason; the connection and its other streams go on.
#[tokio::test]
async fn a_bad_message_ends_its_stream_only() {
    let single = Single::start().await;
    let mut client =
        BookieClient::connect(format!("http://{}", single.node.address)).await.unwrap();
    let good = || {
        let request = WriteRequest { scope: single.scope(0), op: WriteOp::Hello };
        wire::WriteRequests { requests: vec![request.to_wire(7)] }
    };
    let (send, requests) = tokio::sync::mpsc::channel(8);
    let mut other = client.write(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let bad = wire::WriteRequests { requests: vec![wire::WriteRequest::default()] };
    let messages = tokio_stream::iter([good(), bad, good()]);
    let replies = client.write(messages).await.unwrap().into_inner();
    let replies: Vec<_> = replies.collect().await;
    let status = replies.last().unwrap().as_ref().unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");

    let bad = wire::QueryRequests { requests: vec![wire::QueryRequest::default()] };
    let mut replies = client.query(tokio_stream::iter([bad])).await.unwrap().into_inner();
    let status = replies.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");

    send.send(good()).await.unwrap();
    let reply = other.next().await.unwrap().unwrap();
    assert_eq!(reply.replies[0].code(), wire::Code::Ok);
    // A stream that is half closed ends when all is answered.
    drop(send);
    assert!(other.next().await.is_none());
}

/// A message above the limit, or that is none, is the sender's mistake: it is told, and others are served.
#[tokio::test]
async fn an_oversized_message_ends_its_stream_only() {
    let single = Single::start().await;
    let mut client =
        BookieClient::connect(format!("http://{}", single.node.address)).await.unwrap();
    let mut request = WriteRequest { scope: single.scope(0), op: WriteOp::Hello }.to_wire(7);
    request.op = Some(wire::write_request::Op::Add(wire::Add {
        first_entry: 0,
        entries: vec![Bytes::from(vec![0; caps::MAX_INTERNAL_MESSAGE_BYTES + 1])],
        lac: -1,
    }));
    let messages = tokio_stream::iter([wire::WriteRequests { requests: vec![request] }]);
    let mut replies = client.write(messages).await.unwrap().into_inner();
    let status = replies.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status:?}");
    assert!(replies.next().await.is_none());
    assert_eq!(single.ask(0, WriteOp::Hello).await.code, Code::Ok);
}

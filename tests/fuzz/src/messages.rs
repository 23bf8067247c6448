//! The bookie protocol between processes: from bytes to messages to validated requests and replies.

use std::time::Duration;

use bytes::Bytes;
use geminga_proto::bookie::{
    Adds, Code, LocalLedger, MAX_INVENTORY, QueryOp, QueryReply, QueryRequest, Scope, WriteOp,
    WriteReply, WriteRequest,
};
use geminga_proto::ids::{ClusterUuid, EntryId, Incarnation, LedgerId, SealEpoch};
use geminga_proto::internal as wire;
use prost::Message;

use crate::Target;
use crate::entries;

/// A write.
pub(crate) const WRITE_REQUEST: Target =
    Target { name: "write_request", run: write_request, seeds: write_requests };
/// Its answer.
pub(crate) const WRITE_REPLY: Target =
    Target { name: "write_reply", run: write_reply, seeds: write_replies };
/// A query.
pub(crate) const QUERY_REQUEST: Target =
    Target { name: "query_request", run: query_request, seeds: query_requests };
/// Its answer.
pub(crate) const QUERY_REPLY: Target =
    Target { name: "query_reply", run: query_reply, seeds: query_replies };
/// What a bookie says of a ledger in an inventory.
pub(crate) const LOCAL_LEDGER: Target =
    Target { name: "local_ledger", run: local_ledger, seeds: local_ledgers };

fn scope() -> Scope {
    Scope {
        cluster: ClusterUuid::from_random(1),
        ledger: LedgerId(7),
        fragment_first: EntryId(0),
        epoch: SealEpoch(0),
        incarnation: Incarnation(9),
    }
}

fn write_requests() -> Vec<Bytes> {
    let entries = vec![entries::valid(b"one")];
    let ops = [
        WriteOp::Hello,
        WriteOp::Add { first: EntryId(3), entries: entries.clone(), lac: EntryId(2) },
        WriteOp::RecoveryAdd { first: EntryId(3), entries: entries.clone() },
        WriteOp::RepairAdd { first: EntryId(3), entries },
        WriteOp::Tail,
        WriteOp::Seal,
        WriteOp::AdvanceLac(EntryId(2)),
        WriteOp::Closed(EntryId(3)),
    ];
    let encode = |op| WriteRequest { scope: scope(), op }.to_wire(5).encode_to_vec().into();
    ops.into_iter().map(encode).collect()
}

fn write_request(bytes: &[u8]) {
    let Ok(message) = wire::WriteRequest::decode(bytes) else { return };
    let Ok((id, request)) = WriteRequest::from_wire(message) else { return };
    let again = WriteRequest::from_wire(request.clone().to_wire(id)).expect("it was one");
    assert_eq!(again, (id, request));
}

fn query_requests() -> Vec<Bytes> {
    let ops = [
        QueryOp::Read { from: EntryId(0), to: EntryId(9), max_bytes: 100, prefix_bytes: Some(61) },
        QueryOp::WaitLac { after: EntryId(3), deadline_ms: 30_000 },
        QueryOp::Inventory { after: None, max_ledgers: 1 },
        QueryOp::Inventory { after: Some(LedgerId(7)), max_ledgers: MAX_INVENTORY },
    ];
    let encode = |op| QueryRequest { scope: scope(), op }.to_wire(5).encode_to_vec().into();
    ops.into_iter().map(encode).collect()
}

fn query_request(bytes: &[u8]) {
    let Ok(message) = wire::QueryRequest::decode(bytes) else { return };
    let Ok((id, request)) = QueryRequest::from_wire(message) else { return };
    let again = QueryRequest::from_wire(request.clone().to_wire(id)).expect("it was one");
    assert_eq!(again, (id, request));
}

fn write_replies() -> Vec<Bytes> {
    let refusal = WriteReply::refusal(Code::OutOfOrder, "after 3");
    let ok = WriteReply { durable_tail: EntryId(3), ..WriteReply::refusal(Code::Ok, "") };
    [refusal, ok].map(|reply| reply.to_wire(5).encode_to_vec().into()).to_vec()
}

fn write_reply(bytes: &[u8]) {
    let Ok(message) = wire::WriteReply::decode(bytes) else { return };
    let (id, reply) = WriteReply::from_wire(message);
    assert_eq!(WriteReply::from_wire(reply.clone().to_wire(id)), (id, reply));
}

fn query_replies() -> Vec<Bytes> {
    let refusal = QueryReply::refusal(Code::Limbo, "lost");
    let ok = QueryReply {
        entries: vec![entries::valid(b"one"), entries::valid(b"two")],
        adds: Some(Adds { count: 7, most: Duration::from_micros(1_500) }),
        ..QueryReply::refusal(Code::Ok, "")
    };
    [refusal, ok].map(|reply| reply.to_wire(5).encode_to_vec().into()).to_vec()
}

fn query_reply(bytes: &[u8]) {
    let Ok(message) = wire::QueryReply::decode(bytes) else { return };
    let (id, reply) = QueryReply::from_wire(message);
    assert_eq!(QueryReply::from_wire(reply.clone().to_wire(id)), (id, reply));
}

fn local_ledgers() -> Vec<Bytes> {
    let whole = LocalLedger {
        ledger: LedgerId(7),
        sealed_epoch: SealEpoch(2),
        closed: Some(EntryId(9)),
        max_lac: EntryId(8),
        runs: vec![(EntryId(0), EntryId(3)), (EntryId(5), EntryId(9))],
        trimmed: None,
        bytes: 4096,
    };
    let empty = LocalLedger {
        closed: None,
        max_lac: EntryId::NONE,
        runs: Vec::new(),
        trimmed: Some(5),
        ..whole.clone()
    };
    vec![whole.encode(), empty.encode()]
}

fn local_ledger(bytes: &[u8]) {
    let Ok(ledger) = LocalLedger::decode(bytes) else { return };
    let mut runs = ledger.runs.iter().zip(ledger.runs.iter().skip(1));
    assert!(runs.all(|(one, next)| one.1 < next.0), "they are sorted");
    assert_eq!(LocalLedger::decode(&ledger.encode()), Ok(ledger));
}

//! What is checked about a write before its ledger's owner sees it: that it is for this bookie, and that its entries are
//! whole and the ones it names (D1). Whatever is acknowledged is good, so nothing else gets in. Pure.

use bytes::Bytes;
use geminga_proto::bookie::{Code, Scope, WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{ClusterUuid, EntryId};
use geminga_proto::{caps, entry};

/// What a frame needs beside entries, generously.
const FRAME_ROOM: usize = 4096;
/// What an entry needs in a frame beside its bytes.
const ENTRY_ROOM: usize = 8;

/// Bytes that a request's entries take in the log, at most.
pub(super) fn log_bytes(entries: &[Bytes]) -> usize {
    entries.iter().map(|bytes| bytes.len() + ENTRY_ROOM).sum::<usize>() + FRAME_ROOM
}

/// Checks the entries of a write.
///
/// # Errors
/// The refusal to send.
pub(super) fn verify(cluster: ClusterUuid, request: &WriteRequest) -> Result<(), WriteReply> {
    let (WriteOp::Add { first, entries, .. }
    | WriteOp::RecoveryAdd { first, entries }
    | WriteOp::RepairAdd { first, entries }) = &request.op
    else {
        return Ok(());
    };
    if log_bytes(entries) > caps::MAX_FRAME_BYTES {
        return Err(WriteReply::refusal(Code::Invalid, "more entries than one request may carry"));
    }
    let ids = (first.0..).map(EntryId);
    for (id, bytes) in ids.zip(entries) {
        verify_entry(cluster, &request.scope, id, bytes)?;
    }
    Ok(())
}

fn verify_entry(
    cluster: ClusterUuid,
    scope: &Scope,
    id: EntryId,
    bytes: &Bytes,
) -> Result<(), WriteReply> {
    let error = match entry::decode_expecting(cluster, scope.ledger, id, bytes) {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let code = match error {
        entry::Error::Digest | entry::Error::Truncated { .. } => Code::Corrupt,
        entry::Error::Unknown { .. }
        | entry::Error::Misdirected { .. }
        | entry::Error::TooLarge(_) => Code::Invalid,
    };
    Err(WriteReply::refusal(code, format!("entry {id}: {error}")))
}

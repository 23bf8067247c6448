//! What producers send: numbered, so that every one can be found again in the ledgers, and of varying size.

use bytes::{BufMut, Bytes, BytesMut};
use geminga_proto::entry::{self, Attributes, Kind, Position};

use crate::context::cluster;

/// One record of one producer session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Payload {
    /// Each claim of the partition is one: its records keep their order.
    pub(crate) session: u64,
    /// Unique over all sessions, rising within one.
    pub(crate) number: u64,
    /// Size, at least 16.
    pub(crate) bytes: u64,
}

impl Payload {
    /// As an entry.
    pub(crate) fn encode(&self, position: Position) -> Bytes {
        let size = usize::try_from(self.bytes).expect("a payload fits in memory");
        let mut payload = BytesMut::with_capacity(size);
        payload.put_u64(self.session);
        payload.put_u64(self.number);
        payload.resize(size.max(16), self.number.to_le_bytes()[0]);
        let attributes = Attributes {
            kind: Kind::Batches,
            first_offset: 0,
            offset_count: 1,
            max_timestamp: -1,
            running_max_timestamp: -1,
            last_snapshot_entry: entry::NO_SNAPSHOT,
        };
        entry::encode(cluster(), position, attributes, &payload.freeze().into())
            .expect("a small entry is below the limit")
    }
}

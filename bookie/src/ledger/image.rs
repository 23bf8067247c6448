//! A ledger's state as bytes, for snapshots of a disk's table (protocol 5.5). Big-endian:
//!
//! ```text
//! u64 ledger | u8 flags (1 known, 2 closed, 4 trimmed, 8 given up) | u32 sealed_epoch | i64 last, if closed | i64 max_lac
//! | u32 runs, runs × (i64 first, i64 last) | [16] attempt, only if trimmed
//! ```
//!
//! Deleted ledgers are not in it: they are [`Tombstones`](super::Tombstones).

use bytes::{Buf, BufMut};
use geminga_proto::ids::{EntryId, LedgerId, SealEpoch};

use super::LedgerState;
use super::ranges::Ranges;

const KNOWN: u8 = 1;
const CLOSED: u8 = 2;
const TRIMMED: u8 = 4;
const GIVEN_UP: u8 = 8;
/// Bytes without runs.
const FIXED_BYTES: usize = 8 + 1 + 4 + 8 + 8 + 4;

impl LedgerState {
    /// Appends its bytes.
    pub(crate) fn encode(&self, bytes: &mut impl BufMut) {
        bytes.put_u64(self.id().0);
        let closed = if self.closed().is_some() { CLOSED } else { 0 };
        let trimmed = if self.trimmed().is_some() { TRIMMED } else { 0 };
        let given_up = if self.is_given_up() { GIVEN_UP } else { 0 };
        bytes.put_u8(given_up | trimmed | if self.is_known() { KNOWN | closed } else { closed });
        bytes.put_u32(self.sealed_epoch().0);
        bytes.put_i64(self.closed().map_or(0, |last| last.0));
        bytes.put_i64(self.max_lac().0);
        let runs = self.held().runs();
        bytes.put_u32(u32::try_from(runs.len()).expect("fewer runs than fragments"));
        for (first, last) in runs {
            bytes.put_i64(first.0);
            bytes.put_i64(last.0);
        }
        if let Some(attempt) = self.trimmed() {
            bytes.put_u128(attempt);
        }
    }

    /// Takes one off the front of `bytes`; `None` when they are no state.
    pub(crate) fn decode(bytes: &mut impl Buf) -> Option<Self> {
        if bytes.remaining() < FIXED_BYTES {
            return None;
        }
        let (id, flags) = (LedgerId(bytes.get_u64()), bytes.get_u8());
        let sealed_epoch = SealEpoch(bytes.get_u32());
        let last = EntryId(bytes.get_i64());
        let closed = (flags & CLOSED != 0).then_some(last);
        let max_lac = EntryId(bytes.get_i64());
        let count = bytes.get_u32();
        let mut held = Ranges::default();
        let mut end = EntryId(-2);
        for _ in 0..count {
            let first = EntryId(bytes.try_get_i64().ok()?);
            let last = EntryId(bytes.try_get_i64().ok()?);
            // Sorted, separated, and far from the ends of the numbers.
            if first.0 < 0 || last < first || last.0 == i64::MAX || first <= end.next() {
                return None;
            }
            held.insert(first, last);
            end = last;
        }
        let known = flags & KNOWN != 0;
        let trimmed = match flags & TRIMMED {
            0 => None,
            _ => Some(bytes.try_get_u128().ok()?),
        };
        let state = Self::restored(id, known, sealed_epoch, closed, trimmed, max_lac, held);
        Some(if flags & GIVEN_UP == 0 { state } else { state.given_up_before() })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ledger::Record;

    #[test]
    fn a_state_comes_back() {
        let mut state = LedgerState::unknown(LedgerId(9));
        let entries = |first, count| Record::Entries {
            fragment_first: EntryId(0),
            first: EntryId(first),
            entries: vec![Bytes::new(); count],
            lac: EntryId(first),
        };
        let records = [
            Record::RunStart { fragment_first: EntryId(0) },
            entries(0, 3),
            entries(7, 2),
            Record::Seal { epoch: SealEpoch(4) },
            Record::Closed { last: EntryId(8) },
            Record::GivenUp,
            entries(0, 4),
            Record::Trimmed { attempt: u128::MAX - 1 },
        ];
        for record in &records {
            state.apply(record);
            let mut bytes = Vec::new();
            state.encode(&mut bytes);
            assert_eq!(LedgerState::decode(&mut &bytes[..]), Some(state.clone()));
            for cut in 0..bytes.len() {
                assert_eq!(LedgerState::decode(&mut &bytes[..cut]), None);
            }
        }
    }
}

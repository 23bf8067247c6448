//! The snapshot of a topic partition (P4): what its owner must know besides the batches themselves, which is its idempotent
//! producers. Big-endian; persisted, keep stable. Each part stands for itself.
//!
//! ```text
//!   u16 format = 2 | u16 reserved | u32 producers, then of each, who appended longest ago first:
//!      i64 id | i16 epoch | u16 batches | i64 appended_ms, then of each batch, the oldest first:
//!         i32 number of its first record | u32 records | i64 base offset | i64 max_timestamp
//! ```
//!
//! Format 1 is that number alone: no producers. It is written where there are none, so that a release from before there were any
//! can still take such a partition over. `appended_ms` is milliseconds since the Unix epoch, by the clock of whoever wrote the
//! snapshot; a reader believes it no further than [`PROTECTED_MS`].

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use geminga_proto::caps;
use geminga_proto::ids::Offset;

use super::producers::{Kept, PROTECTED_MS, Producer, Producers};

const FORMAT_EMPTY: u16 = 1;
const FORMAT: u16 = 2;
/// A snapshot without producers.
const EMPTY: [u8; 2] = FORMAT_EMPTY.to_be_bytes();
const HEADER_BYTES: usize = 8;
const PRODUCER_BYTES: usize = 20;
const BATCH_BYTES: usize = 24;
/// Producers of one part, which is then below half a MiB: a takeover decodes one part at a time.
const PART_PRODUCERS: usize = 3_000;

/// Why a stored snapshot cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    /// Of a later release.
    #[error("producer state has format {0}, this broker knows {FORMAT}: upgrade it")]
    Newer(u16),
    /// Not a snapshot.
    #[error("producer state is {0} bytes long and does not decode")]
    Malformed(usize),
}

/// The committed state as a snapshot's parts. `opened_ms`: when the opening began, by the wall clock as it is now, milliseconds
/// since the Unix epoch.
pub(super) fn encode(producers: &Producers, opened_ms: i64) -> Vec<Bytes> {
    let all: Vec<(i64, &Producer)> = producers.committed().collect();
    if all.is_empty() {
        return vec![Bytes::from_static(&EMPTY)];
    }
    all.chunks(PART_PRODUCERS).map(|producers| part(producers, opened_ms)).collect()
}

fn part(producers: &[(i64, &Producer)], opened_ms: i64) -> Bytes {
    let bytes = producers.len() * (PRODUCER_BYTES + caps::PRODUCER_BATCHES * BATCH_BYTES);
    let mut out = BytesMut::with_capacity(HEADER_BYTES + bytes);
    out.put_u16(FORMAT);
    out.put_u16(0);
    out.put_u32(u32::try_from(producers.len()).expect("a part holds few"));
    for (id, producer) in producers {
        out.put_i64(*id);
        out.put_i16(producer.epoch);
        out.put_u16(u16::try_from(producer.batches.len()).expect("a producer has few"));
        out.put_i64(producer.appended_ms.saturating_add(opened_ms));
        for kept in &producer.batches {
            out.put_i32(kept.first);
            out.put_u32(kept.count);
            out.put_i64(kept.base_offset.0);
            out.put_i64(kept.max_timestamp);
        }
    }
    out.freeze()
}

/// Adds what one part that was read back holds. `opened_ms`: when the opening that reads it began, as for [`encode`].
///
/// # Errors
/// [`Error`].
pub(super) fn decode(part: &[u8], producers: &mut Producers, opened_ms: i64) -> Result<(), Error> {
    let malformed = Error::Malformed(part.len());
    let Some((format, mut rest)) = part.split_first_chunk() else { return Err(malformed) };
    match u16::from_be_bytes(*format) {
        FORMAT_EMPTY if rest.is_empty() => return Ok(()),
        FORMAT => {}
        0 | FORMAT_EMPTY => return Err(malformed),
        newer => return Err(Error::Newer(newer)),
    }
    if rest.len() < HEADER_BYTES - 2 {
        return Err(malformed);
    }
    let _reserved = rest.get_u16();
    for _ in 0..rest.get_u32() {
        let (id, producer) = take_producer(&mut rest, opened_ms).ok_or(malformed)?;
        producers.restore(id, producer);
    }
    if rest.is_empty() { Ok(()) } else { Err(malformed) }
}

fn take_producer(rest: &mut &[u8], opened_ms: i64) -> Option<(i64, Producer)> {
    if rest.len() < PRODUCER_BYTES {
        return None;
    }
    let (id, epoch, batches) = (rest.get_i64(), rest.get_i16(), usize::from(rest.get_u16()));
    let appended_ms = rest.get_i64().saturating_sub(opened_ms).clamp(-PROTECTED_MS, 0);
    if batches == 0 || batches > caps::PRODUCER_BATCHES || rest.len() < batches * BATCH_BYTES {
        return None;
    }
    let mut kept = VecDeque::with_capacity(batches);
    for _ in 0..batches {
        let (first, count) = (rest.get_i32(), rest.get_u32());
        let (base_offset, max_timestamp) = (Offset(rest.get_i64()), rest.get_i64());
        kept.push_back(Kept { first, count, base_offset, max_timestamp, dated: false });
    }
    Some((id, Producer { epoch, appended_ms, batches: kept }))
}

#[cfg(test)]
mod tests {
    use geminga_records::Sequence;
    use proptest::prelude::*;

    use super::*;
    use crate::partition::producers::Stamp;

    /// When the one who reads opened.
    const OPENED: i64 = 2_000;

    fn state(producers: i64) -> Producers {
        let mut state = Producers::default();
        let mut offset = 100;
        for (batch, id) in (0..7).flat_map(|batch| (1..=producers).map(move |id| (batch, id))) {
            let sequence = Sequence { producer_id: id, epoch: 2, first: batch * 3 };
            let stamp = Stamp { sequence, count: 3, attributes: 0, max_timestamp: 50 };
            state.append(&stamp, Offset(offset), 1_000 + i64::from(batch));
            offset += 3;
        }
        state
    }

    fn decoded(parts: &[Bytes]) -> Result<Vec<(i64, Producer)>, Error> {
        let mut state = Producers::default();
        parts.iter().try_for_each(|part| decode(part, &mut state, OPENED))?;
        Ok(state.committed().map(|(id, producer)| (id, producer.clone())).collect())
    }

    #[test]
    fn golden_format_1() {
        let golden = Bytes::from_static(&[0, 1]);
        let written = encode(&Producers::default(), 7);
        assert_eq!(written, [&golden[..]], "older releases read it");
        assert_eq!(decoded(&[golden]), Ok(Vec::new()));
    }

    #[test]
    fn golden_format_2() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let none = Bytes::from_static(&[0, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decoded(&[none]), Ok(Vec::new()), "as it was written at first");
        let parts = encode(&state(1), 0);
        assert_eq!(parts.len(), 1);
        let golden = "0002000000000001000000000000000100020005\
                      00000000000003ee\
                      0000000600000003000000000000006a0000000000000032\
                      0000000900000003000000000000006d0000000000000032\
                      0000000c0000000300000000000000700000000000000032\
                      0000000f0000000300000000000000730000000000000032\
                      000000120000000300000000000000760000000000000032";
        assert_eq!(hex(&parts[0]), golden);
    }

    /// Also in several parts; with what comes after it is as if there had been no snapshot.
    #[test]
    fn what_was_encoded_is_decoded() {
        for producers in [0, 1, 7_000] {
            let state = state(producers);
            let parts = encode(&state, 0);
            assert_eq!(parts.len(), usize::try_from(producers).unwrap().div_ceil(3_000).max(1));
            assert!(parts.iter().all(|part| part.len() < 512 * 1024));
            let dated =
                |p: &Producer| Producer { appended_ms: p.appended_ms - OPENED, ..p.clone() };
            let expected: Vec<_> = state.committed().map(|(id, p)| (id, dated(p))).collect();
            assert_eq!(decoded(&parts), Ok(expected));
        }
    }

    /// A date decides no more than who makes room, whatever clock it came from.
    #[test]
    fn dates_are_believed_for_five_minutes() {
        let at = |opened_ms| {
            let mut state = Producers::default();
            let parts = encode(&super::tests::state(1), 0);
            parts.iter().try_for_each(|part| decode(part, &mut state, opened_ms)).unwrap();
            state.committed().next().unwrap().1.appended_ms
        };
        assert_eq!((at(1_006), at(2_006), at(0)), (0, -1_000, 0));
        assert_eq!((at(i64::MAX), at(i64::MIN)), (-PROTECTED_MS, 0));
    }

    #[test]
    fn other_bytes_are_refused() {
        assert_eq!(decoded(&[Bytes::from_static(&[0, 3, 9, 9])]), Err(Error::Newer(3)));
        let good = encode(&state(2), 0).remove(0);
        let longer = Bytes::from([&good[..], &[0]].concat());
        let mut empty = good.to_vec();
        empty[19] = 0;
        let cut = good.slice(..good.len() - 1);
        for bad in [Bytes::new(), good.slice(..1), good.slice(..4), cut, longer, empty.into()] {
            let len = bad.len();
            assert_eq!(decoded(&[bad]), Err(Error::Malformed(len)));
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..200), format: bool) {
            let _ = decoded(&[Bytes::from(noise.clone())]);
            let _ = decoded(&[Bytes::from([&[0, 1 + u8::from(format)][..], &noise].concat())]);
        }
    }
}

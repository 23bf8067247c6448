//! Decoders of the project under bytes that nobody meant to send: what comes from a disk, the metadata store or a backup of it, an
//! object store, a broker's log, a bookie, or a Kafka client is either understood or refused, and never panics or takes memory that
//! its length does not explain.
//!
//! Not here: messages of gRPC clients and between brokers, which prost decodes and services check field by field, what consumers
//! of a group tell each other, which has a property test beside it, and the checkpoint of `geminga migrate`.
//!
//! * [`TARGETS`]: one for each of these decoders. Each states what must hold of what it accepts.
//! * [`mutate`]: changes valid bytes a little, for the ordinary test (`tests/corpus.rs`), which also runs the files in
//!   `corpus/`: what once broke something stays there.
//! * `libfuzzer/`: the same targets for `cargo fuzz`, which follows coverage.

mod backup;
mod entries;
mod kafka;
mod messages;
mod metadata;
mod objects;
mod records;
mod state;
mod storage;
mod tiering;

use bytes::Bytes;
use geminga_runtime::Random;

/// A decoder and where to start from.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// As in the names of `corpus/` and of `cargo fuzz`.
    pub name: &'static str,
    /// Feeds it.
    ///
    /// # Panics
    /// When it breaks a promise; that is what is looked for.
    pub run: fn(&[u8]),
    /// Valid inputs.
    pub seeds: fn() -> Vec<Bytes>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    entries::ENTRY,
    entries::PREFIX,
    records::BATCH,
    records::PAYLOAD,
    messages::WRITE_REQUEST,
    messages::WRITE_REPLY,
    messages::QUERY_REQUEST,
    messages::QUERY_REPLY,
    messages::LOCAL_LEDGER,
    kafka::REQUEST,
    kafka::MADE,
    metadata::METADATA,
    backup::BACKUP,
    state::COMMAND,
    state::GROUPS,
    state::PLACE,
    state::PRODUCERS,
    state::INDEX,
    storage::COOKIE,
    storage::HEADER,
    storage::FRAME,
    storage::FOOTER,
    storage::SNAPSHOT,
    tiering::MANIFEST,
    tiering::MARKER,
    objects::HEADER,
    objects::FOOTER,
    objects::INDEX,
    objects::BLOCK,
];

/// The target of this name.
///
/// # Panics
/// When there is none.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a name of TARGETS")
}

/// A changed copy: bits flipped, bytes set to telling values, pieces cut, doubled, moved, or put in.
pub fn mutate(bytes: &[u8], random: &dyn Random) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=random.below(4) {
        let at = place(random, bytes.len());
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][place(random, 4)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, u8::try_from(random.below(256)).unwrap_or(0)),
            4 => {
                let end = (at + place(random, 16)).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let end = (at + place(random, 64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = place(random, bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                // A length field that lies.
                let lie = random.next_u64().to_le_bytes();
                for (byte, lie) in bytes.iter_mut().skip(at).zip(lie).take(4) {
                    *byte = lie;
                }
            }
        }
    }
    bytes
}

/// From 0 to `end`, that included.
fn place(random: &dyn Random, end: usize) -> usize {
    usize::try_from(random.below(end as u64 + 1)).unwrap_or(end)
}

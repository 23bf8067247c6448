//! What a frame of a Kafka client claims is no reason to allocate: a client that may not even have said who it is costs next to nothing.
//! Nor is what an object claims, whoever put it into the store.

use bytes::{BufMut, Bytes};
use geminga_proto::ids::EntryId;
use geminga_serving::kafka;
use geminga_tier::format::{Block, Placed};

/// More may not be allocated at any time.
const MOST_BYTES: u64 = 1 << 20;

/// A frame without its length, of a client that has no name.
fn frame(key: u8, version: u8, body: &[u8]) -> Bytes {
    [&[0, key, 0, version, 0, 0, 0, 1, 255, 255][..], body].concat().into()
}

/// How many bytes were allocated at one time to find out that a frame is no request.
fn cost(frame: &Bytes) -> u64 {
    let look = || assert!(!kafka::understands(frame.clone()), "{frame:?} is a request");
    allocation_counter::measure(look).bytes_max
}

#[test]
fn sixteen_million_topics_in_twelve_bytes_cost_nothing() {
    let produce = frame(0, 3, &[255, 255, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0]);
    assert!(cost(&produce) < MOST_BYTES);
    let metadata = frame(3, 1, &[0x7f, 255, 255, 255]);
    assert!(cost(&metadata) < MOST_BYTES);
}

/// Wherever a length may stand, in plain and in compact form.
#[test]
fn no_claim_is_believed_before_its_bytes_are_there() {
    for (key, version) in (0..=75).flat_map(|key| (0..=17).map(move |version| (key, version))) {
        for at in 0..24 {
            for claim in [&[0, 255, 255, 255][..], &[0x7f, 255, 255, 255], &[255, 255, 255, 127]] {
                let body = [&vec![0; at][..], claim].concat();
                let frame = frame(key, version, &body);
                let look = || kafka::understands(frame.clone());
                let mut understood = false;
                let cost = allocation_counter::measure(|| understood = look());
                assert!(understood || cost.bytes_max < MOST_BYTES, "{frame:?}: {cost:?}");
            }
        }
    }
}

/// By the index and by the block's own head, with checksums that fit.
#[test]
fn four_billion_entries_in_a_block_cost_nothing() {
    let mut covered = Vec::new();
    covered.put_i64(0);
    covered.put_u32(u32::MAX);
    covered.put_u32(0);
    covered.put_u32(4);
    covered.put_u32(0);
    let head = [&b"GmgB"[..], &crc32c::crc32c(&covered).to_be_bytes()].concat();
    let block = Bytes::from([head, covered].concat());
    let placed = Placed {
        first_entry: EntryId(0),
        first_offset: 0,
        place: 0,
        length: u32::try_from(block.len()).unwrap(),
        count: u32::MAX,
        running_max_timestamp: 0,
    };
    let mut refused = None;
    let cost = allocation_counter::measure(|| refused = Block::decode(&block, &placed).err());
    assert!(refused.unwrap().to_string().contains("the number of its entries"));
    assert!(cost.bytes_max < MOST_BYTES, "{cost:?}");
}

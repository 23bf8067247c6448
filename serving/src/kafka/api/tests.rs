//! The table is sound and its page is current.

mod advertised;
mod cluster;
mod configs;
mod every;
mod fetch;
mod partitions;
mod rooms;
mod topics;

use super::*;
use crate::kafka::codec::messages::API_DESCRIPTORS;

#[test]
fn the_table_is_sorted_and_within_what_the_codec_speaks() {
    assert!(TABLE.is_sorted_by(|a, b| a.key < b.key));
    for api in TABLE {
        let codec = API_DESCRIPTORS
            .iter()
            .find(|descriptor| descriptor.request.api_key.value() == api.key)
            .expect("the codec has it");
        let spoken = codec.request.supported_versions;
        assert!(api.min >= spoken.min().value() && api.max <= spoken.max().value(), "{}", api.name);
        assert!(api.advertised <= api.min && api.min <= api.max, "{}", api.name);
        assert!(!api.note.contains('|'), "{}", api.name);
    }
}

/// A Produce that is advertised from a later version makes older clients turn compression off.
#[test]
fn produce_is_advertised_from_0() {
    assert_eq!(find(0).map(|api| api.advertised), Some(0));
}

#[test]
fn the_page_says_what_the_table_says() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/kafka-compatibility.md");
    let document = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page, &document).unwrap();
    }
    let current = std::fs::read_to_string(page).unwrap_or_default();
    assert!(
        document == current,
        "run UPDATE_DOCS=1 cargo test -p geminga-serving --lib kafka::api"
    );
}

/// What clients are told of a coordinator that does not answer, where Kafka's word for it would end them or make them do more than
/// they need to (docs/kafka-findings.md).
#[test]
fn a_coordinator_that_does_not_answer_is_said_as_clients_expect_it() {
    use crate::groups::local::Refused;
    use crate::kafka::error::{Code, Fault};
    let elsewhere = || Refused::NotCoordinator {
        broker: geminga_proto::ids::BrokerId(2),
        address: String::new(),
    };
    let rows = [
        // Whose answer: heartbeat, sync, fetch of offsets, any other.
        (Refused::Loading, [0, 27, 14, 14]),
        (Refused::Busy, [14, 27, 14, 14]),
        (Refused::Unproved, [15, 15, 16, 15]),
        (Refused::Nobody, [15, 15, 16, 15]),
        (Refused::Damaged(String::new()), [15, 15, 16, 15]),
        (Refused::Moved, [16, 16, 16, 16]),
        (elsewhere(), [16, 16, 16, 16]),
    ];
    for (refused, expected) in rows {
        let codes = [
            heartbeat::code_of(refused.clone()),
            sync_group::code_of(refused.clone()),
            offset_fetch::code_of(refused.clone()),
            Fault::from(refused.clone()).code,
        ];
        assert_eq!(codes, expected.map(Code), "{refused:?}");
    }
}

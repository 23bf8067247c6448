//! The table is sound and its page is current.

mod cluster;
mod configs;
mod fetch;
mod partitions;
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

//! The table is sound, its page is current, and each state refuses what it should.

use super::*;

fn reason(name: &str, value: &str) -> Option<Reason> {
    check(name, value).err().map(|e| {
        assert!(e.message.contains(name) && !e.message.contains('\n'), "{}", e.message);
        e.reason
    })
}

#[test]
fn the_table_is_sorted_and_its_defaults_are_accepted() {
    assert!(TABLE.is_sorted_by(|a, b| a.name < b.name));
    for config in TABLE {
        assert_eq!(check(config.name, config.default), Ok(()), "{}", config.name);
        assert_eq!(
            config.effect == Effect::Refused,
            !config.accepted.is_empty(),
            "{}",
            config.name
        );
    }
}

#[test]
fn settings_that_cannot_be_honoured_are_refused_by_name() {
    let bad = Some(Reason::InvalidConfig);
    assert_eq!(reason("no.such.config", "1"), bad);
    assert_eq!(reason("max.message.bytes", "0"), bad);
    assert_eq!(reason("max.message.bytes", "16777217"), bad);
    assert_eq!(reason("max.message.bytes", "many"), bad);
    assert_eq!(reason("retention.ms", "1000"), None);
    assert_eq!(reason("retention.ms", "-1"), None);
    assert_eq!(reason("retention.ms", "-2"), bad);
    assert_eq!(reason("local.retention.ms", "1000"), None);
    assert_eq!(reason("remote.log.delete.on.disable", "true"), bad);
    assert_eq!(reason("cleanup.policy", "compact"), None);
    assert_eq!(reason("cleanup.policy", "compact,delete"), bad);
    assert_eq!(reason("unclean.leader.election.enable", "true"), bad);
    assert_eq!(reason("min.insync.replicas", "2"), None);
    assert_eq!(reason("min.cleanable.dirty.ratio", "NaN"), bad);
    assert_eq!(reason("segment.bytes", &format!("{}100000", "0".repeat(1 << 20))), bad);
    assert_eq!(reason("follower.replication.throttled.replicas", &"x".repeat(2000)), bad);
}

#[test]
fn settings_fall_back_to_the_defaults() {
    let mut configs = BTreeMap::new();
    let settings = Settings::from_configs(&configs);
    assert_eq!(settings.max_message_bytes, caps::DEFAULT_MAX_MESSAGE_BYTES);
    assert_eq!((settings.segment_bytes, settings.segment_ms), (1 << 30, 604_800_000));
    configs.insert(SEGMENT_BYTES.to_owned(), "100000".to_owned());
    configs.insert(SEGMENT_MS.to_owned(), "from the future".to_owned());
    let settings = Settings::from_configs(&configs);
    assert_eq!((settings.segment_bytes, settings.segment_ms), (100_000, 604_800_000));
}

#[test]
fn only_delete_deletes() {
    let limits = |configs: &[(&str, &str)]| {
        let configs = configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let settings = Settings::from_configs(&configs);
        (settings.retention_ms, settings.retention_bytes)
    };
    assert_eq!(limits(&[]), (None, None));
    let both = [(RETENTION_MS, "5"), (RETENTION_BYTES, "0")];
    assert_eq!(limits(&both), (Some(5), Some(0)));
    assert_eq!(limits(&[(RETENTION_MS, "-1"), (RETENTION_BYTES, "7")]), (None, Some(7)));
    let compact = (CLEANUP_POLICY, "compact");
    assert_eq!(limits(&[compact, both[0], both[1]]), (None, None));
}

#[test]
fn the_page_is_current() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/topic-configs.md");
    let document = document();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &document).unwrap();
    }
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        page == document,
        "run UPDATE_DOCS=1 cargo test -p geminga-serving --lib topics::config"
    );
}

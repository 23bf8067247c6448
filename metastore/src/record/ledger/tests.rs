use super::*;

fn member(name: &str) -> Member {
    Member { bookie: name.parse().unwrap(), incarnation: Incarnation(7) }
}

fn open() -> LedgerMeta {
    LedgerMeta {
        id: LedgerId(5),
        state: LedgerState::Open,
        seal_epoch: SealEpoch(0),
        qw: 2,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: vec![
            Fragment { first_entry: EntryId(0), ensemble: vec![member("a"), member("b")] },
            Fragment { first_entry: EntryId(10), ensemble: vec![member("a"), member("c")] },
        ],
        last_entry: None,
        length: 0,
        entries_crc: None,
        tier: Tier::Local,
        close_kind: None,
        recoverer: String::new(),
        last_op: 9,
        custom: Custom { name: "flights".to_owned(), ..Custom::default() },
        created_ms: 1,
        owner: "1".to_owned(),
        degraded: false,
    }
}

#[test]
fn what_was_encoded_is_decoded() {
    let mut meta = open();
    assert_eq!(LedgerMeta::decode(meta.id, &meta.encode()), Ok(meta.clone()));
    meta.state = LedgerState::Closed;
    meta.last_entry = Some(EntryId(12));
    meta.length = 100;
    meta.entries_crc = Some(3);
    for kind in [
        CloseKind::Writer,
        CloseKind::Recovered,
        CloseKind::ForcedWithRisk { missing: vec![member("a"), member("b")] },
    ] {
        meta.close_kind = Some(kind);
        assert_eq!(LedgerMeta::decode(meta.id, &meta.encode()), Ok(meta.clone()));
    }
}

#[test]
fn a_value_under_another_key_is_refused() {
    let meta = open();
    assert!(LedgerMeta::decode(LedgerId(6), &meta.encode()).is_err());
}

#[test]
fn entries_belong_to_the_fragment_that_starts_at_or_before_them() {
    let meta = open();
    for (entry, first) in [(0, 0), (9, 0), (10, 10), (999, 10)] {
        assert_eq!(meta.fragment_of(EntryId(entry)).first_entry, EntryId(first));
    }
    assert_eq!(meta.fragment_end(0), Some(EntryId(9)));
    assert_eq!(meta.fragment_end(1), None);
}

#[test]
fn broken_values_are_refused() {
    let breaks: [fn(&mut LedgerMeta); 7] = [
        |m| m.qa = 3,
        |m| m.qw = 0,
        |m| m.fragments.clear(),
        |m| m.fragments[0].first_entry = EntryId(1),
        |m| m.fragments[1].first_entry = EntryId(0),
        |m| m.fragments[0].ensemble[1] = member("a"),
        |m| m.state = LedgerState::Closed,
    ];
    for (i, break_it) in breaks.iter().enumerate() {
        let mut meta = open();
        break_it(&mut meta);
        assert!(LedgerMeta::decode(meta.id, &meta.encode()).is_err(), "break {i}");
    }
}

use metrics_exporter_prometheus::PrometheusBuilder;

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

/// Refused with its own type, and counted: whoever writes such values, or a newer version, is seen in the metrics.
#[test]
fn what_is_refused_is_counted() {
    let good = open();
    let mut newer = good.encode().to_vec();
    // The format is the first field.
    newer[..2].copy_from_slice(&[0x08, 99]);
    let fragment = |n: i64| Fragment { first_entry: EntryId(n), ..good.fragments[0].clone() };
    let with = |fragments: i64| {
        LedgerMeta { fragments: (0..fragments).map(fragment).collect(), ..good.clone() }.encode()
    };
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        assert!(LedgerMeta::decode(good.id, &with(64)).is_ok(), "as many as there may be");
        assert_eq!(recorder.handle().render(), "", "nothing is wrong with it");
        assert_eq!(LedgerMeta::decode(good.id, &newer), Err(Invalid::Format(99)));
        for _ in 0..2 {
            let refused = LedgerMeta::decode(good.id, &with(65));
            assert!(matches!(refused, Err(Invalid::Field { field: "fragments", .. })));
        }
        assert!(matches!(LedgerMeta::decode(good.id, b"\xff"), Err(Invalid::Encoding(_))));
    });
    let page = recorder.handle().render();
    for (why, times) in [("format", 1), ("field", 2), ("encoding", 1)] {
        let line = format!("geminga_metadata_invalid_total{{why=\"{why}\"}} {times}");
        assert!(page.contains(&line), "{line} is not in {page}");
    }
}

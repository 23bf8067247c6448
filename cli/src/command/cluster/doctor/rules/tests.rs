//! A cluster in which nothing is wrong, and one change after the other that the doctor has to see.

use geminga_metastore::record::{
    Broker, Cluster, Feature, Features, LiveBookie, LiveDisk, Restored, Under, UnderReason,
};
use geminga_metastore::{Error, EtcdAlarm, EtcdHealth, EtcdMember, LeaseId};
use geminga_proto::ids::{BrokerId, ClusterUuid, EntryId, Incarnation, LedgerId, Member, TopicId};

use super::*;
use crate::command::cluster::doctor::metrics;
use crate::command::cluster::doctor::page::Page;

const NOW: i64 = 1_800_000_000_000;

fn bookie(id: &BookieId) -> Known {
    let disk =
        LiveDisk { incarnation: Incarnation(1), writable: true, free_bytes: 50, total_bytes: 100 };
    let live = LiveBookie {
        id: id.clone(),
        address: "b:1".to_owned(),
        http_address: "b:2".to_owned(),
        zone: String::new(),
        rack: String::new(),
        disks: vec![disk],
        lease: LeaseId(1),
        started_ms: 0,
        repair_rate: 0,
        objects_missing: None,
        features: Features::ALL,
    };
    Known { live: Some(live), ledgers: 5, ..Known::default() }
}

const GIB: u64 = 1 << 30;

fn member(endpoint: &str, database: u64, quota: u64) -> (String, Result<EtcdMember, Error>) {
    let member = EtcdMember { led: true, database_bytes: database, quota_bytes: Some(quota) };
    (endpoint.to_owned(), Ok(member))
}

fn name(number: u32) -> BookieId {
    format!("bookie-{number}").parse().expect("a name")
}

fn well() -> Facts {
    let broker = Broker {
        id: BrokerId(1),
        grpc_address: "a:1".to_owned(),
        http_address: "a:2".to_owned(),
        zone: String::new(),
        lease: LeaseId(2),
        started_ms: 0,
        load: None,
        kafka: Vec::new(),
        features: Features::ALL,
    };
    let cluster = Cluster {
        uuid: ClusterUuid::from_random(1),
        epoch: 0,
        group_shards: 1,
        next_broker: BrokerId(2),
        groups_topic: TopicId::from_random(2),
        created_ms: 0,
        restored: None,
        features: Features::NONE,
    };
    let none = metrics::parse("geminga_bookie_gc_stopped{of=\"ledgers\"} 0\n");
    let page = Page { unready: None, samples: none };
    Facts {
        now_ms: NOW,
        cluster: Some(cluster),
        coordinated: true,
        auditing: true,
        brokers: vec![broker],
        bookies: (0..4).map(|n| (name(n), bookie(&name(n)))).collect(),
        quorums: (3, 2),
        restart_ms: 600_000,
        low_disk: 20,
        etcd: EtcdHealth {
            members: vec![member("e:1", GIB, GIB * 2), member("e:2", GIB, GIB * 2)],
            ..EtcdHealth::default()
        },
        pages: vec![("bookie-0".to_owned(), Ok(page))],
        ..Facts::default()
    }
}

/// What is found in a cluster in which one thing was changed.
fn after(change: impl FnOnce(&mut Facts)) -> Vec<Finding> {
    let mut facts = well();
    change(&mut facts);
    judge(&facts)
}

#[track_caller]
fn finds(level: Level, words: &[&str], change: impl FnOnce(&mut Facts)) {
    let found = after(change);
    for word in words {
        assert!(
            found.iter().any(|one| one.level == level && one.what.contains(word)),
            "no {level:?} with {word:?}: {found:#?}"
        );
    }
}

#[test]
fn a_cluster_that_is_well_has_no_findings() {
    assert_eq!(after(|_| {}), Vec::new());
}

#[test]
fn each_thing_that_is_wrong_is_said() {
    use Level::{Watch, Wrong};
    finds(Wrong, &["no cluster"], |facts| facts.cluster = None);
    finds(Wrong, &["came from a backup (epoch 3)"], |facts| {
        let cluster = facts.cluster.as_mut().unwrap();
        cluster.epoch = 3;
        cluster.restored = Some(Restored { at_ms: NOW, audited: false });
    });
    finds(Wrong, &["no broker is registered"], |facts| facts.brokers.clear());
    finds(Wrong, &["no broker is the coordinator"], |facts| facts.coordinated = false);
    finds(Watch, &["broker 1 is drained for 2h"], |facts| {
        facts.drains.insert(BrokerId(1), NOW - 7_200_000);
    });
    finds(Wrong, &["3 partitions have no owner: default/t"], |facts| {
        facts.unowned.insert("default/t".to_owned(), 3);
    });
    finds(Wrong, &["values in the metadata cannot be read, such as topics/x"], |facts| {
        facts.unreadable.push("topics/x".to_owned());
    });
    finds(Wrong, &["a disk of bookie bookie-2 takes no new data (50% free)"], |facts| {
        let live = facts.bookies.get_mut(&name(2)).unwrap().live.as_mut().unwrap();
        live.disks[0].writable = false;
    });
    let nearly_full = |free| {
        move |facts: &mut Facts| {
            let live = facts.bookies.get_mut(&name(2)).unwrap().live.as_mut().unwrap();
            live.disks[0].free_bytes = free;
        }
    };
    finds(Watch, &["a disk of bookie bookie-2 is nearly full (19% free)"], nearly_full(19));
    assert_eq!(after(nearly_full(20)), Vec::new());
    let leaving = after(|facts| {
        let known = facts.bookies.get_mut(&name(2)).unwrap();
        known.draining_ms = Some(NOW);
        known.live.as_mut().unwrap().disks[0].writable = false;
    });
    assert_eq!(leaving, Vec::new(), "who leaves takes nothing");
}

/// 6.7: where some name a zone, disks that take data are not enough.
#[test]
fn bookies_without_a_zone_do_not_count_where_others_have_one() {
    use Level::{Watch, Wrong};
    let zoned = |numbers: &'static [u32]| {
        move |facts: &mut Facts| {
            for number in numbers {
                let known = facts.bookies.get_mut(&name(*number)).unwrap();
                known.live.as_mut().unwrap().zone = "a".to_owned();
            }
        }
    };
    let told = |without: &str| format!("without a zone among others that have one: {without}");
    let short = "2 bookies take new data, and topics ask for 3 copies";
    finds(Watch, &[short, &told("bookie-0, bookie-1")], zoned(&[2, 3]));
    let found = after(zoned(&[2]));
    let few = "1 bookies take new data, and an acknowledgement needs 2: topics cannot be written";
    let wrong = found.iter().find(|finding| finding.level == Wrong).unwrap();
    assert!(wrong.what.contains(few) && wrong.act.contains("--zone"), "{found:#?}");
    // One that is full makes zones count as well.
    finds(Wrong, &["0 bookies take new data"], |facts| {
        zoned(&[2])(facts);
        facts.bookies.get_mut(&name(2)).unwrap().live.as_mut().unwrap().disks[0].writable = false;
    });
    let leaving = after(|facts| {
        let extra = bookie(&name(4));
        facts.bookies.insert(name(4), extra);
        zoned(&[0, 1, 2, 3])(facts);
        facts.bookies.get_mut(&name(4)).unwrap().draining_ms = Some(NOW);
    });
    assert_eq!(leaving, Vec::new(), "who leaves needs no zone");
}

#[test]
fn bookies_that_are_gone_are_told_from_a_set_that_was_made_smaller() {
    use Level::{Watch, Wrong};
    let gone_for = |facts: &mut Facts, number, ledgers, ms| {
        let known = Known { absent_ms: Some(NOW - ms), ledgers, ..Known::default() };
        facts.bookies.insert(name(number), known);
    };
    let gone = |facts: &mut Facts, number, ledgers| gone_for(facts, number, ledgers, 60_000);
    let by_hand = "made smaller by hand";
    finds(Wrong, &["bookie-1 is gone, for 1m, and holds copies of 5 ledgers"], |facts| {
        gone(facts, 1, 5);
    });
    assert!(!after(|facts| gone(facts, 1, 5)).iter().any(|one| one.what.contains(by_hand)));
    finds(Wrong, &["bookie-3 is gone", "of the set bookie: it looks as if", by_hand], |facts| {
        gone_for(facts, 3, 5, 3_600_000);
    });
    let restarts = after(|facts| gone(facts, 3, 5));
    assert!(!restarts.iter().any(|one| one.what.contains(by_hand)), "a set restarts so");
    finds(Watch, &["bookie-3 is gone, for 1m, and nothing is kept there"], |facts| {
        gone(facts, 3, 0);
    });
    let draining = |facts: &mut Facts| {
        gone_for(facts, 3, 5, 3_600_000);
        facts.bookies.get_mut(&name(3)).unwrap().draining_ms = Some(NOW);
    };
    finds(Wrong, &["while it was decommissioned"], draining);
    assert!(!after(draining).iter().any(|one| one.what.contains(by_hand)));
    finds(Watch, &["2 bookies take new data, and topics ask for 3 copies"], |facts| {
        gone(facts, 2, 5);
        gone(facts, 3, 5);
    });
    finds(Wrong, &["1 bookies take new data, and an acknowledgement needs 2"], |facts| {
        (1..4).for_each(|number| gone(facts, number, 5));
    });
}

#[test]
fn copies_that_are_missing_are_said_with_their_age() {
    use Level::{Watch, Wrong};
    let bookie = Member { bookie: name(1), incarnation: Incarnation(1) };
    let mark = |age_ms| {
        let mut mark = Under::new(LedgerId(7), UnderReason::Gone, NOW - age_ms);
        mark.add(&bookie, UnderReason::Gone);
        mark
    };
    finds(Watch, &["1 ledgers are short of copies, the oldest for 1m"], |facts| {
        facts.marks.push(mark(60_000));
    });
    finds(Wrong, &["2 ledgers are short of copies, the oldest for 3h"], |facts| {
        facts.marks.extend([mark(3 * 3_600_000), mark(0)]);
    });
    finds(Wrong, &["no bookie is the auditor"], |facts| {
        facts.auditing = false;
        facts.marks.push(mark(0));
    });
    for reason in [UnderReason::Draining, UnderReason::Misplaced] {
        let moves = after(|facts| {
            let mut mark = Under::new(LedgerId(7), reason, NOW - 3 * 3_600_000);
            mark.add(&bookie, reason);
            facts.marks.push(mark);
        });
        assert_eq!(moves, Vec::new(), "{reason:?}");
    }
    finds(Wrong, &["of entries of 1 ledgers no copy is known"], |facts| {
        facts.marks.push(Under { lost_entry: Some(EntryId(4)), ..mark(0) });
    });
}

#[test]
fn what_processes_say_is_passed_on() {
    use Level::{Watch, Wrong};
    let says = |text: &str| {
        let page = Page { unready: None, samples: metrics::parse(text) };
        move |facts: &mut Facts| facts.pages.push(("bookie-1".to_owned(), Ok(page)))
    };
    finds(Wrong, &["bookie-1 is not ready: no lease"], |facts| {
        let page = Page { unready: Some("no lease".to_owned()), samples: Vec::new() };
        facts.pages.push(("bookie-1".to_owned(), Ok(page)));
    });
    finds(Watch, &["no answer over HTTP from bookie-1 at b:2: refused"], |facts| {
        facts.pages.push(("bookie-1".to_owned(), Err("b:2: refused".to_owned())));
    });
    // Bookies of the version before have no such label.
    for labels in ["{of=\"ledgers\"}", ""] {
        finds(
            Wrong,
            &["bookie-1 stopped giving space back"],
            says(&format!("geminga_bookie_gc_stopped{labels} 1\n")),
        );
    }
    let found = after(says("geminga_bookie_gc_stopped{of=\"leftovers\"} 1\n"));
    assert_eq!(found, Vec::new(), "that costs some bytes");
    finds(
        Wrong,
        &["bookie-1 does not find the cluster's object store"],
        says("geminga_tier_store_refused 1\n"),
    );
    finds(
        Watch,
        &["bookie-1 could not use certificates"],
        says("geminga_tls_reloads_total{outcome=\"failed\"} 1\n"),
    );
    let found = after(says("geminga_tls_reloads_total{outcome=\"done\"} 1\n"));
    assert_eq!(found, Vec::new(), "that is how it should be");
    for (text, expected) in [
        ("refused_records 1", "bookie-1 holds records that its disk refused to read"),
        ("index_errors_total 1", "bookie-1 could not read or write parts of its index"),
        ("replies_total{code=\"io_error\"} 1", "bookie-1 answered requests, since its start, with"),
    ] {
        finds(Watch, &[expected], says(&format!("geminga_bookie_{text}\n")));
    }
    let found = after(says("geminga_bookie_replies_total{code=\"ok\"} 1\n"));
    assert_eq!(found, Vec::new(), "most are");
    let expires_of = |certificate: &str, seconds: i64| {
        let metric = "geminga_tls_certificate_expires_timestamp_seconds";
        format!("{metric}{{certificate=\"{certificate}\"}} {}\n", NOW / 1_000 + seconds)
    };
    let expires = |seconds| expires_of("own", seconds);
    finds(Wrong, &["of bookie-1 has expired"], says(&expires(-5)));
    finds(Watch, &["of bookie-1 expires in 2days"], says(&expires(2 * 86_400)));
    assert_eq!(after(says(&expires(60 * 86_400))), Vec::new());
    let both = format!("{}{}", expires(60 * 86_400), expires_of("etcd", 86_400));
    finds(Watch, &["that etcd is shown by bookie-1 expires in 1day"], says(&both));
    finds(Wrong, &["that etcd is shown by bookie-1 has expired"], says(&expires_of("etcd", -1)));
}

#[test]
fn zones_that_brokers_miss_are_told() {
    let of = |missing| {
        after(|facts| {
            let samples = metrics::parse(&format!("geminga_ledger_zones_missing {missing}\n"));
            facts.pages.push(("broker 1".to_owned(), Ok(Page { unready: None, samples })));
        })
    };
    let found = of(1);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].level, Level::Watch);
    assert!(found[0].what.starts_with("broker 1 finds fewer zones"), "{found:#?}");
    assert_eq!(of(0), []);
}

#[test]
fn several_processes_that_say_the_same_are_one_finding() {
    let found = after(|facts| {
        for number in 1..3 {
            let samples =
                metrics::parse("geminga_repair_auditor 1\ngeminga_repair_storm_brake 1\n");
            facts.pages.push((format!("bookie-{number}"), Ok(Page { unready: None, samples })));
        }
    });
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].what.starts_with("bookie-1, bookie-2 "));
}

#[test]
fn etcd_is_looked_at_member_by_member() {
    use Level::{Watch, Wrong};
    finds(
        Wrong,
        &["1 of 3 members of etcd do not answer: e:3: metadata store is unreachable (refused)"],
        |facts| {
            let gone = Error::Unavailable("refused".to_owned());
            facts.etcd.members.push(("e:3".to_owned(), Err(gone)));
        },
    );
    finds(Wrong, &["the member of etcd at e:1 knows no leader"], |facts| {
        facts.etcd.members[0].1.as_mut().unwrap().led = false;
    });
    finds(Wrong, &["etcd is out of space"], |facts| {
        facts.etcd.alarms = vec![EtcdAlarm::NoSpace, EtcdAlarm::NoSpace];
    });
    finds(Wrong, &["members of etcd hold different data"], |facts| {
        facts.etcd.alarms.push(EtcdAlarm::Corrupt);
    });
    finds(Watch, &["database of the member at e:3 is at 85 % of its quota"], |facts| {
        facts.etcd.members.push(member("e:3", 85 * GIB, 100 * GIB));
    });
    finds(Watch, &["1 members of etcd were added and have never started"], |facts| {
        facts.etcd.unstarted = 1;
    });
    finds(Watch, &["etcd does not say which alarms are raised"], |facts| {
        facts.etcd.unknown = Some(Error::Unavailable("refused".to_owned()));
    });
    let unknown = after(|facts| {
        facts.etcd.members[0].1.as_mut().unwrap().quota_bytes = None;
    });
    assert_eq!(unknown, Vec::new(), "a quota that is not known is not judged");
    let twice = after(|facts| facts.etcd.alarms = vec![EtcdAlarm::NoSpace; 3]);
    assert_eq!(twice.len(), 1, "{twice:#?}");
}

#[test]
fn servers_of_several_versions_are_told_apart() {
    use Level::{Watch, Wrong};
    let old = |facts: &mut Facts| {
        let live = facts.bookies.get_mut(&name(2)).unwrap().live.as_mut().unwrap();
        live.features = Features::ALL.without(Feature::GivenUp);
    };
    finds(Watch, &["bookie-2 of an earlier version than others: they do not read `given-up`"], old);
    finds(
        Wrong,
        &["bookie-2 of a version that does not read `given-up`, which is in use"],
        |facts| {
            old(facts);
            facts.cluster.as_mut().unwrap().features = Features::NONE.with(Feature::GivenUp);
        },
    );
    let says = |name: &str, version: &str| {
        let line = format!("geminga_build_info{{version=\"{version}\"}} 1\n");
        (name.to_owned(), Ok(Page { unready: None, samples: metrics::parse(&line) }))
    };
    let one = "servers of 2 versions run: version=\"0.1.0\": broker 1; version=\"0.2.0\": bookie-1";
    finds(Watch, &[one], |facts| {
        facts.pages = vec![says("broker 1", "0.1.0"), says("bookie-1", "0.2.0")];
    });
    let same = after(|facts| {
        facts.pages = vec![says("broker 1", "0.1.0"), says("bookie-1", "0.1.0")];
    });
    assert_eq!(same, Vec::new());
}

#[test]
fn an_object_store_that_is_none_is_said() {
    finds(Level::Wrong, &["the object store s3://b/p does not answer"], |facts| {
        facts.no_objects = Some("the object store s3://b/p does not answer: refused".to_owned());
    });
}

use std::time::Duration;

use geminga_metastore::LeaseId;
use geminga_metastore::record::{Features, LiveDisk};
use geminga_proto::ids::Incarnation;
use geminga_runtime::SeededRandom;

use super::*;

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

fn live(number: u64, zone: &str) -> LiveBookie {
    LiveBookie {
        id: member(number).bookie,
        address: String::new(),
        http_address: String::new(),
        zone: zone.to_owned(),
        rack: String::new(),
        disks: vec![LiveDisk {
            incarnation: Incarnation(number),
            writable: true,
            free_bytes: 100,
            total_bytes: 100,
        }],
        lease: LeaseId(1),
        started_ms: 0,
        repair_rate: 0,
        objects_missing: None,
        features: Features::ALL,
    }
}

fn quarantine() -> Quarantine {
    Quarantine::new(1, Duration::from_secs(60))
}

/// Two zones at least.
fn by<'a>(quarantine: &'a Quarantine, random: &'a SeededRandom) -> Choice<'a> {
    Choice { min_zones: 2, quarantine, random }
}

/// Everybody's choice, under many seeds.
fn replaced(live: &[LiveBookie], lost: &[usize], shunned: &[Member]) -> Vec<Vec<(u64, u64)>> {
    let ensemble = [member(1), member(2), member(3)];
    let choose = |seed| {
        let random = SeededRandom::new(seed);
        let found = replace(live, &ensemble, lost, shunned, by(&quarantine(), &random));
        let numbers = |(old, new): (Member, Member)| (old.incarnation.0, new.incarnation.0);
        found.into_iter().map(numbers).collect()
    };
    (0..32).map(choose).collect()
}

#[test]
fn a_place_is_taken_by_somebody_else_in_another_zone() {
    let zones = [(1, "a"), (2, "b"), (3, "c"), (4, "a"), (5, "c")];
    let bookies: Vec<LiveBookie> = zones.iter().map(|(n, zone)| live(*n, zone)).collect();
    for found in replaced(&bookies, &[2], &[]) {
        assert_eq!(found, [(3, 5)], "the only free zone is the one that was lost");
    }
    for found in replaced(&bookies, &[2], &[member(5)]) {
        assert_eq!(found, [(3, 4)], "who failed a moment ago is not asked again");
    }
    for found in replaced(&bookies, &[1, 2], &[]) {
        assert_eq!(found.len(), 2);
        assert_ne!(found[0].1, found[1].1);
    }
    assert!(replaced(&bookies[..3], &[2], &[]).iter().all(Vec::is_empty), "no spare");
}

#[test]
fn a_new_life_takes_its_old_place_and_a_living_one_does_not() {
    let mut bookies: Vec<LiveBookie> = (1..=3).map(|n| live(n, "")).collect();
    bookies[2].disks[0].incarnation = Incarnation(33);
    for found in replaced(&bookies, &[2], &[]) {
        assert_eq!(found, [(3, 33)]);
    }
    // Its former life failed here: that is why it is replaced, and says nothing about this one.
    assert!(replaced(&bookies, &[2], &[member(3)]).iter().all(|found| found == &[(3, 33)]));
    let reborn = Member { incarnation: Incarnation(33), ..member(3) };
    assert!(replaced(&bookies, &[2], &[reborn]).iter().all(Vec::is_empty), "it failed, too");
    // The disk that was given up is still there: another one of the same bookie is no replacement.
    let disk = LiveDisk { incarnation: Incarnation(3), ..bookies[2].disks[0].clone() };
    bookies[2].disks.push(disk);
    assert!(replaced(&bookies, &[2], &[]).iter().all(Vec::is_empty));
}

#[test]
fn a_bookie_in_quarantine_is_chosen_only_where_others_do_not_suffice() {
    let bookies: Vec<LiveBookie> = (1..=4).map(|n| live(n, "")).collect();
    let quarantine = quarantine();
    quarantine.failed(&member(2).bookie, &bookies);
    for seed in 0..32 {
        let random = SeededRandom::new(seed);
        let three = choose(&bookies, 3, 2, by(&quarantine, &random)).unwrap();
        assert!(!three.contains(&member(2)), "seed {seed}");
        let four = choose(&bookies, 4, 2, by(&quarantine, &random)).unwrap();
        assert!(four.contains(&member(2)), "seed {seed}");
    }
}

/// 6.7, the hard rule: a few slow adds of the only bookie of another zone do not put all copies into one.
#[test]
fn two_zones_are_worth_more_than_a_bookie_that_did_not_fail() {
    let zones = [(1, "a"), (2, "a"), (3, "a"), (4, "b")];
    let bookies: Vec<LiveBookie> = zones.iter().map(|(n, zone)| live(*n, zone)).collect();
    let quarantine = quarantine();
    quarantine.failed(&member(4).bookie, &bookies);
    let ensemble = [member(1), member(2), member(9)];
    for seed in 0..32 {
        let random = SeededRandom::new(seed);
        let chosen = choose(&bookies, 3, 2, by(&quarantine, &random)).unwrap();
        assert!(chosen.contains(&member(4)), "seed {seed}");
        let found = replace(&bookies, &ensemble, &[2], &[], by(&quarantine, &random));
        assert_eq!(found, [(member(9), member(4))], "seed {seed}");
    }
    // In two zones already: the third place is another's.
    let mut bookies = bookies;
    bookies.extend([live(5, "b"), live(6, "c")]);
    quarantine.failed(&member(6).bookie, &bookies);
    for seed in 0..32 {
        let random = SeededRandom::new(seed);
        let chosen = choose(&bookies, 3, 2, by(&quarantine, &random)).unwrap();
        assert_eq!(zones_of(&bookies, &chosen).iter().filter(|zone| *zone == "a").count(), 2);
        assert!(chosen.contains(&member(5)), "seed {seed}: {chosen:?}");
    }
}

/// 6.7, `min_zones`: how many zones count for more than a bookie that fails is what the operator says, where there are so many.
#[test]
fn so_many_zones_come_first_as_are_asked_for() {
    let zones = [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b"), (6, "c")];
    let bookies: Vec<LiveBookie> = zones.iter().map(|(n, zone)| live(*n, zone)).collect();
    let quarantine = quarantine();
    (4..=6).for_each(|number| quarantine.failed(&member(number).bookie, &bookies));
    for (min_zones, distinct) in [(1, 1), (2, 2), (3, 3), (7, 3)] {
        for seed in 0..32 {
            let random = SeededRandom::new(seed);
            let by = Choice { min_zones, ..by(&quarantine, &random) };
            let chosen = choose(&bookies, 3, 2, by).unwrap();
            let mut zones = zones_of(&bookies, &chosen);
            zones.dedup();
            assert_eq!(zones.len(), distinct, "{min_zones} asked for, seed {seed}: {zones:?}");
            // The third place of one that was in three zones.
            let ensemble = [member(1), member(4), member(9)];
            let found = replace(&bookies, &ensemble, &[2], &[], by);
            let third = zones_of(&bookies, &[found[0].1.clone()]);
            assert_eq!(third[0] == "c", min_zones > 2, "{min_zones} asked for, seed {seed}");
        }
    }
}

/// 6.7: moves until nobody can spread an ensemble better; the bookies that it ends on, and how many moves that took.
fn settled(live: &[LiveBookie], seed: u64, mut ensemble: Vec<Member>) -> (Vec<Member>, usize) {
    let random = SeededRandom::new(seed);
    let mut moves = 0;
    loop {
        let marked = misplaced(live, &ensemble);
        let found = (0..ensemble.len()).find_map(|position| {
            let new = relocate(live, &ensemble, position, &[], by(&quarantine(), &random))?;
            Some((position, new))
        });
        let Some((position, new)) = found else {
            assert_eq!(marked, [], "marked, and nobody moves it");
            return (ensemble, moves);
        };
        assert!(marked.contains(&ensemble[position]), "moved, and not marked");
        ensemble[position] = new;
        moves += 1;
        assert!(moves < 10, "copies go round in circles: {ensemble:?}");
    }
}

fn zones_of(live: &[LiveBookie], ensemble: &[Member]) -> Vec<String> {
    let zone = |m: &Member| live.iter().find(|l| l.id == m.bookie).unwrap().zone.clone();
    let mut zones: Vec<String> = ensemble.iter().map(zone).collect();
    zones.sort_unstable();
    zones
}

#[test]
fn copies_of_one_zone_are_spread_and_then_stay() {
    let zones = [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b"), (6, "c")];
    let bookies: Vec<LiveBookie> = zones.iter().map(|(n, zone)| live(*n, zone)).collect();
    for seed in 0..32 {
        let (ended, moves) = settled(&bookies, seed, [1, 2, 3].map(member).to_vec());
        assert_eq!(
            (zones_of(&bookies, &ended), moves),
            (["a", "b", "c"].map(str::to_owned).to_vec(), 2)
        );
        // As spread as can be, however they lie.
        for ensemble in [[1, 4, 6], [3, 5, 6]] {
            assert_eq!(settled(&bookies, seed, ensemble.map(member).to_vec()).1, 0);
        }
        // Without zone c two zones are all there is.
        let two = &bookies[..5];
        assert_eq!(settled(two, seed, [1, 4, 2].map(member).to_vec()).1, 0);
        assert_eq!(settled(two, seed, [1, 2, 3].map(member).to_vec()).1, 1);
    }
}

#[test]
fn copies_leave_bookies_without_a_zone_where_others_have_one() {
    let zones = [(1, ""), (2, "a"), (3, "b"), (4, "a"), (5, "")];
    let bookies: Vec<LiveBookie> = zones.iter().map(|(n, zone)| live(*n, zone)).collect();
    for seed in 0..32 {
        let (ended, moves) = settled(&bookies, seed, [1, 2, 3].map(member).to_vec());
        assert_eq!((ended, moves), ([4, 2, 3].map(member).to_vec(), 1));
    }
    let nowhere: Vec<LiveBookie> = (1..=5).map(|n| live(n, "")).collect();
    assert_eq!(settled(&nowhere, 1, [1, 2, 3].map(member).to_vec()).1, 0);
}

#[test]
fn copies_stay_where_nobody_fit_is_known() {
    let zones = [(1, "a"), (2, "a"), (3, "a"), (4, "b")];
    let bookies: Vec<LiveBookie> = zones.iter().map(|(n, zone)| live(*n, zone)).collect();
    let ensemble = [1, 2, 3].map(member);
    assert_eq!(misplaced(&bookies, &ensemble), ensemble);
    let changed = |change: &dyn Fn(&mut Vec<LiveBookie>)| {
        let mut bookies = bookies.clone();
        change(&mut bookies);
        misplaced(&bookies, &ensemble)
    };
    assert_eq!(changed(&|b| b[3].disks[0].writable = false), [], "it takes no data");
    assert_eq!(changed(&|b| b[3].disks[0].free_bytes = 10), [], "it is much fuller than others");
    assert_eq!(changed(&|b| drop(b.remove(1))), [], "where a member is, is not known");
    assert_eq!(changed(&|b| b[1].disks[0].incarnation = Incarnation(9)), [], "its life is over");
    let quarantine = quarantine();
    quarantine.failed(&member(4).bookie, &bookies);
    let random = SeededRandom::new(1);
    assert_eq!(relocate(&bookies, &ensemble, 0, &[], by(&quarantine, &random)), None);
    assert_eq!(
        relocate(&bookies, &ensemble, 0, &[member(4)], by(&self::quarantine(), &random)),
        None
    );
}

/// 6.7: what placement, topics and the doctor count by.
#[test]
fn who_takes_data_has_room_and_a_zone_where_others_have_one() {
    let full = |number, zone| {
        let mut live = live(number, zone);
        live.disks[0].writable = false;
        live
    };
    let takes = |bookies: &[LiveBookie]| -> Vec<String> {
        takers(bookies).map(|bookie| bookie.id.to_string()).collect()
    };
    assert_eq!(takes(&[live(1, ""), live(2, ""), full(3, "")]), ["b1", "b2"]);
    assert_eq!(takes(&[live(1, ""), live(2, "a"), full(3, "b")]), ["b2"]);
    // Zones that are full are zones all the same: nothing goes where nobody knows what shares a fate.
    assert_eq!(takes(&[live(1, ""), live(2, ""), full(3, "a")]), [""; 0]);
}

/// 6.7: of those who are as good by their zone one on another machine comes first, however full; where all are reached by loopback, or
/// nowhere else is room, that makes no difference.
#[test]
fn copies_are_on_different_machines_where_there_are_some() {
    let on = |number, zone, address: &str| LiveBookie {
        address: address.to_owned(),
        ..live(number, zone)
    };
    let hosts = |live: &[LiveBookie], chosen: &[Member]| {
        let of =
            |m: &Member| host(&live.iter().find(|b| b.id == m.bookie).unwrap().address).to_owned();
        chosen.iter().map(of).collect::<BTreeSet<_>>().len()
    };
    let six = [
        on(1, "", "one:7070"),
        on(2, "", "one:7071"),
        on(3, "", "10.0.0.2:7070"),
        on(4, "", "10.0.0.2:7071"),
        on(5, "", "[fd00::3:1]:7070"),
        on(6, "", "[fd00::3:1]:7071"),
    ];
    let mut full = six.clone();
    full[4].disks[0].free_bytes = 1;
    full[5].disks[0].free_bytes = 1;
    for seed in 0..32 {
        let (quarantine, random) = (quarantine(), SeededRandom::new(seed));
        let by = by(&quarantine, &random);
        for live in [&six[..], &full] {
            let chosen = choose(live, 3, 2, by).unwrap();
            assert_eq!(hosts(live, &chosen), 3, "seed {seed}: {chosen:?}");
        }
        // Those that are kept count.
        let kept = [member(1), member(3), member(9)];
        let found = replace(&six, &kept, &[2], &[], by);
        let [(_, third)] = &found[..] else { panic!("nobody") };
        assert!([5, 6].contains(&third.incarnation.0), "seed {seed}: {third:?}");
        // A zone counts for more.
        let zones = [
            on(1, "a", "one:7070"),
            on(2, "a", "two:7070"),
            on(3, "b", "one:7071"),
            on(4, "a", "three:7070"),
        ];
        let chosen = choose(&zones, 2, 2, by).unwrap();
        assert!(chosen.contains(&member(3)), "seed {seed}: {chosen:?}");
        let one = [on(1, "", "one:1"), on(2, "", "one:2"), on(3, "", "one:3")];
        assert_eq!(choose(&one, 3, 2, by).unwrap().len(), 3);
    }
    for address in ["127.0.0.1:7070", "127.3.2.1:1", "[::1]:7070", "localhost:7", ""] {
        assert_eq!(host(address), "", "{address}");
    }
}

/// Zones are missed where there are some, or where acknowledgements are to be in some.
#[test]
fn zones_that_are_missing_are_counted() {
    let zoned = |zones: &[&str]| -> Vec<LiveBookie> {
        (1..).zip(zones).map(|(number, zone)| live(number, zone)).collect()
    };
    for (zones, min, acknowledged, missing) in [
        (&["a", "a", "b"][..], 2, 1, 0),
        (&["a", "a", "b"], 3, 1, 1),
        (&["a", "a"], 2, 2, 1),
        (&["a", "a", ""], 2, 1, 1),
        (&["", "", ""], 2, 1, 0),
        (&["", "", ""], 2, 2, 1),
        (&[], 2, 1, 0),
    ] {
        assert_eq!(zones_missing(&zoned(zones), min, acknowledged), missing, "{zones:?}");
    }
    let mut full = zoned(&["a", "b"]);
    full[1].disks[0].writable = false;
    assert_eq!(zones_missing(&full, 2, 1), 1, "one that is full has a zone, and takes nothing");
}

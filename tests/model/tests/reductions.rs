//! What the search leaves out hides nothing: the same size is explored with and without it.

use std::collections::BTreeSet;

use geminga_model::{Report, Size, broken_rules, classes, ends, explore, notices, sizes};

/// Sizes that can be explored whole in seconds.
fn small() -> Vec<(&'static str, Size)> {
    let calm = Size::calm();
    vec![
        ("calm", calm.clone()),
        ("two entries", Size { entries: 2, ..calm.clone() }),
        ("an ensemble change", Size { failures: 1, ..calm.clone() }),
        ("a wipe, no entry", Size { wipes: 1, entries: 0, ..calm.clone() }),
        ("a crash, no entry", Size { entries: 0, ..Size::with_crash() }),
        (
            "two recoverers, no entry",
            Size { recoverers: 2, lost_replies: 1, entries: 0, ..calm.clone() },
        ),
        ("a roll, no entry", Size { ledgers: 2, entries: 0, ..calm.clone() }),
        ("deletion, no entry", Size { deletion: true, entries: 0, ..calm.clone() }),
        ("two spares, no entry", Size { bookies: 4, entries: 0, failures: 1, ..calm }),
    ]
}

fn verdict(report: &Report) -> (BTreeSet<&'static str>, BTreeSet<&'static str>) {
    let violated = report.violations.iter().map(|(property, _)| *property).collect();
    (violated, report.unreached.iter().copied().collect())
}

#[test]
fn what_is_left_out_changes_no_verdict() {
    for (name, size) in small() {
        let (all, some) = (explore(&size.clone().whole(), None), explore(&size, None));
        println!("{name}: {} states, {} without what comes to the same", all.states, some.states);
        assert_eq!(verdict(&all), verdict(&some), "{name}");
        assert!(some.states < all.states, "{name}: nothing is left out");
    }
}

/// Whoever hears of what in whichever order: ledgers end in the same ways, with as much acknowledged.
#[test]
fn what_is_left_out_hides_no_end() {
    for (name, size) in small() {
        let (all, some) = (ends(&size.clone().whole()), ends(&size));
        println!("{name}: {} ends", all.len());
        assert_eq!(all, some, "{name}");
    }
}

/// The states met when names make no difference are those met otherwise, once the names are taken off.
#[test]
fn symmetric_states_are_the_same_states() {
    let with = sizes().into_iter().chain(small());
    // A large one takes its time and shows no more.
    let with =
        with.filter(|(name, _)| *name != "size 2: four bookies, two recoverers, two entries");
    for (name, size) in with.filter(|(_, size)| size.may_be_symmetric()) {
        let (all, named) = classes(&size.clone().with_names());
        let (some, symmetric) = classes(&size);
        println!("{name}: {all} states, {some} but for names");
        assert_eq!(some, symmetric.len(), "{name}");
        assert!(named == symmetric, "{name}: other states");
    }
}

/// Nor are names left out where something depends on them: which of two spares, of two lost places, or of two lives.
#[test]
fn names_count_where_one_of_several_goes_first() {
    let calm = Size::calm();
    assert!(calm.may_be_symmetric());
    for uneven in [
        Size { bookies: 4, ..calm.clone() },
        Size { failures: 2, ..calm.clone() },
        Size { wipes: 1, ..calm },
    ] {
        assert!(!uneven.may_be_symmetric(), "{uneven:?}");
    }
}

/// What a search that leaves things out notices (see `smallest.rs`), one of everything notices as well: it is no fault of
/// what is left out.
#[test]
fn broken_rules_are_noticed_without_leaving_anything_out() {
    for (rule, size) in broken_rules() {
        assert!(notices(&size.whole()), "{rule}");
    }
}

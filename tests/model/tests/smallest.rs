//! Small sizes, whole; and the same with one rule broken at a time, which must be noticed.

use geminga_bookie::ledger::{Mutation, Mutations};
use geminga_model::{Size, broken_rules, explore, sizes};

#[test]
fn every_rule_holds() {
    for (name, size) in sizes() {
        let report = explore(&size, None);
        println!("{name}: {} states, depth {}, exhaustive: yes", report.states, report.depth);
        assert!(report.violations.is_empty(), "{name}: {:#?}", report.violations);
        assert!(report.unreached.is_empty(), "{name}: never {:?}", report.unreached);
    }
}

#[test]
fn every_broken_rule_is_noticed() {
    for (rule, size) in broken_rules() {
        let report = explore(&size, None);
        let violation = report.violations.first();
        let (property, actions) =
            violation.unwrap_or_else(|| panic!("breaking {rule} was not noticed"));
        println!("without {rule}: {} steps to break {property}", actions.len());
    }
}

/// I11 and I12 hold against what a bookie has on stable storage, also when the search has forgotten that it answered for it.
#[test]
fn a_broken_seal_is_seen_as_one() {
    let bookie_mutations = Mutations::only(Mutation::AcceptAfterSeal);
    let report = explore(&Size { bookie_mutations, ..Size::calm() }, None);
    for invariant in ["I11", "I12"] {
        let found = report.violations.iter().any(|(property, _)| property.starts_with(invariant));
        assert!(found, "{invariant}: {:#?}", report.violations);
    }
}

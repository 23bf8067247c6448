//! What happens to a closed ledger, whole; and the same with one rule broken at a time, which must be noticed.

use geminga_model::explore;
use geminga_model::upkeep::{broken_rules, sizes};

#[test]
fn every_rule_of_upkeep_holds() {
    for (name, size) in sizes() {
        let report = explore(&size, None);
        println!("{name}: {} states, depth {}, exhaustive: yes", report.states, report.depth);
        assert!(report.violations.is_empty(), "{name}: {:#?}", report.violations);
        assert!(report.unreached.is_empty(), "{name}: never {:?}", report.unreached);
    }
}

#[test]
fn every_broken_rule_of_upkeep_is_noticed() {
    for (rule, size) in broken_rules() {
        let report = explore(&size, None);
        let violation = report.violations.first();
        let (property, actions) =
            violation.unwrap_or_else(|| panic!("breaking {rule} was not noticed"));
        println!("without {rule}: {} steps to break {property}", actions.len());
    }
}

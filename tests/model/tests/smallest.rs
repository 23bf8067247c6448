//! Size 1 of protocol 8.3, whole; and the same with one rule broken at a time, which must be noticed.

use geminga_model::{DURABILITY, broken_rules, sizes};
use stateright::{Checker, HasDiscoveries, Model};

#[test]
fn every_rule_holds() {
    for (name, size) in sizes() {
        let checker = size.checker().threads(2).spawn_bfs().join();
        println!(
            "{name}: {} unique states, depth {}",
            checker.unique_state_count(),
            checker.max_depth()
        );
        assert!(checker.is_done(), "{name}: not exhaustive");
        checker.assert_properties();
    }
}

#[test]
fn every_broken_rule_is_noticed() {
    for (rule, size) in broken_rules() {
        let noticed = HasDiscoveries::AnyOf([DURABILITY].into());
        let checker = size.checker().threads(2).finish_when(noticed).spawn_bfs().join();
        let path = checker.discovery(DURABILITY);
        let path = path.unwrap_or_else(|| panic!("breaking {rule} was not noticed"));
        println!(
            "without {rule}: an acknowledged entry is lost in {} steps",
            path.into_actions().len()
        );
    }
}

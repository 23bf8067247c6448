//! Size 1 of protocol 8.3, whole; and the same with one rule broken at a time, which must be noticed.

use geminga_bookie::ledger::{Mutation as BookieMutation, Mutations as BookieMutations};
use geminga_ledger::core::mutation::{Mutation as ClientMutation, Mutations as ClientMutations};
use geminga_model::Size;
use stateright::{Checker, Model};

const DURABILITY: &str = "I1, I3: nothing acknowledged is beyond the end";

/// Explores everything and prints how much that was.
fn assert_holds(name: &str, size: Size) {
    let checker = size.checker().threads(2).spawn_bfs().join();
    println!(
        "{name}: {} states, {} unique, depth {}, exhaustive: {}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        if checker.is_done() { "yes" } else { "no" },
    );
    checker.assert_properties();
}

#[test]
fn every_rule_holds_with_a_crash() {
    assert_holds("one recoverer, one crash", Size::smallest());
}

#[test]
fn every_rule_holds_with_two_recoverers() {
    let size = Size { recoverers: 2, crashes: 0, lost_replies: 1, entries: 1, ..Size::smallest() };
    assert_holds("two recoverers", size);
}

/// Finds the shortest way to lose something acknowledged.
fn assert_noticed(rule: &str, size: Size) {
    let checker = size.checker().threads(2).spawn_bfs().join();
    let path = checker.discovery(DURABILITY);
    let path = path.unwrap_or_else(|| panic!("breaking {rule} was not noticed"));
    println!(
        "without {rule}: an acknowledged entry is lost in {} steps",
        path.into_actions().len()
    );
}

fn broken_bookie(mutation: BookieMutation) -> Size {
    Size { bookie_mutations: BookieMutations::only(mutation), ..Size::smallest() }
}

#[test]
fn a_seal_must_be_durable_before_its_reply() {
    assert_noticed("F2", broken_bookie(BookieMutation::ReplyBeforeSealIsDurable));
}

#[test]
fn an_empty_tail_is_no_exception() {
    assert_noticed(
        "F2 for empty tails (H1b)",
        broken_bookie(BookieMutation::ReplyBeforeEmptySealIsDurable),
    );
}

#[test]
fn a_seal_needs_full_coverage() {
    let client_mutations = ClientMutations::only(ClientMutation::SealWithOneLess);
    assert_noticed("S3 (QC - 1)", Size { client_mutations, ..Size::smallest() });
}

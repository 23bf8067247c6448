//! A simulation that finds nothing must be able to find something: with one rule of the protocol broken in the production
//! code, some seed has to notice, and soon.

use std::thread;

use geminga_sim::{RULES, batch};

/// Most seeds that it may take; most rules are noticed by one of the first twenty, the slowest by the 545th.
const SEEDS: u64 = 1500;

#[test]
fn every_broken_rule_is_noticed() {
    let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut unnoticed = Vec::new();
    for (name, broken) in RULES {
        let report = batch(0, SEEDS, threads, Some(*broken), |_| {});
        match report.failure {
            Some(failure) => println!(
                "without {name}: noticed by seed {} after {} events ({} runs): {}",
                failure.seed,
                failure.events,
                report.runs,
                failure.violation.map(|violation| violation.invariant).unwrap_or_default(),
            ),
            None => unnoticed.push(name),
        }
    }
    assert!(unnoticed.is_empty(), "nobody noticed that these rules were broken: {unnoticed:?}");
}

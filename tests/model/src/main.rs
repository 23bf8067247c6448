//! `make model`: checks the ledger protocol at every size, and that breaking a rule is noticed. Prints states, depth,
//! whether the search was exhaustive, and the length of each counterexample, as a table. The first argument limits each of the
//! sizes that are too large to be explored whole, in seconds; without one that is two minutes. The second is part of the name
//! of a size: only those are explored then.

use std::fmt::Debug;
use std::process::ExitCode;
use std::time::Duration;

use geminga_model::{Report, broken_rules, explore, limited_sizes, longer_sizes, sizes, upkeep};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().and_then(|argument| argument.parse().ok());
    let limit = Duration::from_secs(seconds.unwrap_or(120));
    let wanted = arguments.next().unwrap_or_default();
    let whole = sizes().into_iter().chain(longer_sizes());
    let whole = whole.map(|(name, size)| (name, size, None));
    let limited = limited_sizes().into_iter().map(|(name, size)| (name, size, Some(limit)));
    let mut failed = 0usize;
    println!(
        "| size | states | depth | exhaustive | seconds | violations |\n|---|---|---|---|---|---|"
    );
    for (name, size, limit) in whole.chain(limited).filter(|(name, ..)| name.contains(&wanted)) {
        failed += print_whole(name, &explore(&size, limit));
    }
    let closed = upkeep::sizes().into_iter().chain(upkeep::longer_sizes());
    for (name, size) in closed.filter(|(name, _)| name.contains(&wanted)) {
        failed += print_whole(name, &explore(&size, None));
    }
    println!("\n| broken rule | steps | violated |\n|---|---|---|");
    for (rule, size) in broken_rules().into_iter().filter(|_| wanted.is_empty()) {
        failed += print_broken(rule, &explore(&size, None));
    }
    for (rule, size) in upkeep::broken_rules().into_iter().filter(|_| wanted.is_empty()) {
        failed += print_broken(rule, &explore(&size, None));
    }
    println!("\n{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether it failed: 0 or 1.
fn print_whole<A: Debug>(name: &str, report: &Report<A>) -> usize {
    print_row(name, report);
    let unreached = if report.exhaustive { &report.unreached[..] } else { &[] };
    unreached.iter().for_each(|property| println!("never reached: {property}"));
    usize::from(!report.violations.is_empty() || !unreached.is_empty())
}

/// Whether nobody noticed: 0 or 1.
fn print_broken<A>(rule: &str, report: &Report<A>) -> usize {
    match report.violations.first() {
        Some((property, actions)) => println!("| {rule} | {} | {property} |", actions.len()),
        None => println!("| {rule} | NOT NOTICED: the model is too weak | |"),
    }
    usize::from(report.violations.is_empty())
}

fn print_row<A: Debug>(name: &str, report: &Report<A>) {
    let Report { states, depth, exhaustive, violations, took, .. } = report;
    let exhaustive = if *exhaustive { "yes" } else { "no" };
    let seconds = took.as_secs_f64();
    println!(
        "| {name} | {states} | {depth} | {exhaustive} | {seconds:.1} | {} |",
        violations.len()
    );
    for (property, actions) in violations {
        println!("{property}: {actions:#?}");
    }
}

//! `make model`: checks the ledger protocol at every size, and that breaking a rule is noticed. Prints states, depth,
//! whether the search was exhaustive, and the length of each counterexample. The argument limits each large size, in
//! seconds; without one there is a limit of ten minutes.

use std::process::ExitCode;
use std::time::Duration;

use geminga_model::{broken_rules, explore, large_sizes, sizes};

fn main() -> ExitCode {
    let seconds = std::env::args().nth(1).and_then(|argument| argument.parse().ok());
    let limit = Duration::from_secs(seconds.unwrap_or(600));
    let (mut passed, mut failed) = (0usize, 0usize);
    let small = sizes().into_iter().map(|(name, size)| (name, size, None));
    let large = large_sizes().into_iter().map(|(name, size)| (name, size, Some(limit)));
    for (name, size, limit) in small.chain(large) {
        let report = explore(&size, limit);
        println!(
            "{name}: {} states, depth {}, exhaustive: {}, violations: {}",
            report.states,
            report.depth,
            if report.exhaustive { "yes" } else { "no" },
            report.violations.len(),
        );
        for (property, actions) in &report.violations {
            println!("  {property}: {actions:#?}");
        }
        let unreached = if report.exhaustive { report.unreached.len() } else { 0 };
        for property in report.unreached.iter().take(unreached) {
            println!("  never reached: {property}");
        }
        let good = report.violations.is_empty() && unreached == 0;
        passed += usize::from(good);
        failed += usize::from(!good);
    }
    for (rule, size) in broken_rules() {
        match explore(&size, None).violations.first() {
            Some((property, actions)) => {
                passed += 1;
                println!("without {rule}: {} steps to break {property}", actions.len());
            }
            None => {
                failed += 1;
                println!("without {rule}: NOT NOTICED, the model is too weak");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

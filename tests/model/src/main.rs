//! `make model`: checks the ledger protocol at every size, and that breaking a rule is noticed. Prints states, depth,
//! whether the search was exhaustive, and the length of each counterexample.

use std::process::ExitCode;

use geminga_model::{broken_rules, large_sizes, sizes};
use stateright::{Checker, HasDiscoveries, Model};

fn main() -> ExitCode {
    let mut failed = 0usize;
    let (mut held, mut noticed) = (0, 0);
    for (name, size) in sizes().into_iter().chain(large_sizes()) {
        let checker = size.clone().checker().threads(threads()).spawn_bfs().join();
        let broken: Vec<_> = checker.discoveries().into_iter().collect();
        let properties = size.properties();
        let violated = |name: &str| {
            properties
                .iter()
                .any(|p| p.name == name && matches!(p.expectation, stateright::Expectation::Always))
        };
        let violations: Vec<_> = broken.iter().filter(|(name, _)| violated(name)).collect();
        println!(
            "{name}: {} states, {} unique, depth {}, exhaustive: {}, violations: {}",
            checker.state_count(),
            checker.unique_state_count(),
            checker.max_depth(),
            if checker.is_done() { "yes" } else { "no" },
            violations.len(),
        );
        for (name, path) in &violations {
            println!("  {name}: {:#?}", path.clone().into_actions());
        }
        held += usize::from(violations.is_empty());
        failed += violations.len();
    }
    for (rule, size) in broken_rules() {
        let lost = HasDiscoveries::AnyOf([geminga_model::DURABILITY].into());
        let checker = size.checker().threads(threads()).finish_when(lost).spawn_bfs().join();
        match checker.discovery(geminga_model::DURABILITY) {
            Some(path) => {
                noticed += 1;
                println!(
                    "without {rule}: an acknowledged entry is lost in {} steps",
                    path.into_actions().len()
                );
            }
            None => {
                failed += 1;
                println!("without {rule}: NOT NOTICED, the model is too weak");
            }
        }
    }
    println!("{} passed, {failed} failed", held + noticed);
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

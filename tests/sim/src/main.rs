//! `make sim`: runs seeds, or replays one with its whole trace.

use std::process::ExitCode;
use std::thread;

use clap::Parser;
use geminga_sim::{Broken, CI_SEEDS, Outcome, RULES, batch, run};

/// Simulates brokers, bookies and their faults, one execution per seed.
#[derive(Debug, Parser)]
#[command(name = "geminga-sim")]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads; default: one per processor.
    #[arg(long)]
    threads: Option<usize>,
    /// Runs only this seed and prints every line of its trace.
    #[arg(long, value_name = "SEED")]
    replay: Option<u64>,
    /// Breaks a rule on purpose, to see how soon that is noticed.
    #[arg(long, value_name = "RULE", value_parser = rule)]
    without: Option<Rule>,
}

/// A rule by its name.
type Rule = (&'static str, Broken);

fn rule(name: &str) -> Result<Rule, String> {
    let known = || RULES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let found = RULES.iter().find(|(rule, _)| *rule == name).copied();
    found.ok_or_else(|| format!("no such rule; known are {}", known()))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.replay {
        Some(seed) => replay(seed, arguments.without),
        None => many(&arguments),
    }
}

fn replay(seed: u64, without: Option<Rule>) -> ExitCode {
    let outcome = run(seed, without.map(|(_, broken)| broken), true);
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("seed {seed}: {} events, trace {:016x}", outcome.events, outcome.hash);
    match outcome.violation {
        Some(violation) => {
            println!("{violation}");
            ExitCode::FAILURE
        }
        None => ExitCode::SUCCESS,
    }
}

fn many(arguments: &Arguments) -> ExitCode {
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = arguments.threads.unwrap_or(processors);
    let broken = arguments.without.map(|(_, broken)| broken);
    let report = batch(arguments.from, arguments.seeds, threads, broken, |runs| {
        if runs.is_multiple_of(1000) {
            println!("{runs} runs");
        }
    });
    print!("{}", report.table());
    if let Some(failure) = &report.failure {
        print!("{}", failed(failure, arguments.without));
        return ExitCode::FAILURE;
    }
    let missing = report.coverage.missing();
    if !missing.is_empty() && arguments.seeds >= CI_SEEDS {
        println!("never reached: {missing:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// What to say about a seed that failed.
fn failed(failure: &Outcome, without: Option<Rule>) -> String {
    let without = without.map(|(rule, _)| format!(" --without {rule}")).unwrap_or_default();
    let lines = failure.trace.join("\n");
    let violation = failure.violation.as_ref().map(ToString::to_string).unwrap_or_default();
    format!(
        "{lines}\nseed {seed} failed after {} events: {violation}\nreplay it: cargo run --release -p geminga-sim -- --replay {seed}{without}\n",
        failure.events,
        seed = failure.seed,
    )
}

//! `make chaos`: runs a seed, prints what went wrong and what the checker found, and where logs and history are.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use geminga_chaos::{GAVE_UP, Role, Settings, act, enter, missing, python, run};
use geminga_runtime::{Random, SystemRandom};
use tokio::runtime::Builder;

/// Breaks a cluster for a while, and judges what its clients saw.
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// How long things go wrong, in seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// What goes wrong, and when [default: drawn].
    #[arg(long)]
    seed: Option<u64>,
    /// Where logs and the history go [default: a new directory among the temporary files].
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Lets producers store records twice, to see that this is noticed.
    #[arg(long)]
    no_idempotence: bool,
    /// Does without a network of its own, also where there could be one: proxies do what they can.
    #[arg(long)]
    no_network: bool,
    /// Prints the schedule, and runs nothing.
    #[arg(long)]
    plan: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if let Some(role) = arguments.role.take() {
        let done = Builder::new_current_thread().enable_all().build().context("a runtime");
        return match done.and_then(|runtime| runtime.block_on(act(role))) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                println!("{error:#}");
                ExitCode::from(GAVE_UP)
            }
        };
    }
    match lead(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            println!("failed: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn lead(arguments: &Arguments) -> Result<bool> {
    if !arguments.no_network {
        match missing() {
            None => enter()?,
            Some(why) => println!("no network namespaces here ({why}): proxies only"),
        }
    }
    let seed = arguments.seed.unwrap_or_else(|| SystemRandom.below(1_000_000));
    let seconds = arguments.seconds;
    let name = format!("geminga-chaos-{seed}-{}", std::process::id());
    let dir = arguments.dir.clone().unwrap_or_else(|| std::env::temp_dir().join(name));
    let mut settings = Settings::new(seed, Duration::from_secs(seconds), &dir);
    settings.idempotence = !arguments.no_idempotence;
    if arguments.plan {
        print!("{}", settings.plan()?);
        return Ok(true);
    }
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    println!("seed {seed}; again: make chaos SECONDS={seconds} SEED={seed}");
    if python().is_none() {
        println!("no Kafka client here (.ci/install test brings one): no static members");
    }
    println!("logs and history: {}", dir.display());
    let runtime = Builder::new_multi_thread().enable_all().build().context("a runtime")?;
    let outcome = runtime.block_on(run(&settings)).with_context(|| format!("seed {seed}"))?;
    println!("{}", outcome.report);
    println!("{}", outcome.tally);
    println!(
        "settled within {:.1} s; {} processes ended by themselves",
        outcome.settled_after.as_secs_f32(),
        outcome.ended
    );
    for kind in &outcome.unfelt {
        println!("not felt, so not tested: {kind}");
    }
    print!("{}", outcome.findings);
    Ok(outcome.is_good())
}

//! `make chaos`: runs a seed, prints what the checker found, and where logs and history are.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use geminga_chaos::{Schedule, Settings, run};
use geminga_runtime::{Random, SystemRandom};

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
    /// Prints the schedule, and runs nothing.
    #[arg(long)]
    plan: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| SystemRandom.below(1_000_000));
    match act(&arguments, seed).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            println!("seed {seed} failed: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn act(arguments: &Arguments, seed: u64) -> Result<bool> {
    let seconds = arguments.seconds;
    let name = format!("geminga-chaos-{seed}-{}", std::process::id());
    let dir = arguments.dir.clone().unwrap_or_else(|| std::env::temp_dir().join(name));
    let mut settings = Settings::new(seed, Duration::from_secs(seconds), &dir);
    settings.idempotence = !arguments.no_idempotence;
    if arguments.plan {
        print!("{}", Schedule::new(seed, settings.duration, settings.sizes));
        return Ok(true);
    }
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    println!("seed {seed}; again: make chaos SECONDS={seconds} SEED={seed}");
    println!("logs and history: {}", dir.display());
    let outcome = run(&settings).await?;
    println!("{}", outcome.report);
    println!(
        "settled within {:.1} s; {} processes ended by themselves",
        outcome.settled_after.as_secs_f32(),
        outcome.ended
    );
    print!("{}", outcome.findings);
    Ok(outcome.report.is_clean())
}

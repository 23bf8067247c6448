//! `geminga-check [HISTORY]`: judges a history. Exit code 0: every promise was kept; 1: one was not; 2: the history cannot be
//! judged.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use geminga_check::{Checker, Evidence, Report};

/// Judges a history of a streaming system: what was lost, doubled, reordered, missed or taken back.
#[derive(Debug, Parser)]
#[command(name = "geminga-check")]
struct Arguments {
    /// JSON lines; without it, they come from standard input, and findings name lines without showing them.
    history: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match judge(arguments.history.as_deref()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("geminga-check: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn judge(history: Option<&Path>) -> Result<bool> {
    let report = match history {
        Some(path) => check(BufReader::new(open(path)?))?,
        None => check(io::stdin().lock())?,
    };
    let evidence = match history {
        Some(path) => evidence(path, &report)?,
        None => Evidence::new(),
    };
    print!("{report}\n{}", report.findings(&evidence));
    Ok(report.is_clean())
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| path.display().to_string())
}

fn check(lines: impl BufRead) -> Result<Report> {
    let mut checker = Checker::new();
    for line in lines.lines() {
        checker.line(&line?)?;
    }
    Ok(checker.finish()?)
}

/// The lines that violations cite, from a second reading.
fn evidence(path: &Path, report: &Report) -> Result<Evidence> {
    let cited = report.cited();
    if cited.is_empty() {
        return Ok(Evidence::new());
    }
    let lines = (1..).zip(BufReader::new(open(path)?).lines());
    lines
        .filter(|(number, _)| cited.contains(number))
        .map(|(number, line)| Ok((number, line?)))
        .collect()
}

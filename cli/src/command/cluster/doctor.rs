//! `geminga cluster doctor`: looks at everything that can be seen from outside, and says in sentences what is wrong and what to
//! do. It reads the metadata, asks each registered process over HTTP, the members of etcd and, where it is named, the object store;
//! it changes nothing. What is judged, and how, is in
//! `rules`, which is given facts only.

mod facts;
mod metrics;
mod page;
mod rules;

use std::time::Duration;

use serde::Serialize;

use crate::args::PrintArgs;
use crate::command::ledger::Place;
use crate::config::ObjectStoreOptions;
use crate::exit::{Exit, Failure};
use crate::view::View;
use rules::{Finding, Level};

/// Arguments of `geminga cluster doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    /// Look at the metadata only, and not at the members of etcd: where the HTTP ports of brokers and bookies are not reached from here.
    #[arg(long)]
    metadata_only: bool,
    /// A bookie that is away for longer is not being restarted: then it is looked whether its set was made smaller by hand.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    gone_after: Duration,
    /// A disk with less than so many percent free is to be watched although it takes new data.
    #[arg(long, value_name = "PERCENT", default_value_t = 20, value_parser = clap::value_parser!(u8).range(..=100))]
    low_disk: u8,
    #[command(flatten)]
    objects: ObjectStoreOptions,
    #[command(flatten)]
    print: PrintArgs,
}

/// What was found, worst first.
#[derive(Debug, Serialize)]
struct Diagnosis {
    brokers: usize,
    bookies: usize,
    findings: Vec<Finding>,
}

impl Diagnosis {
    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }
}

impl View for Diagnosis {
    fn text(&self) -> String {
        let Self { brokers, bookies, findings } = self;
        let mut text = format!("looked at {brokers} brokers and {bookies} bookies\n");
        for Finding { level, what, act } in findings {
            let level = match level {
                Level::Wrong => "WRONG",
                Level::Watch => "watch",
            };
            text.push_str(&format!("\n{level}  {what}\n       {act}\n"));
        }
        if findings.is_empty() {
            text.push_str("nothing is wrong\n");
        }
        text
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let facts = facts::gather(&args).await?;
    let mut findings = rules::judge(&facts);
    findings.sort_by_key(|finding| finding.level);
    let (brokers, bookies) = (facts.brokers.len(), facts.bookies.len());
    let diagnosis = Diagnosis { brokers, bookies, findings };
    diagnosis.print(args.print)?;
    match diagnosis.count(Level::Wrong) {
        0 => Ok(()),
        1 => Err(Failure::with(Exit::Failed, "one thing is wrong").because("UNHEALTHY")),
        wrong => {
            let what = format!("{wrong} things are wrong");
            Err(Failure::with(Exit::Failed, what).because("UNHEALTHY"))
        }
    }
}

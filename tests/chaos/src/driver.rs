//! Lets things go wrong at their times, and writes down what and whether it was felt.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, Result};
use geminga_check::Event;
use geminga_runtime::Tasks;

use crate::cluster::{Cluster, Damage};
use crate::fault::Fault;
use crate::history::History;
use crate::schedule::Schedule;
use crate::tally::Tally;

/// How often processes that ended by themselves are started again: those that do not find the metadata store end.
const REVIVAL: Duration = Duration::from_secs(1);

/// How often everything is tried again that nobody felt, each time with somebody else.
const AGAIN: usize = 7;

/// See the [module](self).
pub(crate) struct Driver<F> {
    pub(crate) schedule: Schedule,
    /// The kinds of fault that are to be felt before the end. Who happens to be idle, or away, feels nothing of what is done to
    /// them; so it is done to others once the schedule is over.
    pub(crate) to_feel: BTreeSet<String>,
    /// All faults of a kind.
    pub(crate) again: F,
    pub(crate) history: History,
    pub(crate) duration: Duration,
    pub(crate) tally: Tally,
    pub(crate) tasks: Tasks,
}

impl<F: Fn(&str) -> Vec<(Fault, Duration)>> Driver<F> {
    /// Blocks until the end of the schedule. Stops early, with all healed, when the run is given up.
    pub(crate) fn drive(self, cluster: &mut Cluster) -> Result<()> {
        let faults = self.schedule.faults();
        let planned = faults.iter().enumerate();
        let mut events: Vec<(Duration, usize)> =
            planned.flat_map(|(index, p)| [(p.at, index), (p.end(), index)]).collect();
        events.sort_by_key(|(at, _)| *at);
        let mut going_on: BTreeMap<usize, Damage> = BTreeMap::new();
        for (at, index) in events {
            self.wait_until(at, cluster);
            let fault = faults[index].fault;
            match going_on.remove(&index) {
                None => drop(going_on.insert(index, self.begin(fault, cluster)?)),
                Some(damage) => self.end(fault, &damage, cluster)?,
            }
        }
        self.wait_until(self.duration, cluster);
        self.try_again(cluster)
    }

    /// Does what nobody felt to others, one after the other.
    fn try_again(&self, cluster: &mut Cluster) -> Result<()> {
        for attempt in 0..AGAIN {
            for kind in self.tally.unfelt(&self.to_feel) {
                if self.tasks.is_cancelled() {
                    return Ok(());
                }
                let all = (self.again)(&kind);
                let (fault, lasts) = all[attempt % all.len()];
                cluster.wait_ready();
                let damage = self.begin(fault, cluster)?;
                self.wait_until(self.history.elapsed() + lasts, cluster);
                self.end(fault, &damage, cluster)?;
            }
        }
        Ok(())
    }

    fn begin(&self, fault: Fault, cluster: &mut Cluster) -> Result<Damage> {
        self.note(format!("begin: {fault}"));
        cluster.begin(fault).with_context(|| fault.to_string())
    }

    fn end(&self, fault: Fault, damage: &Damage, cluster: &mut Cluster) -> Result<()> {
        let felt = cluster.end(damage).with_context(|| fault.to_string())?;
        self.note(format!("end: {fault} ({} {})", felt.times, felt.what));
        self.tally.add(&fault.kind(), felt);
        Ok(())
    }

    fn wait_until(&self, at: Duration, cluster: &mut Cluster) {
        while !self.tasks.is_cancelled() {
            for name in cluster.revive() {
                self.note(format!("{name} ended by itself"));
            }
            let left = at.saturating_sub(self.history.elapsed());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(REVIVAL));
        }
    }

    fn note(&self, what: String) {
        self.history.write("chaos", Event::Fault { what });
    }
}

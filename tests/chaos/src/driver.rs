//! Lets things go wrong at their times, and writes down what and whether it was felt.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use geminga_check::Event;
use geminga_runtime::Tasks;

use crate::cluster::{Cluster, Damage};
use crate::history::History;
use crate::schedule::Schedule;
use crate::tally::Tally;

/// How often processes that ended by themselves are started again: those that do not find the metadata store end.
const REVIVAL: Duration = Duration::from_secs(1);

/// See the [module](self).
pub(crate) struct Driver {
    pub(crate) schedule: Schedule,
    pub(crate) history: History,
    pub(crate) duration: Duration,
    pub(crate) tally: Tally,
    pub(crate) tasks: Tasks,
}

impl Driver {
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
                None => {
                    self.note(format!("begin: {fault}"));
                    let damage = cluster.begin(fault).with_context(|| fault.to_string())?;
                    going_on.insert(index, damage);
                }
                Some(damage) => {
                    let felt = cluster.end(&damage).with_context(|| fault.to_string())?;
                    self.note(format!("end: {fault} ({} {})", felt.times, felt.what));
                    self.tally.add(&fault.kind(), felt);
                }
            }
        }
        self.wait_until(self.duration, cluster);
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

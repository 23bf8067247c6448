//! Reads a history line by line and hands each to the partition and the group that it is about.

use std::collections::{BTreeMap, BTreeSet};

use crate::group::GroupPartition;
use crate::history::{Event, FORMAT, Line, Place};
use crate::partition::Partition;
use crate::report::Report;
use crate::violation::Violation;

/// How many violations are kept for the report; all are counted.
const KEPT: usize = 1000;

/// A history that cannot be judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// The line, counted from 1; 0 when it is about the history as a whole.
    pub line: u64,
    /// What is wrong with it.
    pub why: String,
}

impl std::error::Error for Malformed {}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "not a whole history: {}", self.why),
            line => write!(f, "line {line}: {}", self.why),
        }
    }
}

#[derive(Debug, Default)]
struct Group {
    parts: BTreeMap<Place, GroupPartition>,
    /// All members that ever asked for partitions.
    members: BTreeSet<String>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub struct Checker {
    line: u64,
    t: u64,
    partitions: BTreeMap<Place, Partition>,
    groups: BTreeMap<String, Group>,
    /// Clients that were killed.
    dead: BTreeSet<String>,
    report: Report,
}

impl Checker {
    /// A checker that has read nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next line, without its end.
    ///
    /// # Errors
    /// When it is not a line of a history, or cannot follow those before.
    pub fn line(&mut self, text: &str) -> Result<(), Malformed> {
        self.line += 1;
        let line = serde_json::from_str(text).map_err(|e| self.malformed(e.to_string()))?;
        self.take(line)
    }

    fn malformed(&self, why: impl Into<String>) -> Malformed {
        Malformed { line: self.line, why: why.into() }
    }

    fn take(&mut self, line: Line) -> Result<(), Malformed> {
        let Line { t, client, event } = line;
        if t < self.t {
            return Err(self.malformed(format!("time goes back from {} to {t}", self.t)));
        }
        self.t = t;
        match (&event, self.line) {
            (Event::Start { format, .. }, 1) if *format == FORMAT => {}
            (Event::Start { format, .. }, 1) => {
                return Err(self.malformed(format!(
                    "format {format} is not known: this program reads format {FORMAT}"
                )));
            }
            (Event::Start { .. }, _) => return Err(self.malformed("a second start")),
            (_, 1) => return Err(self.malformed("a history begins with a start line")),
            _ => {}
        }
        if self.dead.contains(&client) {
            return Err(self.malformed(format!("{client} has died before")));
        }
        let mut found = Vec::new();
        let place = event.place().cloned();
        let taken = self.event(&client, event, &mut found);
        if let Some(place) = place {
            found.iter_mut().for_each(|violation| violation.name(&place));
        }
        self.found(found);
        taken.map_err(|why| self.malformed(why))
    }

    fn event(
        &mut self,
        client: &str,
        event: Event,
        found: &mut Vec<Violation>,
    ) -> Result<(), String> {
        let line = self.line;
        match event {
            Event::Start { about, .. } => {
                self.report.about = about;
                Ok(())
            }
            Event::Fault { .. } => {
                self.report.faults += 1;
                Ok(())
            }
            Event::Died {} => {
                self.report.deaths += 1;
                self.dead.insert(client.to_owned());
                Ok(())
            }
            Event::Produce { place, content } => self.partition(place).produce(line, &content),
            Event::Ack { place, producer, seq, offset } => {
                self.partition(place).ack(line, &producer, seq, offset)
            }
            Event::Fail { place, producer, seq, in_doubt, .. } => {
                self.partition(place).fail(line, &producer, seq, in_doubt)
            }
            Event::Log { place, start, end } => self.partition(place).log(line, start, end),
            Event::Read { place, offset, content } => {
                self.partition(place).read(line, offset, &content, found)
            }
            Event::Fetch { group, place, offset, content } => {
                self.group(&group, &place).fetch(line, client, offset, found);
                self.partition(place).fetch(line, offset, &content, found);
                Ok(())
            }
            Event::Join { group } => {
                let group = self.groups.entry(group).or_default();
                group.parts.values_mut().for_each(|part| part.join(client));
                group.members.insert(client.to_owned());
                Ok(())
            }
            Event::Assign { group, place, offset } => {
                self.report.assignments += 1;
                self.group(&group, &place).assign(line, client, offset, found);
                Ok(())
            }
            Event::Revoke { group, place } => {
                self.group(&group, &place).revoke(client);
                Ok(())
            }
            Event::Commit { group, place, offset } => {
                self.group(&group, &place).commit(line, client, offset);
                Ok(())
            }
            Event::Committed { group, place } => {
                self.report.commits += 1;
                self.group(&group, &place).committed(line, client, found)
            }
            Event::Look { group } => {
                let group = self.groups.entry(group).or_default();
                group.parts.values_mut().for_each(|part| part.look(line, client));
                Ok(())
            }
            Event::Seen { group, place, offset } => {
                self.group(&group, &place).seen(line, client, offset, found);
                Ok(())
            }
            Event::Reset { group, place, offset } => {
                self.report.resets += 1;
                self.group(&group, &place).reset(line, offset);
                Ok(())
            }
            Event::ResetDone { group, place } => self.group(&group, &place).reset_done(line),
        }
    }

    fn partition(&mut self, place: Place) -> &mut Partition {
        self.partitions.entry(place).or_default()
    }

    fn group(&mut self, group: &str, place: &Place) -> &mut GroupPartition {
        // Looked up before a name is copied: most lines are about what is known.
        if !self.groups.contains_key(group) {
            self.groups.insert(group.to_owned(), Group::default());
        }
        let Group { parts, members } = self.groups.get_mut(group).expect("just put there");
        if !parts.contains_key(place) {
            parts.insert(place.clone(), GroupPartition::new(members.iter().cloned()));
        }
        parts.get_mut(place).expect("just put there")
    }

    /// Judges the history as a whole.
    ///
    /// # Errors
    /// When its end is missing.
    pub fn finish(mut self) -> Result<Report, Malformed> {
        let whole = |why: String| Malformed { line: 0, why };
        if self.line == 0 {
            return Err(whole("it is empty".to_owned()));
        }
        let mut found = Vec::new();
        for (place, partition) in &self.partitions {
            let mut here = Vec::new();
            self.report.open_at_death += partition
                .finish(&self.dead, &mut here)
                .map_err(|why| whole(format!("{}/{}: {why}", place.topic, place.partition)))?;
            let nobody = GroupPartition::default();
            for (group, Group { parts, .. }) in &self.groups {
                // A group that reads a topic reads all of it.
                if !parts.keys().any(|part| part.topic == place.topic) {
                    continue;
                }
                let part = parts.get(place).unwrap_or(&nobody);
                let from = here.len();
                let due = partition.bounds().unwrap_or_default();
                part.finish(due, |offset| partition.line_of(offset), &mut here);
                for violation in &mut here[from..] {
                    violation.what = format!("group {group}: {}", violation.what);
                }
                self.report.deliveries += part.deliveries;
                self.report.repeats += part.repeats;
            }
            let counts = partition.counts();
            self.report.records.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            here.iter_mut().for_each(|violation| violation.name(place));
            found.append(&mut here);
        }
        self.report.partitions = self.partitions.len() as u64;
        self.report.groups = self.groups.len() as u64;
        self.found(found);
        self.report.lines = self.line;
        Ok(self.report)
    }

    fn found(&mut self, violations: Vec<Violation>) {
        for violation in violations {
            *self.report.counts.entry(violation.property).or_default() += 1;
            if self.report.violations.len() < KEPT {
                self.report.violations.push(violation);
            }
        }
    }
}

#[cfg(test)]
mod tests;

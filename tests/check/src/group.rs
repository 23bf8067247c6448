//! One group in one partition: who has it, what was delivered, what is committed.
//!
//! *Floor*: the largest offset of which it is certain that it is committed: a commit, or a look at it, that has been
//! answered. Whatever begins later (a commit, a look, an assignment) must not be below, unless a reset came between. An open
//! commit raises nothing, and one that is answered late raises the floor only if it was not overtaken.
//!
//! An assignment begins when the group decides it, which no client sees: its line may come much later, when others have had
//! the partition since and committed. So what counts for a member is the floor when the first of these others was assigned
//! the partition after it had asked (`join`, or `revoke`, with which it asks again).

use std::collections::{BTreeMap, HashMap};

use crate::violation::{Property, Violation};

/// A committed offset and the line that told of it.
#[derive(Debug, Clone, Copy, Default)]
struct Floor {
    offset: u64,
    line: Option<u64>,
}

/// One member's time with the partition.
#[derive(Debug)]
struct Tenure {
    line: u64,
    /// The floor when it began.
    floor: Floor,
    /// Where it said that it would begin, then the offset after the last record that it was given.
    next: Option<u64>,
}

/// A commit, or a look, that is not answered.
#[derive(Debug, Clone, Copy)]
struct Asked {
    line: u64,
    offset: u64,
    floor: Floor,
    resets: u64,
}

#[derive(Debug, Default)]
pub(crate) struct GroupPartition {
    tenures: HashMap<String, Tenure>,
    /// Members that have asked and were not assigned it since; with the floor, once another was.
    waiting: HashMap<String, Option<Floor>>,
    /// By offset: the line of the last delivery.
    delivered: BTreeMap<u64, u64>,
    floor: Floor,
    /// By member.
    commits: HashMap<String, Asked>,
    looks: HashMap<String, Asked>,
    reset: Option<u64>,
    /// How many resets were begun or confirmed.
    resets: u64,
    /// The largest offset that a reset went to: what is before may have been passed over.
    passed: u64,
    /// How often a record was delivered that had been before.
    pub(crate) repeats: u64,
    pub(crate) deliveries: u64,
}

impl GroupPartition {
    /// One that these members have asked for, among others.
    pub(crate) fn new(waiting: impl Iterator<Item = String>) -> Self {
        Self { waiting: waiting.map(|member| (member, None)).collect(), ..Self::default() }
    }

    pub(crate) fn join(&mut self, member: &str) {
        self.waiting.insert(member.to_owned(), None);
    }

    pub(crate) fn assign(
        &mut self,
        line: u64,
        member: &str,
        offset: Option<u64>,
        into: &mut Vec<Violation>,
    ) {
        let floor = self.waiting.remove(member).flatten().unwrap_or(self.floor);
        for others in self.waiting.values_mut() {
            others.get_or_insert(self.floor);
        }
        if let Some(offset) = offset
            && offset < floor.offset
        {
            let what = format!("{member} starts at {offset}, after {} was committed", floor.offset);
            into.push(went_back(what, floor, line));
        }
        let tenure = Tenure { line, floor, next: offset };
        self.tenures.insert(member.to_owned(), tenure);
    }

    pub(crate) fn revoke(&mut self, member: &str) {
        self.tenures.remove(member);
        self.join(member);
    }

    pub(crate) fn fetch(
        &mut self,
        line: u64,
        member: &str,
        offset: u64,
        into: &mut Vec<Violation>,
    ) {
        let before = self.delivered.insert(offset, line);
        self.deliveries += 1;
        self.repeats += u64::from(before.is_some());
        let Some(tenure) = self.tenures.get_mut(member) else {
            let what = format!("{member} was given offset {offset} without an assignment");
            into.push(Violation::new(Property::Unassigned, what, [line]));
            return;
        };
        let lines = [Some(tenure.line), before, Some(line)].into_iter().flatten();
        match tenure.next {
            Some(next) if offset < next => {
                let what = format!("{member} was given offset {offset} where {next} is due");
                into.push(Violation::new(Property::Repeated, what, lines));
            }
            Some(next) if offset > next => {
                let what = format!("{member} was given offset {offset}, passing over {next}");
                into.push(Violation::new(Property::Order, what, lines));
            }
            None if offset < tenure.floor.offset => {
                let what = format!(
                    "{member} starts with offset {offset}, after {} was committed",
                    tenure.floor.offset
                );
                let lines = tenure.floor.line.into_iter().chain(lines);
                into.push(Violation::new(Property::Repeated, what, lines));
            }
            _ => {}
        }
        // A member that is out of step was reported once; go on from there.
        tenure.next = Some(offset.saturating_add(1));
    }

    pub(crate) fn commit(&mut self, line: u64, member: &str, offset: u64) {
        let asked = Asked { line, offset, floor: self.floor, resets: self.resets };
        self.commits.insert(member.to_owned(), asked);
    }

    pub(crate) fn committed(
        &mut self,
        line: u64,
        member: &str,
        into: &mut Vec<Violation>,
    ) -> Result<(), String> {
        let Some(asked) = self.commits.remove(member) else {
            return Err(format!("{member} has no commit that could be answered"));
        };
        let what = |floor: u64| {
            format!("{member} committed {}, after {floor} was committed", asked.offset)
        };
        self.answered(asked, asked.offset, line, what, into);
        Ok(())
    }

    pub(crate) fn look(&mut self, line: u64, client: &str) {
        let asked = Asked { line, offset: 0, floor: self.floor, resets: self.resets };
        self.looks.insert(client.to_owned(), asked);
    }

    pub(crate) fn seen(&mut self, line: u64, client: &str, offset: u64, into: &mut Vec<Violation>) {
        // Whoever looked before the group was known here saw nothing to fall behind.
        let Some(asked) = self.looks.remove(client) else { return };
        let what = |floor: u64| format!("{offset} is committed, after {floor} was");
        self.answered(asked, offset, line, what, into);
    }

    fn answered(
        &mut self,
        asked: Asked,
        offset: u64,
        line: u64,
        what: impl FnOnce(u64) -> String,
        into: &mut Vec<Violation>,
    ) {
        // What a reset came between is older or newer than it: nobody can tell.
        if asked.resets != self.resets {
            return;
        }
        if offset < asked.floor.offset {
            let what = what(asked.floor.offset);
            into.push(went_back(what, asked.floor, asked.line));
        } else if offset > self.floor.offset {
            self.floor = Floor { offset, line: Some(line) };
        }
    }

    pub(crate) fn reset(&mut self, line: u64, offset: u64) {
        self.reset = Some(offset);
        self.resets += 1;
        self.passed = self.passed.max(offset);
        let lowered = Floor { offset, line: Some(line) };
        let waiting = self.waiting.values_mut().flatten();
        for floor in waiting.chain([&mut self.floor]).filter(|floor| offset < floor.offset) {
            *floor = lowered;
        }
    }

    pub(crate) fn reset_done(&mut self, line: u64) -> Result<(), String> {
        let Some(offset) = self.reset.take() else {
            return Err("no reset was begun".to_owned());
        };
        self.resets += 1;
        self.floor = Floor { offset, line: Some(line) };
        // It was confirmed that nobody had the partition.
        self.tenures.clear();
        Ok(())
    }

    /// What the group never got of these offsets.
    pub(crate) fn finish(
        &self,
        due: std::ops::Range<u64>,
        line_of: impl Fn(u64) -> Option<u64>,
        into: &mut Vec<Violation>,
    ) {
        let due = due.start.max(self.passed)..due.end;
        let mut next = due.start;
        let mut gap = |from: u64, to: u64| {
            if from < to {
                let what = match to - from {
                    1 => format!("offset {from} was never delivered"),
                    more => {
                        format!("offsets {from} to {} were never delivered, {more} records", to - 1)
                    }
                };
                into.push(Violation::new(Property::Missed, what, line_of(from)));
            }
        };
        if due.is_empty() {
            return;
        }
        for (&offset, _) in self.delivered.range(due.clone()) {
            gap(next, offset);
            next = offset + 1;
        }
        gap(next, due.end);
    }
}

fn went_back(what: String, floor: Floor, line: u64) -> Violation {
    Violation::new(Property::WentBack, what, floor.line.into_iter().chain([line]))
}

//! What was found, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use comfy_table::{Table, presets};

use crate::violation::{Property, Violation};

/// How many violations of one kind are printed.
const PRINTED: usize = 5;

/// The outcome for a whole history.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// What the history says of itself.
    pub about: String,
    /// Lines read.
    pub lines: u64,
    /// Partitions that occur.
    pub partitions: u64,
    /// Groups that occur.
    pub groups: u64,
    /// Records that were sent, acknowledged, refused, left in doubt, and found in the log.
    pub records: [u64; 5],
    /// Of those in doubt, those that were on their way when their producer was killed.
    pub open_at_death: u64,
    /// Clients that were killed.
    pub deaths: u64,
    /// Records that groups were given.
    pub deliveries: u64,
    /// Of these, those that had been given before.
    pub repeats: u64,
    /// Partitions that were given to members.
    pub assignments: u64,
    /// Commits that were answered.
    pub commits: u64,
    /// Resets of offsets, by partition.
    pub resets: u64,
    /// Lines about faults.
    pub faults: u64,
    /// How often each property was violated; those that were not are absent.
    pub counts: BTreeMap<Property, u64>,
    /// The first violations.
    pub violations: Vec<Violation>,
}

/// Texts of the lines that violations cite, by number.
pub type Evidence = BTreeMap<u64, String>;

impl Report {
    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    /// The numbers of the lines that [`Report::findings`] wants the texts of.
    pub fn cited(&self) -> BTreeSet<u64> {
        self.printed().flat_map(|violation| violation.lines.iter().copied()).collect()
    }

    fn printed(&self) -> impl Iterator<Item = &Violation> {
        Property::ALL.into_iter().flat_map(|property| {
            self.violations.iter().filter(move |v| v.property == property).take(PRINTED)
        })
    }

    /// The violations, each with the lines that show it.
    pub fn findings(&self, evidence: &Evidence) -> String {
        let mut text = String::new();
        for violation in self.printed() {
            let _ = writeln!(text, "{}: {}", violation.property, violation.what);
            for number in &violation.lines {
                let line = evidence.get(number).map_or("", String::as_str);
                let _ = writeln!(text, "    line {number}: {line}");
            }
        }
        text
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.about)?;
        let [sent, acked, refused, in_doubt, found] = self.records;
        let rows = [
            ("lines", self.lines),
            ("faults", self.faults),
            ("clients killed", self.deaths),
            ("partitions", self.partitions),
            ("records sent", sent),
            ("  acknowledged", acked),
            ("  refused", refused),
            ("  in doubt", in_doubt),
            ("    of the killed", self.open_at_death),
            ("  in the log", found),
            ("groups", self.groups),
            ("  assignments", self.assignments),
            ("  records given", self.deliveries),
            ("  of these again", self.repeats),
            ("  commits", self.commits),
            ("  resets", self.resets),
        ];
        let mut counts = Table::new();
        counts.load_style(presets::NOTHING);
        for (name, count) in rows {
            counts.add_row([name.to_owned(), count.to_string()]);
        }
        writeln!(f, "{counts}\n")?;
        let mut properties = Table::new();
        properties.load_style(presets::NOTHING);
        for property in Property::ALL {
            let count = self.counts.get(&property).copied().unwrap_or(0);
            let verdict = if count == 0 { "ok".to_owned() } else { format!("{count} VIOLATIONS") };
            properties.add_row([property.name(), property.promise(), &verdict]);
        }
        writeln!(f, "{properties}")
    }
}

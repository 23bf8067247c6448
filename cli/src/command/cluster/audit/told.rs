//! What `geminga cluster audit` prints, and what it ends with. Brokers may start only where everybody was heard, and every ledger that had
//! to be closed is.

use geminga_ledger::core::audit::{Incomplete, Report, Stranger, View as Compared};
use geminga_metastore::record::{Cluster, LedgerMeta};
use geminga_proto::ids::{EntryId, LedgerId, Member};
use serde::Serialize;

use super::objects::Folded;
use crate::args::PrintArgs;
use crate::exit::{Exit, Failure};
use crate::view::View;

/// What is printed.
#[derive(Debug, Default, Serialize)]
pub(super) struct Told {
    cluster: String,
    cluster_epoch: u16,
    dry_run: bool,
    /// Whether brokers may start.
    pub(super) audited: bool,
    ledgers_compared: u64,
    /// Disks that did not answer.
    unanswered: Vec<String>,
    pub(super) recovered: Vec<Done>,
    /// Held by others than the backup names.
    pub(super) moved: Vec<Done>,
    /// Read from the object store from now on.
    pub(super) relinked: Vec<Done>,
    pub(super) failed: Vec<Failed>,
    quarantined: Vec<Quarantined>,
    lost: Vec<Lost>,
    /// Deleted since the backup: bookies have their tombstones.
    deleted: Vec<Lost>,
    unverified: Vec<String>,
    /// Closed elsewhere than their objects end.
    pub(super) other_end: Vec<String>,
    /// In objects that are not in the object store any more.
    gone: Vec<String>,
    /// Segments in an object store at which nobody looked.
    unlooked: u64,
    /// Ledgers whose metadata cannot be read.
    pub(super) unreadable: Vec<String>,
    /// Ids of this epoch that the metadata never handed out.
    reused: Vec<String>,
    /// Commands that move the beginnings of logs over what is not there any more.
    pub(super) follow: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Done {
    ledger_id: String,
    topic: String,
    partition: u32,
    last_entry: i64,
}

#[derive(Debug, Serialize)]
pub(super) struct Failed {
    ledger_id: String,
    why: String,
}

#[derive(Debug, Serialize)]
struct Quarantined {
    ledger_id: String,
    bookies: Vec<String>,
    last_entry: i64,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Lost {
    ledger_id: String,
    topic: String,
    partition: u32,
    first_offset: i64,
    /// The first entry that none of its bookies has.
    entry: i64,
    /// Bookies that the metadata does not name, and that have something of it.
    elsewhere: Vec<String>,
}

/// A ledger that has its end.
pub(super) fn done(meta: &LedgerMeta) -> Done {
    Done {
        ledger_id: meta.id.to_string(),
        topic: meta.custom.name.clone(),
        partition: meta.custom.partition,
        last_entry: meta.last_entry.unwrap_or(EntryId::NONE).0,
    }
}

fn lost(meta: &LedgerMeta, entry: EntryId, elsewhere: &[Member]) -> Lost {
    Lost {
        ledger_id: meta.id.to_string(),
        topic: meta.custom.name.clone(),
        partition: meta.custom.partition,
        first_offset: meta.custom.first_offset,
        entry: entry.0,
        elsewhere: names(elsewhere),
    }
}

fn names(members: &[Member]) -> Vec<String> {
    members.iter().map(|member| member.bookie.to_string()).collect()
}

impl Told {
    /// Of what was found; with a dry run also what would be done about it.
    pub(super) fn new(
        cluster: &Cluster,
        compared: &Compared,
        report: &Report,
        dry_run: bool,
    ) -> Self {
        let ids = |ledgers: &[LedgerId]| ledgers.iter().map(LedgerId::to_string).collect();
        let stranger = |stranger: &Stranger| Quarantined {
            ledger_id: stranger.ledger.to_string(),
            bookies: names(&stranger.holders),
            last_entry: stranger.last.0,
            bytes: stranger.bytes,
        };
        let mut told = Self {
            cluster: cluster.uuid.to_string(),
            cluster_epoch: cluster.epoch,
            dry_run,
            ledgers_compared: report.compared,
            unanswered: compared.unanswered.iter().map(Member::to_string).collect(),
            quarantined: report.strangers.iter().map(stranger).collect(),
            unverified: ids(&report.unverified),
            gone: ids(&report.gone),
            unlooked: report.unlooked,
            reused: ids(&report.reused),
            ..Self::default()
        };
        told.name(report, compared);
        if dry_run {
            let of = |ledger: &LedgerId| compared.ledgers.get(ledger).map(done);
            told.recovered.extend(report.unclosed.iter().filter_map(of));
            told.moved.extend(report.moved.iter().filter_map(of));
            told.relinked.extend(report.dropped.iter().filter_map(|one| of(&one.ledger)));
        }
        told
    }

    /// What is missing, by topic and place, and what cannot be carried out.
    fn name(&mut self, report: &Report, compared: &Compared) {
        for Incomplete { ledger, entry, elsewhere, deleted } in &report.lost {
            let Some(meta) = compared.ledgers.get(ledger) else { continue };
            let list = if *deleted { &mut self.deleted } else { &mut self.lost };
            list.push(lost(meta, *entry, elsewhere));
        }
        for meta in report.ended.iter().filter_map(|ledger| compared.ledgers.get(ledger)) {
            self.deleted.push(lost(meta, EntryId(0), &[]));
        }
        for Incomplete { ledger, entry, .. } in &report.torn {
            self.fail(*ledger, format!(
                "entry {entry} is on no bookie, and it went on behind it: bring back who has it; `geminga ledger force-close {ledger}` gives up what is behind"
            ));
        }
        for Incomplete { ledger, entry, .. } in &report.disputed {
            self.fail(*ledger, format!(
                "bookies were told that it ends before entry {entry}, and others hold that and more: `geminga ledger recover {ledger}` closes it where the bookies end that the backup names"
            ));
        }
        for ledger in &report.unseen {
            let why = "its bookies have dropped it, perhaps for an object: give the --object-store that has it, or --no-other-object-store when there never was one, or another";
            self.fail(*ledger, why);
        }
    }

    /// What manifests list.
    pub(super) fn add_folded(&mut self, folded: Folded) {
        self.unlooked += folded.unlooked;
        self.gone.extend(folded.gone);
    }

    /// A ledger that is not as it should be.
    pub(super) fn fail(&mut self, ledger: LedgerId, why: impl std::fmt::Display) {
        self.failed.push(Failed { ledger_id: ledger.to_string(), why: why.to_string() });
    }

    /// Whether everybody was heard who may know better.
    pub(super) fn is_whole(&self) -> bool {
        self.unanswered.is_empty() && self.reused.is_empty()
    }

    /// Prints, and fails where brokers may not start.
    pub(super) fn finish(self, print: PrintArgs) -> Result<(), Failure> {
        self.print(print)?;
        if !self.reused.is_empty() {
            let (count, epoch) = (self.reused.len(), self.cluster_epoch);
            return Err(Failure::new(format!(
                "{count} ledgers have ids that this metadata never handed out: the backup was restored before, and their ids would be given again: stop all servers and run `geminga cluster epoch-bump --above {epoch}`"
            ))
            .because("EPOCH_REUSED"));
        }
        if !self.unanswered.is_empty() {
            let who = self.unanswered.join(", ");
            return Err(Failure::with(
                Exit::Incomplete,
                format!(
                    "{who} did not answer, and nothing was changed: start them and run this again, or name those that do not come back with --without"
                ),
            )
            .because("BOOKIES_MISSING"));
        }
        if !self.failed.is_empty() {
            let count = self.failed.len();
            return Err(Failure::with(
                Exit::Incomplete,
                format!(
                    "{count} ledgers could not be closed, and brokers do not start before: see above, and run this again; `geminga ledger force-close` gives up what cannot be brought back"
                ),
            )
            .because("NOT_RECOVERED"));
        }
        Ok(())
    }
}

impl View for Told {
    fn text(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let mut line = |what: std::fmt::Arguments<'_>| {
            text.write_fmt(what).expect("memory takes it");
            text.push('\n');
        };
        let would = if self.dry_run { " (nothing was changed)" } else { "" };
        line(format_args!("Cluster {}, epoch {}{would}", self.cluster, self.cluster_epoch));
        line(format_args!("{} ledgers compared", self.ledgers_compared));
        for (what, all) in [
            ("recovered", &self.recovered),
            ("held by others than the backup names", &self.moved),
            ("in the object store", &self.relinked),
        ] {
            line(format_args!("{} {what}", all.len()));
            for Done { ledger_id, topic, partition, last_entry } in all {
                line(format_args!("  {ledger_id}  {topic}/{partition}  ends at {last_entry}"));
            }
        }
        line(format_args!(
            "{} quarantined: only bookies know them; kept for seven days",
            self.quarantined.len()
        ));
        for Quarantined { ledger_id, bookies, last_entry, bytes } in &self.quarantined {
            let bookies = bookies.join(", ");
            line(format_args!("  {ledger_id}  up to {last_entry}, {bytes} bytes, on {bookies}"));
        }
        for (what, all) in [("deleted since the backup", &self.deleted), ("lost", &self.lost)] {
            line(format_args!("{} {what}", all.len()));
            for Lost { ledger_id, topic, partition, first_offset, entry, elsewhere } in all {
                let elsewhere = elsewhere.join(", ");
                line(format_args!(
                    "  {ledger_id}  {topic}/{partition}  from offset {first_offset}, entry {entry} {elsewhere}"
                ));
            }
        }
        for (what, ids) in [
            ("not verified", &self.unverified),
            ("not in the object store any more", &self.gone),
            ("closed elsewhere than their objects end, and not read from those", &self.other_end),
            ("with metadata that cannot be read", &self.unreadable),
            ("never handed out", &self.reused),
        ] {
            if !ids.is_empty() {
                line(format_args!("{} {what}: {}", ids.len(), ids.join(", ")));
            }
        }
        if self.unlooked > 0 {
            line(format_args!(
                "{} segments are in an object store at which nobody looked: give --object-store",
                self.unlooked
            ));
        }
        for Failed { ledger_id, why } in &self.failed {
            line(format_args!("{ledger_id} FAILED: {why}"));
        }
        if !self.follow.is_empty() {
            line(format_args!("Logs whose beginning is not there any more, once brokers run:"));
        }
        for command in &self.follow {
            line(format_args!("  {command}"));
        }
        if self.audited {
            line(format_args!("Brokers may start."));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Told {
        let mut told = Told { audited: false, ..Told::default() };
        told.fail(LedgerId(7), "it is damaged");
        told
    }

    /// What a program and a human go by is the same.
    #[test]
    fn nobody_is_told_to_start_brokers_where_a_ledger_has_no_end() {
        let text = failed().text();
        assert!(text.contains("0000000000000007 FAILED: it is damaged"), "{text}");
        assert!(!text.contains("may start"), "{text}");
        let print = PrintArgs { output: crate::args::Output::Text };
        let failure = failed().finish(print).unwrap_err();
        assert_eq!((failure.exit, failure.reason), (Exit::Incomplete, Some("NOT_RECOVERED")));
    }

    #[test]
    fn who_was_not_heard_and_what_never_was_stop_everything() {
        let silent = Told { unanswered: vec!["b-1".to_owned()], ..Told::default() };
        let reused = Told { reused: vec!["7".to_owned()], ..Told::default() };
        assert!(!silent.is_whole() && !reused.is_whole() && failed().is_whole());
    }
}

//! What processes say of themselves: readiness, and the metrics that are above nothing only when something is wrong.

use std::collections::BTreeMap;

use super::{Finding, Level, ago};
use crate::command::cluster::doctor::facts::Facts;
use crate::command::cluster::doctor::metrics::Sample;
use crate::command::cluster::doctor::page::Page;

/// A certificate that ends sooner is to be renewed.
const RENEW_SECONDS: f64 = 14.0 * 24.0 * 3_600.0;

/// When a sample of a metric says that something is wrong.
struct Sign {
    metric: &'static str,
    /// What the labels must contain; behind a `!`, what they must not.
    label: &'static str,
    /// Values above it.
    above: f64,
    level: Level,
    /// Behind "NAME ".
    what: &'static str,
    act: &'static str,
}

const SIGNS: &[Sign] = &[
    Sign {
        metric: "geminga_repair_lost_ledgers",
        label: "",
        above: 0.0,
        level: Level::Wrong,
        what: "knows of ledgers with entries of which there is no copy",
        act: "bring back a bookie that has them; `geminga cluster status` names ledgers and topics",
    },
    Sign {
        metric: "geminga_tier_objects_missing_total",
        label: "",
        above: 0.0,
        level: Level::Watch,
        what: "found objects missing, since its start, whose ledgers were trimmed: their records cannot be read until these are back",
        act: "bring the objects back from the bucket's versions, and see who removes them: only Geminga may",
    },
    Sign {
        metric: "geminga_bookie_gc_stopped",
        // Bookies of the version before do not say of what.
        label: "!of=\"leftovers\"",
        above: 0.0,
        level: Level::Wrong,
        what: "stopped giving space back: more than a tenth of its ledgers are not in the metadata",
        act: "see whether this is the right metadata store, restored from a backup perhaps (docs/disaster.md); nothing is removed meanwhile",
    },
    Sign {
        metric: "geminga_tier_store_refused",
        label: "",
        above: 0.0,
        level: Level::Wrong,
        what: "does not find the cluster's object store where it was told to: nothing is uploaded",
        act: "mount the directory, or correct --object-store-endpoint (docs/tiering.md#whose-a-store-is); it goes on by itself then",
    },
    Sign {
        metric: "geminga_tier_sweep_stopped",
        label: "",
        above: 0.0,
        level: Level::Wrong,
        what: "stopped removing objects that nobody refers to: they are more than a tenth of all",
        act: "see whether another cluster shares the bucket and prefix, or old metadata was restored; nothing is removed meanwhile",
    },
    Sign {
        metric: "geminga_repair_storm_brake",
        label: "",
        above: 0.0,
        level: Level::Wrong,
        what: "holds back repairs: too many bookies went at once",
        act: "bring them back; when they are gone for good, repairs go on by themselves after a while (docs/repair.md)",
    },
    Sign {
        metric: "geminga_ledger_zones_missing",
        label: "",
        above: 0.0,
        level: Level::Watch,
        what: "finds fewer zones with a bookie that takes new data than --min-zones, or --min-ack-zones, asks for: new records have their copies in fewer",
        act: "start bookies in other zones, or give their disks room; if there are no more zones, say so by these options of brokers",
    },
    Sign {
        metric: "geminga_bookie_damaged_entries_total",
        label: "",
        above: 0.0,
        level: Level::Watch,
        what: "read entries, since its start, that are damaged on its disk",
        act: "they are copied from others by themselves; a disk that does so again is to be replaced",
    },
    Sign {
        metric: "geminga_bookie_damaged_segments_total",
        label: "",
        above: 0.0,
        level: Level::Watch,
        what: "found damaged files of its log, since its start",
        act: "they are copied from others by themselves; a disk that does so again is to be replaced",
    },
    Sign {
        metric: "geminga_bookie_refused_records",
        label: "",
        above: 0.0,
        level: Level::Watch,
        what: "holds records that its disk refused to read, and has not read since",
        act: "they are read from other copies; see the disk and the kernel's log, and replace one that goes on so",
    },
    Sign {
        metric: "geminga_bookie_index_errors_total",
        label: "",
        above: 0.0,
        level: Level::Watch,
        what: "could not read or write parts of its index, since its start",
        act: "see its log for why; a disk that does so again is to be replaced",
    },
    Sign {
        metric: "geminga_bookie_replies_total",
        label: "code=\"io_error\"",
        above: 0.0,
        level: Level::Watch,
        what: "answered requests, since its start, with an error of its disk, or of a ledger with a defect",
        act: "see its log for which; a disk that does so again is to be replaced",
    },
    Sign {
        metric: "geminga_bookie_broken_ledger_requests_total",
        label: "",
        above: 0.0,
        level: Level::Wrong,
        what: "refuses ledgers in which it met a defect of its own",
        act: "keep its log and report it; a restart serves them again",
    },
    Sign {
        metric: "geminga_repair_unreadable_values",
        label: "",
        above: 0.0,
        level: Level::Wrong,
        what: "leaves ledgers alone whose metadata it cannot read",
        act: "a newer version may have written it: finish the upgrade; if not, restore it from a backup (docs/disaster.md)",
    },
    Sign {
        metric: "geminga_tls_reloads_total",
        label: "outcome=\"failed\"",
        above: 0.0,
        level: Level::Watch,
        what: "could not use certificates that were renewed, once since its start",
        act: "its log says why; the former ones stay in force until they expire",
    },
    Sign {
        metric: "geminga_bookie_quarantined_ledgers",
        label: "",
        above: 0.0,
        level: Level::Watch,
        what: "keeps ledgers that the restored metadata does not know",
        act: "`geminga cluster audit` lists them; they are removed seven days after the restore",
    },
    Sign {
        metric: "geminga_tier_oldest_due_seconds",
        label: "",
        above: 3_600.0,
        level: Level::Watch,
        what: "waits for more than an hour to upload segments that are due",
        act: "see geminga_tier_failures_total and its log: the object store may be slow, away, or refuse",
    },
    Sign {
        metric: "geminga_tier_failures_total",
        label: "",
        above: 0.0,
        level: Level::Watch,
        what: "met failures of the object store, since its start, and tries again",
        act: "see its log: the object store may be slow, away, or refuse",
    },
    Sign {
        metric: "geminga_cold_lost_objects_total",
        label: "",
        above: 0.0,
        level: Level::Watch,
        what: "was asked for records, since its start, whose objects are not in the object store",
        act: "its log names topics, partitions and objects: bring them back from the bucket's versions; reads go on then",
    },
    Sign {
        metric: "geminga_cold_failures_total",
        label: "",
        above: 0.0,
        level: Level::Watch,
        what: "could not read objects for consumers of old records, since its start",
        act: "see its log: the object store may be slow, away, or refuse",
    },
];

pub(super) fn judge(facts: &Facts, found: &mut Vec<Finding>) {
    let mut silent = Vec::new();
    // Many processes say the same in an outage: one sentence names them all.
    let mut said: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for (name, page) in &facts.pages {
        match page {
            Err(why) => silent.push(format!("{name} at {why}")),
            Ok(page) => {
                if let Some(why) = &page.unready {
                    found.push(Finding::wrong(
                        format!("{name} is not ready: {why}"),
                        "it is registered and serves nothing, or not all, until it is; its log says more",
                    ));
                }
                for (number, _) in SIGNS.iter().enumerate().filter(|(_, sign)| sign.shown_by(page))
                {
                    said.entry(number).or_default().push(name);
                }
                expiry(facts, name, page, found);
            }
        }
    }
    builds(facts, found);
    for (number, names) in said {
        let Sign { level, what, act, .. } = SIGNS[number];
        let what = format!("{} {what}", names.join(", "));
        found.push(Finding { level, what, act: act.to_owned() });
    }
    if !silent.is_empty() {
        found.push(Finding::watch(
            format!("no answer over HTTP from {}", silent.join("; ")),
            "see whether their --http ports are reached from here (--metadata-only looks without), and by TLS (--tls-ca)",
        ));
    }
}

/// Whether all are of one version.
fn builds(facts: &Facts, found: &mut Vec<Finding>) {
    let mut builds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, page) in &facts.pages {
        let samples = page.as_ref().map_or(&[][..], |page| &page.samples);
        for sample in samples.iter().filter(|sample| sample.name == "geminga_build_info") {
            builds.entry(&sample.labels).or_default().push(name);
        }
    }
    if builds.len() < 2 {
        return;
    }
    let of = |(labels, names): (&&str, &Vec<&str>)| format!("{labels}: {}", names.join(", "));
    let builds: Vec<String> = builds.iter().map(of).collect();
    found.push(Finding::watch(
        format!("servers of {} versions run: {}", builds.len(), builds.join("; ")),
        "finish the upgrade, or go back (docs/operations.md)",
    ));
}

impl Sign {
    fn shown_by(&self, page: &Page) -> bool {
        // What an auditor saw says nothing once another bookie is it.
        let is_auditor = |s: &Sample| s.name == "geminga_repair_auditor" && s.value > 0.0;
        if self.metric.starts_with("geminga_repair_") && !page.samples.iter().any(is_auditor) {
            return false;
        }
        let is_meant = |labels: &str| match self.label.strip_prefix('!') {
            Some(unwanted) => !labels.contains(unwanted),
            None => labels.contains(self.label),
        };
        let of_it = |name: &str, labels: &str| name == self.metric && is_meant(labels);
        page.samples.iter().any(|s| of_it(&s.name, &s.labels) && s.value > self.above)
    }
}

fn expiry(facts: &Facts, name: &str, page: &Page, found: &mut Vec<Finding>) {
    let metric = "geminga_tls_certificate_expires_timestamp_seconds";
    for expires in page.samples.iter().filter(|sample| sample.name == metric) {
        let (which, whom) = match expires.labels.contains("certificate=\"etcd\"") {
            true => ("the certificate that etcd is shown by", "etcd does not take it any more"),
            false => ("the certificate of", "nobody new can talk to it"),
        };
        #[allow(
            clippy::cast_precision_loss,
            reason = "milliseconds of our days are far below 2^52"
        )]
        let left = expires.value - facts.now_ms as f64 / 1_000.0;
        let act = "renew it: it is read again within seconds";
        if left <= 0.0 {
            found.push(Finding::wrong(format!("{which} {name} has expired: {whom}"), act));
        } else if left < RENEW_SECONDS {
            #[allow(clippy::cast_possible_truncation, reason = "less than fourteen days")]
            let left = ago((left * 1_000.0) as i64);
            found.push(Finding::watch(format!("{which} {name} expires in {left}"), act));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                sources(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }

    /// A sign whose metric nobody writes would never be seen.
    #[test]
    fn every_sign_is_a_metric() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        for room in ["bookie/src", "serving/src", "client", "proto/tls/src"] {
            sources(&root.join(room), &mut files);
        }
        let code: String =
            files.iter().map(|file| std::fs::read_to_string(file).expect("text")).collect();
        for Sign { metric, .. } in SIGNS {
            assert!(code.contains(&format!("\"{metric}\"")), "{metric}");
        }
    }
}

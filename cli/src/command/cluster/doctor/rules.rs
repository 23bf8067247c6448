//! What is wrong with a cluster, as sentences: each rule looks at the facts and says what it means and what to do. No I/O, no
//! clock.

mod etcd;
mod processes;
#[cfg(test)]
mod tests;

use geminga_ledger::{takers, without_zone};
use geminga_metastore::record::{Feature, Features, Under, UnderReason};
use geminga_proto::ids::BookieId;
use serde::Serialize;

use super::facts::{Facts, Known};

/// Marks that are older than this are not being worked off.
const OLD_MARK_MS: i64 = 3_600_000;
/// A broker that is drained for longer was forgotten.
const OLD_DRAIN_MS: i64 = 3_600_000;

/// How bad something is; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Level {
    /// Something is not served, or not safe.
    Wrong,
    /// It will be, or it is unusual.
    Watch,
}

/// One sentence, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What is wrong.
    pub(super) what: String,
    /// What to do.
    pub(super) act: String,
}

impl Finding {
    fn wrong(what: impl Into<String>, act: impl Into<String>) -> Self {
        Self { level: Level::Wrong, what: what.into(), act: act.into() }
    }

    fn watch(what: impl Into<String>, act: impl Into<String>) -> Self {
        Self { level: Level::Watch, what: what.into(), act: act.into() }
    }
}

/// All that is wrong, rule by rule.
pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut found = Vec::new();
    for rule in
        [cluster, brokers, absent_bookies, room, zones, copies, topics, metadata, versions, objects]
    {
        rule(facts, &mut found);
    }
    etcd::judge(&facts.etcd, &mut found);
    processes::judge(facts, &mut found);
    found
}

fn cluster(facts: &Facts, found: &mut Vec<Finding>) {
    let Some(cluster) = &facts.cluster else {
        found.push(Finding::wrong(
            "there is no cluster in this metadata store",
            "check the name at the end of --metastore, or start a server, which makes one",
        ));
        return;
    };
    if cluster.restored.is_some_and(|restored| !restored.audited) {
        found.push(Finding::wrong(
            format!(
                "the metadata came from a backup (epoch {}) and bookies were not compared with it: no broker starts",
                cluster.epoch
            ),
            "start all bookies, then run `geminga cluster audit`",
        ));
    }
}

fn brokers(facts: &Facts, found: &mut Vec<Finding>) {
    if facts.brokers.is_empty() {
        found.push(Finding::wrong(
            "no broker is registered: nothing is produced, and nothing is consumed",
            "start one; if one runs, its log says why it cannot register",
        ));
    } else if !facts.coordinated {
        found.push(Finding::wrong(
            "no broker is the coordinator: no partition gets another owner",
            "one is elected within seconds; if this stays, look at the logs of brokers for the metadata store",
        ));
    }
    for (broker, since) in &facts.drains {
        let registered = facts.brokers.iter().any(|one| one.id == *broker);
        let age = facts.now_ms.saturating_sub(*since);
        if registered && age > OLD_DRAIN_MS {
            found.push(Finding::watch(
                format!("broker {broker} is drained for {}", ago(age)),
                format!(
                    "it serves nothing; `geminga broker undrain {broker}` gives it partitions again"
                ),
            ));
        }
    }
}

/// Bookies that are known and not there.
fn absent_bookies(facts: &Facts, found: &mut Vec<Finding>) {
    let gone: Vec<_> = facts.bookies.iter().filter(|(_, known)| known.live.is_none()).collect();
    for (id, known) in &gone {
        let since = match known.absent_ms {
            Some(since) => format!(", for {}", ago(facts.now_ms.saturating_sub(since))),
            None => String::new(),
        };
        let ledgers = known.ledgers;
        found.push(match (ledgers, known.draining_ms) {
            (0, _) => Finding::watch(
                format!("bookie {id} is gone{since}, and nothing is kept there any more"),
                format!("start it again, or forget it: `geminga bookie decommission {id}`"),
            ),
            (_, Some(_)) => Finding::wrong(
                format!("bookie {id} is gone{since} while it was decommissioned, and holds copies of {ledgers} ledgers"),
                format!("`geminga bookie decommission {id} --wait` goes on; other bookies copy what it had"),
            ),
            (_, None) => Finding::wrong(
                format!("bookie {id} is gone{since}, and holds copies of {ledgers} ledgers"),
                "start it again; if it does not come back within --lost-bookie-delay, others copy what it had from where it is".to_owned(),
            ),
        });
    }
    // A set that is restarted begins with its last ones, too.
    let for_long = |known: &Known| {
        let age = known.absent_ms.map(|since| facts.now_ms.saturating_sub(since));
        known.draining_ms.is_none() && age.is_some_and(|age| age > facts.restart_ms)
    };
    let names: Vec<&BookieId> =
        gone.iter().filter(|(_, known)| for_long(known)).map(|(id, _)| *id).collect();
    if let Some(set) = scaled_in(facts, &names) {
        found.push(Finding::wrong(
            format!("the bookies that are gone are the last ones of the set {set}: it looks as if it was made smaller by hand"),
            format!(
                "scale {set} back to where it was; then take bookies out by the chart's bookie.replicas, or by `geminga bookie decommission`, \
                 which moves their data first"
            ),
        ));
    }
}

/// The numbered set of which exactly the last ones are gone, as `kubectl scale` leaves it.
fn scaled_in(facts: &Facts, gone: &[&BookieId]) -> Option<String> {
    let (set, _) = numbered(gone.first()?)?;
    let of_set = |id: &BookieId| numbered(id).filter(|(name, _)| *name == set).map(|(_, n)| n);
    let first_gone = gone.iter().filter_map(|id| of_set(id)).min()?;
    let last_there = facts
        .bookies
        .iter()
        .filter(|(_, known)| known.live.is_some())
        .filter_map(|(id, _)| of_set(id))
        .max()?;
    let all_of_it = gone.iter().all(|id| of_set(id).is_some());
    (all_of_it && first_gone > last_there).then(|| set.to_owned())
}

/// `NAME-3` as its name and number.
fn numbered(id: &BookieId) -> Option<(&str, u32)> {
    let (name, number) = id.as_str().rsplit_once('-')?;
    Some((name, number.parse().ok()?))
}

/// Whether the disks take what topics ask for.
fn room(facts: &Facts, found: &mut Vec<Finding>) {
    let live = facts.live();
    let takes = takers(&live).filter(|live| facts.stays(live)).count();
    let (copies, durable) = facts.quorums;
    if takes < usize::from(durable) {
        let unzoned = without_zone(&live).any(|live| facts.stays(live));
        let zone = if unzoned { "start those without a zone with --zone; or " } else { "" };
        found.push(Finding::wrong(
            format!("{takes} bookies take new data, and an acknowledgement needs {durable}: topics cannot be written"),
            format!("{zone}start bookies that are gone, or give those whose disks are full more room"),
        ));
    } else if takes < usize::from(copies) {
        found.push(Finding::watch(
            format!("{takes} bookies take new data, and topics ask for {copies} copies: some are missing until there are more"),
            "start bookies that are gone, or add some; the copies are made then",
        ));
    }
    for (id, known) in &facts.bookies {
        if known.draining_ms.is_some() {
            // It takes nothing on purpose.
            continue;
        }
        for disk in known.live.iter().flat_map(|live| &live.disks) {
            let percent = disk.free_bytes.saturating_mul(100).checked_div(disk.total_bytes);
            let free = percent.map_or_else(String::new, |percent| format!(" ({percent}% free)"));
            if !disk.writable {
                found.push(Finding::wrong(
                    format!("a disk of bookie {id} takes no new data{free}"),
                    "shorten the retention of topics, or tier them, or give it a larger disk; its log says what else it may be",
                ));
            } else if percent.is_some_and(|percent| percent < u64::from(facts.low_disk)) {
                found.push(Finding::watch(
                    format!("a disk of bookie {id} is nearly full{free}"),
                    "shorten the retention of topics, or tier them, or add bookies or room before it takes no new data (--disk-read-only)",
                ));
            }
        }
    }
}

fn zones(facts: &Facts, found: &mut Vec<Finding>) {
    let live = facts.live();
    // Who leaves takes nothing anyhow.
    let without = without_zone(&live).filter(|live| facts.stays(live));
    let names: Vec<&str> = without.map(|live| live.id.as_str()).collect();
    if !names.is_empty() {
        found.push(Finding::watch(
            format!("bookies without a zone among others that have one: {}", names.join(", ")),
            "give each its --zone: no new data is placed on those without, since nobody knows what they share a fate with",
        ));
    }
}

/// What is short of copies, and whether somebody works on it.
fn copies(facts: &Facts, found: &mut Vec<Finding>) {
    let lost = facts.marks.iter().filter(|mark| mark.lost_entry.is_some()).count();
    if lost > 0 {
        found.push(Finding::wrong(
            format!("of entries of {lost} ledgers no copy is known"),
            "bring back a bookie that has them; `geminga cluster status` names ledgers and topics",
        ));
    }
    // Copies that are all there, and only move, are no trouble; those of a bookie that leaves are what it is waited for.
    let short = |mark: &&Under| !mark.only_moves() && mark.reason != UnderReason::Draining;
    let short: Vec<&Under> = facts.marks.iter().filter(short).collect();
    let Some(oldest) = short.iter().map(|mark| mark.created_ms).min() else { return };
    let age = facts.now_ms.saturating_sub(oldest);
    let what = format!("{} ledgers are short of copies, the oldest for {}", short.len(), ago(age));
    if !facts.auditing {
        found.push(Finding::wrong(
            format!("{what}, and no bookie is the auditor: nobody looks for what is missing"),
            "one is elected within seconds; if this stays, look at the logs of bookies for the metadata store",
        ));
    } else if age > OLD_MARK_MS {
        found.push(Finding::wrong(
            what,
            "see `geminga cluster status` for the pace, --repair-rate of bookies, and whether there are bookies that can take the copies",
        ));
    } else {
        found.push(Finding::watch(
            what,
            "they are copied, and what is being written once it ends: `geminga cluster status` says how long that takes",
        ));
    }
}

fn topics(facts: &Facts, found: &mut Vec<Finding>) {
    let partitions: usize = facts.unowned.values().sum();
    if partitions == 0 || facts.brokers.is_empty() {
        return;
    }
    let names: Vec<&str> = facts.unowned.keys().take(3).map(String::as_str).collect();
    let more = if facts.unowned.len() > names.len() { ", ..." } else { "" };
    found.push(Finding::wrong(
        format!("{partitions} partitions have no owner: {}{more}", names.join(", ")),
        "the coordinator gives them one within seconds; if this stays, its log says why it cannot",
    ));
}

fn metadata(facts: &Facts, found: &mut Vec<Finding>) {
    if let Some(first) = facts.unreadable.first() {
        found.push(Finding::wrong(
            format!("{} values in the metadata cannot be read, such as {first}", facts.unreadable.len()),
            "a newer version may have written them: use its `geminga`; if not, restore them from a backup (docs/disaster.md)",
        ));
    }
}

/// Whether all processes read what others write.
fn versions(facts: &Facts, found: &mut Vec<Finding>) {
    let brokers = facts.brokers.iter().map(|one| (format!("broker {}", one.id), one.features));
    let bookies = facts.bookies.values().filter_map(|known| known.live.as_ref());
    let bookies = bookies.map(|live| (live.id.to_string(), live.features));
    let servers: Vec<(String, Features)> = brokers.chain(bookies).collect();
    let in_use = facts.cluster.as_ref().map_or(Features::NONE, |cluster| cluster.features);
    for feature in Feature::ALL {
        let (read, not): (Vec<_>, Vec<_>) =
            servers.iter().partition(|(_, features)| features.contains(feature));
        let names: Vec<&str> = not.iter().map(|(name, _)| name.as_str()).collect();
        if names.is_empty() {
            continue;
        }
        let names = names.join(", ");
        if in_use.contains(feature) {
            found.push(Finding::wrong(
                format!("{names} of a version that does not read `{feature}`, which is in use"),
                "upgrade them now: they take what they do not know for damaged",
            ));
        } else if !read.is_empty() {
            found.push(Finding::watch(
                format!("{names} of an earlier version than others: they do not read `{feature}`, so that nothing of it is written"),
                "finish the upgrade, or go back with the others (docs/operations.md)",
            ));
        }
    }
}

fn objects(facts: &Facts, found: &mut Vec<Finding>) {
    if let Some(why) = &facts.no_objects {
        found.push(Finding::wrong(
            why,
            "records are acknowledged without it, and segments wait at the bookies; what is there alone cannot be read: repair the store, the way there, or its \
             credentials",
        ));
    }
}

/// A time for people, to two parts.
fn ago(ms: i64) -> String {
    let seconds = u64::try_from(ms / 1_000).unwrap_or(0);
    let coarse = if seconds >= 3_600 { seconds / 60 * 60 } else { seconds };
    humantime::format_duration(std::time::Duration::from_secs(coarse)).to_string()
}

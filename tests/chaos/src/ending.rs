//! The end of a run: everybody catches up, the log is read from its start to its end, and the history is judged.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use geminga_check::{Checker, Event, Evidence, Report};
use geminga_client::{Admin, Client, OffsetAt, ReaderConfig};
use tokio::time::timeout;

use crate::history::{History, content, place};
use crate::workload::{Context, TOPIC, look};

/// How often it is looked whether a group caught up.
const GLANCE: Duration = Duration::from_millis(200);

/// Waits until every group has committed all that there is.
///
/// # Errors
/// When one does not for so long.
pub(crate) async fn catch_up(
    context: &Context,
    admin: &Admin,
    groups: &[String],
    patience: Duration,
) -> Result<()> {
    let ends = offsets(admin, OffsetAt::Latest).await?;
    for group in groups {
        let done = async {
            loop {
                let committed = look(context, admin, "chaos", group).await.unwrap_or_default();
                let behind = |(partition, end): (&u32, &u64)| {
                    committed.get(partition).copied().unwrap_or(0) < *end
                };
                if !ends.iter().any(behind) {
                    return;
                }
                tokio::time::sleep(GLANCE).await;
            }
        };
        if timeout(patience, done).await.is_err() {
            let committed = look(context, admin, "chaos", group).await;
            bail!("group {group} does not catch up: it has committed {committed:?} of {ends:?}");
        }
    }
    Ok(())
}

async fn offsets(admin: &Admin, at: OffsetAt) -> Result<BTreeMap<u32, u64>> {
    let known = admin.list_offsets(TOPIC, &[], at).await?;
    known.into_iter().map(|(partition, offset)| Ok((partition, u64::try_from(offset)?))).collect()
}

/// Reads the whole log, after its bounds were told.
///
/// # Errors
/// When it cannot be read.
pub(crate) async fn read_log(client: &Client, history: &History) -> Result<()> {
    let admin = client.admin();
    let starts = offsets(&admin, OffsetAt::Earliest).await?;
    let ends = offsets(&admin, OffsetAt::Latest).await?;
    ensure!(starts.len() == ends.len(), "bounds of some partitions are missing");
    let mut left = BTreeMap::new();
    for (partition, end) in ends {
        let start = starts.get(&partition).copied().unwrap_or(0);
        history.write("reader", Event::Log { place: place(TOPIC, partition), start, end });
        if start < end {
            left.insert(partition, end);
        }
    }
    let from = left.keys().map(|p| (*p, i64::try_from(starts[p]).unwrap_or(i64::MAX)));
    let mut reader = client.reader(TOPIC, from.collect::<Vec<_>>(), ReaderConfig::default());
    while !left.is_empty() {
        let records = reader.next().await?;
        let partition = records.from.partition;
        for record in records.records {
            let offset = u64::try_from(record.offset)?;
            let content = content(record.value.as_deref().unwrap_or_default());
            history
                .write("reader", Event::Read { place: place(TOPIC, partition), offset, content });
        }
        let next = u64::try_from(records.next_offset)?;
        left.retain(|other, end| *other != partition || next < *end);
    }
    Ok(())
}

/// What the checker says of a history, and its findings with the lines that show them.
///
/// # Errors
/// When it cannot be judged.
pub(crate) fn judge(path: &Path) -> Result<(Report, String)> {
    let lines = || Ok::<_, std::io::Error>(BufReader::new(File::open(path)?).lines());
    let mut checker = Checker::new();
    for line in lines()? {
        checker.line(&line?)?;
    }
    let report = checker.finish()?;
    let cited = report.cited();
    let mut evidence = Evidence::new();
    if !cited.is_empty() {
        for (number, line) in (1..).zip(lines()?) {
            if cited.contains(&number) {
                evidence.insert(number, line?);
            }
        }
    }
    let findings = report.findings(&evidence);
    Ok((report, findings))
}

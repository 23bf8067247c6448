//! What the members of etcd say of it.

use geminga_metastore::{EtcdAlarm, EtcdHealth};

use super::Finding;
use crate::config::Size;

/// Of its quota in percent, from which on a database is to be looked after: as the alert has it.
const FULL_PERCENT: u64 = 80;

pub(super) fn judge(etcd: &EtcdHealth, found: &mut Vec<Finding>) {
    members(etcd, found);
    alarms(etcd, found);
    room(etcd, found);
}

fn members(etcd: &EtcdHealth, found: &mut Vec<Finding>) {
    let silent = etcd.members.iter().filter_map(|(endpoint, answer)| {
        answer.as_ref().err().map(|why| format!("{endpoint}: {why}"))
    });
    let silent: Vec<String> = silent.collect();
    if !silent.is_empty() {
        found.push(Finding::wrong(
            format!(
                "{} of {} members of etcd do not answer: {}",
                silent.len(),
                etcd.members.len(),
                silent.join("; ")
            ),
            "start them, or replace one that lost its data (`etcdctl member remove`, then `member add`): without a majority nothing is created, opened or moved",
        ));
    }
    for (endpoint, answer) in &etcd.members {
        if answer.as_ref().is_ok_and(|member| !member.led) {
            found.push(Finding::wrong(
                format!("the member of etcd at {endpoint} knows no leader"),
                "start members until a majority is there, and see that they reach each other",
            ));
        }
    }
    if etcd.unstarted > 0 {
        found.push(Finding::watch(
            format!("{} members of etcd were added and have never started", etcd.unstarted),
            "start them, or take them out again (`etcdctl member list`): they count for the majority",
        ));
    }
}

fn alarms(etcd: &EtcdHealth, found: &mut Vec<Finding>) {
    if let Some(why) = &etcd.unknown {
        found.push(Finding::watch(
            format!("etcd does not say which alarms are raised, or who its members are: {why}"),
            "ask it yourself: `etcdctl alarm list`, `etcdctl member list`",
        ));
    }
    // Each member may have raised it.
    if etcd.alarms.contains(&EtcdAlarm::NoSpace) {
        found.push(Finding::wrong(
            "etcd is out of space, and takes no writes: no topic is created or deleted, and no server registers",
            "`etcdctl compact` and `etcdctl defrag`, member by member, then `etcdctl alarm disarm` (docs/operations.md)",
        ));
    }
    if etcd.alarms.contains(&EtcdAlarm::Corrupt) {
        found.push(Finding::wrong(
            "members of etcd hold different data (alarm CORRUPT)",
            "find the member that differs (`etcdctl endpoint hashkv --cluster`), replace it, then `etcdctl alarm disarm`",
        ));
    }
}

/// The fullest one stands for all: they hold the same.
fn room(etcd: &EtcdHealth, found: &mut Vec<Finding>) {
    let percents = etcd.members.iter().filter_map(|(endpoint, answer)| {
        let member = answer.as_ref().ok()?;
        let quota = member.quota_bytes?;
        let percent = member.database_bytes.saturating_mul(100).checked_div(quota)?;
        Some((percent, endpoint, quota))
    });
    if let Some((percent, endpoint, quota)) = percents.max()
        && percent >= FULL_PERCENT
    {
        let quota = Size(usize::try_from(quota).unwrap_or(usize::MAX));
        found.push(Finding::watch(
            format!("the database of the member at {endpoint} is at {percent} % of its quota of {quota}: at 100 % etcd takes no writes"),
            "`etcdctl compact` and `etcdctl defrag`, or raise --quota-backend-bytes (docs/operations.md)",
        ));
    }
}

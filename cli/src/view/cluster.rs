//! Who is in the cluster.

use geminga_proto::v1;
use serde::Serialize;

use super::{View, bytes, table};

/// Brokers, bookies and defaults.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    cluster_uuid: String,
    cluster_epoch: u32,
    version: String,
    coordinator_broker: Option<i32>,
    topics: u32,
    default_write_quorum: u32,
    default_ack_quorum: u32,
    brokers: Vec<Broker>,
    bookies: Vec<Bookie>,
    /// Absent when the broker could not tell.
    repair: Option<Repair>,
}

/// What is short of copies.
#[derive(Debug, Serialize)]
struct Repair {
    ledgers: u64,
    fragments: u64,
    open_fragments: u64,
    bytes: u64,
    oldest_ms: Option<i64>,
    estimate_seconds: Option<u64>,
    lost: Vec<Lost>,
    partial: bool,
}

#[derive(Debug, Serialize)]
struct Lost {
    ledger_id: String,
    topic: String,
    entry: i64,
}

#[derive(Debug, Serialize)]
struct Broker {
    broker_id: i32,
    address: String,
    zone: String,
    partitions: u32,
    draining: bool,
    bytes_per_second: u64,
}

/// Brokers alone.
#[derive(Debug, Serialize)]
pub(crate) struct Brokers {
    coordinator_broker: Option<i32>,
    brokers: Vec<Broker>,
}

#[derive(Debug, Serialize)]
struct Bookie {
    bookie_id: String,
    address: String,
    zone: String,
    live: bool,
    draining: bool,
    writable: bool,
    free_bytes: u64,
    total_bytes: u64,
}

impl From<v1::BrokerStatus> for Broker {
    fn from(b: v1::BrokerStatus) -> Self {
        Self {
            broker_id: b.broker_id,
            address: b.address,
            zone: b.zone,
            partitions: b.partitions,
            draining: b.draining,
            bytes_per_second: b.bytes_per_second,
        }
    }
}

fn coordinator(status: &v1::GetStatusResponse) -> Option<i32> {
    Some(status.coordinator_broker).filter(|id| *id >= 0)
}

impl From<v1::GetStatusResponse> for Brokers {
    fn from(status: v1::GetStatusResponse) -> Self {
        let coordinator_broker = coordinator(&status);
        let brokers = status.brokers.into_iter().map(Broker::from).collect();
        Self { coordinator_broker, brokers }
    }
}

/// Brokers as a table.
fn brokers(brokers: &[Broker], coordinator: Option<i32>) -> String {
    let rows = brokers.iter().map(|b| {
        let role = match (coordinator == Some(b.broker_id), b.draining) {
            (true, true) => "coordinator, draining",
            (true, false) => "coordinator",
            (false, true) => "draining",
            (false, false) => "",
        };
        let (id, partitions) = (b.broker_id.to_string(), b.partitions.to_string());
        let load = format!("{}/s", bytes(b.bytes_per_second));
        [id, b.address.clone(), b.zone.clone(), partitions, load, role.to_owned()]
    });
    table(["BROKER", "ADDRESS", "ZONE", "PARTITIONS", "LOAD", "ROLE"], rows)
}

impl View for Brokers {
    fn text(&self) -> String {
        brokers(&self.brokers, self.coordinator_broker)
    }
}

impl From<v1::GetStatusResponse> for Status {
    fn from(status: v1::GetStatusResponse) -> Self {
        let coordinator_broker = coordinator(&status);
        let bookie = |b: v1::BookieStatus| Bookie {
            bookie_id: b.bookie_id,
            address: b.address,
            zone: b.zone,
            live: b.live,
            draining: b.draining,
            writable: b.writable,
            free_bytes: b.free_bytes,
            total_bytes: b.total_bytes,
        };
        Self {
            cluster_uuid: status.cluster_uuid,
            cluster_epoch: status.cluster_epoch,
            version: status.version,
            coordinator_broker,
            topics: status.topics,
            default_write_quorum: status.default_write_quorum,
            default_ack_quorum: status.default_ack_quorum,
            brokers: status.brokers.into_iter().map(Broker::from).collect(),
            bookies: status.bookies.into_iter().map(bookie).collect(),
            repair: status.repair.map(Repair::from),
        }
    }
}

impl From<v1::RepairStatus> for Repair {
    fn from(repair: v1::RepairStatus) -> Self {
        let lost = |lost: v1::LostLedger| Lost {
            ledger_id: lost.ledger_id,
            topic: lost.topic,
            entry: lost.entry,
        };
        Self {
            ledgers: repair.ledgers,
            fragments: repair.fragments,
            open_fragments: repair.open_fragments,
            bytes: repair.bytes,
            oldest_ms: repair.oldest_ms,
            estimate_seconds: repair.estimate_seconds,
            lost: repair.lost.into_iter().map(lost).collect(),
            partial: repair.partial,
        }
    }
}

impl Repair {
    fn text(&self) -> String {
        let Some(oldest) = self.oldest_ms.filter(|_| self.ledgers > 0) else {
            return "all copies are there\n".to_owned();
        };
        let more = if self.partial { "more than " } else { "" };
        let time = match self.estimate_seconds {
            Some(seconds) => {
                let time = humantime::format_duration(std::time::Duration::from_secs(seconds));
                format!(", about {time} to go once bookies can take them")
            }
            None => String::new(),
        };
        let mut text = format!(
            "under-replicated: {more}{} in {more}{} fragments of {} ledgers, the oldest since {}{time}\n",
            bytes(self.bytes),
            self.fragments,
            self.ledgers,
            super::time(oldest)
        );
        if self.open_fragments > 0 {
            text.push_str(&format!(
                "{} of these fragments are being written: they are copied once they end, and their bytes are not counted yet\n",
                self.open_fragments
            ));
        }
        for Lost { ledger_id, topic, entry } in &self.lost {
            text.push_str(&format!(
                "LOST: no copy of entry {entry} of ledger {ledger_id} of topic {topic} is known: bring back a bookie that has it\n"
            ));
        }
        text
    }
}

impl View for Status {
    fn text(&self) -> String {
        let Self {
            cluster_uuid, version, topics, default_write_quorum, default_ack_quorum, ..
        } = self;
        let copies = match default_write_quorum {
            1 => "single copy".to_owned(),
            _ => format!("{default_write_quorum}/{default_ack_quorum}"),
        };
        let head = format!(
            "cluster {cluster_uuid}, version {version}, {topics} topics, default copies {copies}\n"
        );
        let brokers = brokers(&self.brokers, self.coordinator_broker);
        let bookies = self.bookies.iter().map(|b| {
            let state = match (b.live, b.writable) {
                _ if b.draining => "draining",
                (false, _) => "gone",
                (true, false) => "read-only",
                (true, true) => "live",
            };
            let free = format!("{} of {}", bytes(b.free_bytes), bytes(b.total_bytes));
            [b.bookie_id.clone(), b.address.clone(), b.zone.clone(), state.to_owned(), free]
        });
        let bookies = table(["BOOKIE", "ADDRESS", "ZONE", "STATE", "FREE"], bookies);
        let repair = match &self.repair {
            Some(repair) => repair.text(),
            None => "what is short of copies is not known now: ask again in a moment\n".to_owned(),
        };
        format!("{head}\n{brokers}\n{bookies}\n{repair}")
    }
}

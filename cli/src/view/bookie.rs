//! Bookies as the metadata knows them.

use geminga_metastore::record::{AbsentBookie, LiveBookie};
use geminga_proto::ids::BookieId;
use serde::Serialize;

use super::{View, bytes, table, time};

/// One bookie.
#[derive(Debug, Serialize)]
pub(crate) struct Bookie {
    bookie_id: String,
    address: String,
    zone: String,
    live: bool,
    writable: bool,
    /// Since when it is being decommissioned.
    draining_since_ms: Option<i64>,
    /// Since when it is not registered, as the auditor saw it.
    absent_since_ms: Option<i64>,
    /// How many ledgers it has copies of.
    ledgers: u64,
    free_bytes: u64,
    total_bytes: u64,
    /// The present lives of its disks.
    incarnations: Vec<String>,
}

impl Bookie {
    /// One that is known, and nothing else is.
    pub(crate) fn new(id: &BookieId) -> Self {
        Self {
            bookie_id: id.as_str().to_owned(),
            address: String::new(),
            zone: String::new(),
            live: false,
            writable: false,
            draining_since_ms: None,
            absent_since_ms: None,
            ledgers: 0,
            free_bytes: 0,
            total_bytes: 0,
            incarnations: Vec::new(),
        }
    }

    /// It is being decommissioned.
    pub(crate) fn draining(&mut self, since_ms: i64) {
        self.draining_since_ms = Some(since_ms);
    }

    /// The auditor does not see it.
    pub(crate) fn absent(&mut self, absent: &AbsentBookie) {
        self.absent_since_ms = Some(absent.since_ms);
        self.zone.clone_from(&absent.zone);
    }

    /// It is registered.
    pub(crate) fn live(&mut self, live: &LiveBookie) {
        self.address.clone_from(&live.address);
        self.zone.clone_from(&live.zone);
        self.live = true;
        self.absent_since_ms = None;
        self.writable = live.disks.iter().any(|disk| disk.writable);
        self.free_bytes = live.disks.iter().map(|disk| disk.free_bytes).sum();
        self.total_bytes = live.disks.iter().map(|disk| disk.total_bytes).sum();
        let lives = live.disks.iter().map(|disk| format!("{:016x}", disk.incarnation.0));
        self.incarnations = lives.collect();
    }

    /// It has a copy of one more ledger.
    pub(crate) fn holds(&mut self) {
        self.ledgers += 1;
    }

    fn state(&self) -> String {
        match (self.draining_since_ms, self.live, self.absent_since_ms) {
            (Some(since), true, _) => format!("draining since {}", time(since)),
            (Some(since), false, _) => format!("gone, draining since {}", time(since)),
            (None, false, Some(since)) => format!("gone since {}", time(since)),
            (None, false, None) => "gone".to_owned(),
            (None, true, _) if self.writable => "live".to_owned(),
            (None, true, _) => "read-only".to_owned(),
        }
    }
}

/// All of them.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Bookies(pub(crate) Vec<Bookie>);

impl View for Bookies {
    fn text(&self) -> String {
        let rows = self.0.iter().map(|b| {
            let free = format!("{} of {}", bytes(b.free_bytes), bytes(b.total_bytes));
            let ledgers = b.ledgers.to_string();
            [b.bookie_id.clone(), b.address.clone(), b.zone.clone(), b.state(), ledgers, free]
        });
        table(["BOOKIE", "ADDRESS", "ZONE", "STATE", "LEDGERS", "FREE"], rows)
    }
}

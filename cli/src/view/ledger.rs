//! Ledgers as their metadata says, with the names that the protocol uses.

use std::fmt::Write as _;

use geminga_metastore::record::{CloseKind, LedgerMeta, LedgerState};
use geminga_proto::ids::Member;
use serde::Serialize;

use super::{View, bytes, optional, table, time};

/// The word for a state, in tables, in JSON and in `--state`.
pub(crate) fn state(state: LedgerState) -> &'static str {
    match state {
        LedgerState::Open => "open",
        LedgerState::InRecovery => "in-recovery",
        LedgerState::Closed => "closed",
        LedgerState::Deleting => "deleting",
    }
}

fn close_kind(kind: &CloseKind) -> &'static str {
    match kind {
        CloseKind::Writer => "writer",
        CloseKind::Recovered => "recovered",
        CloseKind::ForcedWithRisk { .. } => "forced-with-risk",
    }
}

/// One ledger.
#[derive(Debug, Serialize)]
pub(crate) struct Ledger {
    ledger_id: String,
    state: &'static str,
    namespace: String,
    topic: String,
    topic_id: String,
    partition: u32,
    term: i32,
    first_offset: i64,
    write_quorum: u8,
    ack_quorum: u8,
    single_copy: bool,
    degraded: bool,
    seal_epoch: u32,
    last_entry: Option<i64>,
    payload_bytes: Option<u64>,
    close_kind: Option<&'static str>,
    /// With `forced-with-risk`: who was missing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<EnsembleMember>,
    recoverer: Option<String>,
    owner: String,
    created_ms: i64,
    fragments: Vec<Fragment>,
}

#[derive(Debug, Serialize)]
struct Fragment {
    first_entry: i64,
    last_entry: Option<i64>,
    members: Vec<EnsembleMember>,
}

#[derive(Debug, Serialize)]
struct EnsembleMember {
    bookie_id: String,
    incarnation: String,
}

impl From<&Member> for EnsembleMember {
    fn from(member: &Member) -> Self {
        Self {
            bookie_id: member.bookie.to_string(),
            incarnation: format!("{:016x}", member.incarnation.0),
        }
    }
}

impl From<&LedgerMeta> for Ledger {
    fn from(meta: &LedgerMeta) -> Self {
        let fragment =
            |(index, fragment): (usize, &geminga_metastore::record::Fragment)| Fragment {
                first_entry: fragment.first_entry.0,
                last_entry: meta.fragment_end(index).map(|last| last.0),
                members: fragment.ensemble.iter().map(EnsembleMember::from).collect(),
            };
        let missing = meta.close_kind.iter().flat_map(CloseKind::missing);
        Self {
            ledger_id: meta.id.to_string(),
            state: state(meta.state),
            namespace: meta.custom.namespace.clone(),
            topic: meta.custom.name.clone(),
            topic_id: meta.custom.topic.to_string(),
            partition: meta.custom.partition,
            term: meta.custom.term,
            first_offset: meta.custom.first_offset,
            write_quorum: meta.qw,
            ack_quorum: meta.qa,
            single_copy: meta.qw == 1,
            degraded: meta.degraded,
            seal_epoch: meta.seal_epoch.0,
            last_entry: meta.last_entry.map(|last| last.0),
            payload_bytes: meta.last_entry.map(|_| meta.length),
            close_kind: meta.close_kind.as_ref().map(close_kind),
            missing: missing.map(EnsembleMember::from).collect(),
            recoverer: Some(meta.recoverer.clone()).filter(|who| !who.is_empty()),
            owner: meta.owner.clone(),
            created_ms: meta.created_ms,
            fragments: meta.fragments.iter().enumerate().map(fragment).collect(),
        }
    }
}

impl Ledger {
    /// `topic/partition`, with the namespace where it is not the default one's.
    fn partition(&self) -> String {
        let Self { namespace, topic, partition, .. } = self;
        match namespace.as_str() {
            "" | "default" => format!("{topic}/{partition}"),
            _ => format!("{namespace}/{topic}/{partition}"),
        }
    }

    fn copies(&self) -> String {
        let copies = match self.single_copy {
            true => "single copy".to_owned(),
            false => format!("{}/{}", self.write_quorum, self.ack_quorum),
        };
        if self.degraded { format!("{copies} (degraded)") } else { copies }
    }

    /// How it ended, where it did.
    fn end(&self) -> String {
        match (self.last_entry, self.payload_bytes) {
            (Some(last), Some(length)) => format!(
                "entries 0..={last}, {} of payload, closed by: {}",
                bytes(length),
                self.close_kind.unwrap_or("unknown"),
            ),
            _ => match &self.recoverer {
                Some(who) => format!("no end yet; last recovery started by {who}"),
                None => "no end yet".to_owned(),
            },
        }
    }
}

fn members(members: &[EnsembleMember]) -> String {
    let members = members.iter().map(|m| format!("{}#{}", m.bookie_id, m.incarnation));
    members.collect::<Vec<_>>().join(" ")
}

impl View for Ledger {
    fn text(&self) -> String {
        let mut text = format!("ledger {}: {}\n", self.ledger_id, self.state);
        let mut line = |name: &str, value: &str| {
            writeln!(text, "  {name:<12}{value}").expect("a string takes it");
        };
        line(
            "belongs to",
            &format!("{} from offset {}, term {}", self.partition(), self.first_offset, self.term),
        );
        line("copies", &self.copies());
        line("end", &self.end());
        if !self.missing.is_empty() {
            line(
                "forced",
                &format!("without {}: what they alone held is lost", members(&self.missing)),
            );
        }
        line("seal epoch", &self.seal_epoch.to_string());
        line("created", &format!("{} by {}", time(self.created_ms), self.owner));
        let rows = self.fragments.iter().map(|fragment| {
            [
                fragment.first_entry.to_string(),
                optional(fragment.last_entry),
                members(&fragment.members),
            ]
        });
        text + "\n" + &table(["FROM", "TO", "BOOKIES"], rows)
    }
}

/// Many ledgers, in the order of their ids.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Ledgers(pub(crate) Vec<Ledger>);

impl View for Ledgers {
    fn text(&self) -> String {
        let rows = self.0.iter().map(|ledger| {
            [
                ledger.ledger_id.clone(),
                ledger.state.to_owned(),
                ledger.partition(),
                ledger.copies(),
                ledger.fragments.len().to_string(),
                optional(ledger.last_entry),
                ledger.payload_bytes.map_or_else(|| "-".to_owned(), bytes),
                time(ledger.created_ms),
            ]
        });
        let header =
            ["LEDGER", "STATE", "PARTITION", "COPIES", "FRAGMENTS", "LAST", "PAYLOAD", "CREATED"];
        table(header, rows)
    }
}

//! Reading entries, with fail-over between replicas (protocol 3). Which entries may be read is the caller's to know
//! (RD1): below the LAC of an open ledger, up to `last_entry` of a closed one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use geminga_metastore::record::{LedgerMeta, Tier};
use geminga_proto::bookie::{Class, Code, QueryOp, QueryReply, QueryRequest, Scope};
use geminga_proto::entry::{self, Entry};
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId, Member, SealEpoch};

use crate::cold::{ColdLedgers, Search, StoredObjects, Wanted};
use crate::config::Config;
use crate::connection::Bookies;

mod late;
mod order;

pub(crate) use late::Late;
pub use order::Distance;

/// Why entries could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Every member says that it never had an entry that was acknowledged (RD3).
    #[error("entry {entry} of ledger {ledger} is lost: no member of its ensemble has it")]
    DataLoss {
        /// The ledger.
        ledger: LedgerId,
        /// The first entry that nobody has.
        entry: EntryId,
    },
    /// Bookies have dropped theirs for an object that is not there any more (RD3).
    #[error(
        "entry {entry} of ledger {ledger} is lost: object {key} is not in {bucket} any more, and bookies have dropped their copies; bring it back from the bucket's versions, or a backup"
    )]
    ObjectLost {
        /// The ledger.
        ledger: LedgerId,
        /// The first entry asked for.
        entry: EntryId,
        /// Where the object was.
        bucket: String,
        /// Its name there.
        key: String,
    },
    /// No member could deliver it now.
    #[error("entry {entry} of ledger {ledger} cannot be read now: {why}")]
    Unavailable {
        /// The ledger.
        ledger: LedgerId,
        /// The first entry asked for.
        entry: EntryId,
        /// What the last member said.
        why: String,
    },
}

/// Reads one ledger. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    cluster: ClusterUuid,
    bookies: Arc<dyn Bookies>,
    meta: Arc<LedgerMeta>,
    timeout: Duration,
    read_bytes: u32,
    /// Where the reader is; empty: it names no zone.
    zone: Arc<str>,
    late: Arc<Late>,
    cold: Option<Arc<dyn ColdLedgers>>,
    objects: Option<Arc<dyn StoredObjects>>,
}

/// What one replica's answer came to.
pub(crate) enum Answer {
    /// Verified: as stored, and decoded.
    Entries(Vec<Bytes>, Vec<Entry>),
    /// Explicit negative from an authoritative bookie.
    Absent,
    /// It has the entry, but its bytes are bad: unknown for a reader, a fact for a recoverer (3.4).
    Corrupt(String),
    Unknown(String),
}

impl Reader {
    pub(crate) fn new(
        cluster: ClusterUuid,
        bookies: Arc<dyn Bookies>,
        meta: Arc<LedgerMeta>,
        timeout: Duration,
        read_bytes: u32,
    ) -> Self {
        let zone = Arc::from("");
        let late = Arc::default();
        Self { cluster, bookies, meta, timeout, read_bytes, zone, late, cold: None, objects: None }
    }

    /// A reader for whoever has no [`LedgerClient`](crate::LedgerClient), with the limits of `config`.
    pub fn open(
        cluster: ClusterUuid,
        bookies: Arc<dyn Bookies>,
        meta: Arc<LedgerMeta>,
        config: &Config,
    ) -> Self {
        Self::new(cluster, bookies, meta, config.read_timeout, config.read_bytes)
    }

    /// The same, which asks bookies of this zone first, and those last that let it or others that share `late` down.
    #[must_use]
    pub(crate) fn preferring(self, zone: Arc<str>, late: Arc<Late>) -> Self {
        Self { zone, late, ..self }
    }

    /// The same, which reads from there what bookies have dropped.
    #[must_use]
    pub(crate) fn with_cold(
        mut self,
        cold: Option<Arc<dyn ColdLedgers>>,
        objects: Option<Arc<dyn StoredObjects>>,
    ) -> Self {
        (self.cold, self.objects) = (cold, objects);
        self
    }

    /// The metadata it reads by.
    pub fn meta(&self) -> &LedgerMeta {
        &self.meta
    }

    /// Entries from `from` on, in order, at least one, none above `to`, about `max_bytes` of them. With `prefix_bytes`
    /// each payload is cut to that length. A trimmed ledger is read from its object, and never asked of bookies (7.6); one that has
    /// an object, when bookies do not deliver. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read(
        &self,
        from: EntryId,
        to: EntryId,
        max_bytes: usize,
        prefix_bytes: Option<u32>,
    ) -> Result<Vec<Entry>, ReadError> {
        let wanted = Wanted { from, to, max_bytes, prefix_bytes };
        if let Tier::Trimmed(_) = self.meta.tier {
            return self.read_cold(wanted).await;
        }
        match self.read_bookies(wanted).await {
            Ok((_, entries)) => Ok(entries),
            Err(_) if self.meta.tier.object().is_some() && self.cold.is_some() => {
                self.read_cold(wanted).await
            }
            Err(error) => Err(error),
        }
    }

    /// The same entries as bookies hold them, from bookies only, for a copy elsewhere. Each was verified (D1, D2). Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn read_stored(
        &self,
        from: EntryId,
        to: EntryId,
        max_bytes: usize,
    ) -> Result<Vec<Bytes>, ReadError> {
        let wanted = Wanted { from, to, max_bytes, prefix_bytes: None };
        Ok(self.read_bookies(wanted).await?.0)
    }

    /// Where in a trimmed ledger something stands, by the index of its object: the first and the last entry that may be it.
    /// `None` of others: whoever looks reads headers. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn narrow(&self, search: Search) -> Result<Option<(EntryId, EntryId)>, ReadError> {
        match (&self.meta.tier, &self.cold) {
            (Tier::Trimmed(_), Some(cold)) => {
                cold.narrow(Arc::clone(&self.meta), search).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    async fn read_cold(&self, wanted: Wanted) -> Result<Vec<Entry>, ReadError> {
        match &self.cold {
            Some(cold) => cold.read(Arc::clone(&self.meta), wanted).await,
            None => Err(ReadError::Unavailable {
                ledger: self.meta.id,
                entry: wanted.from,
                why: "it is in the object store, and this process knows of none: start it with --object-store"
                    .to_owned(),
            }),
        }
    }

    /// As stored, and decoded.
    async fn read_bookies(&self, wanted: Wanted) -> Result<(Vec<Bytes>, Vec<Entry>), ReadError> {
        let Wanted { from, to, max_bytes, prefix_bytes } = wanted;
        let fragment = self.meta.fragment_of(from);
        let next = self.meta.fragments.iter().find(|f| f.first_entry > fragment.first_entry);
        let to = next.map_or(to, |next| to.min(next.first_entry.prev()));
        let max_bytes = u32::try_from(max_bytes).unwrap_or(u32::MAX).min(self.read_bytes);
        let op = QueryOp::Read { from, to, max_bytes, prefix_bytes };
        let (mut absent, mut why) = (0, "its ensemble is empty".to_owned());
        for member in self.order(&fragment.ensemble) {
            match self.ask(member, fragment.first_entry, op.clone()).await {
                Answer::Entries(stored, entries) => return Ok((stored, entries)),
                Answer::Absent => absent += 1,
                Answer::Corrupt(said) | Answer::Unknown(said) => {
                    tracing::debug!(ledger = %self.meta.id, entry = from.0, %member, said, "replica did not deliver");
                    why = format!("{} said: {said}", member.bookie);
                }
            }
        }
        if absent == fragment.ensemble.len() {
            return Err(ReadError::DataLoss { ledger: self.meta.id, entry: from });
        }
        Err(ReadError::Unavailable { ledger: self.meta.id, entry: from, why })
    }

    fn order<'a>(&self, ensemble: &'a [Member]) -> Vec<&'a Member> {
        let distance = |member: &Member| {
            let distance = self.bookies.distance(&member.bookie, &self.zone);
            if self.late.holds(&member.bookie) { distance.late() } else { distance }
        };
        order::nearest_first(self.meta.id, ensemble, distance)
    }

    /// Asks one member only; a recoverer copies from the source it chose.
    pub(crate) async fn ask(
        &self,
        member: &Member,
        fragment_first: EntryId,
        op: QueryOp,
    ) -> Answer {
        let scope = Scope {
            cluster: self.cluster,
            ledger: self.meta.id,
            fragment_first,
            epoch: SealEpoch(0),
            incarnation: member.incarnation,
        };
        let connection = match self.bookies.connection(&member.bookie) {
            Ok(connection) => connection,
            Err(lost) => return self.let_down(member, lost.to_string()),
        };
        let reply = connection.query(QueryRequest { scope, op: op.clone() });
        match tokio::time::timeout(self.timeout, reply).await {
            Err(_) => self.let_down(member, format!("no answer within {:?}", self.timeout)),
            Ok(Err(lost)) => self.let_down(member, lost.to_string()),
            Ok(Ok(reply)) => {
                if reply.code == Code::Busy {
                    self.late.note(&member.bookie);
                }
                if let Some(adds) = reply.adds {
                    self.bookies.note_adds(&member.bookie, adds);
                }
                self.judge(&op, reply)
            }
        }
    }

    /// It did not answer: whoever reads next asks others first.
    fn let_down(&self, member: &Member, said: String) -> Answer {
        self.late.note(&member.bookie);
        Answer::Unknown(said)
    }

    /// Asks the ledger's object, for a copy: verified as what a member says is. Bounded by the object store's own deadlines.
    pub(crate) async fn ask_object(&self, op: QueryOp) -> Answer {
        let QueryOp::Read { from, to, max_bytes, .. } = op else {
            return Answer::Unknown("an object only has entries".to_owned());
        };
        let Some(objects) = &self.objects else {
            return Answer::Unknown(
                "no object store is known here: give bookies --object-store".to_owned(),
            );
        };
        let wanted = Wanted { from, to, max_bytes: max_bytes as usize, prefix_bytes: None };
        match objects.read(Arc::clone(&self.meta), wanted).await {
            Ok(entries) => {
                self.judge(&op, QueryReply { entries, ..QueryReply::refusal(Code::Ok, "") })
            }
            Err(error) => Answer::Unknown(error.to_string()),
        }
    }

    fn judge(&self, op: &QueryOp, reply: QueryReply) -> Answer {
        match reply.code.class() {
            Class::Positive => match self.verify(op, &reply.entries) {
                Ok(entries) if entries.is_empty() => Answer::Unknown("an empty answer".to_owned()),
                Ok(entries) if entries.len() < reply.entries.len() => {
                    Answer::Unknown("more than was asked for".to_owned())
                }
                Ok(entries) => Answer::Entries(reply.entries, entries),
                // Wrong bytes say nothing about what the others have (3.4).
                Err(error) => Answer::Corrupt(error.to_string()),
            },
            Class::Negative => Answer::Absent,
            Class::Unknown if reply.code == Code::Corrupt => Answer::Corrupt(reply.detail),
            Class::Unknown | Class::Verdict => {
                Answer::Unknown(format!("{:?} {}", reply.code, reply.detail))
            }
        }
    }

    /// D1: each entry is the one asked for, and intact.
    fn verify(&self, op: &QueryOp, entries: &[Bytes]) -> Result<Vec<Entry>, entry::Error> {
        let QueryOp::Read { from, to, prefix_bytes, .. } = op else { return Ok(Vec::new()) };
        let ids = (from.0..=to.0).map(EntryId);
        let decode = |(id, bytes): (EntryId, &Bytes)| match prefix_bytes {
            Some(_) => entry::decode_prefix(self.meta.id, id, bytes),
            None => entry::decode_expecting(self.cluster, self.meta.id, id, bytes),
        };
        ids.zip(entries).map(decode).collect()
    }
}

#[cfg(test)]
mod tests;

//! Goes through all ledgers for members that do not come back or are to be left, and marks what may be repaired (protocol 6.3).

use std::collections::{BTreeMap, BTreeSet};

use geminga_ledger::mark_all;
use geminga_metastore::record::{Cookie, LedgerMeta, LedgerState, UnderReason};
use geminga_metastore::{Error, keys};
use geminga_proto::ids::{BookieId, Member};

use super::judge::Judgement;
use super::{Auditor, PAGE};

/// What a pass found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Ledgers that are not closed, and whose last fragment names somebody who was judged.
    pub(super) open: Vec<LedgerMeta>,
    /// How many ledgers each bookie that is to leave has a place in, but for trimmed ones: these name it for ever, and nobody asks it for
    /// them.
    pub(super) named: BTreeMap<BookieId, u64>,
    /// Those of them that a trimmed ledger names.
    pub(super) trimmed: BTreeSet<BookieId>,
    /// Ledgers whose metadata cannot be read: who they name is not known.
    pub(super) unread_ledgers: u64,
    /// Marks and cookies that were met and cannot be read.
    pub(super) unread_others: u64,
}

/// Who of a ledger's members was judged, and how many copies the fragment with fewest has left. Of a fragment that is being written those
/// that are gone are named as well: nobody repairs it before it ends (H17), but until then it is short of a copy, and that is to be seen. Who
/// merely leaves is left by its writer.
fn judged(meta: &LedgerMeta, judgement: &Judgement) -> (Vec<(Member, UnderReason)>, u32) {
    if meta.tier.is_trimmed() {
        // It is in its object, and no bookie is to have it (T6).
        return (Vec::new(), u32::MAX);
    }
    let closed = meta.state == LedgerState::Closed;
    let (mut members, mut copies) = (Vec::new(), u32::MAX);
    for (index, fragment) in meta.fragments.iter().enumerate() {
        let is_written = !closed && index + 1 == meta.fragments.len();
        let left = fragment.ensemble.iter().filter(|m| judgement.counts(m)).count();
        for member in &fragment.ensemble {
            let Some(reason) = judgement.of(member) else { continue };
            if is_written && reason == UnderReason::Draining {
                continue;
            }
            copies = copies.min(u32::try_from(left).unwrap_or(u32::MAX));
            if members.iter().all(|(known, _)| known != member) {
                members.push((member.clone(), reason));
            }
        }
    }
    (members, copies)
}

impl Auditor {
    /// One pass. What was marked before is left as it is, and what cannot be read is told, counted, and stops nothing.
    pub(super) async fn pass(&self, judgement: &Judgement) -> Result<Found, Error> {
        let (mut found, mut after) = (Found::default(), None::<String>);
        loop {
            let page = self.store.range(keys::LEDGERS, after.as_deref(), PAGE).await?;
            for item in &page.items {
                let Some(ledger) = keys::parse_ledger(&item.key) else { continue };
                match LedgerMeta::decode(ledger, &item.value.value) {
                    Ok(meta) if meta.state == LedgerState::Deleting => {}
                    Ok(meta) => self.look_at(meta, judgement, &mut found).await?,
                    Err(error) => {
                        found.unread_ledgers += 1;
                        tracing::error!(%ledger, %error, "metadata of a ledger is invalid; it is not audited");
                    }
                }
            }
            after = page.items.last().map(|item| item.key.clone());
            if !page.more || after.is_none() {
                return Ok(found);
            }
        }
    }

    async fn look_at(
        &self,
        meta: LedgerMeta,
        judgement: &Judgement,
        found: &mut Found,
    ) -> Result<(), Error> {
        for bookie in &judgement.draining {
            let mut members = meta.fragments.iter().flat_map(|fragment| &fragment.ensemble);
            if !members.any(|member| member.bookie == *bookie) {
                continue;
            }
            if meta.tier.is_trimmed() {
                found.trimmed.insert(bookie.clone());
            } else {
                *found.named.entry(bookie.clone()).or_default() += 1;
            }
        }
        let (judged, copies) = judged(&meta, judgement);
        let mut members = Vec::new();
        for (member, reason) in judged {
            if judgement.knows(&member.bookie) {
                members.push((member, reason));
                continue;
            }
            // A listing is no proof: its own key is (G1).
            let key = keys::bookie_cookie(&member.bookie);
            match self.store.get(&key).await?.map(|found| Cookie::decode(&found.value)) {
                None => members.push((member, reason)),
                Some(Ok(_)) => {
                    let came = format!("{} came while it was looked", member.bookie);
                    return Err(Error::Unavailable(came));
                }
                Some(Err(error)) => {
                    found.unread_others += 1;
                    tracing::error!(key, %error, "a bookie's cookie is invalid; nothing is judged of it");
                }
            }
        }
        if !members.is_empty() {
            let now_ms = self.clock.now_ms();
            match mark_all(&*self.store, meta.id, &members, Some(copies), now_ms).await {
                Err(Error::Corrupt { key, why }) => {
                    found.unread_others += 1;
                    tracing::error!(
                        key,
                        why,
                        "a mark is invalid; its ledger is not repaired until the key is removed"
                    );
                }
                marked => marked?,
            }
        }
        let not_closed = meta.state != LedgerState::Closed;
        if not_closed && meta.last_fragment().ensemble.iter().any(|m| judgement.of(m).is_some()) {
            found.open.push(meta);
        }
        Ok(())
    }
}

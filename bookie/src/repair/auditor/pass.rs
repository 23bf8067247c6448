//! Goes through all ledgers for members that do not come back or are to be left, and marks what may be repaired (protocol 6.3).

use std::collections::{BTreeMap, BTreeSet};

use geminga_ledger::mark_all;
use geminga_metastore::record::{Cookie, LedgerMeta, LedgerState, UnderReason};
use geminga_metastore::{Error, keys};
use geminga_proto::ids::{BookieId, Member};

use super::judge::Judgement;
use super::{Auditor, PAGE};

/// Copies of a ledger of which nothing can be copied yet, at least: one with a single copy left is urgent, and nothing is won by hurrying.
const UNHURRIED_COPIES: u32 = 2;

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

/// Who of a ledger's members was judged, and how many copies the ended fragment with fewest has left. Of a fragment that is being written
/// those that are gone are named as well: nobody repairs it before it ends (H17), but until then it is short of a copy, and that is to be
/// seen. Its copies do not count: the ledger would come before others that can be repaired, and wait there. Who merely leaves is left by its
/// writer.
fn judged(meta: &LedgerMeta, judgement: &Judgement) -> (Vec<(Member, UnderReason)>, u32) {
    if meta.tier.is_trimmed() {
        // It is in its object, and no bookie is to have it (T6).
        return (Vec::new(), u32::MAX);
    }
    let closed = meta.state == LedgerState::Closed;
    let (mut members, mut copies) = (Vec::new(), u32::from(meta.qw).max(UNHURRIED_COPIES));
    for (index, fragment) in meta.fragments.iter().enumerate() {
        let is_written = !closed && index + 1 == meta.fragments.len();
        let left = fragment.ensemble.iter().filter(|m| judgement.counts(m)).count();
        for member in &fragment.ensemble {
            let Some(reason) = judgement.of(member) else { continue };
            if is_written && reason == UnderReason::Draining {
                continue;
            }
            if !is_written {
                copies = copies.min(u32::try_from(left).unwrap_or(u32::MAX));
            }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use geminga_metastore::record::{Custom, Digest, Fragment, Tier};
    use geminga_proto::ids::{EntryId, Incarnation, LedgerId, SealEpoch};
    use tokio::time::Instant;

    use super::*;
    use crate::ledger::Mutations;
    use crate::repair::auditor::judge::{Bookie, View, judge};
    use crate::repair::queue::{Marked, Queue};

    fn member(number: u64) -> Member {
        Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
    }

    /// Bookies 1 to 3 are there; all others were decommissioned.
    fn judgement() -> Judgement {
        let there = |number| {
            let lives = vec![Incarnation(number)];
            (member(number).bookie, Bookie { draining: false, away: None, lives })
        };
        let bookies = (1..=3).map(there).collect();
        let view = View { now_ms: 0, bookies, live: Vec::new() };
        judge(&view, Duration::from_secs(600), Mutations::default())
    }

    /// One whose fragments have these members; the last is being written unless it is closed.
    fn ledger(id: u64, state: LedgerState, ensembles: &[&[u64]]) -> LedgerMeta {
        let fragment = |(index, ensemble): (usize, &&[u64])| Fragment {
            first_entry: EntryId(i64::try_from(index).unwrap() * 10),
            ensemble: ensemble.iter().map(|number| member(*number)).collect(),
        };
        LedgerMeta {
            id: LedgerId(id),
            state,
            seal_epoch: SealEpoch(0),
            qw: u8::try_from(ensembles[0].len()).unwrap(),
            qa: 1,
            digest: Digest::Crc32c,
            fragments: ensembles.iter().enumerate().map(fragment).collect(),
            last_entry: (state == LedgerState::Closed).then_some(EntryId(99)),
            length: 0,
            entries_crc: None,
            tier: Tier::Local,
            close_kind: None,
            recoverer: String::new(),
            last_op: 1,
            custom: Custom::default(),
            created_ms: 0,
            owner: String::new(),
            degraded: false,
        }
    }

    /// 6.9, H17: what is being written is named, and is not why a ledger is urgent; what has ended is, whatever the ledger's state.
    #[test]
    fn copies_that_nobody_can_make_yet_make_no_ledger_urgent() {
        use LedgerState::{Closed, InRecovery, Open};
        let whole: &[u64] = &[1, 2, 3];
        let judged = |meta: &LedgerMeta| -> (Vec<u64>, u32) {
            let (members, copies) = judged(meta, &judgement());
            (members.into_iter().map(|(member, _)| member.incarnation.0).collect(), copies)
        };
        for state in [Open, InRecovery] {
            let of = |ensembles: &[&[u64]]| judged(&ledger(1, state, ensembles));
            assert_eq!(of(&[whole, &[1, 7, 8]]), (vec![7, 8], 3), "{state:?}");
            assert_eq!(of(&[&[1, 2, 7], &[1, 7, 8]]), (vec![7, 8], 2), "{state:?}");
            assert_eq!(of(&[&[1, 7, 8], whole]), (vec![7, 8], 1), "{state:?}");
            assert_eq!(of(&[&[7]]), (vec![7], 2), "{state:?}");
        }
        assert_eq!(judged(&ledger(1, Closed, &[whole, &[1, 7, 8]])), (vec![7, 8], 1));
    }

    /// Fewest copies come first: marks of open ledgers are older here, and their ids are lower.
    #[tokio::test(start_paused = true)]
    async fn closed_ledgers_with_one_copy_left_come_before_open_ones() {
        use LedgerState::{Closed, Open};
        let (judgement, one, two): (_, &[u64], &[u64]) = (judgement(), &[1, 7, 8], &[1, 2, 7]);
        let ledgers = [
            ledger(1, Open, &[&[7, 8, 9]]),
            ledger(2, Open, &[one]),
            ledger(3, Closed, &[two]),
            ledger(4, Open, &[two, one]),
            ledger(5, Closed, &[one]),
            ledger(6, Open, &[one, one]),
        ];
        let marked = |(age, meta): (i64, &LedgerMeta)| {
            let (_, copies) = judged(meta, &judgement);
            Marked { ledger: meta.id, copies, lost: false, moves: false, created_ms: age }
        };
        let marks: Vec<Marked> = (0..).zip(&ledgers).map(marked).collect();
        let order = Queue::new(4).order(marks.into_iter(), Instant::now());
        let order: Vec<u64> = order.into_iter().map(|mark| mark.ledger.0).collect();
        assert_eq!(order, [5, 6, 3, 4, 1, 2]);
    }
}

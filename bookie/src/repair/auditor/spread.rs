//! The placement pass (protocol 6.3, 6.7): marks closed ledgers whose copies could be spread better over zones, so that workers move them
//! when they have nothing else to do.
//!
//! * It goes by who is registered, and only while the zones and bookies have been the same for as long as a bookie may be away, nobody is
//!   away or leaves, and the storm brake is off. Otherwise what was marked is taken back: a copy that was under way stays for the excess pass.
//! * At most so many ledgers are marked at a time. What is beyond waits for a later pass.
//! * A mark asks; whoever moves decides again ([`geminga_ledger::misplaced`]). Each move leaves an ensemble spread better than before, so that
//!   copies never go back and forth between passes.
//! * Not every version reads such a mark: none is made before all do ([`Feature::Moves`]).

use std::collections::BTreeMap;

use geminga_ledger::{mark_all, misplaced};
use geminga_metastore::record::{Feature, LedgerMeta, LedgerState, LiveBookie, Tier, UnderReason};
use geminga_metastore::{Error, KeyValue, gate, keys};
use geminga_proto::ids::{BookieId, LedgerId, Member};
use tokio::time::Instant;

use super::judge::Judgement;
use super::{Auditor, PAGE, Term};

/// Most ledgers that wait to be moved.
pub(super) const MAX_MOVES: usize = 1_000;

/// Where bookies are, and since when that is so.
#[derive(Debug)]
pub(super) struct Topology {
    zones: BTreeMap<BookieId, String>,
    since: Instant,
}

impl Topology {
    /// Nothing is known yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { zones: BTreeMap::new(), since: now }
    }

    /// Takes in who is registered now.
    pub(super) fn see(&mut self, live: &[LiveBookie], now: Instant) {
        let zones = live.iter().map(|bookie| (bookie.id.clone(), bookie.zone.clone())).collect();
        if zones != self.zones {
            *self = Self { zones, since: now };
        }
    }
}

/// A ledger that is to be marked, and the members whose places may go to others.
type Unspread = (LedgerId, LedgerMeta, Vec<(Member, UnderReason)>);

/// Members of a closed ledger whose copies are all there, and could be spread better.
fn movable(meta: &LedgerMeta, judgement: &Judgement, live: &[LiveBookie]) -> Vec<Member> {
    // One that has an object is safe from any zone, and its copies are about to go.
    let kept = meta.state == LedgerState::Closed && meta.tier == Tier::Local;
    let counts = |meta: &LedgerMeta| {
        let mut members = meta.fragments.iter().flat_map(|fragment| &fragment.ensemble);
        members.all(|member| judgement.counts(member))
    };
    // The only copy of anything is not put at risk for a better place.
    if !kept || meta.qw < 2 || !counts(meta) {
        return Vec::new();
    }
    let mut found: Vec<Member> = Vec::new();
    for fragment in &meta.fragments {
        for member in misplaced(live, &fragment.ensemble) {
            if !found.contains(&member) {
                found.push(member);
            }
        }
    }
    found
}

impl Auditor {
    /// Whether copies may move now: nothing is about to change.
    pub(super) fn is_settled(&self, term: &Term, judgement: &Judgement) -> bool {
        let long_ago = term.topology.since.elapsed() >= self.config.lost_bookie_delay;
        long_ago && judgement.is_complete()
    }

    /// One pass. `live`: who is registered.
    pub(super) async fn spread(
        &self,
        term: &mut Term,
        judgement: &Judgement,
        live: &[LiveBookie],
    ) -> Result<(), Error> {
        let mut after: Option<String> = None;
        loop {
            let page = self.store.range(keys::LEDGERS, after.as_deref(), PAGE).await?;
            // Asked when there is something to mark, so that a cluster that has not is not marked; and for each page anew, since a pass
            // takes its time.
            let mut open = false;
            for item in &page.items {
                if term.moves >= MAX_MOVES {
                    return Ok(());
                }
                let Some((ledger, meta, members)) = self.unspread(item, judgement, live).await?
                else {
                    continue;
                };
                open = open || gate::is_open(&*self.store, self.cluster, Feature::Moves).await?;
                if !open {
                    return Ok(());
                }
                tracing::info!(%ledger, topic = meta.custom.name, "the copies of a ledger are to be spread over more zones");
                mark_all(&*self.store, ledger, &members, None, self.clock.now_ms()).await?;
                term.moves += 1;
            }
            after = page.items.last().map(|item| item.key.clone());
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// What the value of a ledger's key asks for, if it asks for anything.
    async fn unspread(
        &self,
        item: &KeyValue,
        judgement: &Judgement,
        live: &[LiveBookie],
    ) -> Result<Option<Unspread>, Error> {
        let Some(ledger) = keys::parse_ledger(&item.key) else { return Ok(None) };
        let Ok(meta) = LedgerMeta::decode(ledger, &item.value.value) else { return Ok(None) };
        let members: Vec<_> = movable(&meta, judgement, live)
            .into_iter()
            .map(|member| (member, UnderReason::Misplaced))
            .collect();
        // What is marked already is repaired first, and is looked at again by the next pass.
        if members.is_empty() || self.store.get(&keys::under(ledger)).await?.is_some() {
            return Ok(None);
        }
        Ok(Some((ledger, meta, members)))
    }
}

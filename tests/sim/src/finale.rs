//! The end of a run: everything heals, and then what the protocol promises must come true (8.2): every ledger that enough
//! authoritative members know closes, and every entry of a closed ledger can be read from its members.

use geminga_ledger::core::quorum;
use geminga_metastore::record::LedgerMeta;
use geminga_proto::ids::{EntryId, LedgerId};

use crate::bookie::Bookie;
use crate::context::{note, number};
use crate::schedule::MS;
use crate::world::World;

/// How long closing may take once nothing is wrong any more.
const PATIENCE: u64 = 60_000 * MS;

impl World {
    /// Ends all faults, waits for the ledgers to close, and reads everything.
    pub(crate) fn finish(&mut self) {
        self.heal_all();
        let until = self.context.now() + PATIENCE;
        while self.context.now() < until && !self.is_settled() {
            if !self.step() {
                return;
            }
            if self.only_excused() {
                break;
            }
        }
        self.check_closed();
        self.check_readable();
        if self.open_ledgers().is_empty() {
            self.context.truth.check_settled();
        }
    }

    fn heal_all(&mut self) {
        note!(self.context, "everything heals");
        self.context.healing = true;
        self.context.network.heal();
        self.paused.clear();
        for bookie in &mut self.bookies {
            bookie.disk().calm();
            bookie.notice_power_cut(&mut self.context);
            bookie.flush = crate::bookie::FAST;
            bookie.set_writable(true, &mut self.context);
            if !bookie.is_running() && !bookie.has_refused() {
                bookie.start_after(0, &mut self.context);
            }
        }
    }

    /// Every bookie runs that will.
    fn are_here(&self) -> bool {
        self.bookies.iter().all(|bookie| bookie.is_running() || bookie.has_refused())
    }

    /// Everything is closed, and no broker has something to write or to resolve.
    fn is_settled(&self) -> bool {
        let busy = self.brokers.iter().any(crate::broker::Broker::is_active);
        self.are_here() && !busy && !self.has_open_ledger()
    }

    /// Whether so few members of a ledger's last fragment can vouch for it that it may stay open (4.8).
    fn is_excused(&self, meta: &LedgerMeta) -> bool {
        let ensemble = &meta.last_fragment().ensemble;
        let vouches = |member: &&geminga_proto::ids::Member| {
            let bookie = &self.bookies[number(member)];
            bookie.member() == **member
                && !bookie.has_refused()
                && !self.context.truth.is_lost(member)
        };
        let vouching = ensemble.iter().filter(vouches).count();
        let spare = |bookie: &&Bookie| {
            !bookie.has_refused() && ensemble.iter().all(|member| number(member) != bookie.index)
        };
        // Whoever takes the copies: members, or bookies that stand in for them.
        let takers = vouching + self.bookies.iter().filter(spare).count();
        takers < usize::from(meta.qa) || !quorum::covered(meta.qw, meta.qa, vouching)
    }

    fn metas(&self, ids: &[LedgerId]) -> Vec<LedgerMeta> {
        ids.iter().filter_map(|id| self.context.truth.ledgers[id].live().cloned()).collect()
    }

    /// Nothing is left to wait for but ledgers that may stay open.
    fn only_excused(&self) -> bool {
        let open = self.metas(&self.open_ledgers());
        self.are_here() && !open.is_empty() && open.iter().all(|meta| self.is_excused(meta))
    }

    fn check_closed(&mut self) {
        for meta in self.metas(&self.open_ledgers()) {
            if self.is_excused(&meta) {
                self.context.coverage.hit("end: ledger stays open for want of members");
            } else {
                let detail = format!("ledger {} stays {:?}: {meta:?}", meta.id, meta.state);
                self.context
                    .truth
                    .violated("liveness: a ledger with enough members closes", detail);
            }
        }
    }

    /// I2, by reading: with no member lost every entry is on Qa of them, and good.
    fn check_readable(&mut self) {
        let ids: Vec<LedgerId> = self.context.truth.ledgers.keys().copied().collect();
        for meta in self.metas(&ids) {
            let Some(end) = meta.last_entry else { continue };
            if self.context.has_object(meta.id) {
                self.context.coverage.hit("tier: read from the object in the end");
                continue;
            }
            for (index, fragment) in meta.fragments.iter().enumerate() {
                let first = fragment.first_entry;
                let last = meta.fragment_end(index).unwrap_or(end).min(end);
                let lost =
                    fragment.ensemble.iter().filter(|m| self.context.truth.is_lost(m)).count();
                let mut good = vec![0; usize::try_from(last.0 - first.0 + 1).unwrap_or(0)];
                for member in &fragment.ensemble {
                    let bookie = &self.bookies[number(member)];
                    if bookie.member() != *member {
                        continue;
                    }
                    for (entry, bytes) in bookie.read_all(meta.id) {
                        let same = self.context.truth.ledgers[&meta.id].content(EntryId(entry))
                            == Some(&bytes);
                        let place = usize::try_from(entry - first.0).ok();
                        if let Some(good) = place.and_then(|place| good.get_mut(place)) {
                            *good += usize::from(same);
                        }
                    }
                }
                let qa = usize::from(meta.qa);
                let bad =
                    good.iter().position(|good| *good + lost < qa || (*good == 0 && lost < qa));
                if let Some(place) = bad {
                    let detail = format!(
                        "ledger {}: entry {} is read from {} of {:?}",
                        meta.id,
                        first.0 + place as i64,
                        good[place],
                        fragment.ensemble
                    );
                    return self
                        .context
                        .truth
                        .violated("I2: a closed ledger is readable from Qa members", detail);
                }
            }
        }
    }
}

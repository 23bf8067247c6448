//! What goes through the metadata: others for members that failed, the change of the ensemble, marks, the close.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use geminga_metastore::Version;
use geminga_metastore::record::{Fragment, LedgerMeta, LiveBookie, UnderReason};
use geminga_proto::bookie::WriteOp;
use geminga_proto::ids::{EntryId, Member};
use tokio::time::Instant;

use super::{Ask, CloseError, Task};
use crate::append::change::{self, Changed, Found, Hunt};
use crate::append::close;
use crate::append::watchdog::Watchdog;
use crate::core::commit::{Commit, Next, Update};
use crate::core::writer::{Event, Link, Phase, Position, Search};
use crate::metrics;
use crate::quarantine::registration;
use crate::under::mark_under;

/// Changes of an ensemble are counted for so long.
const CHANGES_WITHIN: Duration = Duration::from_secs(60);
/// Who was given up takes no place in this ledger for so long.
pub(super) const SHUN: Duration = Duration::from_secs(30);
/// Most bookies shunned at a time.
const MAX_SHUNNED: usize = 64;
/// Least pause between two searches where bookies come and go.
const MIN_PAUSE: Duration = Duration::from_secs(1);

impl Task {
    /// Whether somebody is missing and nobody is being looked for.
    pub(super) fn is_hunting_due(&self) -> bool {
        self.hunt.is_none()
            && self.core.phase() == Phase::Running
            && self.core.positions().iter().any(Position::is_missing)
    }

    pub(super) fn start_hunt(&mut self) {
        let now = Instant::now();
        while self.changed_at.pop_front_if(|at| now - *at >= CHANGES_WITHIN).is_some() {}
        self.hunt_at = Some(now + self.setup.config.search_pause);
        if self.changed_at.len() >= self.setup.config.max_changes {
            self.hunt = Some(std::future::ready(Found::TooMany).boxed());
            return;
        }
        let lost = self.core.missing();
        self.shun(&lost, now);
        let hunt = Hunt {
            store: Arc::clone(&self.setup.store),
            bookies: Arc::clone(&self.setup.bookies),
            quarantine: Arc::clone(&self.setup.quarantine),
            random: Arc::clone(&self.setup.random),
            min_zones: self.setup.config.min_zones,
            ledger: self.meta.id,
            fragment: self.meta.last_fragment().clone(),
            lost,
            shunned: self.shunned.iter().map(|(member, _)| member.clone()).collect(),
            timeout: self.setup.config.metadata_fresh,
        };
        self.hunt = Some(hunt.run().boxed());
    }

    /// Whoever is lost now is not chosen again for a while.
    fn shun(&mut self, lost: &[usize], now: Instant) {
        while self.shunned.pop_front_if(|(_, at)| now - *at >= SHUN).is_some() {}
        for &index in lost {
            let position = &self.core.positions()[index];
            let member = &position.member;
            if position.failed && self.shunned.iter().all(|(shunned, _)| shunned != member) {
                self.shunned.push_back((member.clone(), now));
            }
        }
        while self.shunned.len() > MAX_SHUNNED {
            self.shunned.pop_front();
        }
    }

    pub(super) fn hunt_again(&mut self) {
        self.hunt_at = Some(Instant::now() + self.setup.config.search_pause);
        let effects = self.core.step(Event::SearchAgain);
        self.carry_out(effects);
    }

    /// One that came may take a place, or have come back to its own. One that takes no new data any more, because it is full or to be
    /// decommissioned, is left at once, also by a ledger that nothing is written to (5.8, 6.6).
    pub(super) fn on_bookies_changed(&mut self) {
        let live = self.setup.bookies.live();
        self.leave_unwritable(&live);
        self.note_registrations(&live);
        if self.hunt.is_none() && !self.is_hunting_due() {
            return;
        }
        let soon = Instant::now() + MIN_PAUSE.min(self.setup.config.search_pause);
        self.hunt_at = Some(self.hunt_at.map_or(soon, |at| at.min(soon)));
    }

    fn leave_unwritable(&mut self, live: &[LiveBookie]) {
        if self.core.phase() != Phase::Running {
            return;
        }
        for index in 0..self.watchdogs.len() {
            let position = &self.core.positions()[index];
            let of_bookie = live.iter().filter(|bookie| bookie.id == position.member.bookie);
            let mut disks = of_bookie.flat_map(|bookie| &bookie.disks);
            let refuses = |disk: &geminga_metastore::record::LiveDisk| {
                disk.incarnation == position.member.incarnation && !disk.writable
            };
            if position.link == Link::Live && !position.failed && disks.any(refuses) {
                self.watchdogs[index].refuses = true;
                self.give_up(index);
            }
        }
    }

    pub(super) fn on_found(&mut self, found: Found) {
        self.hunt = None;
        let (search, live) = match found {
            Found::Replacements(read, found, live) => {
                (self.meta, self.version) = *read;
                (Search::Found(self.zones.place(found, &live)), live)
            }
            Found::Unanswered => (Search::Unanswered, Vec::new()),
            Found::TooMany => (Search::TooMany, Vec::new()),
            Found::Deposed => {
                let effects = self.core.step(Event::Deposed);
                self.carry_out(effects);
                return;
            }
        };
        let effects = self.core.step(Event::Searched(search));
        self.carry_out(effects);
        for index in 0..self.watchdogs.len() {
            if self.is_back(index, &live) {
                let member = self.core.positions()[index].member.clone();
                let effects = self.core.step(Event::Back { member });
                self.carry_out(effects);
            }
        }
    }

    /// Left out, and registered anew since.
    fn is_back(&self, index: usize, live: &[LiveBookie]) -> bool {
        let position = &self.core.positions()[index];
        let then = self.watchdogs[index].left_out_as;
        let now = live.iter().find(|bookie| bookie.id == position.member.bookie);
        now.is_some_and(|now| {
            let mut disks = now.disks.iter();
            let writable =
                disks.any(|d| d.writable && d.incarnation == position.member.incarnation);
            writable && position.link == Link::Absent && then != Some(registration(now))
        })
    }

    pub(super) fn left_out(&mut self, index: usize) {
        let member = &self.core.positions()[index].member;
        tracing::warn!(ledger = %self.meta.id, %member, "member is left out of the ledger");
        metrics::left_out();
        let live = self.setup.bookies.live();
        let registered = live.iter().find(|bookie| bookie.id == member.bookie).map(registration);
        self.watchdogs[index].left_out_as = registered;
        self.unsent[index] = None;
    }

    /// 2.5 step 3.
    pub(super) fn start_change(&mut self, first: EntryId, ensemble: Vec<Member>) {
        tracing::info!(ledger = %self.meta.id, first = first.0, ?ensemble, "ensemble changes");
        let update = Update::Ensemble(Fragment { first_entry: first, ensemble });
        let commit = self.commit(update);
        let (store, ledger) = (Arc::clone(&self.setup.store), self.meta.id);
        let pause = self.setup.config.retry_max;
        self.change = Some(change::commit(store, ledger, commit, pause).boxed());
    }

    fn commit(&self, update: Update) -> (Commit, Next) {
        let (op, mutations) = (self.setup.random.next_u128(), self.setup.mutations);
        Commit::new(&self.meta, self.version, update, op, mutations)
    }

    /// 2.5 steps 4 and 5. Nothing runs between what the metadata says and what the core knows (W8).
    pub(super) fn on_changed(&mut self, changed: Changed) {
        self.change = None;
        let (outcome, event) = match changed {
            Changed::Committed(meta, version) => {
                self.know(*meta, version);
                self.changed_at.push_back(Instant::now());
                ("committed", Event::Changed)
            }
            Changed::Refused => ("refused", Event::NotChanged),
            Changed::Deposed => ("deposed", Event::Deposed),
        };
        metrics::ensemble_changed(outcome);
        let members = |task: &Self| -> Vec<Member> {
            task.core.positions().iter().map(|p| p.member.clone()).collect()
        };
        let before = members(self);
        let effects = self.core.step(event);
        for (index, member) in members(self).iter().enumerate() {
            if *member != before[index] {
                self.watchdogs[index] = Watchdog::new(self.core.positions()[index].acked);
                self.unsent[index] = None;
            }
        }
        // Those that came may have left meanwhile.
        let live = self.setup.bookies.live();
        self.note_registrations(&live);
        self.carry_out(effects);
    }

    fn know(&mut self, meta: LedgerMeta, version: Version) {
        self.told_meta.send_replace(Arc::new(meta.clone()));
        (self.meta, self.version) = (meta, version);
    }

    /// Marks the ledger for repair. Goes on while the ledger does.
    pub(super) fn mark(&mut self, members: Vec<Member>) {
        tracing::warn!(ledger = %self.meta.id, ?members, "members lack entries; the ledger is marked for repair");
        metrics::marked_under();
        let (store, ledger) = (Arc::clone(&self.setup.store), self.meta.id);
        let now_ms = self.setup.clock.now_ms();
        let pause = self.setup.config.search_pause;
        let reason = match self.core.phase() {
            Phase::Closed => UnderReason::Closed,
            _ => UnderReason::Replaced,
        };
        let mark = async move {
            while let Err(error) = mark_under(&*store, ledger, &members, reason, now_ms).await {
                tracing::warn!(%ledger, %error, "ledger could not be marked for repair yet");
                tokio::time::sleep(pause).await;
            }
        };
        self.marks.push(mark.boxed());
    }

    /// What the audit would find later, and slower.
    pub(super) async fn finish_marks(&mut self) {
        let marks = async { while self.marks.next().await.is_some() {} };
        if tokio::time::timeout(self.setup.config.add_timeout, marks).await.is_err() {
            tracing::warn!(ledger = %self.meta.id, "ledger ends unmarked: the metadata store does not answer");
        }
    }

    pub(super) fn close_when_drained(&mut self) {
        let Some((deadline, _)) = &self.draining else { return };
        let drained = self.core.lac() == self.core.lap();
        if drained || Instant::now() >= *deadline {
            let effects = self.core.step(Event::Close);
            self.carry_out(effects);
        }
    }

    pub(super) fn commit_close(&mut self, last: EntryId) {
        let Some((_, close)) = self.draining.take() else { return };
        // It would find the ledger closed, and take this writer's own close for another's.
        self.hunt = None;
        let totals = self.flight.confirmed();
        let (length, entries_crc) = (totals.length, totals.entries_crc);
        let commit = self.commit(Update::Close { last, length, entries_crc });
        let with = (close.with)(commit.0.sent());
        let (store, ledger) = (Arc::clone(&self.setup.store), self.meta.id);
        let committed = async move { close::commit(&*store, ledger, commit, &with).await };
        self.closing = Some((committed.boxed(), close.done));
    }

    pub(super) fn on_closed(&mut self, result: Result<LedgerMeta, CloseError>) {
        let Some((_, done)) = self.closing.take() else { return };
        let event = if result.is_ok() { Event::CloseCommitted } else { Event::Deposed };
        let effects = self.core.step(event);
        self.carry_out(effects);
        if let Ok(closed) = &result {
            self.tell_closed(closed);
        }
        let _gone = done.send(result);
    }

    /// Best effort: lets bookies finish the ledger.
    fn tell_closed(&mut self, closed: &LedgerMeta) {
        if let Some(last) = closed.last_entry {
            self.send_to_live(Ask::Lac, &WriteOp::Closed(last));
        }
    }
}

//! Members that are not registered any more. Adds that fail tell a writer who is gone; where it writes nothing, nobody does, and a
//! ledger would be short of a copy until its next record (2.5, 6.4). So a member whose registration has been gone for a grace is
//! asked whether it is there, as long as somebody could take its place.

use std::time::Duration;

use geminga_metastore::record::LiveBookie;
use tokio::time::Instant;

use super::Task;
use super::ensemble::SHUN;
use crate::core::writer::Event;
use crate::placement::{self, Choice};

/// When to try again where very many ledgers asked in this second.
const BEHIND_OTHERS: Duration = Duration::from_secs(1);

impl Task {
    /// Notes who is registered, and when to ask those that are not.
    pub(super) fn note_registrations(&mut self, live: &[LiveBookie]) {
        let now = Instant::now();
        for index in 0..self.watchdogs.len() {
            let member = &self.core.positions()[index].member;
            let of_bookie = live.iter().filter(|bookie| bookie.id == member.bookie);
            let mut disks = of_bookie.flat_map(|bookie| &bookie.disks);
            let registered = disks.any(|disk| disk.incarnation == member.incarnation);
            let due = match self.watchdogs[index].ask_at {
                _ if registered => None,
                None => Some(now + self.member_grace()),
                due => due,
            };
            self.watchdogs[index].ask_at = due;
        }
    }

    /// When the first of them is to be asked.
    pub(super) fn next_ask(&self) -> Option<Instant> {
        self.watchdogs.iter().filter_map(|watchdog| watchdog.ask_at).min()
    }

    /// Asks those whose grace is over, and gives them another: a metadata store that was paused ends registrations of bookies
    /// that are there. Where nobody could take the place nothing is won by leaving it.
    pub(super) fn ask_unregistered(&mut self) {
        let now = Instant::now();
        for index in 0..self.watchdogs.len() {
            if self.watchdogs[index].ask_at.is_none_or(|at| at > now) {
                continue;
            }
            // To look for a spare costs more than to see that others ask.
            let must_wait = !self.setup.asks.might();
            let has_spare = !must_wait && self.has_spare(index);
            let asks = has_spare && self.setup.asks.take();
            let again = match must_wait || (has_spare && !asks) {
                true => self.varied(BEHIND_OTHERS),
                false => self.member_grace(),
            };
            self.watchdogs[index].ask_at = Some(now + again);
            if asks {
                let member = self.core.positions()[index].member.clone();
                let effects = self.core.step(Event::Unregistered { member });
                self.carry_out(effects);
            }
        }
    }

    fn has_spare(&self, index: usize) -> bool {
        let now = Instant::now();
        let shunned = self.shunned.iter().filter(|(_, at)| now - *at < SHUN);
        let shunned: Vec<_> = shunned.map(|(member, _)| member.clone()).collect();
        let by = Choice {
            min_zones: self.setup.config.min_zones,
            quarantine: &self.setup.quarantine,
            random: &*self.setup.random,
        };
        let (live, ensemble) = (self.setup.bookies.live(), &self.meta.last_fragment().ensemble);
        let found = placement::replace(&live, ensemble, &[index], &shunned, by);
        !found.is_empty()
    }

    /// By chance, since very many ledgers may have one member in common, and each reads and changes metadata.
    fn member_grace(&self) -> Duration {
        self.varied(self.setup.config.member_grace)
    }

    /// Up to half as long again, by chance.
    fn varied(&self, time: Duration) -> Duration {
        let parts = u32::try_from(self.setup.random.next_u64() % 1024).expect("below 1024");
        time + time * parts / 2048
    }
}

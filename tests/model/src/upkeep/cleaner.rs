//! Who removes: bookies that drop deleted ledgers, whoever deletes one, and the janitor of objects. Each reads, and acts later, when what it
//! read may be old; what it decides is production code.

use geminga_bookie::gc::judge::{Fate as LedgerFate, Read, Survey, judge};
use geminga_bookie::tiering::garbage::{self, Fate};
use geminga_ledger::core::removal::tombstone;
use geminga_metastore::Version;
use geminga_metastore::record::{LedgerMeta, LedgerState, Tier};

use super::size::Upkeep;
use super::world::{Action, LEDGER, World};

/// A bookie's search for ledgers that were deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Collector {
    Idle,
    /// The ledger is a candidate: a listing does not show it.
    Listed,
    /// It is to be dropped.
    Dropping,
}

/// Whoever deletes the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Deleter {
    Idle,
    Read(Box<LedgerMeta>, Version),
}

/// Whoever removes the object of a deleted ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Janitor {
    Idle,
    Found(Box<LedgerMeta>, Version),
    Removed(Box<LedgerMeta>, Version),
}

/// Whoever removes objects that nothing refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Sweeper {
    Idle,
    Found(u128),
}

impl World {
    pub(super) fn cleaning(&self, size: &Upkeep, actions: &mut Vec<Action>) {
        for (bookie, collector) in self.collectors.iter().enumerate() {
            let shown = self.closed().is_some() && self.left.listings == 0;
            let held = self.bookies[bookie].held != 0;
            match collector {
                Collector::Idle if held && !shown => actions.push(Action::List(bookie)),
                Collector::Idle => {}
                Collector::Listed => actions.push(Action::ReadKey(bookie)),
                Collector::Dropping => actions.push(Action::Drop(bookie)),
            }
        }
        if size.deletion {
            self.deletion(actions);
        }
        match self.sweeper {
            Sweeper::Idle if size.sweep => {
                actions.extend(self.objects.keys().map(|attempt| Action::FindGarbage(*attempt)));
            }
            Sweeper::Idle => {}
            Sweeper::Found(_) => actions.push(Action::Sweep),
        }
    }

    fn deletion(&self, actions: &mut Vec<Action>) {
        match &self.deleter {
            Deleter::Idle if self.closed().is_some() => actions.push(Action::ReadToDelete),
            Deleter::Idle => {}
            Deleter::Read(..) => actions.push(Action::Delete),
        }
        let dead = self.meta.as_ref().map(|(meta, _)| meta);
        let dead = dead.filter(|meta| meta.state == LedgerState::Deleting);
        match &self.janitor {
            Janitor::Idle if dead.is_some_and(|meta| garbage::of_deleted(meta).is_some()) => {
                actions.push(Action::FindDeleted);
            }
            Janitor::Idle => {}
            Janitor::Found(..) => actions.push(Action::RemoveDeleted),
            Janitor::Removed(..) => actions.push(Action::Forget),
        }
        // Its object goes first, or nothing would lead to it any more.
        if dead.is_some_and(|meta| meta.tier.object().is_none()) {
            actions.push(Action::RemoveKey);
        }
    }

    pub(super) fn list(&mut self, bookie: usize) {
        self.left.listings -= u8::from(self.closed().is_some());
        self.collectors[bookie] = Collector::Listed;
    }

    /// One of many ledgers of the bookie, so that no breaker stands in for the rule.
    pub(super) fn read_key(&mut self, size: &Upkeep, bookie: usize) {
        let fate = LedgerFate::of(self.meta.as_ref().map(|(meta, _)| meta));
        let survey = Survey {
            same_cluster: true,
            went_back: false,
            listed: 99,
            local: 100,
            local_bytes: 1000,
            read: vec![Read { ledger: LEDGER, fate, bytes: 10, is_pointer: false }],
        };
        let (dropped, _) = judge(&survey, size.bookie_mutations);
        let drops = dropped.contains(&LEDGER);
        self.collectors[bookie] = if drops { Collector::Dropping } else { Collector::Idle };
    }

    pub(super) fn drop_copy(&mut self, bookie: usize) {
        self.collectors[bookie] = Collector::Idle;
        self.judged(|world| {
            let disk = &mut world.bookies[bookie];
            (disk.held, disk.tombstone) = (0, true);
        });
    }

    pub(super) fn read_to_delete(&mut self) {
        if let Some((meta, version)) = &self.meta {
            self.deleter = Deleter::Read(Box::new(meta.clone()), *version);
        }
    }

    pub(super) fn delete(&mut self) {
        let Deleter::Read(meta, version) = std::mem::replace(&mut self.deleter, Deleter::Idle)
        else {
            return;
        };
        if let Ok(Some(dead)) = tombstone(*meta, 0) {
            self.cas(version, dead);
        }
    }

    pub(super) fn find_deleted(&mut self) {
        if let Some((meta, version)) = &self.meta {
            self.janitor = Janitor::Found(Box::new(meta.clone()), *version);
        }
    }

    pub(super) fn remove_deleted(&mut self) {
        let Janitor::Found(meta, version) = std::mem::replace(&mut self.janitor, Janitor::Idle)
        else {
            return;
        };
        let Some(attempt) = garbage::of_deleted(&meta).map(|object| object.attempt) else { return };
        self.judged(|world| {
            world.objects.remove(&attempt);
        });
        self.janitor = Janitor::Removed(meta, version);
    }

    pub(super) fn forget(&mut self) {
        let Janitor::Removed(meta, version) = std::mem::replace(&mut self.janitor, Janitor::Idle)
        else {
            return;
        };
        self.cas(version, LedgerMeta { tier: Tier::Local, ..*meta });
    }

    pub(super) fn find_garbage(&mut self, size: &Upkeep, attempt: u128) {
        let fate = match &self.meta {
            Some((meta, _)) => garbage::of_named(meta, attempt, size.tier_mutations),
            None => garbage::of_absent(false),
        };
        self.sweeper = match fate {
            Fate::Kept => Sweeper::Idle,
            Fate::Superseded | Fate::Absent => Sweeper::Found(attempt),
        };
    }

    pub(super) fn sweep(&mut self) {
        let Sweeper::Found(attempt) = std::mem::replace(&mut self.sweeper, Sweeper::Idle) else {
            return;
        };
        self.judged(|world| {
            world.objects.remove(&attempt);
        });
    }
}

//! The ledger's metadata, its copies and its objects as one state, and what may happen next.

use std::collections::BTreeMap;

use geminga_ledger::core::commit::CasResult;
use geminga_metastore::Version;
use geminga_metastore::record::{
    CloseKind, Custom, Digest, Fragment, LedgerMeta, LedgerState, Tier, Under, UnderReason,
};
use geminga_proto::ids::{EntryId, LedgerId, Member, SealEpoch};
use stateright::{Model, Property};

use super::cleaner::{Collector, Deleter, Janitor, Sweeper};
use super::properties;
use super::repairer::Repairing;
use super::size::{Faults, Upkeep};
use super::uploader::{Stray, Uploader};
use crate::ledger::{member, number};

/// The ledger.
pub(super) const LEDGER: LedgerId = LedgerId(1);

/// What a bookie has of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    /// Which life it lives.
    pub(super) life: u64,
    /// The entries that it holds, a bit each.
    pub(super) held: u8,
    /// What its life before held when it ended.
    pub(super) before: u8,
    /// It dropped its copy for an object.
    pub(super) trimmed: bool,
    /// It dropped its copy for good.
    pub(super) tombstone: bool,
}

impl Disk {
    /// Whether it says what it holds.
    pub(super) fn answers(&self) -> bool {
        !self.trimmed && !self.tombstone
    }
}

/// An object of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Object {
    pub(super) size: u64,
    /// Whether it is all of the ledger.
    pub(super) whole: bool,
}

/// What must never happen, and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Broken {
    /// I14: copies went, or were allowed to go, for an object that nobody had seen.
    pub(super) early: bool,
    /// I15: an action left fewer copies of an entry.
    pub(super) fewer: bool,
    /// 1.3: a change that no state allows.
    pub(super) illegal: bool,
    /// I16: a key was made again.
    pub(super) back: bool,
    /// 6.5 step 6: a mark went while there was something to do.
    pub(super) unclean: bool,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    /// `None` when the key is removed.
    pub(super) meta: Option<(LedgerMeta, Version)>,
    pub(super) mark: Option<Under>,
    pub(super) mark_version: Version,
    pub(super) objects: BTreeMap<u128, Object>,
    pub(super) bookies: Vec<Disk>,
    pub(super) uploaders: Vec<Uploader>,
    /// What a dead uploader had sent off.
    pub(super) stray: Option<Stray>,
    pub(super) repairs: Vec<Option<Repairing>>,
    pub(super) collectors: Vec<Collector>,
    pub(super) deleter: Deleter,
    pub(super) janitor: Janitor,
    pub(super) sweeper: Sweeper,
    /// Claims so far.
    pub(super) attempts: u128,
    pub(super) left: Faults,
    /// An object that metadata named was deleted by hand.
    pub(super) by_hand: bool,
    pub(super) broken: Broken,
}

/// What goes wrong with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Nothing.
    No,
    /// It takes place, and its reply is lost.
    LostReply,
    /// Only a part arrives.
    Short,
}

/// What may happen next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// An uploader looks at the ledger again.
    Look(usize),
    /// An uploader does what it is to do next.
    Upload(usize, Trouble),
    /// An uploader dies and starts again; what it had sent off may still arrive.
    Crash {
        /// Which.
        uploader: usize,
        /// Whether it may.
        arrives: bool,
    },
    /// What a dead uploader had sent off arrives.
    Land,
    /// A repair starts.
    Start(usize),
    /// A repair does what it is to do next.
    Repair(usize, Trouble),
    /// A repair is given this bookie for a place.
    Choose(usize, Option<usize>),
    /// The auditor marks members whose lives are lost.
    Mark,
    /// A bookie lists ledgers, and finds that this one is not among them.
    List(usize),
    /// It reads the ledger's own key.
    ReadKey(usize),
    /// It drops what it decided to drop.
    Drop(usize),
    /// Whoever deletes the ledger reads it.
    ReadToDelete,
    /// It puts the tombstone.
    Delete,
    /// The janitor finds the object of a deleted ledger.
    FindDeleted,
    /// It removes that object.
    RemoveDeleted,
    /// It takes that out of the metadata.
    Forget,
    /// The key is removed.
    RemoveKey,
    /// The janitor finds that nothing refers to an object.
    FindGarbage(u128),
    /// It removes that object.
    Sweep,
    /// Somebody deletes an object by hand.
    DeleteByHand(u128),
    /// A bookie loses everything and comes back as another life.
    Wipe(usize),
}

fn closed(size: &Upkeep) -> LedgerMeta {
    let ensemble = (0..usize::from(size.qw)).map(|bookie| member(bookie, 0)).collect();
    LedgerMeta {
        id: LEDGER,
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw: size.qw,
        qa: size.qa,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble }],
        last_entry: Some(EntryId(size.entries as i64 - 1)),
        length: super::uploader::LENGTH,
        entries_crc: Some(super::uploader::CRC),
        tier: Tier::Local,
        close_kind: Some(CloseKind::Writer),
        recoverer: String::new(),
        last_op: 0,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
    }
}

impl World {
    fn new(size: &Upkeep) -> Self {
        let mut mark = None;
        for (bookie, reason) in &size.marked {
            mark.get_or_insert_with(|| Under::new(LEDGER, *reason, 0))
                .add(&member(*bookie, 0), *reason);
        }
        let reason = |bookie| size.marked.iter().find(|(m, _)| *m == bookie).map(|(_, why)| *why);
        let disk = |bookie| {
            let all = if bookie < usize::from(size.qw) { size.all_entries() } else { 0 };
            let lost = reason(bookie) == Some(UnderReason::Lost);
            let empty = lost || reason(bookie) == Some(UnderReason::Behind);
            Disk {
                life: u64::from(lost),
                held: if empty { 0 } else { all },
                before: if lost { all } else { 0 },
                trimmed: false,
                tombstone: false,
            }
        };
        let bookies: Vec<Disk> = (0..size.bookies).map(disk).collect();
        let uploader = |bookie: usize| Uploader::new(size, bookie, bookies[bookie].life);
        Self {
            meta: Some((closed(size), Version(1))),
            mark,
            mark_version: Version(1),
            objects: BTreeMap::new(),
            uploaders: (0..size.uploaders).map(uploader).collect(),
            bookies,
            stray: None,
            repairs: vec![None; size.repairs],
            collectors: vec![Collector::Idle; size.collectors],
            deleter: Deleter::Idle,
            janitor: Janitor::Idle,
            sweeper: Sweeper::Idle,
            attempts: 0,
            left: size.faults,
            by_hand: false,
            broken: Broken::default(),
        }
    }

    /// The value, while it is closed.
    pub(super) fn closed(&self) -> Option<&LedgerMeta> {
        let meta = self.meta.as_ref().map(|(meta, _)| meta);
        meta.filter(|meta| meta.state == LedgerState::Closed)
    }

    /// Whether this life of the bookie is the one it lives, and answers.
    pub(super) fn answers(&self, of: &Member) -> bool {
        let disk = &self.bookies[number(of)];
        disk.answers() && member(number(of), disk.life) == *of
    }

    /// Whether it delivers an entry.
    pub(super) fn delivers(&self, of: &Member, entry: EntryId) -> bool {
        self.answers(of) && self.bookies[number(of)].held >> entry.0 & 1 == 1
    }

    /// Whether it has an entry, or had it when its life was lost: no repair is to blame for that.
    pub(super) fn had(&self, of: &Member, entry: EntryId) -> bool {
        let disk = &self.bookies[number(of)];
        let last = disk.life.checked_sub(1).map(|life| member(number(of), life));
        let before = last.as_ref() == Some(of) && disk.before >> entry.0 & 1 == 1;
        let now = member(number(of), disk.life) == *of && disk.held >> entry.0 & 1 == 1;
        before || now
    }

    /// Whether what metadata names as the ledger's object is all of it.
    pub(super) fn has_object(&self) -> bool {
        let meta = self.meta.as_ref().map(|(meta, _)| meta);
        let object = meta.and_then(|meta| meta.tier.object());
        object.is_some_and(|o| self.objects.get(&o.attempt).is_some_and(|object| object.whole))
    }

    /// Good copies of each entry, where `counts` says so of a member; a committed object counts as Qa.
    pub(super) fn copies(&self, counts: impl Fn(&Member, EntryId) -> bool) -> Vec<usize> {
        let Some(meta) = self.closed() else { return Vec::new() };
        let object = if self.has_object() { usize::from(meta.qa) } else { 0 };
        let last = meta.last_entry.unwrap_or(EntryId::NONE);
        let of = |entry| {
            let ensemble = &meta.fragment_of(EntryId(entry)).ensemble;
            object + ensemble.iter().filter(|member| counts(member, EntryId(entry))).count()
        };
        (0..=last.0).map(of).collect()
    }

    /// Does something that is no fault, and sees whether copies went by it (I15).
    pub(super) fn judged(&mut self, act: impl FnOnce(&mut Self)) {
        let before = self.copies(|member, entry| self.had(member, entry));
        let excused =
            self.by_hand && self.closed().is_some_and(|meta| matches!(meta.tier, Tier::Trimmed(_)));
        let qa = self.closed().map_or(0, |meta| usize::from(meta.qa));
        act(self);
        let after = self.copies(|member, entry| self.had(member, entry));
        let fewer = before.iter().zip(&after).any(|(before, after)| *after < (*before).min(qa));
        self.broken.fewer |= fewer && !excused;
    }

    /// A compare-and-swap. Version 0 asks for a key that is not there: no update of the production code does (M7).
    pub(super) fn cas(&mut self, expected: Version, mut new: LedgerMeta) -> CasResult {
        // Nobody here goes by it, and states that differ in it only are the same.
        new.last_op = 0;
        let Some((old, version)) = &self.meta else {
            if expected == Version(0) {
                self.broken.back = true;
            }
            return CasResult::Lost;
        };
        if *version != expected {
            return CasResult::Lost;
        }
        let next = Version(version.0 + 1);
        self.broken.illegal |= !properties::is_legal(old, &new);
        self.judged(|world| world.meta = Some((new, next)));
        CasResult::Applied(next)
    }

    fn wipe(&mut self, size: &Upkeep, bookie: usize) {
        self.left.wipes -= 1;
        let disk = &mut self.bookies[bookie];
        disk.life += 1;
        (disk.before, disk.held) = (disk.held, 0);
        (disk.trimmed, disk.tombstone) = (false, false);
        let life = disk.life;
        for uploader in self.uploaders.iter_mut().filter(|uploader| uploader.bookie == bookie) {
            *uploader = Uploader::new(size, bookie, life);
        }
        if let Some(collector) = self.collectors.get_mut(bookie) {
            *collector = Collector::Idle;
        }
    }

    /// Members whose lives are lost, and who are not marked.
    fn unmarked(&self) -> Vec<Member> {
        let Some(meta) = self.closed() else { return Vec::new() };
        let members = meta.fragments.iter().flat_map(|fragment| &fragment.ensemble);
        let marked = |m: &Member| self.mark.as_ref().is_some_and(|mark| mark.replace.contains(m));
        let lost = |m: &&Member| member(number(m), self.bookies[number(m)].life) != **m;
        members.filter(lost).filter(|member| !marked(member)).cloned().collect()
    }

    fn mark_lost(&mut self) {
        for lost in self.unmarked() {
            let reason = UnderReason::Lost;
            self.mark.get_or_insert_with(|| Under::new(LEDGER, reason, 0)).add(&lost, reason);
        }
        self.mark_version.0 += 1;
    }

    fn act(&mut self, size: &Upkeep, action: Action) {
        match action {
            Action::Look(uploader) => self.look(uploader),
            Action::Upload(uploader, trouble) => self.upload(size, uploader, trouble),
            Action::Crash { uploader, arrives } => self.crash(size, uploader, arrives),
            Action::Land => self.land(),
            Action::Start(repair) => self.start_repair(size, repair),
            Action::Repair(repair, trouble) => self.repair(size, repair, trouble),
            Action::Choose(repair, bookie) => self.choose(repair, bookie),
            Action::Mark => self.mark_lost(),
            Action::List(bookie) => self.list(bookie),
            Action::ReadKey(bookie) => self.read_key(size, bookie),
            Action::Drop(bookie) => self.drop_copy(bookie),
            Action::ReadToDelete => self.read_to_delete(),
            Action::Delete => self.delete(),
            Action::FindDeleted => self.find_deleted(),
            Action::RemoveDeleted => self.remove_deleted(),
            Action::Forget => self.forget(),
            Action::RemoveKey => self.meta = None,
            Action::FindGarbage(attempt) => self.find_garbage(size, attempt),
            Action::Sweep => self.sweep(),
            Action::DeleteByHand(attempt) => {
                self.left.by_hand -= 1;
                self.objects.remove(&attempt);
                self.by_hand = true;
            }
            Action::Wipe(bookie) => self.wipe(size, bookie),
        }
    }
}

impl Model for Upkeep {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.uploads(self, actions);
        world.repairs(self, actions);
        world.cleaning(self, actions);
        if self.repairs > 0 && !world.unmarked().is_empty() {
            actions.push(Action::Mark);
        }
        if world.left.by_hand > 0 {
            actions.extend(world.objects.keys().map(|attempt| Action::DeleteByHand(*attempt)));
        }
        if world.left.wipes > 0 {
            actions.extend((0..self.bookies).map(Action::Wipe));
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        world.act(self, action);
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

//! The whole system as one state, and what may happen next.

use std::hash::{Hash, Hasher};

use geminga_ledger::core::recovery::{Effect, Event as RecoveryEvent};
use geminga_ledger::core::writer::{Event as WriterEvent, Phase};
use geminga_proto::ids::{EntryId, Member};
use stateright::{Model, Property};

use crate::ledger::{Ledger, MAX_RECOVERERS, member};
use crate::part::hash_of;
use crate::properties;
use crate::reduce::Dangers;
use crate::size::Size;
use crate::symmetry::{self, MAX_BOOKIES};
use crate::writer::Writing;

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    pub(crate) ledgers: Vec<Ledger>,
    /// Which life each bookie lives.
    lives: [u64; MAX_BOOKIES],
    /// The bookie whose unsynced log is followed (see `reduce`).
    fragile: Option<usize>,
    recoverers_left: usize,
    failures_left: u8,
    crashes_left: u8,
    wipes_left: u8,
    lost_replies_left: u8,
    resends_left: u8,
    naming: Naming,
}

/// Which names of bookies are as good as others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Naming {
    bookies: usize,
    /// Whether any are.
    symmetric: bool,
    /// Whether a bookie is the same one to both ledgers: only a crash or a wipe shows.
    shared: bool,
}

/// The search tells states apart by this hash.
impl Hash for World {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { ledgers, lives, fragile, naming, .. } = self;
        let faults = [self.failures_left, self.crashes_left, self.wipes_left];
        let messages = [self.lost_replies_left, self.resends_left];
        (self.recoverers_left, faults, messages).hash(state);
        match (naming.symmetric, naming.shared) {
            (false, _) => (ledgers, lives, fragile).hash(state),
            (true, true) => {
                state.write_u64(symmetry::least_hash(ledgers, naming.bookies, *fragile));
            }
            (true, false) => {
                let each = ledgers.chunks(1);
                let each = each.map(|l| symmetry::least_hash(l, naming.bookies, None));
                each.for_each(|hash| state.write_u64(hash));
            }
        }
    }
}

/// What may happen next. The first number is always the ledger's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// The writer appends an entry, once it has heard of all acks up to another.
    Append(usize, EntryId),
    /// The writer gives up a member.
    GiveUp(usize, Member),
    /// The writer's search for others is answered.
    Find(usize),
    /// The writer is asked to close, or to roll, once it has heard of all acks up to an entry.
    Close(usize, EntryId),
    /// The writer's change of the metadata reaches the register.
    Swap {
        /// Of which ledger.
        ledger: usize,
        /// Whether the reply of an applied change is lost.
        lose_reply: bool,
    },
    /// Another recoverer starts.
    Recover {
        /// Of which ledger.
        ledger: usize,
        /// Whether the reply of its mark is lost, where the mark is part of the start.
        lose_reply: bool,
    },
    /// A recoverer's next call is made.
    Call {
        /// Of which ledger.
        ledger: usize,
        /// Which recoverer.
        recoverer: usize,
        /// Whether the reply of an applied change is lost.
        lose_reply: bool,
    },
    /// A recoverer stops waiting for late seal replies.
    GraceOver(usize, usize),
    /// The same, having heard of the seals of these bookies.
    FixEnd(usize, usize, Vec<usize>),
    /// A recoverer stops waiting for copies beyond the ack quorum.
    CopyGraceOver(usize, usize),
    /// A recoverer sends again what a bookie did not answer yet.
    Resend(usize, usize, usize),
    /// The oldest request from a client reaches a bookie.
    Request(usize, usize, usize),
    /// The same, and the bookie becomes the one whose unsynced log is followed.
    RequestUnsynced(usize, usize, usize),
    /// The oldest reply from a bookie reaches a client.
    Reply(usize, usize, usize),
    /// A bookie's metadata check comes back.
    FinishCheck(usize, usize),
    /// What a bookie holds of the ledger becomes durable.
    Sync(usize, usize),
    /// The ledger is deleted.
    Delete(usize),
    /// A bookie loses power and comes back.
    Crash(usize),
    /// A bookie loses everything and comes back as another life.
    Wipe(usize),
}

impl World {
    fn new(size: &Size) -> Self {
        assert!(size.bookies <= MAX_BOOKIES && size.recoverers <= MAX_RECOVERERS, "{size:?}");
        assert!(!size.reduced || size.crashes <= 1, "one unsynced log is followed: {size:?}");
        let shared = size.ledgers == 1 || size.crashes > 0 || size.wipes > 0;
        let naming = Naming { bookies: size.bookies, symmetric: size.is_symmetric(), shared };
        let mut world = Self {
            ledgers: (0..size.ledgers).map(Ledger::new).collect(),
            lives: [0; MAX_BOOKIES],
            fragile: None,
            recoverers_left: size.recoverers,
            failures_left: size.failures,
            crashes_left: size.crashes,
            wipes_left: size.wipes,
            lost_replies_left: size.lost_replies,
            resends_left: size.resends,
            naming,
        };
        world.ledgers[0].create(size, 0, &world.lives[..size.bookies]);
        world.ledgers[0].start_writer(size);
        world
    }

    /// Every bookie as it lives now.
    fn everybody(&self) -> Vec<Member> {
        let lives = self.lives.iter().enumerate().take(self.naming.bookies);
        lives.map(|(bookie, life)| member(bookie, *life)).collect()
    }

    /// The lives lost so far.
    pub(crate) fn wiped(&self) -> usize {
        self.lives.iter().map(|life| usize::try_from(*life).expect("few")).sum()
    }

    /// Whether a request was sent again that had arrived.
    pub(crate) fn has_resent(&self, size: &Size) -> bool {
        self.resends_left < size.resends
    }

    /// The hash that it has where names make no difference.
    pub(crate) fn class(&self) -> u64 {
        let naming = Naming { symmetric: true, ..self.naming };
        hash_of(&Self { naming, ..self.clone() })
    }

    fn dangers(&self) -> Dangers {
        let (crash, wipe) = (self.crashes_left > 0, self.wipes_left > 0);
        let resend = self.resends_left > 0;
        Dangers { crash, wipe, resend, fragile: self.fragile.filter(|_| crash) }
    }

    /// The writer's swap; where it closes a ledger that is rolled, the same transaction makes the next one.
    fn swap(&mut self, size: &Size, index: usize, lose_reply: bool) {
        let (closed, lost) = self.ledgers[index].swap(lose_reply);
        self.lost_replies_left -= u8::from(lost);
        if index + 1 == self.ledgers.len() {
            return;
        }
        if closed {
            let lives = self.lives;
            self.ledgers[index + 1].create(size, index + 1, &lives[..size.bookies]);
        }
        if self.ledgers[index].writer.said().closed {
            self.ledgers[index + 1].start_writer(size);
        }
    }

    fn wipe(&mut self, bookie: usize) {
        self.wipes_left -= 1;
        self.lives[bookie] += 1;
        for ledger in &mut self.ledgers {
            ledger.bookies[bookie].with(crate::bookie::Bookie::wipe);
            ledger.disconnect(bookie);
        }
    }

    fn crash(&mut self, bookie: usize) {
        self.crashes_left -= 1;
        self.fragile = None;
        for ledger in &mut self.ledgers {
            ledger.bookies[bookie].with(crate::bookie::Bookie::crash);
            ledger.disconnect(bookie);
        }
    }

    /// Whether another recoverer may start. In a closed ledger it would but read so.
    fn may_recover(&self, size: &Size, ledger: &Ledger) -> bool {
        let futile = size.reduced && !size.deletion && ledger.metadata.is_closed();
        self.recoverers_left > 0 && ledger.metadata.meta.is_some() && !futile
    }

    fn actions_of(&self, size: &Size, index: usize, actions: &mut Vec<Action>) {
        let ledger = &self.ledgers[index];
        if let Writing::Now(writer) = &*ledger.writer {
            let runs = matches!(writer.phase(), Phase::Running | Phase::Changing);
            let heard = |upto| match writer.written() < size.entries {
                true => Action::Append(index, EntryId(upto)),
                false => Action::Close(index, EntryId(upto)),
            };
            if runs {
                // Where acks come when they come, it hears of none of them now.
                let acked = self.ledgers[index].writer.said().acked;
                actions.extend((acked.0..=ledger.acked().0).map(heard));
            }
            if runs && self.failures_left > 0 {
                let members = writer.in_place().into_iter();
                actions.extend(members.map(|member| Action::GiveUp(index, member)));
            }
            if writer.searching {
                actions.push(Action::Find(index));
            }
            if writer.swap().is_some() {
                let swap = |lose_reply| Action::Swap { ledger: index, lose_reply };
                actions.push(swap(false));
                actions.extend((self.lost_replies_left > 0).then(|| swap(true)));
            }
        }
        if self.may_recover(size, ledger) {
            let recover = |lose_reply| Action::Recover { ledger: index, lose_reply };
            actions.push(recover(false));
            actions.extend((size.reduced && self.lost_replies_left > 0).then(|| recover(true)));
        }
        if size.deletion && ledger.metadata.meta.is_some() && !ledger.metadata.removed {
            actions.push(Action::Delete(index));
        }
        self.calls_of(size, index, actions);
        let calm = self.crashes_left == 0 && self.wipes_left == 0;
        let left = size.reduced && calm && ledger.is_left(size, self.may_recover(size, ledger));
        let mut bookies: Vec<usize> = (0..size.bookies).collect();
        if left {
            // In an order that does not depend on their names.
            bookies.sort_by_key(|bookie| ledger.place(*bookie));
        }
        for bookie in bookies {
            let before = actions.len();
            self.actions_at(size, index, bookie, actions);
            if left && self.any_leads_on(size, &actions[before..]) {
                return;
            }
        }
    }

    /// Whether any of these changes anything. Only then may the rest wait for it.
    fn any_leads_on(&self, size: &Size, actions: &[Action]) -> bool {
        actions.iter().any(|action| size.next_state(self, action.clone()).is_some())
    }

    fn actions_at(&self, size: &Size, index: usize, bookie: usize, actions: &mut Vec<Action>) {
        let ledger = &self.ledgers[index];
        let may_crash = size.reduced && size.slow_bookies && self.crashes_left > 0;
        for client in Ledger::clients(size) {
            if ledger.takes_request(client, bookie) {
                actions.push(Action::Request(index, client, bookie));
                if may_crash && self.fragile.is_none() {
                    actions.push(Action::RequestUnsynced(index, client, bookie));
                }
            }
            if ledger.has_reply(client, bookie) && !ledger.waits_for_use(size, client, bookie) {
                actions.push(Action::Reply(index, client, bookie));
            }
        }
        if ledger.bookies[bookie].has_check() {
            actions.push(Action::FinishCheck(index, bookie));
        }
        if ledger.bookies[bookie].can_sync() {
            actions.push(Action::Sync(index, bookie));
        }
    }

    fn calls_of(&self, size: &Size, ledger: usize, actions: &mut Vec<Action>) {
        for (recoverer, node) in self.ledgers[ledger].recoverers.iter().enumerate() {
            let Some(node) = node.node() else { continue };
            if let Some(call) = node.calls.first() {
                actions.push(Action::Call { ledger, recoverer, lose_reply: false });
                if matches!(call, Effect::Cas { .. }) && self.lost_replies_left > 0 {
                    actions.push(Action::Call { ledger, recoverer, lose_reply: true });
                }
            }
            if self.resends_left > 0 {
                let again = |bookie| Action::Resend(ledger, recoverer, bookie);
                actions.extend(node.unanswered().map(again));
            }
            if node.grace {
                actions.push(Action::GraceOver(ledger, recoverer));
            }
            let ends = self.ledgers[ledger].ends_to_fix(size, recoverer).into_iter();
            actions.extend(ends.map(|heard| Action::FixEnd(ledger, recoverer, heard)));
            if node.copy_grace {
                actions.push(Action::CopyGraceOver(ledger, recoverer));
            }
        }
    }

    /// Whether only the first ledger's steps need to be tried: the second has nothing to do with them any more, nor they with
    /// it (see `reduce`).
    fn first_alone(&self, size: &Size) -> bool {
        let closed = self.ledgers[0].metadata.is_closed() && self.ledgers[0].writer.is_over();
        let calm = self.crashes_left == 0 && self.wipes_left == 0 && !size.deletion;
        size.reduced && calm && closed
    }

    fn start_recoverer(&mut self, size: &Size, index: usize, lose_reply: bool) {
        self.recoverers_left -= 1;
        let recoverer = self.ledgers[index].start_recoverer(size);
        if size.reduced {
            // Its read, and the mark that follows at once.
            let marks = |ledger: &Ledger| {
                let call = ledger.recoverers[recoverer].node().and_then(|r| r.calls.first());
                matches!(call, Some(Effect::Cas { .. }))
            };
            self.call(index, recoverer, false);
            if marks(&self.ledgers[index]) {
                self.call(index, recoverer, lose_reply);
            }
        }
    }

    fn call(&mut self, index: usize, recoverer: usize, lose_reply: bool) {
        let everybody = self.everybody();
        let lost = self.ledgers[index].call(recoverer, lose_reply, &everybody);
        self.lost_replies_left -= u8::from(lost);
    }

    fn act(&mut self, size: &Size, action: Action) {
        match action {
            Action::Append(index, heard) => {
                self.ledgers[index].hear_acks(size, heard);
                self.ledgers[index].write(crate::writer::WriterNode::append);
            }
            Action::GiveUp(index, member) => {
                self.failures_left -= 1;
                self.ledgers[index].write(|writer| writer.step(WriterEvent::GiveUp { member }));
            }
            Action::Find(index) => {
                let everybody = self.everybody();
                self.ledgers[index].write(|writer| writer.find(&everybody));
            }
            Action::Close(index, heard) => {
                self.ledgers[index].hear_acks(size, heard);
                self.ledgers[index].write(|writer| writer.step(WriterEvent::Close));
            }
            Action::Swap { ledger, lose_reply } => self.swap(size, ledger, lose_reply),
            Action::Recover { ledger, lose_reply } => {
                self.start_recoverer(size, ledger, lose_reply);
            }
            Action::Call { ledger, recoverer, lose_reply } => {
                self.call(ledger, recoverer, lose_reply);
            }
            Action::GraceOver(index, recoverer) => self.ledgers[index].grace_over(recoverer),
            Action::FixEnd(index, recoverer, heard) => {
                self.ledgers[index].fix_end(recoverer, &heard);
            }
            Action::CopyGraceOver(index, recoverer) => {
                self.ledgers[index].recover(recoverer, |recoverer| {
                    recoverer.copy_grace = false;
                    recoverer.step(RecoveryEvent::CopyGraceOver)
                });
            }
            Action::Resend(index, recoverer, bookie) => {
                self.resends_left -= 1;
                self.ledgers[index].resend(recoverer, bookie);
            }
            Action::Request(index, client, bookie) => {
                let ledger = &mut self.ledgers[index];
                ledger.deliver_request(size, client, bookie);
                if !size.slow_checks {
                    ledger.finish_check(size, bookie);
                }
                if !size.slow_bookies {
                    ledger.sync(bookie);
                }
            }
            Action::RequestUnsynced(index, client, bookie) => {
                self.fragile = Some(bookie);
                self.ledgers[index].deliver_request(size, client, bookie);
            }
            Action::Reply(index, client, bookie) => {
                self.ledgers[index].deliver_reply(client, bookie);
            }
            Action::FinishCheck(index, bookie) => {
                self.ledgers[index].finish_one_check(size, bookie);
                if !size.slow_bookies {
                    self.ledgers[index].sync(bookie);
                }
            }
            Action::Sync(index, bookie) => self.ledgers[index].sync(bookie),
            Action::Delete(index) => {
                self.ledgers[index].metadata.with(crate::metadata::Metadata::remove);
            }
            Action::Crash(bookie) => self.crash(bookie),
            Action::Wipe(bookie) => self.wipe(bookie),
        }
    }

    /// After a step: see `reduce`. Clients that are over hear nothing more in any case.
    fn settle(&mut self, size: &Size, before: &Self) {
        let dangers = self.dangers();
        let changed = dangers != before.dangers();
        for (ledger, old) in self.ledgers.iter_mut().zip(&before.ledgers) {
            match size.reduced {
                true if changed => ledger.settle(size, dangers, None),
                true if ledger != old => ledger.settle(size, dangers, Some(old)),
                true => continue,
                false => ledger.silence(size),
            }
            ledger.find_due(size);
        }
    }
}

impl Model for Size {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        for index in 0..world.ledgers.len() {
            world.actions_of(self, index, actions);
            if index == 0 && world.first_alone(self) && world.any_leads_on(self, actions) {
                return;
            }
        }
        for bookie in 0..self.bookies {
            let follows = !self.reduced || world.fragile.is_none_or(|fragile| fragile == bookie);
            if world.crashes_left > 0 && follows {
                actions.push(Action::Crash(bookie));
            }
            if world.wipes_left > 0 {
                actions.push(Action::Wipe(bookie));
            }
        }
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut world = last.clone();
        let unsynced = match action {
            Action::RequestUnsynced(index, _, bookie) => Some((index, bookie)),
            _ => None,
        };
        world.act(self, action);
        if unsynced.is_some_and(|(index, bookie)| !world.ledgers[index].has_unsynced(self, bookie))
        {
            // The same as if it had been synced at once.
            return None;
        }
        world.settle(self, last);
        (world != *last).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

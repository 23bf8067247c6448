//! The whole system as one state, and what may happen next.

use geminga_ledger::core::recovery::Effect;
use geminga_ledger::core::writer::{Event as WriterEvent, Phase};
use geminga_proto::ids::Member;
use stateright::{Model, Property};

use crate::ledger::{Ledger, WRITER, member};
use crate::properties;
use crate::size::Size;

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub(crate) ledgers: Vec<Ledger>,
    /// Which life each bookie lives.
    lives: Vec<u64>,
    recoverers_left: usize,
    failures_left: u8,
    crashes_left: u8,
    wipes_left: u8,
    lost_replies_left: u8,
}

/// What may happen next. The first number is always the ledger's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// The writer appends an entry.
    Append(usize),
    /// The writer gives up a member.
    GiveUp(usize, Member),
    /// The writer's search for others is answered.
    Find(usize),
    /// The writer is asked to close, or to roll.
    Close(usize),
    /// The writer's change of the metadata reaches the register.
    Swap {
        /// Of which ledger.
        ledger: usize,
        /// Whether the reply of an applied change is lost.
        lose_reply: bool,
    },
    /// Another recoverer starts.
    Recover(usize),
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
    /// The oldest request from a client reaches a bookie.
    Request(usize, usize, usize),
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
        let mut world = Self {
            ledgers: (0..size.ledgers).map(|index| Ledger::new(size, index)).collect(),
            lives: vec![0; size.bookies],
            recoverers_left: size.recoverers,
            failures_left: size.failures,
            crashes_left: size.crashes,
            wipes_left: size.wipes,
            lost_replies_left: size.lost_replies,
        };
        world.ledgers[0].create(size, 0, &world.lives);
        world.ledgers[0].start_writer(size);
        world
    }

    /// Every bookie as it lives now.
    fn everybody(&self) -> Vec<Member> {
        self.lives.iter().enumerate().map(|(bookie, life)| member(bookie, *life)).collect()
    }

    /// The lives lost so far.
    pub(crate) fn wiped(&self) -> usize {
        self.lives.iter().map(|life| usize::try_from(*life).expect("few")).sum()
    }

    /// The writer's swap; where it closes a ledger that is rolled, the same transaction makes the next one.
    fn swap(&mut self, size: &Size, index: usize, lose_reply: bool) {
        let (closed, lost) = self.ledgers[index].swap(lose_reply);
        self.lost_replies_left -= u8::from(lost);
        if index + 1 == self.ledgers.len() {
            return;
        }
        if closed {
            let lives = self.lives.clone();
            self.ledgers[index + 1].create(size, index + 1, &lives);
        }
        let over =
            |ledger: &Ledger| ledger.writer.as_ref().is_some_and(|w| w.phase() == Phase::Closed);
        if over(&self.ledgers[index]) {
            self.ledgers[index + 1].start_writer(size);
        }
    }

    fn wipe(&mut self, bookie: usize) {
        self.wipes_left -= 1;
        self.lives[bookie] += 1;
        let incarnation = member(bookie, self.lives[bookie]).incarnation;
        for ledger in &mut self.ledgers {
            ledger.bookies[bookie].wipe(incarnation);
            ledger.disconnect(bookie);
        }
    }

    fn actions_of(&self, size: &Size, index: usize, actions: &mut Vec<Action>) {
        let ledger = &self.ledgers[index];
        if let Some(writer) = &ledger.writer {
            let runs = matches!(writer.phase(), Phase::Running | Phase::Changing);
            if runs && writer.written() < size.entries {
                actions.push(Action::Append(index));
            } else if runs {
                actions.push(Action::Close(index));
            }
            if runs && self.failures_left > 0 {
                let members = writer.in_place().into_iter();
                actions.extend(members.map(|member| Action::GiveUp(index, member)));
            }
            if writer.searching {
                actions.push(Action::Find(index));
            }
            if writer.swap().is_some() {
                actions.push(Action::Swap { ledger: index, lose_reply: false });
                if self.lost_replies_left > 0 {
                    actions.push(Action::Swap { ledger: index, lose_reply: true });
                }
            }
        }
        if self.recoverers_left > 0 && ledger.metadata.meta.is_some() {
            actions.push(Action::Recover(index));
        }
        if size.deletion && ledger.metadata.meta.is_some() && !ledger.metadata.removed {
            actions.push(Action::Delete(index));
        }
        self.calls_of(index, actions);
        for client in 0..ledger.requests.len() {
            for bookie in 0..ledger.bookies.len() {
                if !ledger.requests[client][bookie].is_empty() {
                    actions.push(Action::Request(index, client, bookie));
                }
                if !ledger.replies[client][bookie].is_empty() {
                    actions.push(Action::Reply(index, client, bookie));
                }
            }
        }
        for (bookie, state) in ledger.bookies.iter().enumerate() {
            if state.has_check() {
                actions.push(Action::FinishCheck(index, bookie));
            }
            if state.can_sync() {
                actions.push(Action::Sync(index, bookie));
            }
        }
    }

    fn calls_of(&self, ledger: usize, actions: &mut Vec<Action>) {
        for (recoverer, node) in self.ledgers[ledger].recoverers.iter().enumerate() {
            if let Some(call) = node.calls.first() {
                actions.push(Action::Call { ledger, recoverer, lose_reply: false });
                if matches!(call, Effect::Cas { .. }) && self.lost_replies_left > 0 {
                    actions.push(Action::Call { ledger, recoverer, lose_reply: true });
                }
            }
            if node.grace {
                actions.push(Action::GraceOver(ledger, recoverer));
            }
        }
    }

    fn act(&mut self, size: &Size, action: Action) {
        match action {
            Action::Append(index) => {
                let ledger = &mut self.ledgers[index];
                let requests = ledger.writer.as_mut().map(|writer| writer.append());
                ledger.send(WRITER, requests.unwrap_or_default());
            }
            Action::GiveUp(index, member) => {
                self.failures_left -= 1;
                self.ledgers[index].writer_step(WriterEvent::GiveUp { member });
            }
            Action::Find(index) => {
                let everybody = self.everybody();
                let ledger = &mut self.ledgers[index];
                let requests = ledger.writer.as_mut().map(|writer| writer.find(&everybody));
                ledger.send(WRITER, requests.unwrap_or_default());
            }
            Action::Close(index) => self.ledgers[index].writer_step(WriterEvent::Close),
            Action::Swap { ledger, lose_reply } => self.swap(size, ledger, lose_reply),
            Action::Recover(index) => {
                self.recoverers_left -= 1;
                self.ledgers[index].recover(size);
            }
            Action::Call { ledger, recoverer, lose_reply } => {
                let everybody = self.everybody();
                let lost = self.ledgers[ledger].call(recoverer, lose_reply, &everybody);
                self.lost_replies_left -= u8::from(lost);
            }
            Action::GraceOver(index, recoverer) => self.ledgers[index].grace_over(recoverer),
            Action::Request(index, client, bookie) => {
                self.ledgers[index].deliver_request(client, bookie);
            }
            Action::Reply(index, client, bookie) => {
                self.ledgers[index].deliver_reply(client, bookie);
            }
            Action::FinishCheck(index, bookie) => self.ledgers[index].finish_check(bookie),
            Action::Sync(index, bookie) => self.ledgers[index].sync(bookie),
            Action::Delete(index) => self.ledgers[index].metadata.remove(),
            Action::Crash(bookie) => {
                self.crashes_left -= 1;
                for ledger in &mut self.ledgers {
                    ledger.bookies[bookie].crash();
                    ledger.disconnect(bookie);
                }
            }
            Action::Wipe(bookie) => self.wipe(bookie),
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
        }
        for bookie in 0..self.bookies {
            if world.crashes_left > 0 {
                actions.push(Action::Crash(bookie));
            }
            if world.wipes_left > 0 {
                actions.push(Action::Wipe(bookie));
            }
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

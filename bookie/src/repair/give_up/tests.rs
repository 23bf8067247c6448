use bytes::Bytes;
use geminga_metastore::record::{Custom, Digest, Fragment, TierObject};
use geminga_proto::bookie::{Scope, WriteOp, WriteRequest};
use geminga_proto::ids::ClusterUuid;
use geminga_proto::ids::{Incarnation, LedgerId, SealEpoch};
use geminga_runtime::holds_only_with;

use super::*;
use crate::ledger::{self, Finding, Identity, LedgerState as Local, Record};

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

/// Entries 0 to 8, whose places are given to others than b1.
fn closed() -> LedgerMeta {
    let fragment = |first, ensemble: [u64; 3]| Fragment {
        first_entry: EntryId(first),
        ensemble: ensemble.map(member).to_vec(),
    };
    LedgerMeta {
        id: LedgerId(7),
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw: 3,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: vec![fragment(0, [2, 3, 4]), fragment(5, [2, 3, 5])],
        last_entry: Some(EntryId(8)),
        length: 0,
        entries_crc: None,
        close_kind: Some(CloseKind::Writer),
        recoverer: String::new(),
        last_op: 1,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
        tier: Tier::Local,
    }
}

fn whole() -> Vec<Held> {
    [4, 4, 4, 8, 8, 8].map(|end| (Some(EntryId(end)), EntryId(end))).to_vec()
}

/// I15: a copy more than others should have is one that they need while they lack something.
#[test]
fn scenario_51_a_copy_that_others_need_stays() {
    holds_only_with(Mutation::GiveUpNeeded, |mutations| {
        let excess = |meta: &LedgerMeta, marked, held: &[Held]| {
            is_excess(meta, &member(1), EntryId(8), marked, held, mutations)
        };
        assert!(excess(&closed(), false, &whole()));
        assert!(!excess(&closed(), true, &whole()), "somebody lacks something");
        for short in 0..whole().len() {
            for tail in [None, Some(EntryId(3))] {
                let mut held = whole();
                held[short].0 = tail;
                assert!(!excess(&closed(), false, &held), "{held:?}");
            }
        }
    });
}

#[test]
fn a_copy_that_a_place_names_stays() {
    let excess = |meta: &LedgerMeta| {
        is_excess(meta, &member(1), EntryId(8), false, &whole(), Mutations::default())
    };
    assert!(excess(&closed()));
    let mut named = closed();
    named.fragments[0].ensemble[2] = member(1);
    assert!(!excess(&named), "it has a place in one fragment yet");
    named.fragments[0].ensemble[2] = Member { incarnation: Incarnation(9), ..member(1) };
    assert!(excess(&named), "another disk, or life, has it");
    for state in [LedgerState::Open, LedgerState::InRecovery, LedgerState::Deleting] {
        assert!(!excess(&LedgerMeta { state, ..closed() }));
    }
    let object = TierObject {
        attempt: 1,
        bucket: String::new(),
        key: String::new(),
        size: 1,
        entries: 1,
        object_crc: 0,
        etag: String::new(),
        index_place: 0,
        at_ms: 0,
    };
    assert!(!excess(&LedgerMeta { tier: Tier::Trimmed(object), ..closed() }), "by its object");
}

/// What was acknowledged behind an end that was forced, or came from a backup, may be here only.
#[test]
fn a_copy_that_goes_on_behind_the_end_stays() {
    let excess = |meta: &LedgerMeta, reach| {
        is_excess(meta, &member(1), EntryId(reach), false, &whole(), Mutations::default())
    };
    assert!(excess(&closed(), 8) && excess(&closed(), -1));
    assert!(!excess(&closed(), 9), "this disk knows of more");
    let risk = CloseKind::ForcedWithRisk { missing: vec![member(9)] };
    let forced = LedgerMeta { close_kind: Some(risk), ..closed() };
    assert!(!excess(&forced, 8), "its end is a human's guess");
    assert!(!excess(&LedgerMeta { last_entry: None, ..closed() }, 0));
}

/// All entries of the ledger, as somebody sends them, or has them.
fn entries() -> Vec<Bytes> {
    vec![Bytes::from_static(b"entry"); 9]
}

/// What a repair does that may name this bookie again.
#[derive(Debug, Clone, Copy)]
enum Rival {
    Mark,
    /// The lease of whoever gives up is over, and with it its lock.
    Lock,
    Send,
    Swap,
    Unmark,
}

const RIVAL: [Rival; 5] = [Rival::Mark, Rival::Lock, Rival::Send, Rival::Swap, Rival::Unmark];

/// The copy of a ledger at this bookie, and what stands about it.
struct World {
    me: Identity,
    copy: Local,
    meta: LedgerMeta,
    marked: bool,
    locked: bool,
}

impl World {
    fn new() -> Self {
        let me = Identity {
            cluster: ClusterUuid::from_random(1),
            member: member(1),
            authoritative: true,
            writable: true,
            mutations: Mutations::default(),
        };
        let mut copy = Local::unknown(LedgerId(7));
        let (first, lac) = (EntryId(0), EntryId::NONE);
        copy.apply(&Record::Entries { fragment_first: first, first, entries: entries(), lac });
        Self { me, copy, meta: closed(), marked: false, locked: true }
    }

    fn repair(&mut self, step: Rival) {
        match step {
            Rival::Mark => self.marked = true,
            Rival::Lock => self.locked = false,
            Rival::Send => {
                let scope = Scope {
                    cluster: self.me.cluster,
                    ledger: LedgerId(7),
                    fragment_first: EntryId(0),
                    epoch: SealEpoch(0),
                    incarnation: Incarnation(1),
                };
                let op = WriteOp::RepairAdd { first: EntryId(0), entries: entries() };
                let request = WriteRequest { scope, op };
                let asked = ledger::Event::Request { to: (), request: request.clone() };
                self.copy.step(&self.me, asked);
                let finding = Finding::Repairable(EntryId(8));
                self.copy.step(&self.me, ledger::Event::Checked { to: (), request, finding });
                assert_eq!(self.copy.held().tail(EntryId(0)), EntryId(8), "it was not taken");
            }
            Rival::Swap => self.meta.fragments[0].ensemble[0] = member(1),
            Rival::Unmark => self.marked = false,
        }
    }

    fn carry_out(&mut self, effect: &Effect) -> Event {
        match effect {
            Effect::Announce => Event::Announced(self.copy.begin_to_give_up()),
            Effect::Read => Event::Read {
                locked: self.locked,
                marked: self.marked,
                meta: Some(self.meta.clone()),
            },
            Effect::Ask { .. } => Event::Tail(Some(EntryId(8))),
            Effect::Reach => Event::Reach(EntryId(8)),
            Effect::Drop => Event::Dropped(self.copy.give_up(Mutations::default()).is_some()),
            Effect::Finish(_) => panic!("it is over"),
        }
    }
}

/// All ways for the steps of a repair to fall between those of whoever gives up.
fn orders(steps: usize, places: usize) -> Vec<Vec<usize>> {
    if steps == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for before in orders(steps - 1, places) {
        let from = before.last().copied().unwrap_or(0);
        all.extend((from..=places).map(|place| [&before[..], &[place]].concat()));
    }
    all
}

/// 5.6: whenever somebody else gets the lock, and whatever it does then: a copy that was promised to it is there when it is named.
#[test]
fn scenario_51_a_copy_is_announced_before_anything_is_read() {
    holds_only_with(Mutation::AnnounceLate, |mutations| {
        let mut dropped = 0;
        for order in orders(RIVAL.len(), 10) {
            let mut world = World::new();
            let (mut core, mut effect) = GiveUp::new(member(1), mutations);
            let mut rival = order.iter().zip(RIVAL).peekable();
            for place in 0.. {
                while let Some((_, step)) = rival.next_if(|(at, _)| **at <= place) {
                    world.repair(step);
                }
                if let Effect::Finish(done) = effect {
                    dropped += usize::from(done);
                    break;
                }
                let event = world.carry_out(&effect);
                effect = core.step(event);
            }
            rival.for_each(|(_, step)| world.repair(step));
            let tail = world.copy.held().tail(EntryId(0));
            assert_eq!(tail, EntryId(8), "it is named, and has dropped its copy: {order:?}");
        }
        assert!(dropped > 20, "it was given up {dropped} times");
    });
}

/// Others wait for the lock: whoever lacks something ends it, and so does anything that was not asked for.
#[test]
fn nobody_is_asked_in_vain() {
    let (mut core, effect) = GiveUp::new(member(1), Mutations::default());
    assert_eq!(effect, Effect::Announce);
    assert_eq!(core.step(Event::Announced(true)), Effect::Read);
    let read = Event::Read { locked: true, marked: false, meta: Some(closed()) };
    let ask = |number, first| Effect::Ask { member: member(number), first: EntryId(first) };
    assert_eq!(core.step(read.clone()), ask(2, 0));
    assert_eq!(core.step(Event::Tail(Some(EntryId(4)))), ask(3, 0));
    assert_eq!(core.step(Event::Tail(Some(EntryId(3)))), Effect::Reach);
    assert_eq!(core.step(Event::Reach(EntryId(8))), Effect::Finish(false));
    assert_eq!(core.step(read), Effect::Finish(false));
    for lost in [
        Event::Read { locked: false, marked: false, meta: Some(closed()) },
        Event::Read { locked: true, marked: false, meta: None },
    ] {
        let (mut core, _) = GiveUp::new(member(1), Mutations::default());
        core.step(Event::Announced(true));
        assert_eq!(core.step(lost), Effect::Finish(false));
    }
    let (mut core, _) = GiveUp::new(member(1), Mutations::default());
    assert_eq!(core.step(Event::Announced(false)), Effect::Finish(false));
}

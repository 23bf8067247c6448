//! The classic group rule by rule: what each request is answered with, and what is in the log before it.

mod commits;
mod fixed;
mod joining;
mod random;
mod syncing;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::groups::classic::{JoinClassic, JoinedClassic, Protocol, SyncClassic};
use crate::groups::core::{Change, Event, Rooms};

const SESSION: u32 = 9_000;
const REBALANCE: u32 = 20_000;

/// A group with a clock; the log's place is taken by a list.
struct Bench {
    group: Group,
    now_ms: u64,
    initial_delay_ms: u32,
    rooms: Rooms,
    persisted: Vec<Change>,
    /// How many changes were persisted before each reply.
    replies: BTreeMap<Token, (usize, Result<Reply, Error>)>,
    token: Token,
}

impl Bench {
    fn new() -> Self {
        Self {
            group: Group::default(),
            now_ms: 1_000,
            initial_delay_ms: 0,
            rooms: Rooms::left(usize::MAX, (0, 0)),
            persisted: Vec::new(),
            replies: BTreeMap::new(),
            token: 0,
        }
    }

    fn step(&mut self, event: Event) {
        let context = Context {
            now_ms: self.now_ms,
            wall_ms: i64::try_from(self.now_ms).unwrap(),
            partitions: &|_| 0,
            initial_delay_ms: self.initial_delay_ms,
            rooms: self.rooms,
        };
        for effect in self.group.step(context, event) {
            match effect {
                Effect::Persist(change) => self.persisted.push(change),
                Effect::Reply(token, reply) => {
                    let reply = (self.persisted.len(), reply);
                    assert!(self.replies.insert(token, reply).is_none(), "answered twice");
                }
            }
        }
    }

    fn ask(&mut self, event: impl FnOnce(Token) -> Event) -> Token {
        self.token += 1;
        self.step(event(self.token));
        self.token
    }

    fn answer(&self, token: Token) -> Result<Reply, Error> {
        let (_, reply) = self.replies.get(&token).expect("answered");
        reply.clone()
    }

    fn is_waiting(&self, token: Token) -> bool {
        !self.replies.contains_key(&token)
    }

    fn join(&mut self, join: JoinClassic) -> Token {
        self.ask(|token| Event::JoinClassic(token, join))
    }

    fn refused(&mut self, join: JoinClassic) -> Error {
        let token = self.join(join);
        self.answer(token).expect_err("refused")
    }

    fn joined(&self, token: Token) -> JoinedClassic {
        match self.answer(token) {
            Ok(Reply::JoinedClassic(joined)) => joined,
            other => panic!("not joined: {other:?}"),
        }
    }

    fn sync(&mut self, id: &str, generation: i32, assigned: &[(&str, &'static str)]) -> Token {
        let assignments =
            assigned.iter().map(|(id, a)| ((*id).into(), Bytes::from_static(a.as_bytes())));
        let sync = SyncClassic {
            by: identity(id, generation),
            assignments: assignments.collect(),
            ..SyncClassic::default()
        };
        self.ask(|token| Event::SyncClassic(token, sync))
    }

    fn synced(&self, token: Token) -> Bytes {
        match self.answer(token) {
            Ok(Reply::Synced(synced)) => synced.assignment,
            other => panic!("not synced: {other:?}"),
        }
    }

    fn heartbeat(&mut self, id: &str, generation: i32) -> Result<Reply, Error> {
        self.heartbeat_by(identity(id, generation))
    }

    fn heartbeat_by(&mut self, by: Identity) -> Result<Reply, Error> {
        let token = self.ask(|token| Event::HeartbeatClassic(token, by));
        self.answer(token)
    }

    fn leave(&mut self, names: &[MemberName]) -> Each {
        let token = self.ask(|token| Event::LeaveClassic(token, names.to_vec()));
        match self.answer(token) {
            Ok(Reply::Each(each)) => each,
            other => panic!("no answer for each: {other:?}"),
        }
    }

    fn pass(&mut self, ms: u64) {
        let until_ms = self.now_ms + ms;
        let mut ticks = 0;
        while let Some(at) = self.group.next_deadline().filter(|at| *at <= until_ms) {
            self.now_ms = self.now_ms.max(at);
            self.step(Event::Tick);
            ticks += 1;
            assert!(ticks < 1_000, "ticks lead nowhere in {:?}", self.group);
        }
        self.now_ms = until_ms;
    }

    fn newest(&self) -> Generation {
        let newest = self.persisted.iter().rev().find_map(|change| match change {
            Change::Generation(generation) => Some(generation.clone()),
            Change::Deleted => Some(Generation::default()),
            Change::Offsets(..) | Change::Forgotten(_) => None,
        });
        newest.unwrap_or_default()
    }

    fn restart(&mut self) {
        let has_offsets = self.persisted.iter().any(|c| matches!(c, Change::Offsets(..)));
        self.group = Group::restore(&self.newest(), has_offsets, self.now_ms);
    }

    /// Members with these ids in a stable generation; the first one leads. Returns the generation.
    fn stable(ids: &[&'static str]) -> (Self, i32) {
        let mut bench = Self::new();
        bench.initial_delay_ms = 10;
        let joins: Vec<Token> = ids.iter().map(|id| bench.join(newcomer(id))).collect();
        bench.pass(50);
        let generation = bench.joined(joins[0]).generation;
        let assigned: Vec<_> = ids.iter().map(|id| (*id, *id)).collect();
        for id in ids[1..].iter().chain(&ids[..1]) {
            bench.sync(id, generation, &assigned);
        }
        assert_eq!(bench.group.state(), State::Stable);
        (bench, generation)
    }
}

fn name(id: &str) -> MemberName {
    MemberName { member: id.into(), instance: None }
}

fn instance(id: &str, instance: &str) -> MemberName {
    MemberName { member: id.into(), instance: Some(instance.into()) }
}

fn identity(id: &str, generation: i32) -> Identity {
    Identity { name: name(id), generation }
}

fn protocols(names: &[(&str, &'static str)]) -> Vec<Protocol> {
    let one = |(name, metadata): &(&str, &'static str)| Protocol {
        name: (*name).into(),
        metadata: Bytes::from_static(metadata.as_bytes()),
    };
    names.iter().map(one).collect()
}

/// A member without an id that joins in one step and is given `fresh`.
fn newcomer(fresh: &str) -> JoinClassic {
    JoinClassic {
        name: MemberName::default(),
        fresh: fresh.into(),
        client_id: "client".to_owned(),
        client_host: "/127.0.0.1".to_owned(),
        session_timeout_ms: SESSION,
        rebalance_timeout_ms: REBALANCE,
        protocol_type: "consumer".to_owned(),
        protocols: protocols(&[("range", "r"), ("sticky", "s")]),
        two_steps: false,
        may_skip: true,
    }
}

/// The same member with its id.
fn again(id: &str) -> JoinClassic {
    JoinClassic { name: name(id), ..newcomer("unused") }
}

/// A static member without an id.
fn fixed(instance: &str, fresh: &str) -> JoinClassic {
    let name = MemberName { member: "".into(), instance: Some(instance.into()) };
    JoinClassic { name, ..newcomer(fresh) }
}

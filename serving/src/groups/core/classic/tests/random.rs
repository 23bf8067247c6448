//! Random members, static ones among them, and time: whatever they do, every request is answered once, generations rise,
//! and nobody is told what the log does not hold.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::groups::record::MemberRecord;

#[derive(Debug, Clone)]
enum Step {
    /// Who; with the id it was last given or without; which metadata; in two steps.
    Join(usize, bool, u8, bool),
    /// Who, and by how much its generation is behind.
    Sync(usize, i32),
    Heartbeat(usize, i32),
    Commit(usize, i32),
    Leave(usize),
    /// Nobody waits for the nth answer any more.
    Gone(usize),
    Restart,
    Pass(u16),
}

/// Of six clients the last three are static.
const CLIENTS: usize = 6;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..CLIENTS;
    let step = prop_oneof![
        8 => (client.clone(), any::<bool>(), 0u8..3, any::<bool>())
            .prop_map(|(c, known, data, two)| Step::Join(c, known, data / 2, two)),
        8 => (client.clone(), 0i32..4).prop_map(|(c, back)| Step::Sync(c, back / 3)),
        3 => (client.clone(), 0i32..2).prop_map(|(c, back)| Step::Heartbeat(c, back)),
        2 => (client.clone(), 0i32..2).prop_map(|(c, back)| Step::Commit(c, back)),
        1 => client.prop_map(Step::Leave),
        2 => (0usize..4).prop_map(Step::Gone),
        1 => Just(Step::Restart),
        4 => (0u16..6_000).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..150)
}

#[derive(Default)]
struct World {
    /// The id that each client was last told.
    ids: BTreeMap<usize, Arc<str>>,
    given_out: u32,
    /// Which client waits for which answer, and the id that it asked with.
    asked: BTreeMap<Token, (usize, Arc<str>)>,
    seen: usize,
}

fn instance_of(client: usize) -> Option<Arc<str>> {
    (client >= CLIENTS / 2).then(|| format!("i{client}").into())
}

fn by(world: &World, bench: &Bench, client: usize, back: i32) -> Identity {
    let member = world.ids.get(&client).cloned().unwrap_or_default();
    let name = MemberName { member, instance: instance_of(client) };
    Identity { name, generation: bench.group.generation() - back }
}

fn run(bench: &mut Bench, world: &mut World, step: Step) {
    match step {
        Step::Join(client, known, data, two_steps) => {
            world.given_out += 1;
            let id = world.ids.get(&client).filter(|_| known).cloned().unwrap_or_default();
            let join = JoinClassic {
                name: MemberName { member: id.clone(), instance: instance_of(client) },
                protocols: protocols(&[("range", if data == 0 { "r" } else { "x" })]),
                two_steps,
                may_skip: client.is_multiple_of(2),
                session_timeout_ms: 6_000,
                rebalance_timeout_ms: 10_000,
                ..newcomer(&format!("m{}", world.given_out))
            };
            let token = bench.join(join);
            world.asked.insert(token, (client, id));
        }
        Step::Sync(client, back) => {
            let members = bench.group.members();
            // Each is assigned its own name and the generation.
            let assigned =
                |m: &MemberRecord| (m.member.clone(), assigned(m, bench.group.generation()));
            let by = by(world, bench, client, back);
            let id = by.name.member.clone();
            let sync = SyncClassic {
                by,
                assignments: members.iter().map(assigned).collect(),
                ..SyncClassic::default()
            };
            let token = bench.ask(|token| Event::SyncClassic(token, sync));
            world.asked.insert(token, (client, id));
        }
        Step::Heartbeat(client, back) => {
            let _ = bench.heartbeat_by(by(world, bench, client, back));
        }
        Step::Commit(client, back) => {
            let by = by(world, bench, client, back);
            bench.ask(|token| Event::CommitClassic(token, by, Vec::new()));
        }
        Step::Leave(client) => {
            let name = by(world, bench, client, 0).name;
            bench.leave(&[name]);
        }
        Step::Gone(nth) => {
            let Some(token) = bench.group.parked().nth(nth) else { return };
            bench.step(Event::Gone(token));
            assert!(bench.group.parked().all(|t| t != token));
            world.asked.remove(&token);
        }
        Step::Restart => {
            // Those who wait are cut off.
            let parked: Vec<Token> = bench.group.parked().collect();
            for token in parked {
                world.asked.remove(&token);
            }
            bench.restart();
        }
        Step::Pass(ms) => bench.pass(ms.into()),
    }
}

/// What a member is assigned by its place, which a static member keeps under a new id.
fn assigned(member: &MemberRecord, generation: i32) -> Bytes {
    let classic = member.classic.as_ref().unwrap();
    let place = classic.instance.as_ref().unwrap_or(&member.member);
    format!("{place} in {generation}").into()
}

/// Answers that came with the last step.
fn check_answers(bench: &Bench, world: &mut World) -> Result<(), TestCaseError> {
    let parked: BTreeSet<Token> = bench.group.parked().collect();
    let asked = std::mem::take(&mut world.asked);
    for (token, (client, id)) in asked {
        let Some((before, reply)) = bench.replies.get(&token) else {
            prop_assert!(parked.contains(&token), "{} was forgotten", token);
            world.asked.insert(token, (client, id));
            continue;
        };
        prop_assert!(!parked.contains(&token));
        let durable = bench.persisted[..*before].iter().rev().find_map(|change| match change {
            Change::Generation(generation) => Some(generation),
            Change::Offsets(..) | Change::Forgotten(_) | Change::Deleted => None,
        });
        match reply {
            Err(Error::MemberIdRequired(given)) => {
                world.ids.insert(client, given.clone());
            }
            Ok(Reply::JoinedClassic(joined)) => {
                let durable = durable.expect("S3");
                prop_assert_eq!(joined.generation, durable.generation, "S3");
                let ids: BTreeSet<_> = durable.members.iter().map(|m| &m.member).collect();
                prop_assert!(ids.contains(&joined.member), "S3");
                let listed: BTreeSet<_> = joined.members.iter().map(|m| &m.name.member).collect();
                prop_assert!(listed.is_empty() || listed == ids, "the leader is told of all");
                world.ids.insert(client, joined.member.clone());
            }
            Ok(Reply::Synced(synced)) => {
                let durable = durable.expect("S3");
                prop_assert!(durable.classic.as_ref().unwrap().assigned, "S3");
                let mine = durable.members.iter().any(|member| {
                    let classic = member.classic.as_ref().unwrap();
                    member.member == id && classic.assignment == synced.assignment
                });
                prop_assert!(mine, "S3: {:?}", synced);
            }
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Generations that were written with the last step: they rise, and whoever is in a new one has joined it, or is a static
/// member within its session.
fn check_log(
    bench: &Bench,
    world: &mut World,
    before: &BTreeSet<Arc<str>>,
) -> Result<(), TestCaseError> {
    let mut last = 0;
    for (at, change) in bench.persisted.iter().enumerate() {
        let generation = match change {
            Change::Generation(generation) => generation,
            Change::Deleted => {
                last = 0;
                continue;
            }
            Change::Offsets(..) | Change::Forgotten(_) => continue,
        };
        let is_new = generation.generation != last;
        prop_assert!(!is_new || generation.generation == last + 1, "generations rise by one");
        last = generation.generation;
        if at < world.seen || !is_new {
            continue;
        }
        for member in &generation.members {
            let is_static = member.classic.as_ref().unwrap().instance.is_some();
            prop_assert!(
                is_static || before.contains(&member.member),
                "{} has not joined",
                member.member
            );
        }
    }
    world.seen = bench.persisted.len();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn whatever_members_do(steps in steps(), delay in prop_oneof![Just(0u32), Just(500)]) {
        let mut bench = Bench::new();
        bench.initial_delay_ms = delay;
        let mut world = World::default();
        for step in steps {
            if bench.group.state() == State::Dead {
                bench.group = Group::default();
            }
            // Whoever waits to join before this step, or asks to with it.
            let waiting = bench.group.classic.members.iter().filter(|(_, m)| m.has_joined());
            let mut joined: BTreeSet<Arc<str>> = waiting.map(|(id, _)| id.clone()).collect();
            if let Step::Join(client, known, ..) = &step {
                joined.extend(world.ids.get(client).filter(|_| *known).cloned());
                joined.insert(format!("m{}", world.given_out + 1).into());
            }
            run(&mut bench, &mut world, step);
            check_log(&bench, &mut world, &joined)?;
            check_answers(&bench, &mut world)?;
            let classic = &bench.group.classic;
            let leads = classic.members.contains_key(&classic.leader);
            prop_assert_eq!(leads, !classic.members.is_empty(), "somebody leads");
            prop_assert_eq!(classic.members.is_empty(), bench.group.kind().is_none());
            for (instance, id) in &classic.instances {
                prop_assert_eq!(classic.members[id].instance.as_ref(), Some(instance));
            }
        }
        // Left alone, every member is given up and everybody who waits is answered.
        bench.pass(60_000);
        check_answers(&bench, &mut world)?;
        prop_assert!(bench.group.is_empty() && world.asked.is_empty());
        prop_assert_eq!(bench.group.next_deadline(), None);
    }
}

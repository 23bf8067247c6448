//! A recoverer's environment: calls to the register and to bookies, made one at a time.

use geminga_ledger::core::mutation::Mutations;
use geminga_ledger::core::recovery::{Effect, Event, Finish, Recovery};
use geminga_proto::bookie::{WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{EntryId, Member};

use crate::bookie::Ask;
use crate::writer::{Requests, scope};

/// A recoverer, once started.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RecovererNode {
    core: Recovery,
    /// Calls that the environment has still to make, in order.
    pub(crate) calls: Vec<Effect>,
    /// Grace for late seal replies has started.
    pub(crate) grace: bool,
    /// How it ended.
    pub(crate) finish: Option<Finish>,
    /// Requests without an answer, to be sent again when their bookie crashed.
    outstanding: Vec<(Member, WriteRequest)>,
}

impl RecovererNode {
    pub(crate) fn start(number: u128, mutations: Mutations) -> Self {
        let (core, calls) = Recovery::new(format!("R{number}"), number * 1000, mutations);
        Self { core, calls, grace: false, finish: None, outstanding: Vec::new() }
    }

    pub(crate) fn step(&mut self, event: Event) -> Requests {
        let effects = self.core.step(event);
        let mut requests = Vec::new();
        for effect in effects {
            match effect {
                Effect::Seal { member, epoch, .. } => {
                    let request = WriteRequest { scope: scope(&member, epoch), op: WriteOp::Seal };
                    requests.push((member, request));
                }
                Effect::ReadMeta
                | Effect::Cas { .. }
                | Effect::Copy { .. }
                | Effect::ReadLength(_) => {
                    self.calls.push(effect);
                }
                Effect::StartGrace => self.grace = true,
                Effect::StartDeadline
                | Effect::Search { .. }
                | Effect::TellClosed { .. }
                | Effect::MarkUnder(_) => {}
                Effect::Finish(finish) => self.finish = Some(finish),
            }
        }
        self.outstanding.extend(requests.iter().cloned());
        requests
    }

    pub(crate) fn receive(&mut self, member: &Member, ask: Ask, reply: &WriteReply) -> Requests {
        self.outstanding.retain(|(to, _)| to != member);
        let Some(position) = self.position(member) else { return Vec::new() };
        let event = match ask {
            Ask::Seal => Event::from_seal(position, reply),
            Ask::RecoveryAdd => Some(Event::from_recovery_add(position, reply)),
            Ask::Hello | Ask::Add => unreachable!("a recoverer does not write"),
        };
        event.map(|event| self.step(event)).unwrap_or_default()
    }

    /// A recovery add with what the source holds.
    pub(crate) fn copy(
        &mut self,
        target: usize,
        first: EntryId,
        entries: Vec<bytes::Bytes>,
    ) -> Requests {
        let meta = self.core.meta().expect("copying follows sealing");
        let member = meta.last_fragment().ensemble[target].clone();
        let scope = scope(&member, meta.seal_epoch);
        let request = WriteRequest { scope, op: WriteOp::RecoveryAdd { first, entries } };
        self.outstanding.push((member.clone(), request.clone()));
        vec![(member, request)]
    }

    pub(crate) fn member(&self, position: usize) -> Option<Member> {
        Some(self.core.meta()?.last_fragment().ensemble[position].clone())
    }

    fn position(&self, member: &Member) -> Option<usize> {
        self.core.meta()?.last_fragment().ensemble.iter().position(|m| m == member)
    }

    /// The connection to a bookie broke: what it did not answer is sent again.
    pub(crate) fn reconnected(&self, bookie: &Member) -> Vec<WriteRequest> {
        self.outstanding
            .iter()
            .filter(|(to, _)| to == bookie)
            .map(|(_, request)| request.clone())
            .collect()
    }
}

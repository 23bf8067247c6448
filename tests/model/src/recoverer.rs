//! A recoverer's environment: calls to the register and to bookies, made one at a time.

use geminga_ledger::core::mutation::Mutations;
use geminga_ledger::core::recovery::{Effect, Event, Finish, Recovery};
use geminga_proto::bookie::{WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{EntryId, LedgerId, Member};

use crate::bookie::Ask;
use crate::writer::{Requests, scope};

/// A recoverer, once started.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct RecovererNode {
    ledger: LedgerId,
    core: Recovery,
    /// Calls that the environment has still to make, in order.
    pub(crate) calls: Vec<Effect>,
    /// Grace for late seal replies has started.
    pub(crate) grace: bool,
    /// How it ended.
    pub(crate) finish: Option<Finish>,
    /// Requests without an answer, to be sent again when their bookie crashed.
    outstanding: Vec<(Member, WriteRequest)>,
    /// Whom copies go to, by position.
    targets: Vec<(Member, usize)>,
}

impl RecovererNode {
    pub(crate) fn start(ledger: LedgerId, number: u128, mutations: Mutations) -> Self {
        let op = u128::from(ledger.0) * 1_000_000 + number * 1000;
        let (core, calls) = Recovery::new(format!("R{number}"), op, mutations);
        Self {
            ledger,
            core,
            calls,
            grace: false,
            finish: None,
            outstanding: Vec::new(),
            targets: Vec::new(),
        }
    }

    pub(crate) fn step(&mut self, event: Event) -> Requests {
        let effects = self.core.step(event);
        let mut requests = Vec::new();
        for effect in effects {
            match effect {
                Effect::Seal { member, epoch, fragment_first, .. } => {
                    let scope = scope(self.ledger, &member, fragment_first, epoch);
                    requests.push((member, WriteRequest { scope, op: WriteOp::Seal }));
                }
                Effect::ReadMeta
                | Effect::Cas { .. }
                | Effect::Copy { .. }
                | Effect::Search { .. }
                | Effect::ReadLength(_) => {
                    self.calls.push(effect);
                }
                Effect::StartGrace => self.grace = true,
                Effect::StartDeadline | Effect::TellClosed { .. } | Effect::MarkUnder(_) => {}
                Effect::Finish(finish) => {
                    // What it still meant to ask means nothing any more.
                    (self.grace, self.finish) = (false, Some(finish));
                    self.calls.clear();
                    self.outstanding.clear();
                }
            }
        }
        self.outstanding.extend(requests.iter().cloned());
        requests
    }

    pub(crate) fn receive(&mut self, member: &Member, ask: Ask, reply: &WriteReply) -> Requests {
        self.outstanding.retain(|(to, _)| to != member);
        let event = match ask {
            Ask::Seal => {
                let Some(position) = self.position(member) else { return Vec::new() };
                let unknown = Event::SealUnknown { position };
                Some(Event::from_seal(position, reply).unwrap_or(unknown))
            }
            Ask::RecoveryAdd => {
                let target = self.targets.iter().find(|(to, _)| to == member);
                target.map(|(_, target)| Event::from_recovery_add(*target, reply))
            }
            Ask::Hello | Ask::Add => unreachable!("a recoverer does not write"),
        };
        event.map(|event| self.step(event)).unwrap_or_default()
    }

    /// A recovery add with what the source holds.
    pub(crate) fn copy(
        &mut self,
        (target, to): (usize, Member),
        fragment_first: EntryId,
        first: EntryId,
        entries: Vec<bytes::Bytes>,
    ) -> Requests {
        let meta = self.core.meta().expect("copying follows sealing");
        let scope = scope(self.ledger, &to, fragment_first, meta.seal_epoch);
        let request = WriteRequest { scope, op: WriteOp::RecoveryAdd { first, entries } };
        self.targets.retain(|(member, _)| *member != to);
        self.targets.push((to.clone(), target));
        self.outstanding.push((to.clone(), request.clone()));
        vec![(to, request)]
    }

    /// The first of the candidates that is free stands in for the first that is lost; where nobody is there, it is
    /// waited for.
    pub(crate) fn find(
        &mut self,
        lost: &[usize],
        shunned: &[geminga_proto::ids::BookieId],
        candidates: &[Member],
    ) -> Requests {
        let Some(meta) = self.core.meta() else { return Vec::new() };
        let ensemble = meta.last_fragment().ensemble.clone();
        let free = candidates.iter().find(|candidate| {
            !shunned.contains(&candidate.bookie)
                && ensemble.iter().all(|member| member.bookie != candidate.bookie)
        });
        match (lost.first(), free) {
            (Some(lost), Some(free)) => {
                self.step(Event::Found(vec![(ensemble[*lost].clone(), free.clone())]))
            }
            _ => Vec::new(),
        }
    }

    pub(crate) fn member(&self, position: usize) -> Option<Member> {
        Some(self.core.meta()?.last_fragment().ensemble[position].clone())
    }

    fn position(&self, member: &Member) -> Option<usize> {
        self.core.meta()?.last_fragment().ensemble.iter().position(|m| m == member)
    }

    /// The connection to a bookie broke: what it did not answer is sent again.
    pub(crate) fn reconnected(&self, bookie: &geminga_proto::ids::BookieId) -> Vec<WriteRequest> {
        self.outstanding
            .iter()
            .filter(|(to, _)| to.bookie == *bookie)
            .map(|(_, request)| request.clone())
            .collect()
    }
}

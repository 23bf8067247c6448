//! A recoverer's environment: calls to the register and to bookies, made one at a time.

use geminga_ledger::core::mutation::Mutations;
use geminga_ledger::core::recovery::{Effect, Event, Finish, Recovery};
use geminga_proto::bookie::{WriteOp, WriteReply, WriteRequest};
use geminga_proto::ids::{EntryId, LedgerId, Member};

use crate::bookie::Ask;
use crate::ledger::number;
use crate::part::{Keep, Shelf};
use crate::symmetry::{Named, Names};
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
    /// Grace for copies beyond the ack quorum has started.
    pub(crate) copy_grace: bool,
    /// How it ended.
    pub(crate) finish: Option<Finish>,
    /// Requests without an answer, to be sent again when their bookie crashed.
    outstanding: Vec<(Member, WriteRequest)>,
    /// Whom copies go to, by position.
    targets: Vec<(Member, usize)>,
}

/// A recoverer, as far as it has come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Recovering {
    /// It has not started.
    No,
    /// It is at work.
    Now(Box<RecovererNode>),
    /// It ended, and whether it knows the end of the ledger.
    Over(bool),
}

impl Keep for Recovering {
    fn shelf() -> &'static Shelf<Self> {
        static SHELF: Shelf<Recovering> = Shelf::new();
        &SHELF
    }
}

impl Named for Recovering {
    fn renamed(&self, names: &Names) -> Self {
        match self {
            Self::Now(node) => Self::Now(Box::new(node.renamed(names))),
            Self::No | Self::Over(_) => self.clone(),
        }
    }
}

impl Recovering {
    pub(crate) fn node(&self) -> Option<&RecovererNode> {
        match self {
            Self::Now(node) => Some(node),
            Self::No | Self::Over(_) => None,
        }
    }

    pub(crate) fn node_mut(&mut self) -> Option<&mut RecovererNode> {
        match self {
            Self::Now(node) => Some(node),
            Self::No | Self::Over(_) => None,
        }
    }

    /// Whether it does nothing any more.
    pub(crate) fn is_over(&self) -> bool {
        match self {
            Self::No => false,
            Self::Now(node) => node.finish.is_some(),
            Self::Over(_) => true,
        }
    }

    /// Whether it knows that the ledger is closed.
    pub(crate) fn knows_end(&self) -> bool {
        match self {
            Self::No => false,
            Self::Now(node) => matches!(node.finish, Some(Finish::Closed(_))),
            Self::Over(knows) => *knows,
        }
    }
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
            copy_grace: false,
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
                | Effect::StartPause
                | Effect::ReadLength(_) => {
                    self.calls.push(effect);
                }
                Effect::FindEnd(_) => unreachable!("nobody gives anything up here"),
                Effect::StartGrace => self.grace = true,
                Effect::StartCopyGrace => self.copy_grace = true,
                Effect::StartDeadline | Effect::TellClosed { .. } | Effect::MarkUnder(_) => {}
                Effect::Finish(finish) => {
                    // What it still meant to ask means nothing any more.
                    (self.grace, self.copy_grace, self.finish) = (false, false, Some(finish));
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
        shunned: &[Member],
        candidates: &[Member],
    ) -> Requests {
        let Some(meta) = self.core.meta() else { return Vec::new() };
        let ensemble = meta.last_fragment().ensemble.clone();
        let free = candidates.iter().find(|candidate| {
            shunned.iter().chain(&ensemble).all(|member| member.bookie != candidate.bookie)
        });
        match (lost.first(), free) {
            (Some(lost), Some(free)) => {
                self.step(Event::Found(vec![(ensemble[*lost].clone(), free.clone())]))
            }
            _ => Vec::new(),
        }
    }

    /// Whether a bookie's reply can still change what it does.
    pub(crate) fn listens(&self) -> bool {
        self.core.listens()
    }

    /// Whether it waits for seals.
    pub(crate) fn seals(&self) -> bool {
        self.core.seals()
    }

    /// Whether [`Self::forget`] would change anything.
    pub(crate) fn remembers(&self, deaf: bool, again: bool) -> bool {
        (deaf && (self.grace || self.copy_grace)) || (!again && !self.outstanding.is_empty())
    }

    /// What makes no difference any more: graces, once no reply does, and requests, once none has to be sent again.
    pub(crate) fn forget(&mut self, deaf: bool, again: bool) {
        if deaf {
            (self.grace, self.copy_grace) = (false, false);
        }
        if !again {
            self.outstanding.clear();
        }
    }

    fn renamed(&self, names: &Names) -> Self {
        let rename = |member: &Member| names.member(member);
        let core = self.core.renamed(&rename, &|meta| names.meta(meta));
        let new = |position: usize| {
            let old = &self.core.meta().expect("held").last_fragment().ensemble[position];
            let fragment = core.meta().expect("held").last_fragment();
            let new = fragment.ensemble.iter().position(|member| *member == rename(old));
            new.expect("renaming keeps members")
        };
        let call = |call: &Effect| match call {
            Effect::Cas { expected, meta } => {
                Effect::Cas { expected: *expected, meta: Box::new(names.meta(meta)) }
            }
            Effect::Copy { from, target, to, fragment_first, first, last } => Effect::Copy {
                from: rename(from),
                target: new(*target),
                to: rename(to),
                fragment_first: *fragment_first,
                first: *first,
                last: *last,
            },
            Effect::Search { lost, shunned } => Effect::Search {
                lost: lost.iter().map(|position| new(*position)).collect(),
                shunned: shunned.iter().map(rename).collect(),
            },
            other => other.clone(),
        };
        let calls = self.calls.iter().map(call).collect();
        let targets = self.targets.iter().map(|(to, target)| (rename(to), new(*target)));
        let mut targets: Vec<_> = targets.collect();
        targets.sort();
        let outstanding = self.outstanding.iter();
        let mut outstanding: Vec<_> =
            outstanding.map(|(to, request)| (rename(to), request.clone())).collect();
        outstanding.sort_by(|(a, _), (b, _)| a.cmp(b));
        Self { core, calls, targets, outstanding, ..self.clone() }
    }

    /// Which bookies have not answered.
    pub(crate) fn unanswered(&self) -> impl Iterator<Item = usize> {
        self.outstanding.iter().map(|(to, _)| number(to))
    }

    fn position(&self, member: &Member) -> Option<usize> {
        self.core.meta()?.last_fragment().ensemble.iter().position(|m| m == member)
    }

    /// What a bookie did not answer, to be sent again: the connection to it broke, or an answer took too long.
    pub(crate) fn reconnected(&self, bookie: &geminga_proto::ids::BookieId) -> Vec<WriteRequest> {
        self.outstanding
            .iter()
            .filter(|(to, _)| to.bookie == *bookie)
            .map(|(_, request)| request.clone())
            .collect()
    }
}

//! What the search leaves out because it comes to the same. After each step the ledger is *settled*: whatever has one outcome
//! only, at any time, is done at once, and what can have none is taken away. Each rule here says why no violation is lost;
//! `tests/reductions.rs` compares searches with and without them.
//!
//! * **Prompt calls.** A recoverer's call whose outcome does not depend on when it is made, and which nobody but the recoverer
//!   notices, is made at once: reading the length; copying from a bookie that keeps its entries; a swap whose version has
//!   passed; reading metadata that is final.
//! * **A recoverer's start** is its read and its mark in one: a mark that finds another version than it read changes nothing,
//!   and its recoverer reads again, as if it had started then.
//! * **Refused requests.** A request that a bookie refuses with a verdict while all it holds is on stable storage is refused
//!   whenever it arrives, and the refusal can but end its client.
//! * **Verdicts.** A reply that would end its client and do nothing else is never delivered: a client that ends does less
//!   than one that goes on, and nothing is wrong with a state for its having ended.
//! * **Acks late.** A writer hears of acks when it appends or closes, as of all up to an entry: all that an ack changes is
//!   what it acknowledges, and tells with its next entry or its end; and of all that come to the same LAC it may as well have
//!   heard. In between, what it may have acknowledged by now is what the invariants look at. Where a member may fail, a
//!   bookie may crash, or a hello is answered late, acks come when they come.
//! * **Seals late.** A recoverer that waits for seals hears of them when it fixes the end, of any that are enough: until then
//!   they change nothing that anybody else notices, and nothing takes them back unless a bookie crashes.
//! * **Replies nobody listens to**, once a recoverer is past its copies.
//! * **Clients that are over** are what they said, and bookies what they have on stable storage.
//! * **One unsynced bookie.** Only a bookie that crashes shows whether its log was synced, and one can crash: so an unsynced
//!   log is followed at one bookie, the first where it is not synced at once.
//! * **The rest, one bookie after the other.** Once no client is left that listens, bookies do not hear of each other, and
//!   nothing that one takes is taken away: they take what is in flight one after the other. So do two ledgers, once the
//!   first is closed and left by its writer, and no crash or wipe is left that would meet both.
//!
//! They lean on nothing that a broken rule would take away: whether a request is refused, or a reply ends its client, is tried
//! with the production code, in the state at hand.

use geminga_ledger::core::recovery::Effect;
use geminga_ledger::core::writer::Phase;
use geminga_proto::bookie::Class;
use geminga_proto::ids::{EntryId, SealEpoch};

use crate::bookie::Bookie;
use crate::ledger::{Ledger, WRITER};
use crate::part::Part;
use crate::recoverer::Recovering;
use crate::size::Size;
use crate::writer::Writing;

/// What may still happen to bookies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dangers {
    /// Bookies may lose their unsynced log.
    pub(crate) crash: bool,
    /// Bookies may lose everything.
    pub(crate) wipe: bool,
    /// Recoverers may ask again.
    pub(crate) resend: bool,
    /// The bookie whose log is followed unsynced, once there is one.
    pub(crate) fragile: Option<usize>,
}

impl Ledger {
    /// Does what has one outcome only.
    pub(crate) fn settle(&mut self, size: &Size, dangers: Dangers, before: Option<&Self>) {
        for bookie in 0..size.bookies {
            if !size.slow_checks {
                self.finish_check(size, bookie);
            }
            if self.bookies[bookie].can_sync() && dangers.fragile != Some(bookie) {
                self.sync(bookie);
            }
        }
        for index in 0..size.recoverers {
            while self.calls_promptly(size, index, dangers) {
                self.call(index, false, &[]);
            }
        }
        for bookie in 0..size.bookies {
            for client in Self::clients(size) {
                self.drop_refused(size, client, bookie);
                self.drop_verdicts(client, bookie);
            }
        }
        self.forget(size, dangers, before);
    }

    fn calls_promptly(&self, size: &Size, index: usize, dangers: Dangers) -> bool {
        let Some(call) = self.recoverers[index].node().and_then(|r| r.calls.first()) else {
            return false;
        };
        match call {
            Effect::ReadLength(_) => true,
            Effect::Copy { .. } => !dangers.wipe,
            Effect::Cas { expected, .. } => *expected != self.metadata.version && !size.deletion,
            Effect::ReadMeta => self.metadata.is_closed() && !size.deletion,
            _ => false,
        }
    }

    fn drop_refused(&mut self, size: &Size, client: usize, bookie: usize) {
        while self.has_request(client, bookie)
            && self.bookies[bookie].is_synced()
            && self.bookies[bookie].durable_seal() > SealEpoch(0)
        {
            let mut tried = self.clone();
            tried.deliver_request(size, client, bookie);
            let refused = tried.bookies[bookie] == self.bookies[bookie]
                && tried.news(self, client, bookie).is_none_or(|class| class == Class::Verdict);
            if !refused {
                return;
            }
            self.take_request(client, bookie);
        }
    }

    fn drop_verdicts(&mut self, client: usize, bookie: usize) {
        while self.next_reply(client, bookie) == Some(Class::Verdict) && !self.is_over(client) {
            let mut tried = self.clone();
            tried.deliver_reply(client, bookie);
            if !tried.is_over(client) || tried.sent_more(self, client) {
                return;
            }
            self.take_reply(client, bookie);
        }
    }

    /// What makes no difference any more; of bookies that are as before nothing is left to forget.
    fn forget(&mut self, size: &Size, dangers: Dangers, before: Option<&Self>) {
        let said = self.writer.said();
        if self.writer.is_over() {
            self.writer = Part::of(Writing::Over(said));
        }
        for index in 0..size.recoverers {
            let recoverer = &mut self.recoverers[index];
            let Some(node) = recoverer.node() else { continue };
            let (over, deaf) = (recoverer.is_over(), !node.listens());
            let again = dangers.crash || dangers.wipe || dangers.resend;
            if over {
                *recoverer = Part::of(Recovering::Over(recoverer.knows_end()));
            } else if node.remembers(deaf, again) {
                recoverer.with(|r| r.node_mut().map(|node| node.forget(deaf, again)));
            }
            if over || deaf {
                self.clear_replies(index + 1);
            }
        }
        let closing = matches!(&*self.writer, Writing::Now(w) if w.phase() == Phase::Closing);
        if self.writer.is_over() || (closing && size.hears_acks_late() && self.is_settled(size)) {
            self.clear_replies(WRITER);
        }
        for bookie in 0..size.bookies {
            if before.is_none_or(|before| before.bookies[bookie] != self.bookies[bookie]) {
                self.bookies[bookie].with(|b: &mut Bookie| b.forget_history(dangers.wipe));
            }
        }
    }

    /// Whether nothing that is in flight to the writer makes it acknowledge more.
    fn is_settled(&self, size: &Size) -> bool {
        let mut heard = self.clone();
        heard.hear_acks(size, EntryId(i64::MAX));
        heard.writer.said() == self.writer.said()
    }

    /// Whether no client is left that anything would reach; `starts` says whether another recoverer may start.
    pub(crate) fn is_left(&self, size: &Size, starts: bool) -> bool {
        let recovers = |r: &Part<Recovering>| {
            r.node().is_some_and(|node| node.listens() || !node.calls.is_empty())
        };
        !starts && !size.deletion && self.writer.is_over() && !self.recoverers.iter().any(recovers)
    }
}

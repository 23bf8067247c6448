//! Refusals that only the owner may give, on their way through the log: whoever was deposed and does not know it may lack what the
//! next owner has. A refusal is given when a Barrier appended after the batch came is acknowledged, as with S2.
//!
//! One Barrier at a time, also while storage stands still: whoever sends nonsense costs the log no more.

use std::time::Duration;

use geminga_proto::reason::ApiError;
use tokio::time::Instant;

use crate::partition::produce::Reply;

struct Refusal {
    since: Instant,
    reply: Reply,
    error: ApiError,
}

/// A Barrier in the log; nobody waits for it any more once all have waited for too long.
struct Barrier {
    number: u64,
    proves: Vec<Refusal>,
}

/// What waits for its proof, in the order in which it came. Bounded by what it takes of the room of accepted batches.
#[derive(Default)]
pub(super) struct Proofs {
    barrier: Option<Barrier>,
    unproven: Vec<Refusal>,
}

impl Proofs {
    /// A refusal that is to be proved.
    pub(super) fn push(&mut self, reply: Reply, error: ApiError) {
        self.unproven.push(Refusal { since: Instant::now(), reply, error });
    }

    /// Since when the one who waits longest waits.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        let proving = self.barrier.iter().flat_map(|barrier| &barrier.proves);
        proving.chain(&self.unproven).next().map(|refusal| refusal.since)
    }

    /// Whether a Barrier is to be appended.
    pub(super) fn wants_barrier(&self) -> bool {
        self.barrier.is_none() && !self.unproven.is_empty()
    }

    /// The log has taken a Barrier as its append `number`.
    pub(super) fn sent(&mut self, number: u64) {
        self.barrier = Some(Barrier { number, proves: std::mem::take(&mut self.unproven) });
    }

    /// Everything up to append `through` is durable.
    pub(super) fn acked(&mut self, through: u64) {
        let proven = self.barrier.take_if(|barrier| barrier.number <= through);
        let proven = proven.into_iter().flat_map(|barrier| barrier.proves);
        proven.for_each(|Refusal { reply, error, .. }| reply.failed(error));
    }

    /// Tells those who have waited for so long.
    pub(super) fn give_up(&mut self, after: Duration, error: &ApiError) {
        let proving = self.barrier.iter_mut().map(|barrier| &mut barrier.proves);
        for waiting in proving.chain([&mut self.unproven]) {
            let overdue = waiting.partition_point(|refusal| refusal.since.elapsed() >= after);
            waiting.drain(..overdue).for_each(|refusal| refusal.reply.failed(error.clone()));
        }
    }

    /// Tells those that the log knows nothing of.
    pub(super) fn refuse_unsent(&mut self, error: &ApiError) {
        self.unproven.drain(..).for_each(|refusal| refusal.reply.failed(error.clone()));
    }

    /// Tells all: they will get no proof. Nothing was written, and the next owner may know better.
    pub(super) fn refuse(&mut self, error: &ApiError) {
        let proving = self.barrier.take().into_iter().flat_map(|barrier| barrier.proves);
        proving.for_each(|refusal| refusal.reply.failed(error.clone()));
        self.refuse_unsent(error);
    }
}

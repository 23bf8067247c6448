//! What a stream reads: each of its partitions has one long poll under way, and the polls together hold a bounded number of bytes.

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use geminga_proto::ids::{Offset, PartitionIndex};
use geminga_proto::reason::{ApiError, Reason};
use tokio::time::Instant;

use super::{Fetch, Reader, Refused};
use crate::ownership::topology::Topic;
use crate::router::{OffsetAt, Read, ReadSpec, Route, no_owner, not_owner};
use crate::rpc::context::Context;
use crate::rpc::outgoing::{Charged, Waits};

/// Partitions that are polled at one time.
pub(super) const PARALLEL_POLLS: usize = 64;
/// Most bytes that the polls of one stream hold together; each may hold one batch more.
const POLLED_BYTES: usize = 16 * 1024 * 1024;
/// A poll asks for at least so much.
const MIN_POLL_BYTES: usize = 64 * 1024;
/// How long the ends of a partition may take that was asked for what is not there.
const ENDS_WAIT: Duration = Duration::from_secs(2);

impl Fetch {
    /// Gathers answers, or waits until there may be some. Cancel-safe.
    pub(super) async fn work(&mut self) {
        if self.once {
            return self.poll_once().await;
        }
        let retry_at = self.top_up(Instant::now());
        let retry = async {
            match retry_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some((reader, read)) = self.polls.next() => self.absorb(reader, read),
            () = retry => {}
        }
    }

    /// Polls as many partitions as may be polled now; returns when one that waits to be tried again is due.
    fn top_up(&mut self, now: Instant) -> Option<Instant> {
        let all = self.readers.len() + self.polls_out();
        let most = self.taker.most_bytes(POLLED_BYTES);
        let parallel = (most / MIN_POLL_BYTES).clamp(1, PARALLEL_POLLS);
        // Where not all can be polled at once, those that are idle must make room soon.
        let wait = self.max_wait / u32::try_from(all.div_ceil(parallel)).unwrap_or(u32::MAX);
        let share = most / all.clamp(1, parallel);
        let max_bytes = share.max(MIN_POLL_BYTES).min(self.max_bytes);
        let mut retry_at: Option<Instant> = None;
        for _ in 0..self.readers.len() {
            let Some(reader) = self.readers.pop_front() else { break };
            let due = reader.failing.map(|failing| failing.retry_at).filter(|at| *at > now);
            if due.is_some() || self.polls_out() >= parallel {
                retry_at = due.into_iter().chain(retry_at).min();
                self.readers.push_back(reader);
                continue;
            }
            // The first read says where the stream ends, so it does not wait.
            let at_once = self.until_end && reader.end.is_none();
            let wait = if at_once { Duration::ZERO } else { wait };
            let read = self.read(&reader, self.spec(&reader, max_bytes, wait));
            self.polls.push(read.map(move |read| (reader, read)).boxed());
        }
        retry_at
    }

    pub(super) fn spec(&self, reader: &Reader, max_bytes: usize, max_wait: Duration) -> ReadSpec {
        let min_bytes = self.min_bytes.min(max_bytes);
        ReadSpec { offset: reader.offset, max_bytes, min_bytes, max_wait }
    }

    /// Reads, once there is room for what is there.
    fn read(
        &self,
        reader: &Reader,
        spec: ReadSpec,
    ) -> impl Future<Output = Result<Charged, Refused>> + Send + 'static {
        let read = self.read_if(Waits::Always, reader, spec);
        async move { Ok(read.await?.expect("room was waited for")) }
    }

    /// The same; nothing where there is no room and none may be waited for any more.
    pub(super) fn read_if(
        &self,
        waits: Waits,
        reader: &Reader,
        spec: ReadSpec,
    ) -> impl Future<Output = Result<Option<Charged>, Refused>> + Send + use<> {
        let (ctx, topic) = (Arc::clone(&self.ctx), Arc::clone(&self.topic));
        let (partition, direct, needs) = (reader.partition, self.direct, reader.needs);
        let taker = self.taker.clone();
        async move {
            let one = |spec| {
                let (ctx, topic) = (Arc::clone(&ctx), Arc::clone(&topic));
                async move {
                    if direct {
                        read_here(&ctx, topic, partition, spec).await
                    } else {
                        ctx.source.read(&topic, partition, spec).await
                    }
                }
            };
            match taker.read(spec, needs, waits, one).await {
                Ok(read) => Ok(read),
                Err(error) if error.reason == Reason::OffsetOutOfRange => {
                    let ends = ends_of(&ctx, &topic, partition).await;
                    Err(Refused { error, ends })
                }
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// A caller that asks directly is not helped on: a second hop is refused.
async fn read_here(
    ctx: &Context,
    topic: Arc<Topic>,
    partition: PartitionIndex,
    spec: ReadSpec,
) -> Result<Read, ApiError> {
    match ctx.router.owner_of(&topic, partition) {
        Route::Local { .. } => ctx.partitions.read(topic, partition, spec).await,
        Route::Remote { address, .. } => Err(not_owner(&topic.name, partition, address)),
        Route::NoOwner => Err(no_owner(&topic.name, partition)),
    }
}

/// Where a partition starts and ends; `None` when that cannot be found out now.
async fn ends_of(
    ctx: &Context,
    topic: &Arc<Topic>,
    partition: PartitionIndex,
) -> Option<(Offset, Offset)> {
    let find = |at| ctx.source.find_offset(topic, partition, at);
    let both = async { tokio::try_join!(find(OffsetAt::Earliest), find(OffsetAt::Latest)).ok() };
    let (first, last) = tokio::time::timeout(ENDS_WAIT, both).await.ok().flatten()?;
    first.offset.zip(last.offset)
}

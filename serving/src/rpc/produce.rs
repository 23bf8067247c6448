//! `Stream.Produce`: batches on their way to their partitions' owners.
//!
//! ```text
//!   requests ─► element (checked, encoded, placed) ─► lane of its partition (order, P5) ─┬─► partition here
//!      ▲                                                                                └─► forward: stream to its owner
//!      └── stops while too much is in flight          results, in order per partition ◄──
//! ```
//!
//! A stream is driven by whoever polls its answers, so a client that does not read them is not read from either.

mod element;
mod forward;
mod lane;
mod session;

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use geminga_proto::v1;
use tonic::{Status, Streaming};

use super::context::Context;
use session::Session;

/// The answers to one stream.
pub(super) type Answers = BoxStream<'static, Result<v1::ProduceResponse, Status>>;

/// Serves one stream until its client closes it and everything is answered.
pub(super) fn produce(ctx: Arc<Context>, input: Streaming<v1::ProduceRequest>) -> Answers {
    let session = Box::new(Session::new(ctx, input));
    futures::stream::unfold(session, |mut session| async move {
        let answer = session.next().await?;
        Some((answer, session))
    })
    .boxed()
}

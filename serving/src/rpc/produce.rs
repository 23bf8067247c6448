//! `Stream.Produce`: batches on their way to their partitions' owners.
//!
//! ```text
//!   requests ─► element (checked, encoded, placed) ─► lane of its partition (order, P5) ─┬─► partition here
//!      ▲                                                                                └─► forward: stream to its owner
//!      └── stops while too much is in flight          results, in order per partition ◄──
//! ```
//!
//! Each stream is a task, so that what was taken goes on to its end, and its room is given back, whether or not the client
//! takes the results. A client that does not take them is not read from either.

mod element;
mod forward;
mod gather;
mod lane;
mod room;
mod session;

use std::sync::Arc;

use geminga_proto::messages::Messages;
use geminga_proto::v1;
use geminga_runtime::requests;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::context::Context;
pub(crate) use room::{Part, ProduceRoom, Taken};
use session::Session;

/// Messages of results on their way to one client.
const ANSWERS: usize = 4;

/// The answers to one stream.
pub(super) type Answers = ReceiverStream<Result<v1::ProduceResponse, Status>>;

/// Serves one stream until its client closes it and everything is answered, or until its client has gone.
pub(super) fn produce(ctx: Arc<Context>, input: Messages<v1::ProduceRequest>) -> Answers {
    let (answers, stream) = mpsc::channel(ANSWERS);
    let tasks = ctx.intake.clone();
    let run = requests::scope(requests::current(), Session::new(ctx, input).run(answers));
    tasks.spawn("produce stream", Box::pin(run));
    ReceiverStream::new(stream)
}

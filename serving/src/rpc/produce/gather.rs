//! One message of a client on its way into memory: room is taken for what it announces, before any of it is gathered.
//!
//! Streams of one HTTP/2 connection share its window, so one that waits for room keeps from others what fills the window,
//! and a message that has room may get nothing for as long. Therefore one that makes no progress gives back the room of its
//! missing rest, which lets another go on, and takes it again once more of it has come. What has come stays charged.

use std::time::Duration;

use geminga_proto::messages::Messages;
use geminga_proto::reason::{ApiError, Reason};
use geminga_proto::v1;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::room::{ProduceRoom, Taken};

/// A message that gets no longer for so long gives back the room of its rest.
const STALLS: Duration = Duration::from_millis(500);
/// A message that takes longer to arrive, not counting waits for room, ends its stream.
const ARRIVES: Duration = Duration::from_secs(60);
/// One that announces less finds its room when it is there: it is no longer than what the transport holds anyway, and what
/// says whose room is to be taken is in it.
const SMALL_BYTES: usize = 4 * 1024;

/// Why there is no message.
#[derive(Debug)]
pub(super) enum Unread {
    /// What the connection failed with, or what is wrong with the message.
    Failed(Status),
    /// It did not arrive in time.
    Late(ApiError),
}

impl From<Status> for Unread {
    fn from(status: Status) -> Self {
        Self::Failed(status)
    }
}

/// The next message, and the room that it has: `direct` says where that is taken. `None`: no room was taken, since nobody
/// could say how much, or since it is small. No message at the end of the stream. Cancel-safe as long as the stream is read
/// on by this.
pub(super) async fn gather(
    input: &mut Messages<v1::ProduceRequest>,
    room: &ProduceRoom,
    direct: bool,
) -> Result<Option<(v1::ProduceRequest, Option<Taken>)>, Unread> {
    let taken = match input.announced().await? {
        Some(bytes) if bytes >= SMALL_BYTES => {
            let taken = room.take(direct, bytes).await;
            Some(arrive(input, room, direct, bytes, taken).await?)
        }
        _ => None,
    };
    Ok(input.message().await?.map(|message| (message, taken)))
}

/// Reads until the message is whole, or until no more of it will come.
async fn arrive(
    input: &mut Messages<v1::ProduceRequest>,
    room: &ProduceRoom,
    direct: bool,
    bytes: usize,
    mut taken: Taken,
) -> Result<Taken, Unread> {
    let mut late = Instant::now() + ARRIVES;
    let mut stalls = Instant::now() + STALLS;
    loop {
        let before = input.gathered();
        match timeout_at(stalls.min(late), input.gather()).await {
            Ok(whole) => {
                if whole? {
                    return Ok(taken);
                }
                // Pieces without content are no progress.
                if input.gathered() > before {
                    stalls = Instant::now() + STALLS;
                }
            }
            Err(_) if Instant::now() >= late => return Err(too_late(bytes, before)),
            Err(_) => {
                taken.keep(before);
                let whole = loop {
                    // What the one that exceeds the room has gathered finds room of its own meanwhile.
                    let missing = before.saturating_sub(taken.bytes());
                    tokio::select! {
                        biased;
                        whole = timeout_at(late, input.gather()) => break whole,
                        more = room.take(direct, missing), if missing > 0 => {
                            taken.merge(more);
                            taken.keep(before);
                        }
                    }
                };
                if whole.map_err(|_| too_late(bytes, before))?? {
                    return Ok(taken);
                }
                let asked = Instant::now();
                room.go_on(direct, &mut taken, bytes).await;
                late += asked.elapsed();
                stalls = Instant::now() + STALLS;
            }
        }
    }
}

fn too_late(bytes: usize, gathered: usize) -> Unread {
    let why = format!(
        "{gathered} of the {bytes} bytes of a message came within {ARRIVES:?}: send smaller ones, or look at the network"
    );
    Unread::Late(ApiError::new(Reason::Overloaded, why))
}

#[cfg(test)]
mod tests;

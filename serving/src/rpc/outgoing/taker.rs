//! The client's end of a stream: its body as the face writes it. An answer is a frame of its own, encoded when it was given, and its memory
//! goes with it: no buffer is kept for the next one, however long a stream has nothing to say.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use geminga_proto::caps;
use http_body::Frame;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tonic::codegen::http::header::HeaderMap;
use tonic::{Response, Status};

use super::Answer;
use crate::rpc::way::Way;

/// What stands before a message: whether it is compressed, which it never is, and its length.
const PREFIX_BYTES: usize = 5;

/// A message as it goes over the wire.
///
/// # Errors
/// One that is larger than any that is sent.
pub(super) fn encode(message: &impl Message) -> Result<Bytes, Status> {
    let len = message.encoded_len();
    if len > caps::MAX_INTERNAL_MESSAGE_BYTES {
        let most = caps::MAX_INTERNAL_MESSAGE_BYTES;
        return Err(Status::out_of_range(format!("an answer of {len} bytes: {most} at most")));
    }
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + len);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(len).expect("within the limit"));
    message.encode(&mut bytes).expect("there is room for its length");
    Ok(bytes.freeze())
}

/// What the face takes answers from.
#[derive(Debug)]
pub(crate) struct Taker {
    pub(super) from: mpsc::Receiver<Answer>,
    pub(super) way: Way,
    /// Says by its end that this has gone.
    pub(super) _here: oneshot::Sender<Infallible>,
    /// The trailers were taken.
    pub(super) is_over: bool,
}

impl Taker {
    /// The next frame: an answer, or what the stream ended with. Cancel-safe.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(match ready!(self.from.poll_recv(cx)) {
            Some(Ok((bytes, room))) => Frame::data(self.way.frame(bytes, room)),
            Some(Err(status)) => self.end(&status),
            None => self.end(&Status::ok("")),
        }))
    }

    /// Whether there are no frames any more.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.is_over = true;
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers.clear();
            let plain = Status::new(status.code(), "");
            plain.add_header(&mut trailers).expect("a number is a header");
        }
        Frame::trailers(trailers)
    }

    /// An answer to a call that has this for its body: whoever writes it takes it [out](Body::of).
    pub(in crate::rpc) fn into_response<T>(self) -> Response<futures::stream::Empty<T>> {
        let mut response = Response::new(futures::stream::empty());
        response.extensions_mut().insert(Body(Arc::new(Mutex::new(Some(self)))));
        response
    }
}

impl Drop for Taker {
    fn drop(&mut self) {
        self.way.ended();
    }
}

/// A [`Taker`] on its way to who writes it, among what is beside an answer.
#[derive(Clone)]
pub(crate) struct Body(Arc<Mutex<Option<Taker>>>);

impl Body {
    /// The one of an answer, if it has one.
    pub(crate) fn of<B>(response: &mut tonic::codegen::http::Response<B>) -> Option<Taker> {
        response.extensions_mut().remove::<Self>()?.0.lock().take()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Taker {
    /// The next answer as its client reads it; `None` at a good end.
    pub(in crate::rpc) async fn next<T: Message + Default>(&mut self) -> Option<Result<T, Status>> {
        let frame = std::future::poll_fn(|cx| self.poll_frame(cx)).await?;
        match frame.into_data() {
            Ok(data) => Some(Ok(T::decode(data.slice(PREFIX_BYTES..)).expect("a message"))),
            Err(trailers) => {
                let trailers = trailers.into_trailers().expect("data or trailers");
                let status = Status::from_header_map(&trailers).expect("a status");
                (status.code() != tonic::Code::Ok).then_some(Err(status))
            }
        }
    }
}

//! The messages of a client's stream, as a server reads them: not copied. [`sent`] is the other end.
//!
//! The usual way from the socket to a message copies every byte into one growing buffer, so that a message is in one piece.
//! Here it is decoded from the pieces in which it came. A field of bytes that lies within one piece, which is what a
//! record batch does where both ends take frames of a megabyte, is that piece's memory; one that does not is copied together.
//!
//! [`Uncopied`] is put around a service and takes the body of requests to one method aside; the method gets it back with
//! [`Messages::of`]. A compressed stream goes the usual way.
//!
//! Whoever reads may ask how long the next message will be and gather it piece by piece, so that room for it is found before
//! it takes any.

pub mod sent;

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use tonic::body::Body;
use tonic::codegen::{Body as _, Service, http};
use tonic::server::NamedService;
use tonic::{Code, Request, Status, Streaming};

/// What stands before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// Pieces below this are copied together: each that is kept costs as much again as a few dozen bytes, and holds the buffer
/// that it was read into.
const SMALL_BYTES: usize = 4096;

/// A stream of messages of one client.
pub struct Messages<M>(Source<M>);

enum Source<M> {
    Pieces(Box<Reader>, PhantomData<fn() -> M>),
    Usual(Box<Streaming<M>>),
}

impl<M> fmt::Debug for Messages<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

impl<M: Message + Default + 'static> Messages<M> {
    /// The messages of a request, of at most `max_bytes` each where they come uncopied; else the service's own limit counts.
    pub fn of(mut request: Request<Streaming<M>>, max_bytes: usize) -> Self {
        let aside = request.extensions_mut().remove::<Aside>();
        let body = aside.and_then(|aside| aside.0.lock().ok()?.take());
        match body {
            Some(body) => Self::in_body(body, max_bytes),
            None => Self(Source::Usual(Box::new(request.into_inner()))),
        }
    }

    /// The messages in a body that is not compressed, of at most `max_bytes` each.
    pub fn in_body(body: Body, max_bytes: usize) -> Self {
        Self(Source::Pieces(Box::new(Reader::new(body, max_bytes)), PhantomData))
    }

    /// How many bytes the next message has, once it is said: before they are there. `None` when that cannot be known before
    /// (of a stream that is compressed), and when no message comes. Cancel-safe.
    ///
    /// # Errors
    /// As [`Self::message`].
    pub async fn announced(&mut self) -> Result<Option<usize>, Status> {
        match &mut self.0 {
            Source::Pieces(reader, _) => poll_fn(|cx| reader.poll_announced(cx)).await,
            Source::Usual(_) => Ok(None),
        }
    }

    /// Bytes of the [announced](Self::announced) message that are here.
    pub fn gathered(&self) -> usize {
        match &self.0 {
            Source::Pieces(reader, _) => reader.gathered(),
            Source::Usual(_) => 0,
        }
    }

    /// Waits for one more piece of the announced message, of a frame's size at most; true when all of it is here, or when no
    /// more comes, so that [`Self::message`] answers at once. Cancel-safe.
    ///
    /// # Errors
    /// As [`Self::message`].
    pub async fn gather(&mut self) -> Result<bool, Status> {
        match &mut self.0 {
            Source::Pieces(reader, _) => poll_fn(|cx| reader.poll_gather(cx)).await,
            Source::Usual(_) => Ok(true),
        }
    }

    /// The next message; `None` when the client has sent everything, or has cancelled the call. Cancel-safe.
    ///
    /// # Errors
    /// `OutOfRange` for a message above the limit, `Internal` for what is no message, both without a source; what the
    /// connection failed with. Nothing comes after an error.
    pub async fn message(&mut self) -> Result<Option<M>, Status> {
        match &mut self.0 {
            Source::Pieces(reader, _) => poll_fn(|cx| reader.poll_message(cx)).await,
            Source::Usual(streaming) => streaming.message().await,
        }
    }
}

/// Whether the client, which may well live, sent what cannot be read, and has to be told: one that hears nothing would wait
/// for ever. A status of the connection's has a source; one that says what is wrong with a message has none.
pub fn is_unreadable(status: &Status) -> bool {
    std::error::Error::source(status).is_none()
}

/// Reads messages from a body.
struct Reader {
    body: Body,
    pieces: Received,
    /// Bytes of the message whose prefix was read.
    length: Option<usize>,
    max_bytes: usize,
    ended: bool,
}

impl Reader {
    fn new(body: Body, max_bytes: usize) -> Self {
        Self { body, pieces: Received::default(), length: None, max_bytes, ended: false }
    }

    fn poll_message<M: Message + Default>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<M>, Status>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let message = ready!(self.poll_any(cx));
        self.ended = !matches!(message, Ok(Some(_)));
        Poll::Ready(message)
    }

    fn poll_any<M: Message + Default>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<M>, Status>> {
        loop {
            if let Some(message) = self.decode()? {
                return Poll::Ready(Ok(Some(message)));
            }
            if !ready!(self.poll_piece(cx))? {
                return Poll::Ready(Ok(None));
            }
        }
    }

    fn poll_announced(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<usize>, Status>> {
        if self.ended {
            return Poll::Ready(Ok(None));
        }
        let announced = ready!(self.poll_length(cx));
        self.ended = !matches!(announced, Ok(Some(_)));
        Poll::Ready(announced)
    }

    fn poll_length(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<usize>, Status>> {
        loop {
            if let Some(length) = self.length()? {
                return Poll::Ready(Ok(Some(length)));
            }
            if !ready!(self.poll_piece(cx))? {
                return Poll::Ready(Ok(None));
            }
        }
    }

    fn gathered(&self) -> usize {
        self.length.map_or(0, |length| self.pieces.bytes().min(length))
    }

    fn poll_gather(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Status>> {
        if self.is_whole() {
            return Poll::Ready(Ok(true));
        }
        let more = ready!(self.poll_piece(cx));
        self.ended = !matches!(more, Ok(true));
        Poll::Ready(more.map(|_| self.is_whole()))
    }

    fn is_whole(&self) -> bool {
        self.ended || self.length.is_some_and(|length| self.pieces.bytes() >= length)
    }

    /// Takes what came next; false at the end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Status>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.pieces.push(data);
                        return Poll::Ready(Ok(true));
                    }
                }
                // As the usual way has it.
                Some(Err(status)) if status.code() == Code::Cancelled => {
                    return Poll::Ready(Ok(false));
                }
                Some(Err(status)) => return Poll::Ready(Err(status)),
                None if self.length.is_none() && self.pieces.bytes() == 0 => {
                    return Poll::Ready(Ok(false));
                }
                None => {
                    return Poll::Ready(Err(Status::internal("a message ends before its length")));
                }
            }
        }
    }

    /// The next message, once all of it is there.
    fn decode<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let Some(length) = self.length()? else { return Ok(None) };
        if self.pieces.bytes() < length {
            return Ok(None);
        }
        self.length = None;
        let message = M::decode(self.pieces.readable().take(length));
        message.map(Some).map_err(|error| Status::internal(error.to_string()))
    }

    /// Bytes of the next message, once its prefix is there.
    fn length(&mut self) -> Result<Option<usize>, Status> {
        if self.length.is_none() && self.pieces.bytes() >= PREFIX_BYTES {
            self.length = Some(self.read_prefix()?);
        }
        Ok(self.length)
    }

    fn read_prefix(&mut self) -> Result<usize, Status> {
        let pieces = self.pieces.readable();
        if pieces.get_u8() != 0 {
            return Err(Status::internal(
                "a message is marked as compressed on a stream that is not",
            ));
        }
        let length = pieces.get_u32() as usize;
        let limit = self.max_bytes;
        if length > limit {
            let why = format!("a message of {length} bytes is above the limit of {limit} bytes");
            return Err(Status::out_of_range(why));
        }
        Ok(length)
    }
}

/// Bytes as they came, in order.
#[derive(Debug, Default)]
struct Received {
    pieces: Pieces,
    /// Small ones that came last, in one.
    small: BytesMut,
}

impl Received {
    fn push(&mut self, piece: Bytes) {
        if piece.len() < SMALL_BYTES {
            self.small.extend_from_slice(&piece);
        } else {
            self.readable().push(piece);
        }
    }

    fn bytes(&self) -> usize {
        self.pieces.bytes + self.small.len()
    }

    /// All of them, to be read.
    fn readable(&mut self) -> &mut Pieces {
        if !self.small.is_empty() {
            self.pieces.push(std::mem::take(&mut self.small).freeze());
        }
        &mut self.pieces
    }
}

#[derive(Debug, Default)]
struct Pieces {
    /// None is empty.
    pieces: VecDeque<Bytes>,
    /// Of all of them.
    bytes: usize,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push_back(piece);
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.bytes, "{count} of {} bytes", self.bytes);
        self.bytes -= count;
        while let Some(first) = self.pieces.front_mut() {
            if first.len() > count {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.pieces.pop_front();
        }
    }

    /// Shares the memory where it can.
    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        if let Some(first) = self.pieces.front_mut()
            && first.len() > count
        {
            self.bytes -= count;
            return first.split_to(count);
        }
        if self.pieces.front().is_some_and(|first| first.len() == count) {
            self.bytes -= count;
            return self.pieces.pop_front().unwrap_or_default();
        }
        assert!(count <= self.bytes, "{count} of {} bytes", self.bytes);
        let mut joined = BytesMut::with_capacity(count);
        while joined.len() < count {
            let piece = self.chunk();
            let part = piece.len().min(count - joined.len());
            joined.extend_from_slice(&piece[..part]);
            self.advance(part);
        }
        joined.freeze()
    }
}

/// A request's body, on its way past the usual codec.
#[derive(Debug, Clone)]
struct Aside(Arc<Mutex<Option<Body>>>);

/// A service of which one method, a client's stream, reads its requests with [`Messages`].
#[derive(Debug, Clone)]
pub struct Uncopied<S> {
    service: S,
    path: &'static str,
}

impl<S> Uncopied<S> {
    /// `path` is the method's, as in `/package.Service/Method`.
    pub fn new(service: S, path: &'static str) -> Self {
        Self { service, path }
    }
}

impl<S: NamedService> NamedService for Uncopied<S> {
    const NAME: &'static str = S::NAME;
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Uncopied<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let plain = request.headers().get("grpc-encoding").is_none_or(|name| name == "identity");
        if plain && request.uri().path() == self.path {
            let body = std::mem::take(request.body_mut());
            request.extensions_mut().insert(Aside(Arc::new(Mutex::new(Some(body)))));
        }
        self.service.call(request)
    }
}

#[cfg(test)]
mod tests;

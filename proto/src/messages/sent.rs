//! The messages of a client's stream, as the client sends them: their long fields not copied.
//!
//! The usual way copies every message into a buffer. Here long fields of bytes go to the connection as they are, between
//! pieces that hold the rest. What is on the wire is the same message.
//!
//! [`Sent`] is put around a channel; a stub on it is called with what [`request`] makes of a stream.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures_core::Stream;
use http_body::Frame;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::Request;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use super::{Aside, PREFIX_BYTES, SMALL_BYTES};
use crate::internal::{WriteRequests, write_request};
use crate::v1::{ProduceRequest, produce_element};

/// A message that can be encoded without copying its long fields.
pub trait InPieces: Message {
    /// What the message is on the wire, to be put end to end.
    fn encode_pieces(self, to: &mut Encoded);
}

/// An encoded message, in pieces.
#[derive(Debug, Default)]
pub struct Encoded {
    done: VecDeque<Bytes>,
    /// Bytes of those.
    done_bytes: usize,
    /// What comes behind them, as far as it was copied.
    open: BytesMut,
}

impl Encoded {
    /// All fields of a message.
    fn fields(&mut self, message: &impl Message) {
        self.open.reserve(message.encoded_len());
        message.encode_raw(&mut self.open);
    }

    /// What stands before a field of so many bytes.
    fn head(&mut self, tag: u32, bytes: usize) {
        encode_key(tag, WireType::LengthDelimited, &mut self.open);
        encode_varint(bytes as u64, &mut self.open);
    }

    /// A field of bytes.
    fn bytes(&mut self, tag: u32, bytes: Bytes) {
        self.head(tag, bytes.len());
        if bytes.len() < SMALL_BYTES {
            self.open.extend_from_slice(&bytes);
        } else {
            self.end_piece();
            self.done_bytes += bytes.len();
            self.done.push_back(bytes);
        }
    }

    fn end_piece(&mut self) {
        if !self.open.is_empty() {
            let piece = self.open.split().freeze();
            self.done_bytes += piece.len();
            self.done.push_back(piece);
        }
    }

    /// The pieces, behind what stands before a message of a stream.
    fn framed(message: impl InPieces) -> VecDeque<Bytes> {
        let mut encoded = Self::default();
        encoded.open.put_bytes(0, PREFIX_BYTES);
        message.encode_pieces(&mut encoded);
        encoded.end_piece();
        let length = encoded.done_bytes - PREFIX_BYTES;
        // It shares its memory with the first piece, which nobody else has: without it that one is not copied.
        drop(std::mem::take(&mut encoded.open));
        if let Some(first) = encoded.done.pop_front() {
            let mut first = BytesMut::from(first);
            let length = u32::try_from(length).expect("a message is far below 4 GiB");
            first[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
            encoded.done.push_front(first.freeze());
        }
        encoded.done
    }
}

/// What a field takes whose content is so long.
fn field_bytes(tag: u32, content: usize) -> usize {
    key_len(tag) + encoded_len_varint(content as u64) + content
}

impl InPieces for ProduceRequest {
    fn encode_pieces(mut self, to: &mut Encoded) {
        /// `elements` of the request.
        const ELEMENTS: u32 = 1;
        /// `batch` of an element.
        const BATCH: u32 = 4;
        let elements = std::mem::take(&mut self.elements);
        to.fields(&self);
        for mut element in elements {
            let batch = match element.data.take() {
                Some(produce_element::Data::Batch(batch)) => Some(batch),
                other => {
                    element.data = other;
                    None
                }
            };
            let batch_bytes = batch.as_ref().map_or(0, |batch| field_bytes(BATCH, batch.len()));
            to.head(ELEMENTS, element.encoded_len() + batch_bytes);
            to.fields(&element);
            if let Some(batch) = batch {
                to.bytes(BATCH, batch);
            }
        }
    }
}

impl InPieces for WriteRequests {
    fn encode_pieces(self, to: &mut Encoded) {
        /// `requests`.
        const REQUESTS: u32 = 1;
        /// `add` and `recovery_add` of a request.
        const ADD: u32 = 4;
        const RECOVERY_ADD: u32 = 5;
        /// `entries` of those.
        const ENTRIES: u32 = 2;
        for mut request in self.requests {
            let (tag, mut add) = match request.op.take() {
                Some(write_request::Op::Add(add)) => (ADD, add),
                Some(write_request::Op::RecoveryAdd(add)) => (RECOVERY_ADD, add),
                other => {
                    request.op = other;
                    to.head(REQUESTS, request.encoded_len());
                    to.fields(&request);
                    continue;
                }
            };
            let entries = std::mem::take(&mut add.entries);
            let entries_bytes = entries.iter().map(|entry| field_bytes(ENTRIES, entry.len()));
            let add_bytes = add.encoded_len() + entries_bytes.sum::<usize>();
            to.head(REQUESTS, request.encoded_len() + field_bytes(tag, add_bytes));
            to.fields(&request);
            to.head(tag, add_bytes);
            to.fields(&add);
            entries.into_iter().for_each(|entry| to.bytes(ENTRIES, entry));
        }
    }
}

/// The body of a request: a stream's messages.
struct Outgoing<S> {
    messages: S,
    pieces: VecDeque<Bytes>,
}

impl<S> http_body::Body for Outgoing<S>
where
    S: Stream<Item: InPieces> + Unpin,
{
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        while self.pieces.is_empty() {
            match ready!(Pin::new(&mut self.messages).poll_next(cx)) {
                Some(message) => self.pieces = Encoded::framed(message),
                None => return Poll::Ready(None),
            }
        }
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

/// A request that sends a stream's messages in pieces, for a stub on a [`Sent`] channel. Any other would send none.
pub fn request<S>(messages: S) -> Request<Nothing<S::Item>>
where
    S: Stream<Item: InPieces> + Send + Unpin + 'static,
{
    let body = Body::new(Outgoing { messages, pieces: VecDeque::new() });
    let mut request = Request::new(Nothing(std::marker::PhantomData));
    request.extensions_mut().insert(Aside(Arc::new(Mutex::new(Some(body)))));
    request
}

/// A stream that stands for one that is sent another way, and is never asked for anything.
#[derive(Debug)]
pub struct Nothing<M>(std::marker::PhantomData<fn() -> M>);

impl<M> Stream for Nothing<M> {
    type Item = M;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<M>> {
        unreachable!("the stub of a request in pieces is on a channel that is not `Sent`")
    }
}

/// A channel that sends what [`request`] made.
#[derive(Debug, Clone)]
pub struct Sent<S>(S);

impl<S> Sent<S> {
    /// Around `channel`.
    pub fn new(channel: S) -> Self {
        Self(channel)
    }
}

impl<S: Service<http::Request<Body>>> Service<http::Request<Body>> for Sent<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let aside = request.extensions_mut().remove::<Aside>();
        if let Some(body) = aside.and_then(|aside| aside.0.lock().ok()?.take()) {
            *request.body_mut() = body;
        }
        self.0.call(request)
    }
}

#[cfg(test)]
mod tests {
    use prost::bytes::Buf;

    use super::*;
    use crate::internal::{Add, Scope, Seal, WriteRequest};
    use crate::v1::ProduceElement;

    /// The message that the pieces are, and how many of these are long.
    fn sent<M: InPieces + Default>(message: M) -> (M, usize) {
        let pieces = Encoded::framed(message);
        let long = pieces.iter().filter(|piece| piece.len() >= SMALL_BYTES).count();
        let mut whole: BytesMut = pieces.into_iter().collect::<Vec<_>>().concat().as_slice().into();
        let mut prefix = whole.split_to(PREFIX_BYTES);
        assert_eq!((prefix.get_u8(), prefix.get_u32() as usize), (0, whole.len()));
        (M::decode(whole.freeze()).unwrap(), long)
    }

    #[test]
    fn produced_batches_are_not_copied() {
        let batch = |bytes| Some(produce_element::Data::Batch(vec![7; bytes].into()));
        let element = |id, data| ProduceElement {
            id,
            topic: "orders".into(),
            partition: Some(3),
            data,
            restart: true,
            ..ProduceElement::default()
        };
        let elements = vec![
            element(1, batch(0)),
            element(2, batch(5)),
            element(3, batch(SMALL_BYTES)),
            element(4, None),
            element(5, batch(100_000)),
        ];
        let message =
            ProduceRequest { elements, direct: true, client_id: "me".into(), forwarded: true };
        assert_eq!(sent(message.clone()), (message, 2));
        assert_eq!(sent(ProduceRequest::default()), (ProduceRequest::default(), 0));

        let content = Bytes::from(vec![7; 10_000]);
        let data = Some(produce_element::Data::Batch(content.clone()));
        let message = ProduceRequest { elements: vec![element(1, data)], ..Default::default() };
        let pieces = Encoded::framed(message);
        assert!(pieces.iter().any(|piece| piece.as_ptr() == content.as_ptr()));
    }

    #[test]
    fn entries_are_not_copied() {
        use write_request::Op;
        let add = |sizes: &[usize]| Add {
            first_entry: 4,
            entries: sizes.iter().map(|bytes| vec![7; *bytes].into()).collect(),
            lac: 3,
        };
        let scope = Some(Scope { ledger_id: 9, epoch: 2, ..Scope::default() });
        let ops = [
            Op::Add(add(&[SMALL_BYTES, 10, 100_000])),
            Op::Seal(Seal {}),
            Op::RecoveryAdd(add(&[])),
            Op::RecoveryAdd(add(&[5_000])),
        ];
        let requests = ops.map(|op| WriteRequest {
            request_id: 8,
            scope: scope.clone(),
            op: Some(op),
            cause: "order-17".into(),
        });
        let message = WriteRequests { requests: requests.into() };
        assert_eq!(sent(message.clone()), (message, 3));
    }
}

use std::convert::Infallible;

use http_body::Frame;
use proptest::prelude::*;

use super::*;
use crate::v1;

const LIMIT: usize = 1 << 20;

/// A body in the pieces given, which then fails if it is to.
struct Given {
    pieces: VecDeque<Bytes>,
    failure: Option<Status>,
}

impl http_body::Body for Given {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let piece = self.pieces.pop_front().map(|piece| Ok(Frame::data(piece)));
        Poll::Ready(piece.or_else(|| self.failure.take().map(Err)))
    }
}

fn request(id: u64, batch: Vec<u8>) -> v1::ProduceRequest {
    let data = v1::produce_element::Data::Batch(batch.into());
    let element = v1::ProduceElement { id, data: Some(data), ..v1::ProduceElement::default() };
    v1::ProduceRequest { elements: vec![element], ..v1::ProduceRequest::default() }
}

/// As they stand on the wire.
fn wire(messages: &[v1::ProduceRequest]) -> Vec<u8> {
    let mut wire = Vec::new();
    for message in messages {
        wire.push(0);
        wire.extend_from_slice(&u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        message.encode(&mut wire).unwrap();
    }
    wire
}

/// Cuts at the places given.
fn cut(wire: &[u8], mut places: Vec<usize>) -> VecDeque<Bytes> {
    places.extend([0, wire.len()]);
    places.sort_unstable();
    places.windows(2).map(|ends| Bytes::copy_from_slice(&wire[ends[0]..ends[1]])).collect()
}

/// Pieces, and gaps in which nothing has come yet.
struct Gaps(VecDeque<Option<Bytes>>);

impl http_body::Body for Gaps {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.0.pop_front() {
            Some(Some(piece)) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            Some(None) => Poll::Pending,
            None => Poll::Ready(None),
        }
    }
}

type Read = (Vec<v1::ProduceRequest>, Option<Status>);

fn read(pieces: VecDeque<Bytes>, failure: Option<Status>) -> Read {
    let body = Body::new(Given { pieces, failure });
    let mut messages = Messages::<v1::ProduceRequest>::in_body(body, LIMIT);
    let mut read = Vec::new();
    let mut next = || futures_now(messages.message());
    loop {
        match next() {
            Ok(Some(message)) => read.push(message),
            Ok(None) => return (read, None),
            Err(status) => {
                assert_eq!(next().unwrap(), None, "nothing comes after an error");
                return (read, Some(status));
            }
        }
    }
}

fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    let mut future = std::pin::pin!(future);
    future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop()))
}

/// The output of a future that never waits.
fn futures_now<T>(future: impl Future<Output = T>) -> T {
    match poll_once(future) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("all pieces are there"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_do_not_depend_on_their_pieces(
        sizes in prop::collection::vec(0..3000_usize, 0..6),
        places in prop::collection::vec(0..20_000_usize, 0..40),
    ) {
        let messages: Vec<_> =
            sizes.iter().zip(1..).map(|(&size, id)| request(id, vec![id as u8; size])).collect();
        let wire = wire(&messages);
        let places = places.into_iter().map(|place| place % (wire.len() + 1)).collect();
        let (read, end) = read(cut(&wire, places), None);
        prop_assert_eq!(read, messages);
        prop_assert!(end.is_none());
    }

    #[test]
    fn nothing_panics(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10),
    ) {
        let (_, end) = read(pieces.into_iter().map(Bytes::from).collect(), None);
        if let Some(status) = end {
            prop_assert!(is_unreadable(&status));
        }
    }
}

#[test]
fn what_lies_in_one_piece_is_not_copied() {
    let piece = Bytes::from(wire(&[request(1, vec![7; 5000]), request(2, vec![8; 5000])]));
    let (read, _) = read(VecDeque::from([piece.clone()]), None);
    for message in &read {
        let Some(v1::produce_element::Data::Batch(batch)) = &message.elements[0].data else {
            panic!("{message:?}");
        };
        assert!(piece.as_ptr_range().contains(&batch.as_ptr()), "it is the piece's own memory");
    }
    assert_eq!(read.len(), 2);
}

/// A client that sends a message in as many frames as it has bytes makes us keep none of them.
#[test]
fn small_pieces_are_kept_together() {
    let mut received = Received::default();
    let piece = Bytes::from(vec![1; SMALL_BYTES]);
    for _ in 0..3 {
        (0..10_000).for_each(|_| received.push(piece.slice(..1)));
        received.push(piece.clone());
        received.push(Bytes::new());
    }
    assert_eq!(received.bytes(), 30_000 + 3 * SMALL_BYTES);
    assert_eq!(received.readable().pieces.len(), 6);
}

/// How long a message is, is known before it is there; asking for that, and giving up, loses nothing.
#[test]
fn a_message_is_announced_before_it_is_gathered() {
    let message = request(1, vec![7; 10_000]);
    let wire = wire(&[message.clone(), request(2, vec![])]);
    let length = message.encoded_len();
    // Gaps are where the body has nothing yet.
    let body = Gaps(VecDeque::from([
        None,
        Some(Bytes::copy_from_slice(&wire[..3])),
        None,
        Some(Bytes::copy_from_slice(&wire[3..PREFIX_BYTES + 10])),
        None,
        Some(Bytes::copy_from_slice(&wire[PREFIX_BYTES + 10..5_000])),
        Some(Bytes::copy_from_slice(&wire[5_000..])),
    ]));
    let mut messages = Messages::<v1::ProduceRequest>::in_body(Body::new(body), LIMIT);
    for _ in 0..2 {
        assert!(poll_once(messages.announced()).is_pending());
    }
    assert_eq!(futures_now(messages.announced()).unwrap(), Some(length));
    assert_eq!(futures_now(messages.announced()).unwrap(), Some(length), "still the same one");
    assert_eq!(messages.gathered(), 10);
    assert!(poll_once(messages.gather()).is_pending());
    assert!(!futures_now(messages.gather()).unwrap());
    assert_eq!(messages.gathered(), 5_000 - PREFIX_BYTES);
    assert!(futures_now(messages.gather()).unwrap());
    assert_eq!(messages.gathered(), length, "what follows is not of it");
    assert_eq!(futures_now(messages.message()).unwrap(), Some(message));
    assert!(futures_now(messages.announced()).unwrap().is_some());
    assert!(futures_now(messages.message()).unwrap().is_some());
    assert_eq!(futures_now(messages.announced()).unwrap(), None);
    assert_eq!(futures_now(messages.message()).unwrap(), None);
}

/// A message that ends too early says so once, however it is read.
#[test]
fn a_message_that_breaks_off_is_an_error_to_whoever_gathers_it() {
    let whole = wire(&[request(1, vec![7; 10_000])]);
    for cut_at in [3, 100] {
        let pieces = VecDeque::from([Some(Bytes::copy_from_slice(&whole[..cut_at]))]);
        let body = Body::new(Gaps(pieces));
        let mut messages = Messages::<v1::ProduceRequest>::in_body(body, LIMIT);
        let end = match futures_now(messages.announced()) {
            Ok(_) => futures_now(messages.gather()).unwrap_err(),
            Err(status) => status,
        };
        assert_eq!(end.code(), Code::Internal);
        assert!(is_unreadable(&end));
        assert_eq!(futures_now(messages.message()).unwrap(), None, "nothing comes after an error");
    }
}

#[test]
fn what_is_no_message_is_told_apart_from_a_lost_client() {
    let good = wire(&[request(1, vec![1; 10])]);
    let ending = |wire: &[u8]| {
        let (read, end) = read(cut(wire, vec![]), None);
        (read.len(), end.map(|status| status.code()))
    };
    assert_eq!(ending(&good), (1, None));
    assert_eq!(ending(&good[..good.len() - 1]), (0, Some(Code::Internal)), "it ends too early");
    assert_eq!(ending(&good[..3]), (0, Some(Code::Internal)), "even its prefix does");
    let compressed = [&good[..], &[1, 0, 0, 0, 0]].concat();
    assert_eq!(ending(&compressed), (1, Some(Code::Internal)));
    let large = [&good[..], &[0], &u32::try_from(LIMIT + 1).unwrap().to_be_bytes()[..]].concat();
    assert_eq!(ending(&large), (1, Some(Code::OutOfRange)), "before any of it is there");
    let garbage = [&good[..], &[0, 0, 0, 0, 2, 0xff, 0xff]].concat();
    assert_eq!(ending(&garbage), (1, Some(Code::Internal)));

    let pieces = cut(&good, vec![]);
    let (messages, end) = read(pieces.clone(), Some(Status::unavailable("reset")));
    assert_eq!((messages.len(), end.unwrap().code()), (1, Code::Unavailable));
    let (messages, end) = read(pieces, Some(Status::cancelled("reset")));
    assert_eq!((messages.len(), end.is_none()), (1, true), "as the usual way has it");
}

/// The service's own view of a request that came through [`Uncopied`], and of one that went past it.
#[test]
fn only_one_method_is_taken_aside() {
    #[derive(Clone)]
    struct Sees;
    impl Service<http::Request<Body>> for Sees {
        type Response = bool;
        type Error = Infallible;
        type Future = std::future::Ready<Result<bool, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            std::future::ready(Ok(request.extensions().get::<Aside>().is_some()))
        }
    }
    let aside = |path: &str, encoding: Option<&str>| {
        let mut request = http::Request::builder().uri(path);
        if let Some(encoding) = encoding {
            request = request.header("grpc-encoding", encoding);
        }
        let request = request.body(Body::empty()).unwrap();
        futures_now(Uncopied::new(Sees, "/a.B/C").call(request)).unwrap()
    };
    assert!(aside("/a.B/C", None));
    assert!(aside("/a.B/C", Some("identity")));
    assert!(!aside("/a.B/C", Some("gzip")));
    assert!(!aside("/a.B/D", None));
}

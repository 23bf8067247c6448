//! One connection to a broker of either kind: frames out and in, by the second codec.

use std::fmt::Debug;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};

/// No answer is larger.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What comes back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A frame without its length.
    Frame(Bytes),
    /// The broker closed the connection.
    Closed,
    /// Nothing came in time.
    Nothing,
}

/// A connection.
pub(crate) struct Peer {
    stream: TcpStream,
    correlation: i32,
}

impl Peer {
    /// `patience`: no answer takes longer that comes at all.
    pub(crate) fn connect(address: &str, patience: Duration) -> Self {
        let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        stream.set_read_timeout(Some(patience)).expect("a socket");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, correlation: 0 }
    }

    /// Sends bytes as they are. A broker that has closed the connection meanwhile is noticed by who listens.
    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        let _gone = self.stream.write_all(bytes);
    }

    /// Sends a request.
    pub(crate) fn send<R: Request + Debug>(&mut self, version: i16, request: &R) {
        self.correlation += 1;
        let frame = frame(self.correlation, version, request);
        self.send_raw(&frame);
    }

    /// The next frame.
    pub(crate) fn hear(&mut self) -> Heard {
        let mut length = [0; 4];
        if let Some(not) = self.read(&mut length) {
            return not;
        }
        let length = usize::try_from(i32::from_be_bytes(length)).expect("a length");
        assert!(length <= MOST_BYTES, "an answer of {length} bytes");
        let mut frame = BytesMut::zeroed(length);
        self.read(&mut frame).unwrap_or_else(|| Heard::Frame(frame.freeze()))
    }

    /// The answer to the request that was sent last.
    ///
    /// # Errors
    /// What came instead.
    pub(crate) fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response, Heard> {
        let mut frame = match self.hear() {
            Heard::Frame(frame) => frame,
            not => return Err(not),
        };
        let header = R::Response::header_version(version);
        let header = ResponseHeader::decode(&mut frame, header).expect("a header");
        assert_eq!(header.correlation_id, self.correlation);
        let answer = R::Response::decode(&mut frame, version).expect("an answer");
        assert!(frame.is_empty(), "{} bytes are left of an answer", frame.len());
        Ok(answer)
    }

    fn read(&mut self, into: &mut [u8]) -> Option<Heard> {
        match self.stream.read_exact(into).map_err(|error| error.kind()) {
            Ok(()) => None,
            Err(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => Some(Heard::Closed),
            Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => Some(Heard::Nothing),
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

/// A request with its length.
pub(crate) fn frame<R: Request + Debug>(correlation: i32, version: i16, request: &R) -> BytesMut {
    let mut header = RequestHeader::default();
    header.request_api_key = R::KEY;
    header.request_api_version = version;
    header.correlation_id = correlation;
    header.client_id = Some(StrBytes::from_static_str("oracle"));
    let mut body = BytesMut::new();
    header.encode(&mut body, R::header_version(version)).expect("a header");
    if let Err(error) = request.encode(&mut body, version) {
        panic!("version {version} cannot say this ({error}): {request:?}");
    }
    let mut frame = BytesMut::new();
    frame.put_u32(u32::try_from(body.len()).expect("a small request"));
    frame.unsplit(body);
    frame
}

//! Just enough of a Kafka client to ask a broker whatever the codec can say: one connection, one request at a time.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::BytesMut;
use kafka_wire::{
    OutboundFrameLimits, RequestResponsePair, encode_request, response_header_version_for,
};
use kafka_wire_core::{ApiVersion, DecodeLimits, Decoder, KafkaDecode};

/// No answer of these tests takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// No request or answer of these tests is larger.
const MOST_BYTES: usize = 64 * 1024 * 1024;

/// A connection.
#[derive(Debug)]
pub struct Kafka {
    stream: TcpStream,
    correlation: i32,
}

impl Kafka {
    /// Connects to a broker's listener for Kafka clients.
    ///
    /// # Panics
    /// When nobody listens there.
    #[track_caller]
    pub fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{address}: {e}"));
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self { stream, correlation: 0 }
    }

    /// Asks in a version and waits for the answer.
    ///
    /// # Panics
    /// When the request cannot be said in the version, or what comes back is no answer to it.
    #[track_caller]
    pub fn call<R: RequestResponsePair>(&mut self, version: i16, request: &R) -> R::Response {
        self.correlation += 1;
        let version = ApiVersion::new(version);
        let (mut frame, limits) = (BytesMut::new(), OutboundFrameLimits::new(MOST_BYTES));
        let name = Some("e2e".into());
        encode_request(&mut frame, self.correlation, name, request, version, limits)
            .expect("a request that can be said");
        self.stream.write_all(&frame).expect("the broker listens");
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("the broker answers");
        let length = usize::try_from(i32::from_be_bytes(length)).expect("a length");
        assert!(length <= MOST_BYTES, "an answer of {length} bytes");
        let mut answer = BytesMut::zeroed(length);
        self.stream.read_exact(&mut answer).expect("a whole answer");
        let mut decoder = Decoder::new(answer.freeze(), DecodeLimits::default()).expect("bytes");
        assert_eq!(decoder.read_i32(), Ok(self.correlation));
        if response_header_version_for::<R>(version).expect("a version") > 0 {
            decoder.read_tagged_fields().expect("a header");
        }
        R::Response::decode(&mut decoder, version).expect("an answer that can be read")
    }
}

//! Kafka's messages as bytes. The one module that knows which library writes and reads them: the others name messages
//! through [`messages`] only, so that another codec can take its place.
//!
//! Nothing that a peer claims is believed before the bytes are there: collections grow as their elements are read, and what
//! they may hold is limited.

use bytes::{BufMut, Bytes, BytesMut};
use geminga_proto::caps;
use kafka_wire::{KafkaMessage, KafkaResponse};
use kafka_wire_core::{ApiVersion, DecodeLimits, Decoder};

/// Requests and answers, and what they are made of.
pub(super) mod messages {
    pub(in crate::kafka) use kafka_wire::*;
    pub(in crate::kafka) use kafka_wire_core::{StrBytes, Uuid};
}

pub(super) mod consumer;

use messages::StrBytes;

/// Largest request that carries no records. A leader's assignment for a group of a thousand members fits.
pub(super) const MAX_PLAIN_BYTES: usize = 4 * 1024 * 1024;
/// Most elements of one collection of a request: all topics that there can be may be named.
const MAX_ELEMENTS: usize = caps::MAX_TOPICS;
/// Most partitions that one request has records for.
const MAX_PRODUCED: usize = 10_000;
/// Longest text of a request.
const MAX_STRING_BYTES: usize = 32 * 1024;
/// Of a request: its key, its version, its correlation id.
const FIXED_HEADER_BYTES: usize = 8;

/// Bytes that are no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed request: {0}")]
pub(super) struct Malformed(pub(super) String);

/// What every request begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// Which API.
    pub(super) key: i16,
    /// In which version.
    pub(super) version: i16,
    /// Comes back with the answer.
    pub(super) correlation: i32,
    /// What the client calls itself; empty when it does not say.
    pub(super) client_id: StrBytes,
}

impl Header {
    /// Reads the part that is the same in all versions; leaves the rest in `frame`.
    ///
    /// # Errors
    /// When the frame ends before.
    pub(super) fn fixed(frame: &mut Bytes) -> Result<Self, Malformed> {
        if frame.len() < FIXED_HEADER_BYTES {
            return Err(Malformed(format!("{} bytes are no request", frame.len())));
        }
        let head = frame.split_to(FIXED_HEADER_BYTES);
        let word = |at: usize| i16::from_be_bytes([head[at], head[at + 1]]);
        let correlation = i32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        Ok(Self { key: word(0), version: word(2), correlation, client_id: StrBytes::default() })
    }

    /// Reads on, up to the request itself. The client's name is never compact, not even where all other texts are.
    ///
    /// # Errors
    /// When the bytes are not what the version says.
    pub(super) fn rest(&mut self, frame: &mut Bytes, flexible: bool) -> Result<(), Malformed> {
        let mut decoder = decoder(std::mem::take(frame))?;
        let malformed = |error: kafka_wire_core::DecodeError| Malformed(error.to_string());
        self.client_id = decoder.read_nullable_string().map_err(malformed)?.unwrap_or_default();
        if flexible {
            decoder.read_tagged_fields().map_err(malformed)?;
        }
        let left = decoder.remaining();
        *frame = decoder.take_bytes(left).map_err(malformed)?;
        Ok(())
    }
}

fn limits() -> DecodeLimits {
    let mut limits = DecodeLimits::default();
    limits.max_array_elements = MAX_ELEMENTS;
    limits.max_string_bytes = MAX_STRING_BYTES;
    limits.max_tagged_fields = 64;
    limits.max_tag_bytes = MAX_STRING_BYTES;
    limits.max_total_tag_bytes = MAX_STRING_BYTES;
    limits
}

fn decoder(bytes: Bytes) -> Result<Decoder, Malformed> {
    Decoder::new(bytes, limits()).map_err(|error| Malformed(error.to_string()))
}

/// Reads a request. Records and texts stay where they are in `body`. Bytes after its end are ignored, as Kafka does.
///
/// # Errors
/// When the bytes are not such a request, or go beyond a limit.
pub(super) fn decode<M: KafkaMessage>(body: Bytes, version: i16) -> Result<M, Malformed> {
    M::decode(&mut decoder(body)?, ApiVersion::new(version))
        .map_err(|error| Malformed(error.to_string()))
}

/// Looks through a request with records before it is decoded: what a partition decodes to is many times as large as one that
/// has none of them.
///
/// # Errors
/// When the bytes are not such a request, or name too many partitions.
pub(super) fn check_produce(body: Bytes, version: i16) -> Result<(), Malformed> {
    let malformed = |error: kafka_wire_core::DecodeError| Malformed(error.to_string());
    let partitions = count_produced(decoder(body)?, version).map_err(malformed)?;
    if partitions > MAX_PRODUCED {
        return Err(Malformed(format!("records for more than {MAX_PRODUCED} partitions")));
    }
    Ok(())
}

/// Counts no further than what is too much.
fn count_produced(mut from: Decoder, version: i16) -> Result<usize, kafka_wire_core::DecodeError> {
    let flexible = is_flexible::<messages::ProduceRequest>(version);
    let length = |from: &mut Decoder| match flexible {
        true => from.read_compact_array_len(),
        false => from.read_array_len(),
    };
    let _transaction = match flexible {
        true => from.read_compact_nullable_string()?,
        false => from.read_nullable_string()?,
    };
    let (_acks, _timeout) = (from.read_i16()?, from.read_i32()?);
    let mut partitions = 0;
    for _ in 0..length(&mut from)?.get() {
        let _name = match flexible {
            true => from.read_compact_string()?,
            false => from.read_string()?,
        };
        for _ in 0..length(&mut from)?.get() {
            let _index = from.read_i32()?;
            let _records = match flexible {
                true => from.read_compact_nullable_bytes()?,
                false => from.read_nullable_bytes()?,
            };
            if flexible {
                from.read_tagged_fields()?;
            }
            partitions += 1;
            if partitions > MAX_PRODUCED {
                return Ok(partitions);
            }
        }
        if flexible {
            from.read_tagged_fields()?;
        }
    }
    Ok(partitions)
}

/// Whether the version of an API has tagged fields.
pub(super) fn is_flexible<M: KafkaMessage>(version: i16) -> bool {
    M::is_flexible(ApiVersion::new(version))
}

/// What an answer begins with, beside tagged fields: its length, and whose answer it is.
pub(super) const HEAD_BYTES: usize = 8;

/// Room for the length of a frame, which is known last, and what an answer begins with.
pub(super) fn answer_head(correlation: i32, flexible: bool, room: usize) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(4 + 5 + room);
    bytes.put_i32(0);
    bytes.put_i32(correlation);
    if flexible {
        // No tagged fields.
        bytes.put_u8(0);
    }
    bytes
}

/// Writes the length of a frame of which `more` bytes are elsewhere.
pub(super) fn close_frame(bytes: &mut [u8], more: usize) {
    let length = i32::try_from(bytes.len() - 4 + more).expect("answers are far below 2 GiB");
    bytes[..4].copy_from_slice(&length.to_be_bytes());
}

/// A whole answer.
///
/// # Errors
/// When the message holds what the version cannot say: a defect of ours.
pub(super) fn encode<M: KafkaResponse>(
    correlation: i32,
    version: i16,
    message: &M,
) -> Result<BytesMut, Malformed> {
    // Clients must be able to read this one before they know what is spoken.
    let flexible = is_flexible::<M>(version) && M::API_KEY.value() != API_VERSIONS;
    let defect = |error: kafka_wire_core::EncodeError| Malformed(error.to_string());
    let version = ApiVersion::new(version);
    let mut bytes =
        answer_head(correlation, flexible, message.encoded_len(version).map_err(defect)?);
    message.encode_into(&mut bytes, version).map_err(defect)?;
    close_frame(&mut bytes, 0);
    Ok(bytes)
}

const API_VERSIONS: i16 = 18;

/// A whole request, as a client writes it.
#[cfg(test)]
pub(super) fn encode_request<M: kafka_wire::KafkaRequest>(
    correlation: i32,
    version: i16,
    message: &M,
) -> Bytes {
    let mut bytes = BytesMut::new();
    let limits = kafka_wire::OutboundFrameLimits::new(usize::MAX);
    let (client, version) = (Some(StrBytes::from("test")), ApiVersion::new(version));
    kafka_wire::encode_request(&mut bytes, correlation, client, message, version, limits)
        .expect("a request that can be said");
    bytes.freeze()
}

/// Writes a part of an answer that is put together by hand.
pub(super) fn append<M: kafka_wire_core::KafkaEncode>(
    bytes: &mut BytesMut,
    version: i16,
    part: &M,
) {
    part.encode_into(bytes, ApiVersion::new(version))
        .expect("a test writes this part in every version that is served");
}

#[cfg(test)]
mod tests;

//! The stable reasons of the public API. A client branches on the reason, never on the message. One table gives
//! each its gRPC status, whether a retry can help, and whether the outcome is unknown.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::v1;

/// The `domain` of the `google.rpc.ErrorInfo` that each status carries.
pub const DOMAIN: &str = "geminga";

/// Generates the enum and its table.
macro_rules! reasons {
    ($(#[doc = $doc:literal] $variant:ident = $text:literal, $code:ident, $retriable:literal;)*) => {
        /// Why a request was not served. Persisted in clients: texts never change meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $doc] $variant,)*
        }

        impl Reason {
            /// All of them, for documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The stable text.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// What it means, in one sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $doc.trim_ascii(),)* }
            }

            /// The gRPC status code of a call that fails with it.
            pub fn code(self) -> Code {
                match self { $(Self::$variant => Code::$code,)* }
            }

            /// Whether the same request may succeed later.
            pub fn retriable(self) -> bool {
                match self { $(Self::$variant => $retriable,)* }
            }

            /// The reason with this text.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// The topic does not exist.
    UnknownTopic = "UNKNOWN_TOPIC", NotFound, false;
    /// The topic has no such partition.
    UnknownPartition = "UNKNOWN_PARTITION", NotFound, false;
    /// A topic of that name exists.
    TopicExists = "TOPIC_EXISTS", AlreadyExists, false;
    /// A name with characters or a length that are not allowed.
    InvalidName = "INVALID_NAME", InvalidArgument, false;
    /// Zero partitions, or more than the limit.
    InvalidPartitions = "INVALID_PARTITIONS", InvalidArgument, false;
    /// Quorum numbers that cannot keep the promise.
    InvalidQuorum = "INVALID_QUORUM", InvalidArgument, false;
    /// More write copies asked for than bookies are registered.
    NotEnoughBookies = "NOT_ENOUGH_BOOKIES", FailedPrecondition, false;
    /// Fewer live bookies than the ack quorum.
    NotEnoughLiveBookies = "NOT_ENOUGH_LIVE_BOOKIES", Unavailable, true;
    /// A config that is unknown, refused or out of range.
    InvalidConfig = "INVALID_CONFIG", InvalidArgument, false;
    /// A batch above `max.message.bytes`.
    MessageTooLarge = "MESSAGE_TOO_LARGE", InvalidArgument, false;
    /// A batch whose checksum or structure is wrong.
    CorruptBatch = "CORRUPT_BATCH", InvalidArgument, false;
    /// A batch that is well-formed but not allowed here.
    InvalidRecord = "INVALID_RECORD", InvalidArgument, false;
    /// A record whose timestamp is further from the broker's clock than the topic allows, or a batch that says that a broker dated it.
    InvalidTimestamp = "INVALID_TIMESTAMP", InvalidArgument, false;
    /// Any other malformed request.
    InvalidRequest = "INVALID_REQUEST", InvalidArgument, false;
    /// A request above one of the hard limits.
    LimitExceeded = "LIMIT_EXCEEDED", ResourceExhausted, false;
    /// This broker does not own the partition or group; the owner's address is given when known.
    NotOwner = "NOT_OWNER", Unavailable, true;
    /// The partition has no owner yet, or its owner is taking over.
    NotReady = "NOT_READY", Unavailable, true;
    /// An earlier batch of this partition on this stream failed: send again from that one, with `restart`.
    PriorBatchFailed = "PRIOR_BATCH_FAILED", Aborted, true;
    /// The write was not made.
    NotWritten = "NOT_WRITTEN", Unavailable, true;
    /// The write may or may not have been made.
    Unknown = "UNKNOWN", Unavailable, true;
    /// A sequence number that does not follow the producer's last one: a batch before it is missing.
    OutOfOrderSequence = "OUT_OF_ORDER_SEQUENCE", FailedPrecondition, false;
    /// The batch was written before, too long ago to say where: count it as written.
    DuplicateSequence = "DUPLICATE_SEQUENCE", AlreadyExists, false;
    /// The producer has written with a later epoch since.
    InvalidProducerEpoch = "INVALID_PRODUCER_EPOCH", FailedPrecondition, false;
    /// Nothing is known of the producer here, and the sequence number is not its first: begin a new epoch at 0.
    UnknownProducerId = "UNKNOWN_PRODUCER_ID", FailedPrecondition, false;
    /// The offset is before the log's start or after its end.
    OffsetOutOfRange = "OFFSET_OUT_OF_RANGE", OutOfRange, false;
    /// Stored data that no replica can deliver.
    DataLoss = "DATA_LOSS", DataLoss, false;
    /// The group does not exist.
    UnknownGroup = "UNKNOWN_GROUP", NotFound, false;
    /// The group has members.
    GroupNotEmpty = "GROUP_NOT_EMPTY", FailedPrecondition, false;
    /// The member is not, or no longer, in the group: join again with an empty member id.
    UnknownMember = "UNKNOWN_MEMBER", FailedPrecondition, false;
    /// Another stream has taken the member over.
    MemberFenced = "MEMBER_FENCED", FailedPrecondition, false;
    /// A generation that has passed.
    StaleGeneration = "STALE_GENERATION", FailedPrecondition, false;
    /// The group is changing: revoke, commit and join again.
    RebalanceInProgress = "REBALANCE_IN_PROGRESS", Aborted, true;
    /// The metadata store cannot be reached.
    MetadataUnavailable = "METADATA_UNAVAILABLE", Unavailable, true;
    /// The metadata store has no space left.
    MetadataNoSpace = "METADATA_NO_SPACE", Unavailable, true;
    /// A buffer of the broker is full: slow down.
    Overloaded = "OVERLOADED", ResourceExhausted, true;
    /// The broker is shutting down.
    ShuttingDown = "SHUTTING_DOWN", Unavailable, true;
    /// Not built, and therefore refused.
    NotSupported = "NOT_SUPPORTED", Unimplemented, false;
    /// A defect of ours.
    Internal = "INTERNAL", Internal, false;
}

/// A reason with one line that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({reason})", reason = self.reason.as_str())]
pub struct ApiError {
    /// The stable reason.
    pub reason: Reason,
    /// One line for people: what is wrong and what to do.
    pub message: String,
    /// [`Reason::NotOwner`]: where the owner listens, when known.
    pub owner_address: Option<String>,
    /// [`Reason::InvalidRecord`], [`Reason::InvalidTimestamp`]: the places in their batch of some records that it is about, rising.
    /// Known in the process that looked at the batch, and not said beyond it but to Kafka clients.
    pub records: Box<[u32]>,
}

impl ApiError {
    /// An error without an owner's address.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), owner_address: None, records: Box::default() }
    }

    /// Not the owner; `address` is the owner's when known.
    pub fn not_owner(message: impl Into<String>, address: Option<String>) -> Self {
        Self { owner_address: address, ..Self::new(Reason::NotOwner, message) }
    }

    /// As a status of a whole call, with `google.rpc.ErrorInfo`.
    pub fn to_status(&self) -> Status {
        let mut metadata = std::collections::HashMap::new();
        if let Some(address) = &self.owner_address {
            metadata.insert("owner_address".to_owned(), address.clone());
        }
        let details = ErrorDetails::with_error_info(self.reason.as_str(), DOMAIN, metadata);
        Status::with_error_details(self.reason.code(), self.message.clone(), details)
    }

    /// Reads back what [`ApiError::to_status`] made; a foreign status becomes the nearest reason: a broken
    /// connection or a deadline says nothing about the outcome.
    pub fn from_status(status: &Status) -> Self {
        if let Some(info) = status.get_details_error_info()
            && info.domain == DOMAIN
            && let Some(reason) = Reason::parse(&info.reason)
        {
            let owner_address = info.metadata.get("owner_address").cloned();
            return Self { owner_address, ..Self::new(reason, status.message()) };
        }
        let reason = match status.code() {
            Code::Unimplemented => Reason::NotSupported,
            Code::InvalidArgument | Code::OutOfRange => Reason::InvalidRequest,
            Code::ResourceExhausted => Reason::Overloaded,
            // What the transport says where a connection breaks in the midst of an answer.
            Code::Internal if status.message().starts_with("h2 protocol error") => Reason::Unknown,
            Code::Internal | Code::DataLoss => Reason::Internal,
            _ => Reason::Unknown,
        };
        Self::new(reason, status.message())
    }

    /// As the error of one element, partition or member.
    pub fn to_proto(&self) -> v1::Error {
        v1::Error {
            reason: self.reason.as_str().to_owned(),
            message: self.message.clone(),
            retriable: self.reason.retriable(),
            unknown_outcome: self.reason == Reason::Unknown,
            owner_address: self.owner_address.clone().unwrap_or_default(),
        }
    }

    /// Reads back what [`ApiError::to_proto`] made; an unknown reason of a newer server keeps its text.
    pub fn from_proto(error: &v1::Error) -> Self {
        let owner_address = (!error.owner_address.is_empty()).then(|| error.owner_address.clone());
        match Reason::parse(&error.reason) {
            Some(reason) => Self { owner_address, ..Self::new(reason, error.message.clone()) },
            None => {
                let reason = if error.unknown_outcome || error.retriable {
                    Reason::Unknown
                } else {
                    Reason::InvalidRequest
                };
                let message = format!("{}: {}", error.reason, error.message);
                Self { owner_address, ..Self::new(reason, message) }
            }
        }
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        error.to_status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_survive_status_and_element() {
        for &reason in Reason::ALL {
            let error = ApiError {
                reason,
                message: "say what to do".to_owned(),
                owner_address: Some("127.0.0.1:7070".to_owned()),
                records: Box::default(),
            };
            assert_eq!(ApiError::from_status(&error.to_status()), error);
            assert_eq!(ApiError::from_proto(&error.to_proto()), error);
        }
    }

    /// A status code as other languages spell it.
    fn code_name(code: Code) -> String {
        let mut name = String::new();
        for letter in format!("{code:?}").chars() {
            if letter.is_ascii_uppercase() && !name.is_empty() {
                name.push('_');
            }
            name.push(letter.to_ascii_uppercase());
        }
        name
    }

    #[test]
    fn the_table_of_reasons_is_documented() {
        use std::fmt::Write as _;
        const BEGIN: &str =
            "<!-- reasons: made by `UPDATE_DOCS=1 cargo test -p geminga-proto --lib reason` -->\n";
        const END: &str = "<!-- end of reasons -->";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/api.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (before, rest) = page.split_once(BEGIN).expect("the table begins");
        let (_, after) = rest.split_once(END).expect("the table ends");
        let mut table =
            "\n| reason | status | retriable | meaning |\n|---|---|---|---|\n".to_owned();
        for &reason in Reason::ALL {
            let (code, meaning) = (code_name(reason.code()), reason.meaning());
            let retriable = if reason.retriable() { "yes" } else { "no" };
            writeln!(table, "| `{}` | `{code}` | {retriable} | {meaning} |", reason.as_str())
                .unwrap();
        }
        let current = format!("{before}{BEGIN}{table}\n{END}{after}");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &current).unwrap();
        } else {
            assert_eq!(page, current, "run UPDATE_DOCS=1 cargo test -p geminga-proto --lib reason");
        }
    }

    #[test]
    fn a_broken_connection_says_nothing_about_the_outcome() {
        let status = Status::unavailable("connection reset");
        assert_eq!(ApiError::from_status(&status).reason, Reason::Unknown);
    }

    /// Whoever asks goes on elsewhere; it says nothing about the outcome.
    #[test]
    fn a_connection_that_breaks_within_an_answer_is_no_error_of_the_server() {
        let broken = Status::internal("h2 protocol error: http2 error");
        let broken = ApiError::from_status(&broken).reason;
        assert!(broken == Reason::Unknown && broken.retriable());
        assert_eq!(ApiError::from_status(&Status::internal("bug")).reason, Reason::Internal);
    }
}

//! Kafka's error codes, and which of them says what the broker says by a reason.

use geminga_proto::reason::{ApiError, Reason};

use super::codec::messages::StrBytes;
use crate::groups::local::Refused;
use crate::groups::types as groups;

/// An error code of the Kafka protocol. Fixed by Kafka for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Code(pub(crate) i16);

macro_rules! codes {
    ($($name:ident = $code:literal;)*) => {
        impl Code {
            $(pub(crate) const $name: Self = Self($code);)*

            /// As Kafka names it; `OTHER` for one that this broker never says.
            pub(crate) fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    _ => "OTHER",
                }
            }
        }
    };
}

codes! {
    UNKNOWN_SERVER_ERROR = -1;
    NONE = 0;
    OFFSET_OUT_OF_RANGE = 1;
    CORRUPT_MESSAGE = 2;
    UNKNOWN_TOPIC_OR_PARTITION = 3;
    LEADER_NOT_AVAILABLE = 5;
    NOT_LEADER_OR_FOLLOWER = 6;
    REQUEST_TIMED_OUT = 7;
    MESSAGE_TOO_LARGE = 10;
    OFFSET_METADATA_TOO_LARGE = 12;
    COORDINATOR_LOAD_IN_PROGRESS = 14;
    COORDINATOR_NOT_AVAILABLE = 15;
    NOT_COORDINATOR = 16;
    INVALID_TOPIC_EXCEPTION = 17;
    NOT_ENOUGH_REPLICAS = 19;
    INVALID_REQUIRED_ACKS = 21;
    ILLEGAL_GENERATION = 22;
    INCONSISTENT_GROUP_PROTOCOL = 23;
    INVALID_GROUP_ID = 24;
    UNKNOWN_MEMBER_ID = 25;
    INVALID_SESSION_TIMEOUT = 26;
    REBALANCE_IN_PROGRESS = 27;
    INVALID_TIMESTAMP = 32;
    UNSUPPORTED_VERSION = 35;
    TOPIC_ALREADY_EXISTS = 36;
    INVALID_PARTITIONS = 37;
    INVALID_REPLICATION_FACTOR = 38;
    INVALID_REPLICA_ASSIGNMENT = 39;
    INVALID_CONFIG = 40;
    INVALID_REQUEST = 42;
    POLICY_VIOLATION = 44;
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45;
    DUPLICATE_SEQUENCE_NUMBER = 46;
    INVALID_PRODUCER_EPOCH = 47;
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53;
    KAFKA_STORAGE_ERROR = 56;
    UNKNOWN_PRODUCER_ID = 59;
    NON_EMPTY_GROUP = 68;
    GROUP_ID_NOT_FOUND = 69;
    FETCH_SESSION_ID_NOT_FOUND = 70;
    FENCED_LEADER_EPOCH = 74;
    UNKNOWN_LEADER_EPOCH = 75;
    UNSUPPORTED_COMPRESSION_TYPE = 76;
    MEMBER_ID_REQUIRED = 79;
    GROUP_MAX_SIZE_REACHED = 81;
    FENCED_INSTANCE_ID = 82;
    ELECTION_NOT_NEEDED = 84;
    GROUP_SUBSCRIBED_TO_TOPIC = 86;
    INVALID_RECORD = 87;
    UNKNOWN_TOPIC_ID = 100;
    MISMATCHED_ENDPOINT_TYPE = 114;
    UNSUPPORTED_ENDPOINT_TYPE = 115;
}

/// What a Kafka client is told of an error: the code that makes it do the same as our own client would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    /// For people, where the version has a place for it.
    pub(crate) message: String,
    /// Records of a batch that it is about, by their places in it.
    pub(crate) records: Box<[u32]>,
}

impl Fault {
    /// What quotes a client may be as long as that client likes: no more is kept of it than people read, and answers can say.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        const LONGEST: usize = 1_000;
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(LONGEST));
        Self { code, message, records: Box::default() }
    }
}

impl Fault {
    /// As a fetch may say it: some clients take any code that they do not expect there for a defect, and end.
    pub(crate) fn of_fetch(self) -> Self {
        let code = match self.code {
            Code::LEADER_NOT_AVAILABLE | Code::REQUEST_TIMED_OUT | Code::NOT_ENOUGH_REPLICAS => {
                Code::NOT_LEADER_OR_FOLLOWER
            }
            Code::INVALID_REQUEST | Code::UNSUPPORTED_VERSION | Code::POLICY_VIOLATION => {
                Code::UNKNOWN_SERVER_ERROR
            }
            code => code,
        };
        Self { code, ..self }
    }

    /// As a commit of offsets may say it: what may be asked again must not pass for a defect.
    pub(crate) fn of_commit(self) -> Self {
        let code = match self.code {
            Code::LEADER_NOT_AVAILABLE | Code::NOT_ENOUGH_REPLICAS => {
                Code::COORDINATOR_LOAD_IN_PROGRESS
            }
            code => code,
        };
        Self { code, ..self }
    }

    /// As the description of a topic may say it.
    pub(crate) fn of_topic(self) -> Self {
        let code = match self.code {
            Code::REQUEST_TIMED_OUT | Code::NOT_ENOUGH_REPLICAS => Code::LEADER_NOT_AVAILABLE,
            code => code,
        };
        Self { code, ..self }
    }
}

/// An outcome as answers say it: the code, and a text for people where something failed.
pub(crate) fn said(outcome: Result<(), Fault>) -> (i16, Option<StrBytes>) {
    match outcome {
        Ok(()) => (Code::NONE.0, None),
        Err(fault) => (fault.code.0, Some(fault.message.into())),
    }
}

impl From<ApiError> for Fault {
    fn from(error: ApiError) -> Self {
        let message = match error.reason {
            // Where brokers reach each other is not for clients.
            Reason::NotOwner => "another broker serves the partition".to_owned(),
            _ => error.message,
        };
        Self { records: error.records, ..Self::new(code_of(error.reason), message) }
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        let code = match &refused {
            Refused::Group(error) => code_of_group(error),
            // May have been done: asking again, elsewhere, is safe.
            Refused::NotCoordinator { .. } | Refused::Moved => Code::NOT_COORDINATOR,
            Refused::Loading | Refused::Busy => Code::COORDINATOR_LOAD_IN_PROGRESS,
            Refused::Nobody | Refused::Unproved | Refused::Damaged(_) | Refused::NoShard => {
                Code::COORDINATOR_NOT_AVAILABLE
            }
        };
        let message = match refused {
            Refused::NotCoordinator { .. } => "another broker coordinates the group".to_owned(),
            refused => refused.to_string(),
        };
        Self::new(code, message)
    }
}

/// The code of a group's own refusal.
pub(crate) fn code_of_group(error: &groups::Error) -> Code {
    match error {
        groups::Error::UnknownMember | groups::Error::Fenced => Code::UNKNOWN_MEMBER_ID,
        groups::Error::StaleGeneration { .. } => Code::ILLEGAL_GENERATION,
        groups::Error::RebalanceInProgress => Code::REBALANCE_IN_PROGRESS,
        groups::Error::NotEmpty => Code::NON_EMPTY_GROUP,
        groups::Error::UnknownGroup => Code::GROUP_ID_NOT_FOUND,
        groups::Error::OtherKind(_) | groups::Error::InconsistentProtocol => {
            Code::INCONSISTENT_GROUP_PROTOCOL
        }
        groups::Error::MemberIdRequired(_) => Code::MEMBER_ID_REQUIRED,
        groups::Error::FencedInstance => Code::FENCED_INSTANCE_ID,
        groups::Error::GroupFull { .. } => Code::GROUP_MAX_SIZE_REACHED,
        groups::Error::GroupName { .. } => Code::INVALID_GROUP_ID,
        groups::Error::MetadataTooLarge { .. } => Code::OFFSET_METADATA_TOO_LARGE,
        groups::Error::SubscribedTopic => Code::GROUP_SUBSCRIBED_TO_TOPIC,
        groups::Error::Timeout { .. } => Code::INVALID_SESSION_TIMEOUT,
        groups::Error::Limit { .. } | groups::Error::Invalid(_) => Code::INVALID_REQUEST,
    }
}

fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::UnknownTopic | Reason::UnknownPartition => Code::UNKNOWN_TOPIC_OR_PARTITION,
        Reason::TopicExists => Code::TOPIC_ALREADY_EXISTS,
        Reason::InvalidName => Code::INVALID_TOPIC_EXCEPTION,
        Reason::InvalidPartitions => Code::INVALID_PARTITIONS,
        Reason::InvalidQuorum | Reason::NotEnoughBookies => Code::INVALID_REPLICATION_FACTOR,
        // Nothing was written, and it is worth another try: the one code that says just that.
        Reason::NotEnoughLiveBookies | Reason::NotWritten | Reason::Overloaded => {
            Code::NOT_ENOUGH_REPLICAS
        }
        Reason::InvalidConfig => Code::INVALID_CONFIG,
        Reason::MessageTooLarge => Code::MESSAGE_TOO_LARGE,
        Reason::CorruptBatch => Code::CORRUPT_MESSAGE,
        Reason::InvalidRecord => Code::INVALID_RECORD,
        Reason::InvalidTimestamp => Code::INVALID_TIMESTAMP,
        Reason::InvalidRequest => Code::INVALID_REQUEST,
        Reason::LimitExceeded => Code::POLICY_VIOLATION,
        Reason::NotOwner | Reason::ShuttingDown | Reason::PriorBatchFailed => {
            Code::NOT_LEADER_OR_FOLLOWER
        }
        Reason::NotReady => Code::LEADER_NOT_AVAILABLE,
        // May have been done: a client asks again, and an idempotent producer loses and doubles nothing by that.
        Reason::Unknown | Reason::MetadataUnavailable | Reason::MetadataNoSpace => {
            Code::REQUEST_TIMED_OUT
        }
        Reason::OutOfOrderSequence => Code::OUT_OF_ORDER_SEQUENCE_NUMBER,
        Reason::DuplicateSequence => Code::DUPLICATE_SEQUENCE_NUMBER,
        Reason::InvalidProducerEpoch => Code::INVALID_PRODUCER_EPOCH,
        Reason::UnknownProducerId => Code::UNKNOWN_PRODUCER_ID,
        Reason::OffsetOutOfRange => Code::OFFSET_OUT_OF_RANGE,
        Reason::DataLoss => Code::KAFKA_STORAGE_ERROR,
        Reason::UnknownGroup => Code::GROUP_ID_NOT_FOUND,
        Reason::GroupNotEmpty => Code::NON_EMPTY_GROUP,
        Reason::UnknownMember => Code::UNKNOWN_MEMBER_ID,
        Reason::MemberFenced => Code::FENCED_INSTANCE_ID,
        Reason::StaleGeneration => Code::ILLEGAL_GENERATION,
        Reason::RebalanceInProgress => Code::REBALANCE_IN_PROGRESS,
        Reason::NotSupported => Code::UNSUPPORTED_VERSION,
        Reason::Internal => Code::UNKNOWN_SERVER_ERROR,
    }
}

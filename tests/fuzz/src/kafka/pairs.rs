//! Each API that is served, as the codec of the project and as another one has it.

use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};
use geminga_serving::kafka;
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message};
use kafka_wire::{self as ours, KafkaRequest, OutboundFrameLimits, encode_request};
use kafka_wire_core::{ApiVersion, DecodeLimits, Decoder, StrBytes};

use super::made::{CLIENT, CORRELATION, Made, Source, make};

/// Where the other codec takes null for a field whose version has none, as it shows it: key, versions, field. Such a request is
/// malformed here, as in Kafka.
const NO_NULL: &[(i16, RangeInclusive<i16>, &str)] =
    &[(3, 0..=0, "topics: None"), (3, 0..=9, "name: None"), (9, 1..=1, "topics: None")];

/// A request in both codecs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    /// Which API.
    pub(super) key: i16,
    /// Lowest and highest version of the other codec.
    versions: (i16, i16),
    make: fn(i16, i16, Source<'_>) -> Option<Made>,
    again: fn(i16, Bytes) -> Result<Bytes, String>,
    least: fn(i16) -> Option<Bytes>,
}

impl Pair {
    fn of<O, T>() -> Self
    where
        O: KafkaRequest + Default,
        T: Message + Decodable + Encodable + HeaderVersion + std::fmt::Debug,
    {
        Self {
            key: O::API_KEY.value(),
            versions: (T::VERSIONS.min, T::VERSIONS.max),
            make: make::<T>,
            again: again::<O>,
            least: |version| write(&O::default(), version).ok(),
        }
    }

    /// The versions that the other codec has.
    fn versions(&self) -> RangeInclusive<i16> {
        self.versions.0..=self.versions.1
    }

    /// A request of the other codec; none where the source gave what cannot be one.
    pub(super) fn make(&self, version: i16, source: Source<'_>) -> Option<Made> {
        let malformed = |made: &Made| {
            NO_NULL.iter().any(|(key, versions, field)| {
                *key == self.key && versions.contains(&version) && made.shown.contains(field)
            })
        };
        (self.make)(self.key, version, source).filter(|made| !malformed(made))
    }

    /// The project's codec understands the same: it reads all of it, and writes the same bytes again.
    ///
    /// # Panics
    /// When it does not.
    pub(super) fn agree(&self, version: i16, made: &Made) {
        let what = || format!("API {} version {version}: {}", self.key, made.shown);
        assert!(kafka::understands(made.frame.clone()), "not understood: {}", what());
        match (self.again)(version, made.frame.slice(made.head..)) {
            Ok(again) => assert_eq!(again, made.frame, "understood in another way: {}", what()),
            Err(why) => panic!("{why}: {}", what()),
        }
    }

    /// The request that says least.
    pub(super) fn least(&self, version: i16) -> Option<Bytes> {
        (self.least)(version)
    }
}

/// The frame that the project's codec writes of what it read from a body.
fn again<R: KafkaRequest>(version: i16, body: Bytes) -> Result<Bytes, String> {
    let mut decoder =
        Decoder::new(body, DecodeLimits::default()).map_err(|error| error.to_string())?;
    let request = R::decode(&mut decoder, ApiVersion::new(version)).map_err(|e| e.to_string())?;
    match decoder.remaining() {
        0 => write(&request, version),
        left => Err(format!("{left} bytes are left")),
    }
}

/// A frame without its length.
fn write<R: KafkaRequest>(request: &R, version: i16) -> Result<Bytes, String> {
    let (version, client) = (ApiVersion::new(version), Some(StrBytes::from(CLIENT)));
    let mut frame = BytesMut::new();
    let limits = OutboundFrameLimits::new(1 << 20);
    encode_request(&mut frame, CORRELATION, client, request, version, limits)
        .map_err(|error| error.to_string())?;
    Ok(frame.freeze().slice(4..))
}

/// Every API that is served in each of its versions.
///
/// # Panics
/// When the other codec lacks one of them: then nothing would be compared.
pub(super) fn served() -> Vec<(Pair, i16)> {
    let pairs = pairs();
    let mut all = Vec::new();
    for (key, versions) in kafka::served() {
        let pair = *pairs.iter().find(|pair| pair.key == key).expect("name the API below");
        for version in versions {
            assert!(pair.versions().contains(&version), "API {key} version {version} is unchecked");
            all.push((pair, version));
        }
    }
    all
}

macro_rules! pairs {
    ($($request:ident),* $(,)?) => {
        /// All of them, by key.
        fn pairs() -> Vec<Pair> {
            vec![$(Pair::of::<ours::$request, theirs::$request>()),*]
        }
    };
}

pairs![
    ProduceRequest,
    FetchRequest,
    ListOffsetsRequest,
    MetadataRequest,
    OffsetCommitRequest,
    OffsetFetchRequest,
    FindCoordinatorRequest,
    JoinGroupRequest,
    HeartbeatRequest,
    LeaveGroupRequest,
    SyncGroupRequest,
    DescribeGroupsRequest,
    ListGroupsRequest,
    ApiVersionsRequest,
    CreateTopicsRequest,
    DeleteTopicsRequest,
    DeleteRecordsRequest,
    InitProducerIdRequest,
    OffsetForLeaderEpochRequest,
    DescribeConfigsRequest,
    AlterConfigsRequest,
    DescribeLogDirsRequest,
    CreatePartitionsRequest,
    DeleteGroupsRequest,
    ElectLeadersRequest,
    IncrementalAlterConfigsRequest,
    ListPartitionReassignmentsRequest,
    OffsetDeleteRequest,
    DescribeClusterRequest,
    DescribeProducersRequest,
    DescribeTopicPartitionsRequest,
];

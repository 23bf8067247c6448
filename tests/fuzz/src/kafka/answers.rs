//! The answers of each API that is served, as the codec of the project and as another one has them. What the other one can say of
//! an answer, ours says in the same bytes: so whatever a broker answers, others read as it was meant.

use std::ops::RangeInclusive;

use bytes::{Bytes, BytesMut};
use geminga_serving::kafka;
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable, Message};
use kafka_wire::{self as ours, KafkaResponse};
use kafka_wire_core::{ApiVersion, DecodeLimits, Decoder};

use super::made::{Made, Source, answer};

/// Where the other codec takes null for a field whose version has none, as it shows it: key, versions, field. Ours never says it.
const NO_NULL: &[(i16, RangeInclusive<i16>, &str)] =
    &[(3, 0..=11, "name: None"), (11, 0..=6, "protocol_name: None"), (20, 1..=5, "name: None")];

/// An answer in both codecs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    key: i16,
    /// Lowest and highest version of the other codec.
    versions: (i16, i16),
    make: fn(i16, Source<'_>) -> Option<Made>,
    again: fn(i16, Bytes) -> Result<Bytes, String>,
}

impl Answer {
    fn of<O, T>() -> Self
    where
        O: KafkaResponse,
        T: Message + Decodable + Encodable + std::fmt::Debug,
    {
        Self {
            key: O::API_KEY.value(),
            versions: (T::VERSIONS.min, T::VERSIONS.max),
            make: answer::<T>,
            again: again::<O>,
        }
    }

    /// An answer of the other codec; none where the source gave what cannot be one.
    pub(super) fn make(&self, version: i16, source: Source<'_>) -> Option<Made> {
        let malformed = |made: &Made| {
            NO_NULL.iter().any(|(key, versions, field)| {
                *key == self.key && versions.contains(&version) && made.shown.contains(field)
            })
        };
        (self.make)(version, source).filter(|made| !malformed(made))
    }

    /// The project's codec says the same of what it read, byte for byte.
    ///
    /// # Panics
    /// When it does not.
    pub(super) fn agree(&self, version: i16, made: &Made) {
        let what = || format!("API {} version {version}: {}", self.key, made.shown);
        match (self.again)(version, made.frame.clone()) {
            Ok(again) => assert_eq!(again, made.frame, "said in another way: {}", what()),
            Err(why) => panic!("{why}: {}", what()),
        }
    }
}

/// What the project's codec writes of what it read.
fn again<R: KafkaResponse>(version: i16, body: Bytes) -> Result<Bytes, String> {
    let version = ApiVersion::new(version);
    let mut decoder =
        Decoder::new(body, DecodeLimits::default()).map_err(|error| error.to_string())?;
    let answer = R::decode(&mut decoder, version).map_err(|error| error.to_string())?;
    if decoder.remaining() > 0 {
        return Err(format!("{} bytes are left", decoder.remaining()));
    }
    let mut bytes = BytesMut::new();
    answer.encode_into(&mut bytes, version).map_err(|error| error.to_string())?;
    Ok(bytes.freeze())
}

/// Those of every API that is served in each of its versions.
///
/// # Panics
/// When the other codec lacks one of them: then nothing would be compared.
pub(super) fn served() -> Vec<(Answer, i16)> {
    let answers = answers();
    let mut all = Vec::new();
    for (key, versions) in kafka::served() {
        let answer = *answers.iter().find(|answer| answer.key == key).expect("name it below");
        for version in versions {
            let known = answer.versions.0..=answer.versions.1;
            assert!(known.contains(&version), "API {key} version {version} is unchecked");
            all.push((answer, version));
        }
    }
    all
}

macro_rules! answers {
    ($($answer:ident),* $(,)?) => {
        /// All of them, by key.
        fn answers() -> Vec<Answer> {
            vec![$(Answer::of::<ours::$answer, theirs::$answer>()),*]
        }
    };
}

answers![
    ProduceResponse,
    FetchResponse,
    ListOffsetsResponse,
    MetadataResponse,
    OffsetCommitResponse,
    OffsetFetchResponse,
    FindCoordinatorResponse,
    JoinGroupResponse,
    HeartbeatResponse,
    LeaveGroupResponse,
    SyncGroupResponse,
    DescribeGroupsResponse,
    ListGroupsResponse,
    ApiVersionsResponse,
    CreateTopicsResponse,
    DeleteTopicsResponse,
    DeleteRecordsResponse,
    InitProducerIdResponse,
    OffsetForLeaderEpochResponse,
    DescribeConfigsResponse,
    AlterConfigsResponse,
    DescribeLogDirsResponse,
    CreatePartitionsResponse,
    DeleteGroupsResponse,
    ElectLeadersResponse,
    IncrementalAlterConfigsResponse,
    ListPartitionReassignmentsResponse,
    OffsetDeleteResponse,
    DescribeClusterResponse,
    DescribeProducersResponse,
    DescribeTopicPartitionsResponse,
];

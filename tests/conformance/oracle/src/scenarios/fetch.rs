//! Reading: whole batches, bounds, epochs, ids and sessions.

use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{DeleteRecordsRequest, FetchRequest, MetadataRequest};

use super::produce::to;
use crate::batches::{batch, sealed};
use crate::script::{NOBODY, Script, topic_name};

/// What is read, with what a version says for a name.
struct Reader {
    version: i16,
    id: uuid::Uuid,
    topic: &'static str,
}

impl Reader {
    fn of(&self, partition: FetchPartition) -> FetchRequest {
        let topic = FetchTopic::default().with_partitions(vec![partition]);
        let topic = match self.version {
            ..13 => topic.with_topic(topic_name(self.topic)),
            _ => topic.with_topic_id(self.id),
        };
        FetchRequest::default()
            .with_max_wait_ms(50)
            .with_min_bytes(0)
            .with_max_bytes(1_000_000)
            .with_topics(vec![topic])
    }

    fn at(&self, offset: i64) -> FetchRequest {
        self.of(place(0, offset))
    }
}

fn place(partition: i32, offset: i64) -> FetchPartition {
    FetchPartition::default()
        .with_partition(partition)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1_000_000)
}

pub(super) fn play(script: &mut Script) {
    script.topic("fetch", 1, &[]);
    for count in [3, 2, 4] {
        let written = script.quietly(9, &to("fetch", 0, Some(sealed(batch(count)))));
        assert_eq!(written.responses[0].partition_responses[0].error_code, 0, "{written:?}");
    }
    let asked = MetadataRequestTopic::default().with_name(Some(topic_name("fetch")));
    let found = script.quietly(12, &MetadataRequest::default().with_topics(Some(vec![asked])));
    let id = found.topics[0].topic_id;
    for version in 4..=17 {
        let reader = Reader { version, id, topic: "fetch" };
        script.ask("all", version, &reader.at(0));
        script.ask("from within a batch", version, &reader.at(4));
        script.ask("from within the last batch", version, &reader.at(8));
        script.ask("at the end", version, &reader.at(9));
        script.ask("after the end", version, &reader.at(10));
        script.ask("before the start", version, &reader.at(-1));
        script.ask("an unknown partition", version, &reader.of(place(7, 0)));
        script.ask("a negative partition", version, &reader.of(place(-1, 0)));
        script.ask("only committed", version, &reader.at(0).with_isolation_level(1));
        script.ask("one byte", version, &reader.at(3).with_max_bytes(1));
        let little = place(0, 3).with_partition_max_bytes(1);
        script.ask("one byte of a partition", version, &reader.of(little));
        script.ask("nothing", version, &reader.at(0).with_topics(vec![]));
        let nothing = Reader { version, id: NOBODY, topic: "fetch-nothing" };
        script.ask("an unknown topic", version, &nothing.at(0));
        if version >= 13 {
            let nil = Reader { version, id: uuid::Uuid::nil(), topic: "" };
            script.ask("no id", version, &nil.at(0));
        }
        if version >= 9 {
            epochs(script, &reader);
        }
        if version >= 7 {
            sessions(script, &reader);
        }
    }
    let deletion =
        DeleteRecordsTopic::default().with_name(topic_name("fetch")).with_partitions(vec![
            DeleteRecordsPartition::default().with_partition_index(0).with_offset(4),
        ]);
    let deletion = DeleteRecordsRequest::default().with_topics(vec![deletion]);
    script.quietly(2, &deletion.with_timeout_ms(30_000));
    let reader = Reader { version: 12, id, topic: "fetch" };
    script.ask("what was deleted", 12, &reader.at(3));
    script.ask("the first that was not deleted", 12, &reader.at(4));
}

fn epochs(script: &mut Script, reader: &Reader) {
    let version = reader.version;
    let ahead = place(0, 0).with_current_leader_epoch(1_000_000);
    script.ask("an epoch to come", version, &reader.of(ahead));
    if version >= 12 {
        let diverging = place(0, 5).with_last_fetched_epoch(1_000_000);
        script.ask("after an epoch to come", version, &reader.of(diverging));
    }
}

fn sessions(script: &mut Script, reader: &Reader) {
    let version = reader.version;
    let none = reader.at(9).with_session_epoch(-1);
    script.ask("without a session", version, &none);
    let unknown = reader.at(9).with_session_id(123_456_789).with_session_epoch(5);
    script.ask("a session that is unknown", version, &unknown);
    let closing = reader.at(9).with_session_id(123_456_789).with_session_epoch(-1);
    script.ask("closes a session that is unknown", version, &closing);
    let first = reader.at(9).with_session_id(0).with_session_epoch(1);
    script.ask("goes on without a session", version, &first);
}

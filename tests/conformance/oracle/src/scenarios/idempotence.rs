//! Producers with numbers: sequences in order, again, out of order, and of epochs that are over.

use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::{
    DescribeProducersRequest, InitProducerIdRequest, ProducerId, TransactionalId,
};

use super::produce::to;
use crate::batches::idempotent;
use crate::script::{Script, text, topic_name};

fn init() -> InitProducerIdRequest {
    InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000)
}

pub(super) fn play(script: &mut Script) {
    geminga_harness::wait::until("numbers to be given", || {
        (script.quietly(4, &init()).error_code == 0).then_some(())
    });
    for version in 0..=5 {
        script.ask("a number", version, &init());
        let empty = init().with_transactional_id(Some(TransactionalId(text(""))));
        script.ask("an empty transactional id", version, &empty);
        if version >= 3 {
            let known = init().with_producer_id(ProducerId(5)).with_producer_epoch(3);
            script.ask("a number that another has", version, &known);
            script.ask("an epoch without a number", version, &init().with_producer_epoch(3));
            let half = init().with_producer_id(ProducerId(5));
            script.ask("a number without an epoch", version, &half);
        }
    }
    let number = |script: &mut Script| script.quietly(4, &init()).producer_id.0;
    script.topic("idempotence", 5, &[]);
    let p = number(script);
    let mut of = |what: &str, producer: i64, epoch: i16, sequence: i32, count: i64| {
        let batch = idempotent(producer, epoch, sequence, count);
        script.ask(what, 9, &to("idempotence", 0, Some(batch)));
    };
    of("the first", p, 0, 0, 2);
    of("the first again", p, 0, 0, 2);
    of("the second", p, 0, 2, 2);
    of("the first and second again, as one", p, 0, 0, 4);
    of("a gap", p, 0, 7, 2);
    of("after the gap", p, 0, 4, 1);
    of("a part of what was", p, 0, 3, 1);
    of("an epoch on, not from the first", p, 1, 5, 1);
    of("an epoch on", p, 1, 0, 1);
    of("the epoch before", p, 0, 5, 1);
    of("an epoch on, again", p, 1, 0, 1);
    for n in 1..6 {
        of(&format!("number {n} in a row"), p, 1, n, 1);
    }
    of("one of long ago", p, 1, 0, 1);
    of("no sequence", p, 1, -1, 1);
    of("a negative epoch", p, -1, 6, 1);
    of("a sequence without producer", -1, -1, 6, 1);
    let other = number(script);
    let mut at = |what: &str, partition, batch| {
        script.ask(what, 9, &to("idempotence", partition, Some(batch)));
    };
    at("unknown, not from the first", 1, idempotent(other, 0, 5, 1));
    at("unknown, the next", 1, idempotent(other, 0, 6, 1));
    at("a number that nobody was given", 2, idempotent(9_000_000_000, 0, 0, 1));
    at("of a later epoch", 3, idempotent(other, 7, 0, 1));
    at("over the last sequence", 4, idempotent(other, 7, i32::MAX, 2));
    let producers = |topic: &str, partitions: &[i32]| {
        let topic = TopicRequest::default()
            .with_name(topic_name(topic))
            .with_partition_indexes(partitions.to_vec());
        DescribeProducersRequest::default().with_topics(vec![topic])
    };
    script.ask("producers", 0, &producers("idempotence", &[0]));
    script.ask("producers of what is not there", 0, &producers("idempotence", &[7]));
    script.ask("producers of no topic", 0, &producers("idempotence-nothing", &[0]));
    script.ask("producers of a bad topic", 0, &producers("a b", &[0]));
}

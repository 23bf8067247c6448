//! The reader alone, with partitions made up.

use geminga_records::{Compression, Record, encode};
use proptest::prelude::*;

use super::*;
use crate::router::Read;

fn tp(partition: u32) -> TopicPartition {
    TopicPartition { topic: "t".into(), partition }
}

fn error(reason: Reason) -> ApiError {
    ApiError::new(reason, "made up")
}

/// One batch of two records at `offset`, in a partition that ends at `end`.
fn read(offset: i64, end: i64) -> Read {
    let batches = if offset < end {
        let record = |n: i64| Record {
            value: Some(format!("{:010}", offset + n).into()),
            ..Record::default()
        };
        let records = [record(0), record(1)];
        let count = usize::try_from((end - offset).min(2)).unwrap();
        let batch = encode(&records[..count], Compression::None).unwrap();
        vec![batch.stamp(offset, 1).concat().into()]
    } else {
        Vec::new()
    };
    let next = (offset + 2).min(end);
    Read { batches, next_offset: Offset(next), high_watermark: Offset(end), log_start: Offset(0) }
}

fn reader(partitions: u32, reset: v1::OffsetReset) -> Reader {
    let mut reader = Reader::new(v1::Format::Records, reset);
    reader.start((0..partitions).map(|p| (tp(p), 0)).collect());
    reader
}

fn next(reader: &mut Reader) -> Work {
    reader.next_work(1 << 20).expect("something is to be read")
}

fn offset(work: &Work) -> i64 {
    let Call::Read(spec, _) = work.call else { panic!("{work:?}") };
    spec.offset.0
}

fn answer(reader: &mut Reader, work: &Work, answer: Answer) {
    reader.on_answer(Instant::now(), &work.tp, work.ticket, answer);
}

fn ok(reader: &mut Reader, work: &Work, end: i64) {
    let found = read(offset(work), end);
    answer(reader, work, Answer::Read(Ok(found.into())));
}

/// Says that a partition is out of range as often as it takes, and that the same read is tried until then.
fn out_of_range_until_believed(reader: &mut Reader) {
    let begin = Instant::now();
    let mut now = begin;
    for _ in 0..OUT_OF_RANGE {
        let work = next(reader);
        assert_eq!(offset(&work), 0);
        let refused = Answer::Read(Err(error(Reason::OffsetOutOfRange)));
        reader.on_answer(now, &work.tp, work.ticket, refused);
        now = reader.next_deadline().expect("it is tried again");
        reader.tick(now);
    }
    assert!(now - begin > Duration::from_secs(4), "longer than a lease: {:?}", now - begin);
    let work = next(reader);
    answer(reader, &work, Answer::Read(Err(error(Reason::OffsetOutOfRange))));
}

#[test]
fn nothing_is_read_or_sent_without_credit() {
    let mut reader = reader(2, v1::OffsetReset::Earliest);
    assert_eq!(reader.next_work(0), None);
    let work = next(&mut reader);
    ok(&mut reader, &work, 10);
    assert!(!reader.has_data(0) && reader.next_data(0).is_none());
    assert!(reader.next_data(1).is_some());
}

#[test]
fn partitions_take_turns() {
    let mut reader = reader(3, v1::OffsetReset::Earliest);
    let mut served = Vec::new();
    for _ in 0..9 {
        let work = next(&mut reader);
        ok(&mut reader, &work, 1_000);
        while let Some((data, ..)) = reader.next_data(1 << 20) {
            served.push(data.partition);
        }
    }
    assert_eq!(served, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn so_many_are_read_at_a_time_and_no_more() {
    let mut reader = reader(200, v1::OffsetReset::Earliest);
    let works: Vec<Work> = std::iter::from_fn(|| reader.next_work(1 << 20)).collect();
    assert_eq!(works.len(), MAX_READS);
    ok(&mut reader, &works[0], 1_000);
    assert_eq!(reader.next_work(1 << 20), None, "what is held counts");
    reader.next_data(1 << 20).unwrap();
    assert_eq!(next(&mut reader).tp, tp(64));
}

#[test]
fn a_partition_that_cannot_be_read_is_read_again_from_the_same_offset() {
    let mut reader = reader(1, v1::OffsetReset::Earliest);
    let mut now = Instant::now();
    let work = next(&mut reader);
    ok(&mut reader, &work, 10);
    reader.next_data(1 << 20).unwrap();
    for reason in [Reason::NotReady, Reason::NotOwner, Reason::Unknown, Reason::UnknownTopic] {
        let work = next(&mut reader);
        assert_eq!(offset(&work), 2);
        reader.on_answer(now, &work.tp, work.ticket, Answer::Read(Err(error(reason))));
        assert_eq!(reader.next_work(1), None, "not at once");
        now = reader.next_deadline().expect("but soon");
        reader.tick(now);
    }
    assert_eq!(offset(&next(&mut reader)), 2);
}

#[test]
fn out_of_range_begins_again_where_the_client_said_once_it_is_believed() {
    let mut reader = reader(1, v1::OffsetReset::Earliest);
    out_of_range_until_believed(&mut reader);
    let work = next(&mut reader);
    assert_eq!(work.call, Call::Find);
    answer(&mut reader, &work, Answer::Found(Ok(55)));
    assert_eq!(offset(&next(&mut reader)), 55);
}

#[test]
fn out_of_range_without_a_reset_is_said_once_and_waits_for_a_seek() {
    let mut reader = reader(1, v1::OffsetReset::None);
    out_of_range_until_believed(&mut reader);
    let (data, cost, _) = reader.next_data(1).unwrap();
    assert_eq!((data.error.unwrap().reason.as_str(), cost), ("OFFSET_OUT_OF_RANGE", 0));
    assert!(reader.next_data(1 << 20).is_none() && reader.next_work(1 << 20).is_none());
    reader.seek(&tp(0), 3);
    assert_eq!(offset(&next(&mut reader)), 3);
}

#[test]
fn a_seek_makes_void_what_was_read_and_what_is_being_read() {
    let mut reader = reader(1, v1::OffsetReset::Earliest);
    let before = next(&mut reader);
    reader.seek(&tp(0), 100);
    let after = next(&mut reader);
    assert_eq!(offset(&after), 100);
    ok(&mut reader, &before, 10);
    assert!(reader.next_data(1 << 20).is_none(), "read before the seek");
    ok(&mut reader, &after, 1_000);
    reader.seek(&tp(0), 200);
    assert!(reader.next_data(1 << 20).is_none(), "held before the seek");
    assert_eq!(offset(&next(&mut reader)), 200);
    reader.seek(&tp(9), 1);
}

#[test]
fn a_paused_partition_is_silent_and_loses_nothing() {
    let mut reader = reader(1, v1::OffsetReset::Earliest);
    let work = next(&mut reader);
    reader.pause(&tp(0), true);
    ok(&mut reader, &work, 10);
    assert!(!reader.has_data(1 << 20) && !reader.holds(), "nobody takes it for now");
    reader.pause(&tp(0), false);
    let work = next(&mut reader);
    assert_eq!(offset(&work), 0);
    ok(&mut reader, &work, 10);
    let (data, ..) = reader.next_data(1 << 20).unwrap();
    assert_eq!(data.next_offset, 2);
    reader.pause(&tp(0), true);
    assert_eq!(reader.next_work(1 << 20), None);
    reader.pause(&tp(0), true);
    reader.pause(&tp(0), false);
    reader.pause(&tp(0), false);
    assert_eq!(offset(&next(&mut reader)), 2);
    assert_eq!(reader.next_work(1 << 20), None, "in the queue once");
}

#[test]
fn what_is_let_go_is_read_again_from_where_it_was_given_to() {
    let mut reader = reader(2, v1::OffsetReset::Earliest);
    let (first, second) = (next(&mut reader), next(&mut reader));
    ok(&mut reader, &first, 10);
    // One record of two.
    let (data, ..) = reader.next_data(1).unwrap();
    assert_eq!((data.partition, data.next_offset), (0, 1));
    assert!(reader.holds());
    reader.let_go();
    assert!(!reader.holds() && reader.next_data(1 << 20).is_none());
    let again = next(&mut reader);
    assert_eq!((again.tp.partition, offset(&again)), (0, 1));
    // What is out comes as before.
    ok(&mut reader, &second, 10);
    let (data, ..) = reader.next_data(1 << 20).unwrap();
    assert_eq!((data.partition, data.next_offset), (1, 2));
}

#[test]
fn a_new_assignment_forgets_the_former_one() {
    let mut reader = reader(2, v1::OffsetReset::Earliest);
    let (held, out) = (next(&mut reader), next(&mut reader));
    ok(&mut reader, &held, 10);
    reader.start(vec![(tp(1), 40)]);
    ok(&mut reader, &out, 10);
    assert!(reader.next_data(1 << 20).is_none());
    assert_eq!(offset(&next(&mut reader)), 40);
    assert_eq!(reader.next_work(1 << 20), None);
}

#[test]
fn damaged_data_is_said_and_stops_the_partition() {
    let mut reader = reader(1, v1::OffsetReset::Earliest);
    let work = next(&mut reader);
    let mut damaged = read(0, 10);
    damaged.batches[0] = damaged.batches[0].slice(..65);
    answer(&mut reader, &work, Answer::Read(Ok(damaged.into())));
    let (data, ..) = reader.next_data(1 << 20).unwrap();
    assert_eq!((data.error.unwrap().reason.as_str(), data.next_offset), ("DATA_LOSS", 0));
    assert_eq!(reader.next_work(1 << 20), None);
}

proptest! {
    /// Whatever happens on the way, each partition's records come once and in order, and the credit holds but for one
    /// record at a time.
    #[test]
    fn nothing_is_skipped_or_repeated(steps in proptest::collection::vec((0u8..6, 0usize..4), 1..300)) {
        let mut reader = reader(3, v1::OffsetReset::Earliest);
        let mut now = Instant::now();
        let (mut out, mut next_of, mut credit) = (Vec::<Work>::new(), [0i64; 3], 0i64);
        for (step, n) in steps {
            match step {
                0 => credit += 40 * i64::try_from(n).unwrap(),
                1 => out.extend(reader.next_work(credit)),
                2 if !out.is_empty() => {
                    let work = out.remove(n % out.len());
                    ok(&mut reader, &work, 50);
                }
                3 if !out.is_empty() => {
                    let work = out.remove(n % out.len());
                    let failed = Answer::Read(Err(error(Reason::NotReady)));
                    reader.on_answer(now, &work.tp, work.ticket, failed);
                }
                4 => {
                    now += Duration::from_secs(1);
                    reader.tick(now);
                }
                5 => reader.pause(&tp(u32::try_from(n % 3).unwrap()), n == 3),
                _ => {}
            }
            while reader.has_data(credit) {
                let Some((data, cost, _)) = reader.next_data(credit) else { break };
                let Some(v1::partition_data::Data::Records(records)) = data.data else { panic!() };
                prop_assert!(cost <= credit || records.records.len() == 1);
                credit -= cost;
                let at = &mut next_of[data.partition as usize];
                for record in records.records {
                    prop_assert_eq!(record.offset, *at);
                    *at += 1;
                }
                prop_assert_eq!(data.next_offset, *at);
            }
        }
    }
}

/// However much credit a client gives, what waits for it is bounded.
#[test]
fn what_is_held_is_bounded_in_bytes() {
    for partitions in [1, 3, 16, 40, 64, 200] {
        let mut reader = reader(partitions, v1::OffsetReset::Earliest);
        let asked = std::iter::from_fn(|| reader.next_work(1 << 40)).map(|work| match work.call {
            Call::Read(spec, _) => spec.max_bytes,
            Call::Find => 0,
        });
        let asked: Vec<usize> = asked.collect();
        assert!(asked.iter().sum::<usize>() <= MAX_HELD_BYTES, "{partitions}: {asked:?}");
        assert!(asked.iter().all(|bytes| *bytes >= MIN_READ_BYTES), "{asked:?}");
    }
}

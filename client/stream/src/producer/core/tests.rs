//! The producer's decisions, one by one; against a broker that fails in every way ([`world`]); and with numbers ([`numbered`]).

mod numbered;
mod world;

use geminga_proto::reason::Reason;
use geminga_records::{Sequence, decode};
use geminga_runtime::SeededRandom;

use super::batch::STUCK;
use super::*;

const PARTITIONS: u32 = 3;
/// What a broker may refuse any batch with: of a topic that it does not know yet, of a log that does not open, or of bytes
/// that were changed on their way.
const FOR_GOOD: [Reason; 3] = [Reason::UnknownTopic, Reason::DataLoss, Reason::CorruptBatch];

fn rules() -> Rules {
    Rules {
        compression: Compression::None,
        batch_bytes: 200,
        linger: Duration::from_millis(5),
        in_flight: 3,
        delivery_timeout: Duration::from_secs(120),
        acks_none: false,
        idempotent: false,
    }
}

fn idempotent() -> Rules {
    Rules { idempotent: true, ..rules() }
}

fn core(rules: Rules) -> Core<u64> {
    Core::new(rules, Arc::new(SeededRandom::new(1)))
}

fn record(number: u64) -> Record {
    Record { value: Some(Bytes::copy_from_slice(&number.to_be_bytes())), ..Record::default() }
}

fn numbers(batch: &Bytes) -> Vec<u64> {
    let batch = geminga_records::Batch::parse(batch.clone()).unwrap();
    let records = decode(&batch, 1 << 20).unwrap();
    let number = |r: Record| u64::from_be_bytes(r.value.unwrap()[..].try_into().unwrap());
    records.into_iter().map(number).collect()
}

fn numbers_of(batch: &Bytes) -> Option<Sequence> {
    geminga_records::Batch::parse(batch.clone()).unwrap().header().sequence()
}

fn api(reason: Reason) -> ApiError {
    ApiError::new(reason, "on purpose")
}

fn lost() -> Error {
    Error::Unreachable { server: "h:1".to_owned(), why: "reset".to_owned() }
}

/// One partition, one record a batch.
fn small() -> (Core<u64>, Instant) {
    (core(Rules { batch_bytes: 1, linger: Duration::ZERO, ..rules() }), Instant::now())
}

fn fill(core: &mut Core<u64>, count: u64, now: Instant) {
    for number in 0..count {
        core.append(&Arc::from("t"), 0, &record(number), number, || now, &mut Vec::new()).unwrap();
    }
}

fn sent(core: &mut Core<u64>, now: Instant) -> Vec<(u64, Vec<u64>, bool)> {
    let elements = core.collect(Way::Any, 1 << 20, now, &mut Vec::new());
    elements.into_iter().map(|e| (e.id, numbers(&e.batch), e.restart)).collect()
}

#[test]
fn a_failure_stops_the_lane_until_all_answers_are_in() {
    let (mut core, mut now) = small();
    fill(&mut core, 5, now);
    let mut done = Vec::new();
    assert_eq!(
        sent(&mut core, now),
        [(1, vec![0], false), (2, vec![1], false), (3, vec![2], false)]
    );
    core.on_result(1, Err(api(Reason::NotReady)), now, &mut done);
    now += Duration::from_secs(5);
    assert!(core.ready(now).is_empty() && sent(&mut core, now).is_empty());
    core.on_result(2, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert!(sent(&mut core, now).is_empty());
    core.on_result(3, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert!(sent(&mut core, now).is_empty(), "it pauses first");
    let resume = core.ready_after(now).unwrap();
    assert!(resume > now && resume <= now + Duration::from_millis(50));
    let again = sent(&mut core, resume);
    assert_eq!(again, [(4, vec![0], true), (5, vec![1], false), (6, vec![2], false)]);
    core.on_result(4, Ok((10, 0)), now, &mut done);
    // An answer of the attempt before means nothing.
    core.on_result(1, Ok((0, 0)), now, &mut done);
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].1.as_ref().unwrap().offset, Some(10));
    assert_eq!(sent(&mut core, now), [(7, vec![3], false)]);
}

#[test]
fn a_record_refused_for_good_ends_alone_and_at_once() {
    let (mut core, now) = small();
    fill(&mut core, 3, now);
    sent(&mut core, now);
    let mut done = Vec::new();
    core.on_result(1, Err(api(Reason::InvalidRecord)), now, &mut done);
    assert_eq!(done.len(), 1);
    core.on_result(2, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    core.on_result(3, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert_eq!(sent(&mut core, now), [(4, vec![1], true), (5, vec![2], false)]);
    assert_eq!(done.len(), 1);
}

#[test]
fn a_batch_too_large_is_sent_in_halves() {
    let mut core = core(Rules { linger: Duration::ZERO, batch_bytes: 1 << 20, ..rules() });
    let now = Instant::now();
    fill(&mut core, 3, now);
    let mut done = Vec::new();
    assert_eq!(sent(&mut core, now), [(1, vec![0, 1, 2], false)]);
    core.on_result(1, Err(api(Reason::MessageTooLarge)), now, &mut done);
    assert_eq!(sent(&mut core, now), [(2, vec![0], true), (3, vec![1, 2], false)]);
    core.on_result(2, Ok((0, 0)), now, &mut done);
    core.on_result(3, Err(api(Reason::MessageTooLarge)), now, &mut done);
    assert_eq!(sent(&mut core, now), [(4, vec![1], true), (5, vec![2], false)]);
    core.on_result(4, Err(api(Reason::MessageTooLarge)), now, &mut done);
    core.on_result(5, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert_eq!(sent(&mut core, now), [(6, vec![2], true)]);
    core.on_result(6, Ok((1, 0)), now, &mut done);
    let ends: Vec<(u64, bool)> = done.iter().map(|(n, end)| (*n, end.is_ok())).collect();
    assert_eq!(ends, [(0, true), (1, false), (2, true)]);
    assert_eq!(core.pending(), 0);
}

#[test]
fn nothing_is_tried_for_ever() {
    let (mut core, now) = small();
    fill(&mut core, 2, now);
    sent(&mut core, now);
    let late = core.overdue_at().unwrap();
    assert_eq!(late, now + rules().delivery_timeout);
    let mut done = Vec::new();
    assert!(core.expire(late, &mut done).is_empty(), "its answer may yet come");
    assert_eq!(done.len(), 2);
    assert!(done.iter().all(|(_, end)| matches!(end, Err(Error::TimedOut { .. }))));
    assert!(core.ready(late).is_empty(), "two attempts could be open otherwise");
    assert_eq!((core.pending(), core.overdue_at()), (0, Some(late + STUCK)));
    let late = late + STUCK;
    assert!(!core.expire(late, &mut done).is_empty(), "a stream that does not answer is given up");
    core.on_stream_lost(Way::Any, &lost(), late, &mut Vec::new());
    assert!(core.expire(late, &mut done).is_empty());
    assert_eq!((done.len(), core.overdue_at()), (2, None));
    // What comes later starts again.
    core.append(&Arc::from("t"), 0, &record(9), 9, || late, &mut done).unwrap();
    assert_eq!(sent(&mut core, late + Duration::from_secs(5)), [(3, vec![9], true)]);
}

#[test]
fn a_partition_that_takes_too_long_disturbs_no_other_and_repeats_nothing() {
    let (mut core, now) = small();
    fill(&mut core, 2, now);
    sent(&mut core, now);
    let late = core.overdue_at().unwrap();
    let mut done = Vec::new();
    core.append(&Arc::from("t"), 0, &record(9), 9, || late, &mut done).unwrap();
    core.append(&Arc::from("t"), 1, &record(10), 10, || late, &mut done).unwrap();
    assert!(core.expire(late, &mut done).is_empty());
    let told: Vec<u64> = done.drain(..).map(|(number, _)| number).collect();
    assert_eq!(told, [0, 1]);
    let other = sent(&mut core, late + rules().linger);
    assert!(other.iter().any(|(_, numbers, _)| numbers == &[10]), "{other:?}");
    core.on_result(1, Err(api(Reason::Unknown)), late, &mut done);
    core.on_result(2, Err(api(Reason::PriorBatchFailed)), late, &mut done);
    assert!(done.is_empty(), "they have been told");
    for (id, numbers, _) in &other {
        let end = if numbers == &[9] { Err(api(Reason::PriorBatchFailed)) } else { Ok((0, 0)) };
        core.on_result(*id, end, late, &mut done);
    }
    let next = sent(&mut core, late + Duration::from_secs(5));
    assert_eq!(
        next.iter().map(|(_, n, restart)| (&n[..], *restart)).collect::<Vec<_>>(),
        [(&[9][..], true)]
    );
}

#[test]
fn what_cannot_be_sent_waits_and_says_why_at_the_end() {
    for acks_none in [false, true] {
        let mut core = core(Rules { acks_none, batch_bytes: 1, ..rules() });
        let now = Instant::now();
        fill(&mut core, 2, now);
        core.on_stream_lost(Way::Any, &lost(), now, &mut Vec::new());
        assert!(core.ready(now).is_empty(), "a broker that is away is not asked all the time");
        assert!(!core.ready(core.ready_after(now).unwrap()).is_empty());
        let mut done = Vec::new();
        assert!(core.expire(core.overdue_at().unwrap(), &mut done).is_empty());
        assert_eq!((done.len(), core.pending()), (2, 0));
        assert!(done.iter().all(|(_, end)| end.as_ref().unwrap_err().is_unreachable()));
    }
}

#[test]
fn a_message_keeps_to_its_size_unless_one_batch_is_larger() {
    let mut core =
        core(Rules { batch_bytes: 1, linger: Duration::ZERO, in_flight: 100, ..rules() });
    let now = Instant::now();
    for (number, size) in [10, 10, 2_000, 10].into_iter().enumerate() {
        let record = Record { value: Some(vec![0; size].into()), ..Record::default() };
        core.append(&Arc::from("t"), 0, &record, number as u64, || now, &mut Vec::new()).unwrap();
    }
    let mut counts = Vec::new();
    while !core.ready(now).is_empty() {
        counts.push(core.collect(Way::Any, 1_000, now, &mut Vec::new()).len());
    }
    assert_eq!(counts, [2, 1, 1]);
}

#[test]
fn batches_wait_to_become_full_but_not_for_long() {
    let mut core = core(rules());
    let now = Instant::now();
    fill(&mut core, 1, now);
    assert!(core.ready(now).is_empty());
    assert_eq!(core.ready_after(now), Some(now + rules().linger));
    assert!(sent(&mut core, now).is_empty());
    assert_eq!(sent(&mut core, now + rules().linger), [(1, vec![0], false)]);
    fill(&mut core, 1, now);
    core.set_flush(true);
    assert_eq!(sent(&mut core, now), [(2, vec![0], false)]);
    core.set_flush(false);
    let mut appended = Vec::new();
    for number in 0..12 {
        let topic = Arc::from("t");
        let now = now + Duration::from_millis(1);
        appended.push(
            core.append(&topic, 1, &record(number), number, || now, &mut Vec::new()).unwrap(),
        );
    }
    let full: Vec<bool> = appended.iter().map(|a| a.enough).collect();
    assert!(full.contains(&true) && appended[0].wake && !appended[1].wake, "{appended:?}");
}

/// What comes so slowly that no batch becomes full is not all of one partition.
#[test]
fn small_batches_are_a_batch_s_worth_in_the_end() {
    let mut core = core(rules());
    let mut now = Instant::now();
    let mut runs = vec![0];
    for number in 0..60 {
        let topic = Arc::from("t");
        let appended =
            core.append(&topic, 1, &record(number), number, || now, &mut Vec::new()).unwrap();
        *runs.last_mut().expect("one") += 1;
        if appended.enough {
            runs.push(0);
        }
        now += rules().linger;
        let [(id, ..)] = sent(&mut core, now)[..] else { panic!("each is sent alone") };
        core.on_result(id, Ok((i64::try_from(number).unwrap(), 0)), now, &mut Vec::new());
    }
    let (ended, rest) = runs.split_at(runs.len() - 1);
    assert!(ended.len() > 2 && ended.iter().all(|run| *run == ended[0]), "{ended:?}, {rest:?}");
}

#[test]
fn without_acks_a_record_ends_when_it_is_sent() {
    let mut core = core(Rules { acks_none: true, batch_bytes: 1, ..rules() });
    let now = Instant::now();
    fill(&mut core, 5, now);
    let mut done = Vec::new();
    let elements = core.collect(Way::Any, 1 << 20, now, &mut done);
    assert_eq!(elements.len(), 5);
    assert!(
        elements.iter().all(|element| element.restart),
        "a failure nobody hears of is not the end"
    );
    assert!(done.iter().all(|(_, end)| end.as_ref().is_ok_and(|ack| ack.offset.is_none())));
    assert_eq!(core.pending(), 0);
}

#[test]
fn no_lane_starves() {
    let mut core = core(Rules { batch_bytes: 1, linger: Duration::ZERO, ..rules() });
    let now = Instant::now();
    for partition in [0, 1, 0, 1, 0, 1] {
        core.append(&Arc::from("t"), partition, &record(0), 0, || now, &mut Vec::new()).unwrap();
    }
    let mut lanes = Vec::new();
    for _ in 0..4 {
        lanes.extend(
            core.collect(Way::Any, 1, now, &mut Vec::new()).into_iter().map(|e| e.partition),
        );
    }
    assert!(lanes.contains(&0) && lanes.contains(&1), "{lanes:?}");
}

#[test]
fn a_closed_core_holds_and_takes_nothing() {
    let (mut core, now) = small();
    fill(&mut core, 3, now);
    let mut done = Vec::new();
    core.close(&Error::Closed, &mut done);
    assert_eq!((done.len(), core.pending()), (3, 0));
    let refused = core.append(&Arc::from("t"), 0, &record(1), 1, || now, &mut done);
    assert_eq!(refused.unwrap_err().1, Error::Closed);
}

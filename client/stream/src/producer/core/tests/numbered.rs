//! Idempotent producers.

use super::*;

/// One partition, one record a batch, with numbers: epoch and first of each element.
fn small_idempotent() -> (Core<u64>, Instant) {
    let mut core = core(Rules { batch_bytes: 1, linger: Duration::ZERO, ..idempotent() });
    core.on_producer((7, 0));
    (core, Instant::now())
}

fn sent_numbers(core: &mut Core<u64>, now: Instant) -> Vec<(u64, i16, i32)> {
    let elements = core.collect(Way::Any, 1 << 20, now, &mut Vec::new());
    let numbers = elements.into_iter().map(|element| {
        let sequence = numbers_of(&element.batch).unwrap();
        assert_eq!(sequence.producer_id, 7);
        (element.id, sequence.epoch, sequence.first)
    });
    numbers.collect()
}

#[test]
fn numbers_follow_each_other_and_stay_when_a_batch_is_sent_again() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 5, now);
    assert_eq!(sent_numbers(&mut core, now), [(1, 0, 0), (2, 0, 1), (3, 0, 2)]);
    let mut done = Vec::new();
    core.on_result(1, Ok((0, 0)), now, &mut done);
    core.on_result(2, Err(api(Reason::Unknown)), now, &mut done);
    core.on_result(3, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    let now = now + Duration::from_secs(5);
    assert_eq!(sent_numbers(&mut core, now), [(4, 0, 1), (5, 0, 2), (6, 0, 3)]);
    core.on_stream_lost(Way::Any, &lost(), now, &mut Vec::new());
    let now = now + Duration::from_secs(5);
    assert_eq!(sent_numbers(&mut core, now), [(7, 0, 1), (8, 0, 2), (9, 0, 3)]);
}

#[test]
fn nothing_is_sent_without_a_producer_id() {
    let mut core = core(Rules { batch_bytes: 1, linger: Duration::ZERO, ..idempotent() });
    let now = Instant::now();
    assert!(!core.wants_producer(now), "there is nothing to send");
    fill(&mut core, 1, now);
    assert!(core.wants_producer(now) && core.ready(now).is_empty());
    assert!(core.collect(Way::Any, 1 << 20, now, &mut Vec::new()).is_empty());
    core.on_no_producer(&lost(), now);
    assert!(!core.wants_producer(now), "a broker that is away is not asked all the time");
    let at = core.ready_after(now).unwrap();
    assert!(at > now && core.wants_producer(at));
    let mut done = Vec::new();
    core.expire(core.overdue_at().unwrap(), &mut done);
    assert!(done.remove(0).1.unwrap_err().is_unreachable());
    fill(&mut core, 1, at);
    core.on_producer((7, 3));
    assert_eq!(sent_numbers(&mut core, at), [(1, 3, 0)]);
}

/// Without the batch that is refused for good none behind it can have been written.
#[test]
fn behind_a_batch_that_is_refused_for_good_a_new_epoch_begins() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 4, now);
    assert_eq!(sent_numbers(&mut core, now), [(1, 0, 0), (2, 0, 1), (3, 0, 2)]);
    let mut done = Vec::new();
    core.on_result(1, Ok((0, 0)), now, &mut done);
    core.on_result(2, Err(api(Reason::InvalidRecord)), now, &mut done);
    core.on_result(3, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert_eq!(done.len(), 2);
    assert_eq!(sent_numbers(&mut core, now), [(4, 1, 0), (5, 1, 1)]);
}

/// One that was submitted before the failure of another was known misses that one's number: no loss.
#[test]
fn a_number_missed_behind_a_batch_that_is_refused_for_good_is_no_loss() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 2, now);
    sent_numbers(&mut core, now);
    let mut done = Vec::new();
    core.on_result(1, Err(api(Reason::InvalidRecord)), now, &mut done);
    assert!(sent_numbers(&mut core, now).is_empty(), "its answer is about its first numbers");
    core.on_result(2, Err(api(Reason::OutOfOrderSequence)), now, &mut done);
    assert_eq!(done.len(), 1);
    assert_eq!(sent_numbers(&mut core, now), [(3, 1, 0)]);
}

/// The first four of five records, of which the first three are in doubt and on their way again as 4, 5 and 6.
fn in_doubt() -> (Core<u64>, Instant) {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 4, now);
    sent_numbers(&mut core, now);
    core.on_stream_lost(Way::Any, &lost(), now, &mut Vec::new());
    let now = now + Duration::from_secs(5);
    assert_eq!(sent_numbers(&mut core, now), [(4, 0, 0), (5, 0, 1), (6, 0, 2)]);
    (core, now)
}

fn ends_in_doubt(done: &[Done<u64>]) -> Vec<u64> {
    let ended = done.iter().map(|(number, end)| {
        assert!(matches!(end, Err(Error::InDoubt { .. })), "{end:?}");
        *number
    });
    ended.collect()
}

/// That an attempt is refused for good does not say what became of the one before it.
#[test]
fn what_is_in_doubt_behind_a_batch_that_is_refused_in_doubt_ends_with_it() {
    let (mut core, now) = in_doubt();
    let mut done = Vec::new();
    core.on_result(4, Err(api(Reason::MessageTooLarge)), now, &mut done);
    core.on_result(5, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    core.on_result(6, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert_eq!(ends_in_doubt(&done), [0, 1, 2]);
    assert_eq!(sent_numbers(&mut core, now), [(7, 1, 0)], "the fourth was never sent");
    assert_eq!(core.pending(), 1);
}

/// A broker that does not know the topic yet, or cannot open its log, may do so later: then the numbers tell.
#[test]
fn what_is_in_doubt_is_repeated_in_time_although_it_is_refused_for_good() {
    for reason in FOR_GOOD {
        let (mut core, now) = in_doubt();
        let mut done = Vec::new();
        core.on_result(4, Err(api(reason)), now, &mut done);
        core.on_result(5, Err(api(Reason::PriorBatchFailed)), now, &mut done);
        core.on_result(6, Err(api(Reason::PriorBatchFailed)), now, &mut done);
        assert!(done.is_empty() && core.ready(now).is_empty(), "it pauses");
        let now = now + Duration::from_secs(5);
        assert_eq!(sent_numbers(&mut core, now), [(7, 0, 0), (8, 0, 1), (9, 0, 2)]);
        core.on_result(7, Ok((0, 0)), now, &mut done);
        assert_eq!(done.len(), 1);
        // Not for ever: when nobody waits for it any more, it is not sent again.
        let late = core.overdue_at().unwrap();
        done.clear();
        core.expire(late, &mut done);
        core.append(&Arc::from("t"), 0, &record(9), 9, || late, &mut done).unwrap();
        core.on_result(8, Err(api(reason)), late, &mut done);
        core.on_result(9, Err(api(Reason::PriorBatchFailed)), late, &mut done);
        assert_eq!(done.len(), 3);
        assert_eq!(sent_numbers(&mut core, late), [(10, 1, 0)]);
    }
}

/// It was answered, and not written, before its stream broke: its number is missing.
#[test]
fn what_leaves_with_its_stream_leaves_a_new_epoch_behind() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 1, now);
    let later = now + Duration::from_secs(10);
    core.append(&Arc::from("t"), 0, &record(1), 1, || later, &mut Vec::new()).unwrap();
    sent_numbers(&mut core, later);
    let late = now + rules().delivery_timeout;
    let mut done = Vec::new();
    core.expire(late, &mut done);
    assert_eq!(done.len(), 1);
    core.on_result(1, Err(api(Reason::OutOfOrderSequence)), late, &mut done);
    core.on_stream_lost(Way::Any, &lost(), late, &mut done);
    let late = late + Duration::from_secs(5);
    assert_eq!(sent_numbers(&mut core, late), [(3, 1, 0)]);
    assert_eq!(done.len(), 1);
}

/// What is on its way in the former epoch is acknowledged first, or sent again as it was.
#[test]
fn epochs_are_not_mixed_on_the_way() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 3, now);
    sent_numbers(&mut core, now);
    core.on_stream_lost(Way::Any, &lost(), now, &mut Vec::new());
    let now = now + Duration::from_secs(5);
    // One fits into the message.
    let first = core.collect(Way::Any, 1, now, &mut Vec::new());
    assert_eq!(first.len(), 1);
    assert!(core.lanes[0].renumber(1));
    assert!(core.ready(now).is_empty(), "the first is of the former epoch");
    core.on_result(first[0].id, Ok((0, 0)), now, &mut Vec::new());
    assert_eq!(sent_numbers(&mut core, now), [(5, 1, 0), (6, 1, 1)]);
}

#[test]
fn a_producer_that_is_not_known_any_more_begins_a_new_epoch() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 2, now);
    let mut done = Vec::new();
    assert_eq!(sent_numbers(&mut core, now), [(1, 0, 0), (2, 0, 1)]);
    core.on_result(1, Ok((0, 0)), now, &mut done);
    core.on_result(2, Err(api(Reason::UnknownProducerId)), now, &mut done);
    assert_eq!(sent_numbers(&mut core, now), [(3, 1, 0)]);
    assert_eq!(done.len(), 1, "it was certainly not written, and is sent");
}

/// A record whose fate nobody can find out any more is not written twice.
#[test]
fn what_is_in_doubt_with_a_producer_that_is_not_known_ends() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 4, now);
    sent_numbers(&mut core, now);
    core.on_stream_lost(Way::Any, &lost(), now, &mut Vec::new());
    let now = now + Duration::from_secs(5);
    let mut done = Vec::new();
    sent_numbers(&mut core, now);
    core.on_result(4, Err(api(Reason::UnknownProducerId)), now, &mut done);
    core.on_result(5, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    core.on_result(6, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    let ended: Vec<u64> = done.iter().map(|(number, _)| *number).collect();
    assert_eq!(ended, [0, 1, 2]);
    assert!(done.iter().all(|(_, end)| matches!(end, Err(Error::InDoubt { .. }))));
    assert_eq!(sent_numbers(&mut core, now), [(7, 1, 0)], "the fourth was never sent");
    assert_eq!(core.pending(), 1);
}

/// A number that the broker misses, of a batch that was acknowledged, is a loss: it is not passed over in silence.
#[test]
fn a_gap_at_the_broker_is_told() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 2, now);
    sent_numbers(&mut core, now);
    let mut done = Vec::new();
    core.on_result(1, Err(api(Reason::OutOfOrderSequence)), now, &mut done);
    core.on_result(2, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert_eq!(done.len(), 1);
    assert_eq!(done[0].1.as_ref().unwrap_err().reason(), Reason::OutOfOrderSequence);
    assert_eq!(sent_numbers(&mut core, now), [(3, 1, 0)]);
}

/// When nobody waits for it any more, it is still sent until its fate is known: what comes after it needs its numbers.
#[test]
fn what_is_in_doubt_keeps_its_place_beyond_its_time() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 1, now);
    sent_numbers(&mut core, now);
    core.on_stream_lost(Way::Any, &lost(), now, &mut Vec::new());
    let late = now + rules().delivery_timeout;
    let mut done = Vec::new();
    assert!(core.expire(late, &mut done).is_empty());
    assert_eq!((done.len(), core.pending()), (1, 0));
    core.append(&Arc::from("t"), 0, &record(9), 9, || late, &mut done).unwrap();
    assert_eq!(sent_numbers(&mut core, late), [(2, 0, 0), (3, 0, 1)]);
    assert!(core.expire(late, &mut done).is_empty(), "this attempt is young");
    assert_eq!(core.overdue_at(), Some(late + STUCK));
    core.on_result(2, Ok((0, 0)), late, &mut done);
    core.on_result(3, Ok((1, 0)), late, &mut done);
    assert_eq!(done.len(), 2);
    assert!(core.busy.is_empty());
}

/// One that was certainly not written goes when its time is over; its numbers are not used again.
#[test]
fn what_was_not_written_leaves_a_new_epoch_behind() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 1, now);
    sent_numbers(&mut core, now);
    let mut done = Vec::new();
    core.on_result(1, Err(api(Reason::NotWritten)), now, &mut done);
    let late = now + rules().delivery_timeout;
    core.expire(late, &mut done);
    assert_eq!(done.len(), 1);
    core.append(&Arc::from("t"), 0, &record(9), 9, || late, &mut done).unwrap();
    assert_eq!(sent_numbers(&mut core, late), [(2, 1, 0)]);
}

#[test]
fn a_new_id_is_asked_for_when_the_epochs_of_one_are_used_up() {
    let mut core = core(Rules { batch_bytes: 1, linger: Duration::ZERO, ..idempotent() });
    let now = Instant::now();
    core.on_producer((6, i16::MAX));
    fill(&mut core, 2, now);
    core.collect(Way::Any, 1 << 20, now, &mut Vec::new());
    core.on_result(1, Err(api(Reason::InvalidRecord)), now, &mut Vec::new());
    core.on_result(2, Err(api(Reason::PriorBatchFailed)), now, &mut Vec::new());
    assert!(core.wants_producer(now) && core.ready(now).is_empty());
    core.on_producer((7, 0));
    assert_eq!(sent_numbers(&mut core, now), [(3, 0, 0)]);
}

/// Who has written under the same id since is left alone.
#[test]
fn a_fenced_producer_takes_a_new_id() {
    let (mut core, now) = small_idempotent();
    core.on_producer((6, 0));
    fill(&mut core, 1, now);
    core.collect(Way::Any, 1 << 20, now, &mut Vec::new());
    core.on_result(1, Err(api(Reason::InvalidProducerEpoch)), now, &mut Vec::new());
    assert!(core.wants_producer(now));
    core.on_producer((7, 0));
    assert_eq!(sent_numbers(&mut core, now), [(2, 0, 0)]);
}

#[test]
fn a_batch_written_long_ago_is_acknowledged_without_its_place() {
    let (mut core, now) = small_idempotent();
    fill(&mut core, 2, now);
    sent_numbers(&mut core, now);
    let mut done = Vec::new();
    core.on_result(1, Err(api(Reason::DuplicateSequence)), now, &mut done);
    core.on_result(2, Err(api(Reason::PriorBatchFailed)), now, &mut done);
    assert_eq!(done[0].1.as_ref().unwrap().offset, None);
    assert_eq!(sent_numbers(&mut core, now), [(3, 0, 1)]);
}

use geminga_proto::ids::Offset;
use proptest::prelude::*;

use super::*;

fn meta(id: u64) -> Meta {
    Meta { id, answered: true, restart: false, direct: false, cost: 1 }
}

fn item(id: u64) -> Item<u64> {
    Item { meta: meta(id), work: Ok(id) }
}

fn restart(id: u64) -> Item<u64> {
    Item { meta: Meta { restart: true, ..meta(id) }, work: Ok(id) }
}

fn ok(offset: i64) -> Result<Appended, ApiError> {
    Ok(Appended { base_offset: Offset(offset), log_append_time_ms: -1 })
}

fn failed() -> Result<Appended, ApiError> {
    Err(ApiError::new(Reason::Unknown, "lost"))
}

/// Submits the next element and says that its place is fixed.
fn submit(lane: &mut Lane<u64>) -> Ticket {
    let submit = lane.next(true).expect("something to submit");
    lane.submitted(submit.ticket, Ok(()));
    submit.ticket
}

fn results(lane: &mut Lane<u64>) -> Vec<(u64, Option<Reason>)> {
    std::iter::from_fn(|| lane.take_result())
        .map(|(meta, result)| (meta.id, result.err().map(|e| e.reason)))
        .collect()
}

#[test]
fn results_come_in_the_order_of_the_elements() {
    let mut lane = Lane::default();
    (1..=3).for_each(|id| lane.push(item(id)));
    let tickets: Vec<_> = (0..3).map(|_| submit(&mut lane)).collect();
    lane.resolved(tickets[1], ok(1));
    assert_eq!(results(&mut lane), []);
    lane.resolved(tickets[0], ok(0));
    assert_eq!(results(&mut lane), [(1, None), (2, None)]);
    lane.resolved(tickets[2], ok(2));
    assert_eq!(results(&mut lane), [(3, None)]);
    assert!(lane.is_idle());
}

#[test]
fn after_a_failure_everything_is_refused_until_a_restart() {
    let mut lane = Lane::default();
    (1..=2).for_each(|id| lane.push(item(id)));
    let first = submit(&mut lane);
    lane.resolved(first, failed());
    assert!(lane.next(true).is_none());
    lane.push(item(3));
    lane.push(restart(1));
    lane.push(item(2));
    let again = submit(&mut lane);
    let prior = Some(Reason::PriorBatchFailed);
    assert_eq!(results(&mut lane), [(1, Some(Reason::Unknown)), (2, prior), (3, prior)]);
    let second = submit(&mut lane);
    lane.resolved(again, ok(0));
    lane.resolved(second, ok(1));
    assert_eq!(results(&mut lane), [(1, None), (2, None)]);
}

#[test]
fn a_failure_from_before_a_restart_stops_nothing() {
    let mut lane = Lane::default();
    (1..=2).for_each(|id| lane.push(item(id)));
    let (first, second) = (submit(&mut lane), submit(&mut lane));
    lane.resolved(first, failed());
    lane.push(restart(1));
    lane.push(item(2));
    let again = submit(&mut lane);
    lane.resolved(second, failed());
    let last = submit(&mut lane);
    lane.resolved(again, ok(0));
    lane.resolved(last, ok(1));
    let unknown = Some(Reason::Unknown);
    assert_eq!(results(&mut lane), [(1, unknown), (2, unknown), (1, None), (2, None)]);
}

#[test]
fn what_cannot_be_submitted_fails_in_its_place() {
    let mut lane = Lane::default();
    lane.push(item(1));
    lane.push(Item { work: Err(ApiError::new(Reason::CorruptBatch, "bad")), ..item(2) });
    lane.push(item(3));
    let first = submit(&mut lane);
    assert!(lane.next(true).is_none());
    assert_eq!(results(&mut lane), [], "the first is still open");
    lane.resolved(first, ok(0));
    let (corrupt, prior) = (Some(Reason::CorruptBatch), Some(Reason::PriorBatchFailed));
    assert_eq!(results(&mut lane), [(1, None), (2, corrupt), (3, prior)]);
    assert!(!lane.is_idle(), "the failure must be remembered");
}

#[test]
fn an_element_without_an_answer_stops_nothing() {
    let mut lane = Lane::default();
    lane.push(Item { meta: Meta { answered: false, ..meta(1) }, ..item(1) });
    lane.push(item(2));
    let first = submit(&mut lane);
    lane.resolved(first, failed());
    let second = submit(&mut lane);
    lane.resolved(second, ok(0));
    assert_eq!(results(&mut lane), [(1, Some(Reason::Unknown)), (2, None)]);
}

#[test]
fn another_path_waits_for_what_is_open_on_the_former_one() {
    let mut lane = Lane::default();
    (1..=2).for_each(|id| lane.push(item(id)));
    let first = submit(&mut lane);
    assert!(lane.next(false).is_none());
    lane.resolved(first, ok(0));
    assert_eq!(lane.next(false).expect("nothing is open").element, 2);
}

#[test]
fn one_element_is_submitted_at_a_time() {
    let mut lane = Lane::default();
    (1..=2).for_each(|id| lane.push(item(id)));
    let first = lane.next(true).expect("the first");
    assert!(lane.next(true).is_none());
    lane.submitted(first.ticket, Err(ApiError::new(Reason::MessageTooLarge, "too large")));
    assert!(lane.next(true).is_none());
    let prior = Some(Reason::PriorBatchFailed);
    assert_eq!(results(&mut lane), [(1, Some(Reason::MessageTooLarge)), (2, prior)]);
}

#[derive(Debug, Clone)]
enum Step {
    Submit { same_path: bool, refused: bool },
    Resolve { which: usize, fails: bool },
    PathBreaks,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(same_path, refused)| Step::Submit { same_path, refused }),
        4 => (0..4_usize, prop::bool::weighted(0.2))
            .prop_map(|(which, fails)| Step::Resolve { which, fails }),
        1 => Just(Step::PathBreaks),
    ];
    prop::collection::vec(step, 1..400)
}

proptest! {
    /// A client that goes back to the first element that failed, as ours does, over paths that break at any time. A path keeps
    /// the order of what it takes and, like an opening or an owner's stream, takes nothing after it has failed one.
    #[test]
    fn first_deliveries_keep_their_order(steps in steps()) {
        let mut lane: Lane<u64> = Lane::default();
        let mut client = Client::default();
        let mut log: Vec<u64> = Vec::new();
        // Elements taken by the present path and not resolved yet; whether it is broken.
        let mut open: VecDeque<(Ticket, u64)> = VecDeque::new();
        let mut broken = false;
        client.send(&mut lane, 40);
        for step in steps {
            match step {
                Step::Submit { same_path, refused } => {
                    let fresh = open.is_empty() && (broken || !same_path);
                    if let Some(submit) = lane.next(!broken && same_path) {
                        if fresh { broken = false; }
                        prop_assert!(!broken || !open.is_empty());
                        if refused || broken {
                            broken = true;
                            lane.submitted(submit.ticket, Err(ApiError::new(Reason::NotReady, "x")));
                        } else {
                            lane.submitted(submit.ticket, Ok(()));
                            open.push_back((submit.ticket, submit.element));
                        }
                    }
                }
                Step::Resolve { which, fails } => {
                    // Fates become known in order; a failure breaks the path.
                    for _ in 0..=which {
                        let Some((ticket, element)) = open.pop_front() else { break };
                        if broken || fails {
                            broken = true;
                            lane.resolved(ticket, failed());
                        } else {
                            log.push(element);
                            lane.resolved(ticket, ok(0));
                        }
                    }
                }
                Step::PathBreaks => {
                    // Some of what was taken is in the log and its acknowledgement is lost: a prefix.
                    if let Some((_, element)) = open.front() && !broken { log.push(*element); }
                    broken = true;
                }
            }
            while let Some((meta, result)) = lane.take_result() {
                client.on_result(&mut lane, meta.id, result.is_ok());
            }
        }
        let mut seen = 0;
        for element in log {
            prop_assert!(element <= seen + 1, "{element} is delivered before {}", seen + 1);
            seen = seen.max(element);
        }
        prop_assert!(client.acked <= seen, "acknowledged and not in the log");
    }
}

/// Go-back-N with one attempt open at a time: after a failure it waits for all results of the attempt.
#[derive(Debug, Default)]
struct Client {
    last: u64,
    acked: u64,
    in_flight: u64,
    failed: bool,
}

impl Client {
    fn send(&mut self, lane: &mut Lane<u64>, last: u64) {
        self.last = last;
        let again = self.failed;
        self.failed = false;
        for element in self.acked + 1..=last {
            let first = element == self.acked + 1;
            lane.push(if first && again { restart(element) } else { item(element) });
            self.in_flight += 1;
        }
    }

    fn on_result(&mut self, lane: &mut Lane<u64>, id: u64, ok: bool) {
        self.in_flight -= 1;
        if ok && !self.failed {
            assert_eq!(id, self.acked + 1, "acknowledged out of order");
            self.acked = id;
        } else {
            assert!(!ok, "{id} was written after an earlier element had failed");
            self.failed = true;
        }
        if self.failed && self.in_flight == 0 {
            self.send(lane, self.last);
        }
    }
}

//! Whose turn it is: some deleted topics at a time, those first that have waited for longest. What cannot be removed now is put off by
//! itself, longer each time, and holds up no other. Pure; the task around it moves what this says.

use std::collections::BTreeMap;
use std::time::Duration;

use geminga_proto::ids::TopicId;
use tokio::time::Instant;

/// Topics removed at a time.
pub(super) const PARALLEL: usize = 4;
/// Before what could not be removed is tried again; doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
struct Turn {
    running: bool,
    /// Not tried before.
    due: Instant,
    /// The next one.
    pause: Duration,
    /// Where the last attempt ended.
    place: Option<String>,
}

/// Topics of which something may be left. One entry each; at most [`PARALLEL`] run.
#[derive(Debug, Default)]
pub(super) struct Turns {
    topics: BTreeMap<TopicId, Turn>,
    /// Also of topics that are known no more.
    running: usize,
}

impl Turns {
    /// How many topics there are.
    pub(super) fn len(&self) -> usize {
        self.topics.len()
    }

    /// Something is left of a topic.
    pub(super) fn add(&mut self, topic: TopicId, now: Instant) {
        let turn = Turn { running: false, due: now, pause: FIRST_PAUSE, place: None };
        self.topics.entry(topic).or_insert(turn);
    }

    /// Nothing is left of it.
    pub(super) fn remove(&mut self, topic: TopicId) {
        self.topics.remove(&topic);
    }

    /// These are all there are.
    pub(super) fn set(&mut self, all: &[TopicId], now: Instant) {
        self.topics.retain(|topic, _| all.contains(topic));
        all.iter().for_each(|topic| self.add(*topic, now));
    }

    /// Where the next attempt at a topic is to begin.
    pub(super) fn place(&self, topic: TopicId) -> Option<String> {
        self.topics.get(&topic)?.place.clone()
    }

    /// An attempt at a topic ended there.
    pub(super) fn ended_at(&mut self, topic: TopicId, place: Option<String>) {
        if let Some(turn) = self.topics.get_mut(&topic) {
            turn.place = place;
        }
    }

    /// The topic to begin with now, if any; [`Turns::over`] is to follow.
    pub(super) fn begin(&mut self, now: Instant) -> Option<TopicId> {
        if self.running >= PARALLEL {
            return None;
        }
        let waiting = self.topics.iter_mut().filter(|(_, turn)| !turn.running && turn.due <= now);
        let (topic, turn) = waiting.min_by_key(|(_, turn)| turn.due)?;
        turn.running = true;
        self.running += 1;
        Some(*topic)
    }

    /// When the next one is due; `None` while nobody waits, or as many run as may.
    pub(super) fn next(&self) -> Option<Instant> {
        let waiting = self.topics.values().filter(|turn| !turn.running);
        waiting.map(|turn| turn.due).min().filter(|_| self.running < PARALLEL)
    }

    /// A topic's turn is over. `done`: nothing is left of it.
    pub(super) fn over(&mut self, topic: TopicId, done: bool, now: Instant) {
        self.running -= 1;
        if done {
            return self.remove(topic);
        }
        let Some(turn) = self.topics.get_mut(&topic) else { return };
        turn.running = false;
        turn.due = now + turn.pause;
        turn.pause = (turn.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(number: u128) -> TopicId {
        TopicId::from_random(number)
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_that_is_stuck_holds_up_no_other() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let all: Vec<TopicId> = (0..8).map(topic).collect();
        turns.set(&all, now);
        let begun: Vec<TopicId> = std::iter::from_fn(|| turns.begin(now)).collect();
        assert_eq!(begun.len(), PARALLEL);
        assert_eq!(turns.next(), None, "as many run as may");
        // The first one runs on; the others' places go to whoever waits.
        let mut rest = begun[1..].to_vec();
        let mut done = 0;
        while let Some(topic) = rest.pop() {
            turns.over(topic, true, now);
            rest.extend(std::iter::from_fn(|| turns.begin(now)));
            done += 1;
        }
        assert_eq!((done, turns.len()), (7, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_put_off_waits_by_itself() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.add(topic(1), now);
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            let due = turns.next().unwrap();
            assert_eq!(turns.begin(due), Some(topic(1)));
            assert_eq!(turns.begin(due), None, "once");
            turns.over(topic(1), false, due);
            assert_eq!(turns.next(), Some(due + Duration::from_secs(pause)));
        }
        assert_eq!(turns.begin(now), None);
        turns.add(topic(2), now);
        assert_eq!(
            (turns.begin(now), turns.len()),
            (Some(topic(2)), 2),
            "a new one waits for nobody"
        );
        // One that is put off puts no other off.
        turns.add(topic(3), now);
        turns.add(topic(4), now);
        assert_eq!(turns.begin(now), Some(topic(3)));
        turns.over(topic(3), false, now);
        assert_eq!(turns.begin(now), Some(topic(4)));
        turns.over(topic(4), true, now);
        turns.remove(topic(3));
        // Gone while it ran, and deleted anew while nobody looked.
        turns.set(&[topic(1), topic(3)], now);
        turns.over(topic(2), false, now);
        assert_eq!((turns.begin(now), turns.len()), (Some(topic(3)), 2));
    }
}

//! OffsetCommit, OffsetDelete, and the end of a group.

use super::*;
use crate::groups::consumer_protocol::tests::subscribed;
use crate::groups::types::{Committed, TopicPartition};

fn tp(topic: &str) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition: 0 }
}

fn offset() -> (TopicPartition, Committed) {
    let committed = Committed {
        offset: 7,
        leader_epoch: None,
        metadata: String::new(),
        committed_ms: 0,
        topic_id: None,
        expires_ms: None,
    };
    (tp("t"), committed)
}

fn nobody() -> Identity {
    Identity { generation: -1, ..Identity::default() }
}

impl Bench {
    fn commit(&mut self, by: Identity) -> Result<Reply, Error> {
        let token = self.ask(|token| Event::CommitClassic(token, by, vec![offset()]));
        self.answer(token)
    }

    fn delete_offsets(&mut self, topics: &[&str]) -> Result<Reply, Error> {
        let offsets = topics.iter().map(|topic| tp(topic)).collect();
        let token = self.ask(|token| Event::DeleteOffsets(token, offsets));
        self.answer(token)
    }
}

#[test]
fn members_commit_in_their_generation() {
    let (mut bench, generation) = Bench::stable(&["a"]);
    assert_eq!(bench.commit(identity("a", generation)), Ok(Reply::Done));
    assert_eq!(bench.persisted.last(), Some(&Change::Offsets(vec![offset()], None)));
    assert_eq!(bench.commit(identity("x", generation)), Err(Error::UnknownMember));
    let stale = Error::StaleGeneration { current: generation };
    assert_eq!(bench.commit(identity("a", generation - 1)), Err(stale.clone()));
    assert_eq!(bench.commit(identity("a", -1)), Err(stale));
    // A commit is a sign of life.
    bench.pass(u64::from(SESSION) - 1);
    assert_eq!(bench.commit(identity("a", generation)), Ok(Reply::Done));
    bench.pass(u64::from(SESSION) - 1);
    assert_eq!(bench.heartbeat("a", generation), Ok(Reply::Done));
}

#[test]
fn commits_are_taken_while_preparing_and_not_while_completing() {
    let (mut bench, generation) = Bench::stable(&["a"]);
    bench.join(newcomer("b"));
    assert_eq!(bench.commit(identity("a", generation)), Ok(Reply::Done), "of the old generation");
    bench.join(again("a"));
    let early = bench.commit(identity("a", generation + 1));
    assert_eq!(early, Err(Error::RebalanceInProgress));
}

#[test]
fn who_is_no_member_commits_only_where_there_are_none() {
    let mut bench = Bench::new();
    assert_eq!(bench.commit(nobody()), Ok(Reply::Done));
    assert_eq!(bench.group.state(), State::Empty);
    let named = Identity { name: name("x"), generation: 3 };
    assert_eq!(bench.commit(named), Err(Error::UnknownMember));
    let (mut bench, _) = Bench::stable(&["a"]);
    assert_eq!(bench.commit(nobody()), Err(Error::UnknownMember));
}

#[test]
fn offsets_that_members_read_are_not_deleted() {
    let mut bench = Bench::new();
    let metadata = Bytes::from(subscribed(&["t"]));
    let reads_t = vec![Protocol { name: "range".into(), metadata }];
    bench.join(JoinClassic { protocols: reads_t, ..newcomer("a") });
    bench.sync("a", 1, &[]);
    assert_eq!(bench.commit(identity("a", 1)), Ok(Reply::Done));
    let each = vec![Err(Error::SubscribedTopic), Ok(())];
    assert_eq!(bench.delete_offsets(&["t", "u"]), Ok(Reply::Each(each)));
    assert_eq!(bench.persisted.last(), Some(&Change::Forgotten(vec![tp("u")])));
    bench.leave(&[name("a")]);
    assert_eq!(bench.delete_offsets(&["t"]), Ok(Reply::Each(vec![Ok(())])));
    // Members of whom nobody knows what they read.
    let (mut bench, _) = Bench::stable(&["a"]);
    let each = vec![Err(Error::SubscribedTopic)];
    assert_eq!(bench.delete_offsets(&["t"]), Ok(Reply::Each(each)));
    let mut bench = Bench::new();
    bench.join(JoinClassic { protocol_type: "connect".to_owned(), ..newcomer("a") });
    assert_eq!(bench.delete_offsets(&["t"]), Err(Error::NotEmpty));
}

#[test]
fn offsets_age_from_when_the_last_member_went() {
    let (mut bench, generation) = Bench::stable(&["a"]);
    assert_eq!(bench.group.ages_from(5), Some(5), "of topics that nobody reads any more");
    assert!(bench.group.in_use().has("t"), "nobody knows what its members read");
    assert_eq!(bench.commit(identity("a", generation)), Ok(Reply::Done));
    bench.join(newcomer("b"));
    assert_eq!(bench.group.ages_from(5), None, "between generations");
    bench.leave(&[name("a"), name("b")]);
    let since_ms = i64::try_from(bench.now_ms).unwrap();
    assert!(!bench.group.in_use().has("t"));
    assert_eq!(bench.group.ages_from(5), Some(since_ms));
    bench.restart();
    assert_eq!(bench.group.ages_from(5), Some(since_ms), "the next coordinator knows, too");
    assert_eq!(bench.group.ages_from(since_ms + 9), Some(since_ms + 9));
    let mut alone = Bench::new();
    alone.commit(nobody()).unwrap();
    assert_eq!(alone.group.ages_from(5), Some(5));
}

#[test]
fn an_empty_group_without_offsets_is_gone() {
    let (mut bench, generation) = Bench::stable(&["a"]);
    assert_eq!(bench.commit(identity("a", generation)), Ok(Reply::Done));
    bench.leave(&[name("a")]);
    assert_eq!(bench.group.state(), State::Empty);
    assert_eq!(bench.group.protocol_type(), "consumer", "tools still see what it was");
    bench.step(Event::Expired(vec![tp("t")], true));
    assert_eq!(bench.group.state(), State::Dead);
    assert_eq!(bench.persisted.last(), Some(&Change::Deleted));
    // Somebody is expected: the group stays until it is clear that they do not come.
    let (mut bench, _) = Bench::stable(&["a"]);
    bench.refused(JoinClassic { two_steps: true, ..newcomer("b") });
    bench.leave(&[name("a")]);
    assert_eq!(bench.group.state(), State::Empty);
    bench.pass(SESSION.into());
    assert_eq!(bench.group.state(), State::Dead);
}

#[test]
fn only_a_group_without_members_is_deleted() {
    let (mut bench, generation) = Bench::stable(&["a"]);
    let refused = bench.ask(Event::Delete);
    assert_eq!(bench.answer(refused), Err(Error::NotEmpty));
    assert_eq!(bench.commit(identity("a", generation)), Ok(Reply::Done));
    bench.leave(&[name("a")]);
    let deleted = bench.ask(Event::Delete);
    assert_eq!(bench.answer(deleted), Ok(Reply::Done));
    assert_eq!(bench.group.state(), State::Dead);
}

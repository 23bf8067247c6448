//! A member against a group that the test plays.

use bytes::Bytes;
use futures::FutureExt;
use geminga_proto::v1::consume_request::Op;
use geminga_proto::v1::consume_response::Event as Say;

use super::*;
use crate::fake::{Fake, Member, TOPIC, data};

fn partition(number: u32) -> TopicPartition {
    TopicPartition { topic: Arc::from(TOPIC), partition: number }
}

async fn join(fake: &mut Fake) -> (Member, v1::ConsumeJoin, u64) {
    let mut member = fake.member().await;
    let Some(Op::Join(join)) = member.hear().await else { panic!("not a join") };
    let Some(Op::Credit(credit)) = member.hear().await else { panic!("no credit") };
    member.say(Say::Joined(v1::ConsumeJoined { member_id: "m-1".to_owned() })).await;
    (member, join, credit.bytes)
}

async fn assign(member: &Member, generation: i32, starts: &[(u32, i64)]) {
    let partition = |&(partition, start_offset): &(u32, i64)| v1::AssignedPartition {
        topic: TOPIC.to_owned(),
        partition,
        start_offset,
    };
    let partitions = starts.iter().map(partition).collect();
    member.say(Say::Assignment(v1::ConsumeAssignment { generation, partitions })).await;
}

async fn send(member: &Member, partition: u32, batches: &Bytes) {
    member.say(Say::Data(data(partition, batches.clone()))).await;
}

fn values(event: Event) -> Vec<String> {
    let Event::Records(records) = event else { panic!("{event:?}") };
    let value = |r: &geminga_records::Record| String::from_utf8(r.value.clone().unwrap().to_vec());
    records.records.iter().map(|record| value(record).unwrap()).collect()
}

/// Runs both sides until both have done their part.
async fn both<A, B>(consumer: impl Future<Output = A>, group: impl Future<Output = B>) -> (A, B) {
    let both = async { tokio::join!(consumer, group) };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("neither side waits for ever")
}

#[tokio::test]
async fn a_member_can_be_run_on_a_task_of_its_own() {
    fn on_a_task(_: impl Future + Send) {}
    let fake = Fake::start().await;
    let mut consumer = fake.client().consumer(ConsumerConfig::new("g", TOPIC));
    // Whether they compile is the test.
    on_a_task(consumer.next());
    on_a_task(consumer.commit());
    on_a_task(consumer.commit_offsets(Vec::new()));
    on_a_task(consumer.leave());
}

#[tokio::test]
async fn a_broken_stream_is_resumed_where_the_caller_is() {
    let mut fake = Fake::start().await;
    let (first, second) = (fake.append(0, &["a", "b"]), fake.append(0, &["c"]));
    let mut consumer = fake.client().consumer(ConsumerConfig::new("g", TOPIC));

    let (assigned, (member, credit)) = both(consumer.next(), async {
        let (member, join, credit) = join(&mut fake).await;
        assert_eq!((join.group.as_str(), join.member_id.as_str()), ("g", ""));
        assign(&member, 3, &[(0, 0), (1, 0)]).await;
        (member, credit)
    })
    .await;
    assert_eq!(assigned.unwrap(), Event::Assigned(vec![partition(0), partition(1)]));
    assert_eq!(credit, consumer.config.credit_bytes);

    send(&member, 0, &first).await;
    assert_eq!(values(consumer.next().await.unwrap()), ["a", "b"]);
    assert_eq!(consumer.assignment(), BTreeMap::from([(partition(0), 2), (partition(1), 0)]));

    // Nothing was committed, so the group starts again at 0; the caller must not see that.
    member.crash().await;
    let (next, mut member) = both(consumer.next(), async {
        let (member, join, _) = join(&mut fake).await;
        assert_eq!(join.member_id, "m-1");
        assign(&member, 3, &[(0, 0), (1, 0)]).await;
        send(&member, 0, &first).await;
        send(&member, 0, &second).await;
        member
    })
    .await;
    assert_eq!(values(next.unwrap()), ["c"]);
    let (ended, ()) = both(consumer.commit(), async {
        let mut heard = Vec::new();
        loop {
            match member.hear().await.expect("it commits") {
                Op::Commit(commit) => {
                    assert_eq!(commit.offsets.len(), 1);
                    assert_eq!((commit.offsets[0].partition, commit.offsets[0].offset), (0, 3));
                    member
                        .say(Say::Committed(v1::ConsumeCommitted { id: commit.id, error: None }))
                        .await;
                    break;
                }
                op => heard.push(op),
            }
        }
        let to = v1::ConsumeSeek { topic: TOPIC.to_owned(), partition: 0, offset: 2 };
        assert_eq!(heard[0], Op::Seek(to));
        // What was cut off is granted anew; what was taken, later.
        let granted: u64 = heard
            .iter()
            .map(|op| match op {
                Op::Credit(credit) => credit.bytes,
                other => {
                    assert!(matches!(other, Op::Seek(_)));
                    0
                }
            })
            .sum();
        assert_eq!(granted, first.len() as u64);
    })
    .await;
    ended.unwrap();
    // There is nothing new to commit.
    consumer.commit().await.unwrap();
}

#[tokio::test]
async fn a_revocation_waits_for_the_caller_and_its_commit() {
    let mut fake = Fake::start().await;
    let batches: Vec<Bytes> = (0..3).map(|_| fake.append(0, &["a", "b"])).collect();
    let mut consumer = fake.client().consumer(ConsumerConfig::new("g", TOPIC));
    let (_, mut member) = both(consumer.next(), async {
        let (member, ..) = join(&mut fake).await;
        assign(&member, 1, &[(0, 0)]).await;
        member
    })
    .await;
    send(&member, 0, &batches[0]).await;
    assert_eq!(values(consumer.next().await.unwrap()), ["a", "b"]);
    send(&member, 0, &batches[1]).await;
    member.say(Say::Revoke(v1::ConsumeRevoke { generation: 1 })).await;
    send(&member, 0, &batches[2]).await;
    // The second answer may have been there first; what comes after the revocation is not shown.
    let mut seen = 2;
    loop {
        match consumer.next().await.unwrap() {
            Event::Revoked => break,
            event => seen += values(event).len() as i64,
        }
    }
    let (committed, ()) = both(consumer.commit(), async {
        loop {
            match member.hear().await.expect("it commits") {
                Op::Commit(commit) => {
                    assert_eq!(commit.offsets[0].offset, seen);
                    member
                        .say(Say::Committed(v1::ConsumeCommitted { id: commit.id, error: None }))
                        .await;
                    return;
                }
                Op::Credit(_) => {}
                other => panic!("{other:?} before the commit"),
            }
        }
    })
    .await;
    committed.unwrap();
    let (next, ()) = both(consumer.next(), async {
        loop {
            match member.hear().await.expect("it confirms") {
                Op::Revoked(revoked) => {
                    assert_eq!(revoked.generation, 1);
                    break;
                }
                Op::Credit(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assign(&member, 2, &[(1, 5)]).await;
    })
    .await;
    assert_eq!(next.unwrap(), Event::Assigned(vec![partition(1)]));
    let (_, left) = both(consumer.leave(), async {
        let mut last = None;
        while let Some(op) = member.hear().await {
            last = Some(op);
        }
        drop(member);
        last
    })
    .await;
    assert_eq!(left, Some(Op::Leave(v1::ConsumeLeave {})));
}

#[tokio::test]
async fn a_member_taken_for_dead_is_told_and_joins_anew() {
    let mut fake = Fake::start().await;
    let batch = fake.append(0, &["a"]);
    let mut consumer = fake.client().consumer(ConsumerConfig::new("g", TOPIC));
    let (_, member) = both(consumer.next(), async {
        let (member, ..) = join(&mut fake).await;
        assign(&member, 1, &[(0, 0)]).await;
        member
    })
    .await;
    send(&member, 0, &batch).await;
    consumer.next().await.unwrap();
    let gone = ApiError::new(Reason::UnknownMember, "too late");
    member.say(Say::Error(gone.to_proto())).await;
    assert_eq!(consumer.next().await.unwrap(), Event::Lost);
    // What was done is another's to do again.
    consumer.commit().await.unwrap();
    let (again, member) = both(consumer.next(), async {
        let (member, join, _) = join(&mut fake).await;
        assert_eq!(join.member_id, "");
        assign(&member, 4, &[(0, 0)]).await;
        member
    })
    .await;
    assert_eq!(again.unwrap(), Event::Assigned(vec![partition(0)]));
    // Assigned anew without having been asked: the former assignment is lost as well.
    assign(&member, 5, &[(0, 0), (2, 1)]).await;
    assert_eq!(consumer.next().await.unwrap(), Event::Lost);
    let assigned = consumer.next().await.unwrap();
    assert_eq!(assigned, Event::Assigned(vec![partition(0), partition(2)]));
}

#[tokio::test]
async fn a_commit_survives_a_broken_stream_but_not_its_generation() {
    let mut fake = Fake::start().await;
    let batch = fake.append(0, &["a"]);
    let mut consumer = fake.client().consumer(ConsumerConfig::new("g", TOPIC));
    let (_, mut member) = both(consumer.next(), async {
        let (member, ..) = join(&mut fake).await;
        assign(&member, 1, &[(0, 0)]).await;
        member
    })
    .await;
    send(&member, 0, &batch).await;
    consumer.next().await.unwrap();
    let commit = async |member: &mut Member| loop {
        if let Op::Commit(commit) = member.hear().await.expect("it commits") {
            return commit.id;
        }
    };
    let (committed, mut member) = both(consumer.commit(), async {
        let first = commit(&mut member).await;
        member.crash().await;
        let (mut member, ..) = join(&mut fake).await;
        assign(&member, 1, &[(0, 0)]).await;
        let id = commit(&mut member).await;
        assert!(id > first);
        let busy = ApiError::new(Reason::NotReady, "moving").to_proto();
        member.say(Say::Committed(v1::ConsumeCommitted { id, error: Some(busy) })).await;
        let id = commit(&mut member).await;
        member.say(Say::Committed(v1::ConsumeCommitted { id, error: None })).await;
        member
    })
    .await;
    committed.unwrap();
    let (committed, _member) = both(consumer.commit_offsets(vec![(partition(0), 9)]), async {
        commit(&mut member).await;
        member.crash().await;
        let (member, ..) = join(&mut fake).await;
        assign(&member, 2, &[(0, 1)]).await;
        member
    })
    .await;
    assert_eq!(committed.unwrap_err().reason(), Reason::StaleGeneration);
}

#[tokio::test]
async fn seeks_and_pauses_go_to_the_group() {
    let mut fake = Fake::start().await;
    let batches: Vec<Bytes> = (0..2).map(|_| fake.append(0, &["a", "b"])).collect();
    let mut consumer = fake.client().consumer(ConsumerConfig::new("g", TOPIC));
    let (_, mut member) = both(consumer.next(), async {
        let (member, ..) = join(&mut fake).await;
        assign(&member, 1, &[(0, 0)]).await;
        member
    })
    .await;
    assert!(
        consumer.seek(&partition(7), 0).is_err() && consumer.pause(&partition(7), true).is_err()
    );
    send(&member, 0, &batches[0]).await;
    assert_eq!(values(consumer.next().await.unwrap()), ["a", "b"]);
    consumer.seek(&partition(0), 1).unwrap();
    consumer.pause(&partition(0), true).unwrap();
    assert_eq!(consumer.assignment()[&partition(0)], 1);
    // Sent before the seek was heard.
    send(&member, 0, &batches[1]).await;
    send(&member, 0, &batches[0]).await;
    assert_eq!(values(consumer.next().await.unwrap()), ["b"]);
    let mut heard = Vec::new();
    while heard.len() < 2 {
        assert!(consumer.try_next().unwrap().is_none());
        if let Some(Some(op)) = member.hear().now_or_never() {
            heard.extend((!matches!(op, Op::Credit(_))).then_some(op));
        }
        tokio::task::yield_now().await;
    }
    assert!(matches!((&heard[0], &heard[1]), (Op::Seek(_), Op::Pause(_))), "{heard:?}");
}

#[tokio::test]
async fn what_trying_again_does_not_cure_is_an_error() {
    let mut fake = Fake::start().await;
    let mut consumer = fake.client().consumer(ConsumerConfig::new("g", TOPIC));
    let (failed, ()) = both(consumer.next(), async {
        let (member, ..) = join(&mut fake).await;
        assign(&member, 1, &[(0, 0)]).await;
        let error = ApiError::new(Reason::DataLoss, "no replica has it").to_proto();
        let broken = v1::PartitionData { error: Some(error), ..data(0, Bytes::new()) };
        member.say(Say::Data(broken)).await;
    })
    .await;
    assert!(matches!(failed.unwrap(), Event::Assigned(_)));
    assert_eq!(consumer.next().await.unwrap_err().reason(), Reason::DataLoss);
}

//! The service over partitions made up and a shard in memory.

use super::*;
use crate::groups::request::JoinAnswer;
use crate::groups::types::{Caller, Join};
use crate::rpc::fakes::FakeCluster;

struct Bench {
    cluster: FakeCluster,
    service: GroupsService,
}

async fn bench() -> Bench {
    let cluster = FakeCluster::start().await;
    let service = GroupsService {
        groups: cluster.groups.clone(),
        source: cluster.source.clone(),
        topology: cluster.topology.clone(),
    };
    Bench { cluster, service }
}

impl Bench {
    async fn reset(&self, to: To) -> Result<Vec<(u32, i64)>, Reason> {
        let request =
            v1::ResetOffsetsRequest { group: "g".to_owned(), topic: "t".to_owned(), to: Some(to) };
        let answer = self.service.reset_offsets(Request::new(request)).await;
        let said = answer.map_err(|status| ApiError::from_status(&status).reason)?.into_inner();
        let said: Vec<_> = said.offsets.iter().map(|o| (o.partition, o.offset)).collect();
        assert_eq!(self.fetch(&[]).await, said, "what is said is what is committed");
        Ok(said)
    }

    async fn fetch(&self, topics: &[&str]) -> Vec<(u32, i64)> {
        let topics = topics.iter().map(ToString::to_string).collect();
        let request = v1::FetchOffsetsRequest { group: "g".to_owned(), topics };
        let answer = self.service.fetch_offsets(Request::new(request)).await.unwrap();
        answer.into_inner().offsets.iter().map(|o| (o.partition, o.offset)).collect()
    }

    async fn join(&self) {
        let join = Join {
            caller: Caller { member: "m".into(), session: 1 },
            client_id: String::new(),
            topics: vec!["t".into()],
            session_timeout_ms: 600_000,
            rebalance_timeout_ms: 600_000,
        };
        let joined = self.cluster.groups.join(&"g".into(), join, LOOK_UP).await.unwrap();
        assert!(matches!(joined, JoinAnswer::Joined(..)));
    }
}

#[tokio::test(start_paused = true)]
async fn offsets_are_reset_to_what_the_partitions_have() {
    let bench = bench().await;
    for partition in 0..4 {
        bench.cluster.source.set(partition, 10, 20 + i64::from(partition));
    }
    assert_eq!(bench.fetch(&[]).await, [], "a group that is not there has committed nothing");
    let ends = [(0, 20), (1, 21), (2, 22), (3, 23)];
    assert_eq!(bench.reset(To::Latest(true)).await, Ok(ends.to_vec()));
    let starts = [(0, 10), (1, 10), (2, 10), (3, 10)];
    assert_eq!(bench.reset(To::Earliest(true)).await, Ok(starts.to_vec()));
    assert_eq!(bench.reset(To::Offset(3)).await, Ok(starts.to_vec()), "the nearest there is");
    assert_eq!(bench.reset(To::Offset(900)).await, Ok(ends.to_vec()));
    let middle = [(0, 15), (1, 15), (2, 15), (3, 15)];
    assert_eq!(bench.reset(To::Offset(15)).await, Ok(middle.to_vec()));
    assert_eq!(bench.reset(To::TimestampMs(15)).await, Ok(middle.to_vec()));
    assert_eq!(bench.reset(To::TimestampMs(22)).await.unwrap()[1..], [(1, 21), (2, 22), (3, 22)]);
    assert_eq!(bench.reset(To::Offset(-1)).await, Err(Reason::InvalidRequest));
    assert_eq!(bench.fetch(&["u"]).await, []);
    assert_eq!(bench.fetch(&["t", "u"]).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_group_with_members_keeps_its_offsets() {
    let bench = bench().await;
    bench.join().await;
    assert_eq!(bench.reset(To::Latest(true)).await, Err(Reason::GroupNotEmpty));
    let offset = v1::CommitOffset { topic: "t".to_owned(), ..v1::CommitOffset::default() };
    let request = v1::CommitOffsetsRequest { group: "g".to_owned(), offsets: vec![offset] };
    let refused = bench.service.commit_offsets(Request::new(request)).await.unwrap_err();
    assert_eq!(ApiError::from_status(&refused).reason, Reason::GroupNotEmpty);
    let delete = v1::DeleteGroupRequest { group: "g".to_owned() };
    let refused = bench.service.delete_group(Request::new(delete)).await.unwrap_err();
    assert_eq!(ApiError::from_status(&refused).reason, Reason::GroupNotEmpty);
}

#[tokio::test(start_paused = true)]
async fn high_watermarks_are_added_where_they_can_be_read() {
    let bench = bench().await;
    (0..4).for_each(|p| bench.cluster.source.set(p, 0, 30));
    bench.reset(To::Offset(12)).await.unwrap();
    bench.cluster.source.set_broken(2, true);
    let request = v1::DescribeGroupRequest { group: "g".to_owned() };
    let found = bench.service.describe_group(Request::new(request)).await.unwrap().into_inner();
    let seen: Vec<_> = found.offsets.iter().map(|o| (o.offset, o.high_watermark)).collect();
    assert_eq!(seen, [(12, Some(30)), (12, Some(30)), (12, None), (12, Some(30))]);
    assert_eq!(found.group.unwrap().state, "empty");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_exist_is_refused() {
    let bench = bench().await;
    let reason = |status: Status| ApiError::from_status(&status).reason;
    let request = v1::DescribeGroupRequest { group: "g".to_owned() };
    let refused = bench.service.describe_group(Request::new(request)).await.unwrap_err();
    assert_eq!(reason(refused), Reason::UnknownGroup);
    let request = v1::DeleteGroupRequest { group: String::new() };
    let refused = bench.service.delete_group(Request::new(request)).await.unwrap_err();
    assert_eq!(reason(refused), Reason::InvalidRequest);
    for (topic, partition, expected) in
        [("u", 0, Reason::UnknownTopic), ("t", 4, Reason::UnknownPartition)]
    {
        let offset =
            v1::CommitOffset { topic: topic.to_owned(), partition, ..v1::CommitOffset::default() };
        let request = v1::CommitOffsetsRequest { group: "g".to_owned(), offsets: vec![offset] };
        let refused = bench.service.commit_offsets(Request::new(request)).await.unwrap_err();
        assert_eq!(reason(refused), expected);
    }
    let listed = bench.service.list_groups(Request::new(v1::ListGroupsRequest {})).await.unwrap();
    assert_eq!(listed.into_inner().groups, [], "nothing was made of all this");
}

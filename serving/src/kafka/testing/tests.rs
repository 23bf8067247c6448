//! The rig itself, by what is served without any topic.

use super::*;
use crate::kafka::codec::messages::{ApiVersionsRequest, MetadataRequest};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_reach_a_broker_and_answers_come_back_in_every_version() {
    let rig = Rig::start(1).await;
    let topic = rig.create("t", 2).await;
    assert_eq!(rig.append(&topic, 1, &["a", "b"]).await, 0);
    assert_eq!(rig.ends(&topic, 1).await, (0, 2));
    for version in 0..=4 {
        let mut request = ApiVersionsRequest::default();
        if version >= 3 {
            request.client_software_name = "test".into();
            request.client_software_version = "1".into();
        }
        let answer = rig.call(version, request).await;
        assert_eq!(answer.error_code, 0);
        assert!(!answer.api_keys.is_empty());
    }
    for version in 0..=13 {
        let mut request = MetadataRequest::default();
        request.allow_auto_topic_creation = version < 4;
        request.topics = if version > 0 { None } else { Some(Vec::new()) };
        let answer = rig.call(version, request).await;
        assert_eq!(answer.brokers[0].node_id, rig.broker_id(0).0);
        assert_eq!(answer.topics[0].partitions.len(), 2, "version {version}");
    }
}

//! Which partitions are taken over when many are asked for at once, as after a broker's death (DESIGN 6).

use futures::future::join_all;

use super::*;

/// How many requests come for each partition, all at once, those for the first one first.
const ASKED: [usize; 7] = [1, 1, 2, 5, 1, 3, 4];
/// Two are taken over before anybody knows of the others; then those go first that most wait for.
const ORDER: [usize; 7] = [0, 1, 3, 6, 5, 2, 4];
const AT_A_TIME: usize = 2;

#[tokio::test(start_paused = true)]
async fn few_are_taken_over_at_a_time_and_the_busiest_first() {
    let cluster = TestCluster::new(3);
    let partitions = u32::try_from(ASKED.len()).unwrap();
    let topic = cluster.create_topic("flights", partitions).await;
    for partition in 0..partitions {
        cluster.assign(topic.id, partition, 1, 1).await;
    }
    let rig = Rig { cluster, topic };
    let store = FaultyStore::new(rig.cluster.store.clone());
    let key = |partition: usize| {
        let partition = PartitionIndex(u32::try_from(partition).unwrap());
        keys::term(rig.topic.id, partition)
    };
    store.hold((0..ASKED.len()).map(key));
    let config = Config { max_opening: AT_A_TIME, ..Config::default() };
    let broker = rig.broker_on(1, Arc::new(store.clone()), config).await;
    broker.sees_term(1).await;

    let requests = (0..partitions).zip(ASKED).flat_map(|(partition, count)| vec![partition; count]);
    let answered = join_all(requests.map(|partition| {
        broker.partitions.appender(Arc::clone(&broker.topic), PartitionIndex(partition))
    }));
    let order: Vec<String> = ORDER.map(key).into();
    let let_go = async {
        for (done, key) in order.iter().enumerate() {
            // As many as may be are at the store, and no others.
            let asked = (done + AT_A_TIME).min(order.len());
            assert_eq!(store.asked(asked).await, order[..asked]);
            store.let_go(key);
        }
    };
    let (answered, ()) = tokio::join!(answered, let_go);
    assert!(answered.iter().all(Result::is_ok), "all are open");
}

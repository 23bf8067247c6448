//! Creates a topic and shows it: `cargo run --example admin -- HOST:PORT TOPIC`.

use geminga_client::{Client, Error, NewTopic, OffsetAt, Reason};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let server = args.next().unwrap_or_else(|| "127.0.0.1:7070".to_owned());
    let name = args.next().unwrap_or_else(|| "greetings".to_owned());

    let admin = Client::connect(&server)?.admin();
    let topic = NewTopic { name: name.clone(), partitions: 3, ..NewTopic::default() };
    match admin.create_topic(topic).await {
        Ok(topic) => println!("created {} with {} copies", topic.name, topic.write_quorum),
        Err(Error::Api(error)) if error.reason == Reason::TopicExists => println!("{name} exists"),
        Err(error) => return Err(error.into()),
    }
    for topic in admin.list_topics(false).await? {
        println!("{}: {} partitions", topic.name, topic.partitions);
    }
    for (partition, offset) in admin.list_offsets(&name, &[], OffsetAt::Latest).await? {
        println!("partition {partition} ends at {offset}");
    }
    Ok(())
}

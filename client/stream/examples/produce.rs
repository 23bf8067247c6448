//! Sends some records and says where each is: `cargo run --example produce -- HOST:PORT TOPIC`.

use geminga_client::{Client, Message, ProducerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let server = args.next().unwrap_or_else(|| "127.0.0.1:7070".to_owned());
    let topic = args.next().unwrap_or_else(|| "greetings".to_owned());

    let client = Client::connect(&server)?;
    let producer = client.producer(ProducerConfig::default());
    let mut deliveries = Vec::new();
    for number in 0..10 {
        // Records of one key share a partition, and keep their order there.
        let message = Message::keyed(format!("key-{}", number % 3), format!("hello {number}"));
        deliveries.push(producer.send(&topic, message).await?);
    }
    for delivery in deliveries {
        let ack = delivery.await?;
        println!("partition {} offset {:?}", ack.partition, ack.offset);
    }
    producer.close().await;
    client.close().await;
    Ok(())
}

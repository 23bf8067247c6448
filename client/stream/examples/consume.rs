//! Reads a topic as a member of a group, for ever: `cargo run --example consume -- HOST:PORT TOPIC GROUP`.

use geminga_client::{Client, ConsumerConfig, Event, OffsetReset};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let server = args.next().unwrap_or_else(|| "127.0.0.1:7070".to_owned());
    let topic = args.next().unwrap_or_else(|| "greetings".to_owned());
    let group = args.next().unwrap_or_else(|| "readers".to_owned());

    let client = Client::connect(&server)?;
    let mut config = ConsumerConfig::new(group, topic);
    config.offset_reset = OffsetReset::Earliest;
    let mut consumer = client.consumer(config);
    loop {
        match consumer.next().await? {
            Event::Assigned(partitions) => println!("reading {} partitions", partitions.len()),
            Event::Records(records) => {
                for record in &records.records {
                    let value =
                        String::from_utf8_lossy(record.value.as_deref().unwrap_or_default());
                    println!("{} offset {}: {value}", records.from, record.offset);
                }
                // Done with these: a crash from here on does not repeat them.
                consumer.commit().await?;
            }
            // Everything was committed above; the next call lets the partitions go.
            Event::Revoked => println!("the group changes"),
            Event::Lost => println!("was silent for too long; joining again"),
        }
    }
}

//! The load of a window on Geminga: topics of one partition, each by a client of its own with idempotence and all
//! acknowledgements, without a linger, since the window is what gathers records.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use geminga_client::{Client, Message, NewTopic, ProducerConfig};
use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::report::Report;
use crate::window::{Args, Window, report};

/// Makes the topics, or loads them.
pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let names: Vec<String> = (0..args.streams).map(|n| format!("{}-{n}", args.name)).collect();
    if args.create.is_some() {
        let client = Client::connect(&args.servers[0])?;
        for name in &names {
            let topic = NewTopic { name: name.clone(), partitions: 1, ..NewTopic::default() };
            client.admin().create_topic(topic).await?;
        }
        return report(&args, Vec::new());
    }
    let begin = Instant::now();
    let servers = args.servers.iter().cycle();
    let loads = names.iter().zip(servers).map(|(name, server)| load(&args, name, server, begin));
    report(&args, try_join_all(loads).await?)
}

async fn load(
    args: &Args,
    topic: &str,
    server: &str,
    begin: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let client = Client::connect(server)?;
    let config = ProducerConfig { linger: Duration::ZERO, ..ProducerConfig::default() };
    let producer = client.producer(config);
    producer.partitions(topic).await?;
    let value = Bytes::from(vec![0x5a; args.size]);
    let mut window = Window::new(args, begin)?;
    let mut pending = FuturesUnordered::new();
    let places = window.places();
    while window.is_open() || !pending.is_empty() {
        tokio::select! {
            biased;
            Some((sent, place, end)) = pending.next() => {
                let end: Result<geminga_client::Ack, geminga_client::Error> = end;
                end.context("a record was not acknowledged")?;
                window.acked(sent, place);
            }
            place = std::sync::Arc::clone(&places).acquire_owned(), if window.is_open() => {
                let (place, sent) = (place?, Instant::now());
                let delivery = producer.send(topic, Message::new(value.clone())).await?;
                pending.push(delivery.map(move |end| (sent, place, end)));
            }
        }
    }
    producer.close().await;
    Ok(window.micros)
}

//! The task that keeps the directory true: it asks the entry for owners, and each broker whether it is there.

use std::collections::HashSet;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use geminga_proto::v1::cluster_client::ClusterClient;
use geminga_proto::{caps, v1};
use tokio::time::Instant;
use tonic::Status;

use super::Directory;
use crate::error::Error;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How soon after trouble the owners are asked for again; doubled with each time that passes without.
const SOON: Duration = Duration::from_millis(100);
/// How often, when all is well.
const SELDOM: Duration = Duration::from_secs(30);

type Answer = (String, Result<v1::GetMetadataResponse, Error>);

impl Directory {
    /// Runs until it is dropped.
    pub(super) async fn keep_up(self) {
        let mut asked = FuturesUnordered::new();
        // At most one question to each address at a time.
        let mut busy = HashSet::new();
        let (mut pause, mut next) = (SOON, Instant::now());
        let mut troubled = false;
        loop {
            let now = Instant::now();
            if next <= now {
                // An entry that is cut off from the others may be what the trouble comes from.
                let address = match troubled && self.0.random.below(2) == 0 {
                    true => self.0.state.lock().another(&*self.0.random),
                    false => self.entry(),
                };
                if busy.insert(address.clone()) {
                    let topics = self.0.state.lock().followed();
                    asked.push(self.ask(address, topics));
                }
                troubled = false;
                next = now + pause;
                pause = (pause * 2).min(SELDOM);
            }
            let (probes, next_probe) = {
                let state = self.0.state.lock();
                (state.to_probe(now), state.next_probe(now))
            };
            for address in probes {
                if busy.insert(address.clone()) {
                    asked.push(self.ask(address, Vec::new()));
                }
            }
            let alarm = next_probe.into_iter().chain([next]).min().unwrap_or(next);
            tokio::select! {
                biased;
                Some((address, answer)) = asked.next() => {
                    busy.remove(&address);
                    self.on_answer(&address, answer);
                }
                () = self.0.trouble.notified() => {
                    (pause, troubled) = (SOON, true);
                    next = next.min(now + SOON);
                }
                () = tokio::time::sleep_until(alarm) => {}
            }
        }
    }

    fn on_answer(&self, address: &str, answer: Result<v1::GetMetadataResponse, Error>) {
        match answer {
            Ok(answer) => self.change(|state| {
                state.learn(&answer);
                state.answered(address, answer.answered_by, Instant::now());
            }),
            Err(error) => {
                tracing::debug!(address, %error, "broker does not describe the cluster");
                let lost = error.sends_away();
                self.change(|state| match lost {
                    true => state.failed(address, Instant::now()),
                    false => {
                        state.declined(address, Instant::now());
                        state.leave(address, Instant::now(), &*self.0.random);
                    }
                });
            }
        }
    }

    /// Asks whoever is at `address` for the brokers, and for the owners of `topics`.
    fn ask(&self, address: String, topics: Vec<String>) -> BoxFuture<'static, Answer> {
        let channel = self.shared_channel(&address);
        async move {
            let ask = async {
                let request = v1::GetMetadataRequest { brokers_only: topics.is_empty(), topics };
                let answer = ClusterClient::new(channel?)
                    .max_decoding_message_size(caps::MAX_CLIENT_MESSAGE_BYTES)
                    .get_metadata(request)
                    .await;
                answer
                    .map(tonic::Response::into_inner)
                    .map_err(|status| Error::from_status(&address, &status))
            };
            let answer = tokio::time::timeout(PATIENCE, ask).await.unwrap_or_else(|_| {
                Err(Error::from_status(&address, &Status::unavailable("no answer")))
            });
            (address, answer)
        }
        .boxed()
    }
}

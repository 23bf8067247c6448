//! A differential oracle. Scenarios ([`scenarios`]) are fixed lists of requests, said by a codec that is not ours. A recorder plays
//! them to Apache Kafka and keeps what it answers as transcripts; a test plays the same to Geminga and compares, but for a short
//! list of differences, each with its reason ([`differences`]). What differs by nature (ids, addresses, times) has names in both.

mod batches;
mod debug;
mod differences;
mod names;
mod peer;
mod scenarios;
mod script;
mod transcript;

pub use differences::{Differences, compare};
pub use scenarios::{Scenario, all};
pub use script::Script;
pub use transcript::Transcript;

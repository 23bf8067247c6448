//! Real processes for tests: they are started, killed, paused and started again as an operator or a failing machine
//! would do it, and driven by the commands that users type.

#![allow(clippy::print_stderr, reason = "a failing test shows the logs of its processes")]

mod authority;
pub mod binary;
mod bucket;
mod client;
mod cluster;
mod copies;
mod etcd;
mod etcd_members;
pub mod flights;
mod host;
pub mod http;
mod input;
mod kafka;
pub mod limit;
pub mod port;
mod process;
mod tls;
mod volume;
pub mod wait;

pub use authority::{Authority, LOCAL, Pair, Valid};
pub use bucket::Bucket;
pub use client::{Client, Finished, Running};
pub use cluster::{Cluster, Node};
pub use copies::{Copies, Judge};
pub use etcd::Etcd;
pub use etcd_members::EtcdMembers;
pub use host::Host;
pub use input::Input;
pub use kafka::Kafka;
pub use process::{Process, is_held};
pub use tls::Tls;

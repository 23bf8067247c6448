//! Topics: what a request for one must look like, and the transactions that create and delete them.

mod admin;
pub mod config;
mod create;
mod delete;
pub mod name;
pub mod quorum;
#[cfg(test)]
mod tests;

pub use admin::TopicAdmin;
pub use create::NewTopic;

//! Topics: what a request for one must look like, the transactions that create, alter and delete them, and what frees the
//! remains of deleted ones.

mod admin;
mod alter;
pub mod config;
mod create;
mod delete;
mod metrics;
pub mod name;
pub mod quorum;
pub(crate) mod removal;
#[cfg(test)]
mod tests;

pub use admin::TopicAdmin;
pub use alter::{Alteration, ListChange};
pub use create::NewTopic;

//! Quotas of client ids: bytes in, bytes out and requests, each a second and at this broker; off where none is set. Whoever
//! goes beyond is slowed down, never refused.
//!
//! * [`bucket`], [`core`]: who owes how much time; pure, time is passed in. [`Quotas`] is the handle that all services share.
//! * [`follow`]: what is set, from the metadata, as a watch brings it. [`admin`]: how it is set.
//!
//! A client is charged once, by the broker that it is connected to, after the fact: a message or an answer may exceed the
//! rate, and the next one waits for as long as that has to be paid. Clients are told apart by the id that they give
//! themselves, so quotas keep good clients from each other's way and do not stop a hostile one.

pub(crate) mod admin;
mod bucket;
mod core;
mod follow;
mod handle;
mod metrics;

pub(crate) use core::Kind;
pub(crate) use handle::{Account, Quotas, millis};

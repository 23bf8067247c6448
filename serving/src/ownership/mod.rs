//! Who owns what: this broker's registration, the elected coordinator with its assignment, and the watch-fed view that
//! every request is routed by. Wrong, late or doubled decisions here cost time and never data: an owner must seal what
//! is open before it serves (DESIGN 1).

pub mod assignment;
pub mod contact;
pub mod coordinator;
pub mod liveness;
pub mod load;
mod metrics;
pub mod operator;
pub mod probes;
pub mod registration;
pub mod topology;

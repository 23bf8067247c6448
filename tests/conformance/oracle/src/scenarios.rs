//! The scenarios, one file each: a name, under which the transcript is kept, and what is asked. Each has topics and groups of its own
//! and runs once against a broker that is new.

mod commits;
mod configs;
mod describe;
mod fetch;
mod frames;
mod groups;
mod idempotence;
mod metadata;
mod offsets;
mod produce;
mod topics;

use crate::script::Script;

/// One scenario.
pub struct Scenario {
    /// Of its transcript.
    pub name: &'static str,
    /// Asks all that it asks.
    pub play: fn(&mut Script),
}

/// All of them.
pub fn all() -> &'static [Scenario] {
    &[
        Scenario { name: "topics", play: topics::play },
        Scenario { name: "configs", play: configs::play },
        Scenario { name: "metadata", play: metadata::play },
        Scenario { name: "produce", play: produce::play },
        Scenario { name: "idempotence", play: idempotence::play },
        Scenario { name: "fetch", play: fetch::play },
        Scenario { name: "offsets", play: offsets::play },
        Scenario { name: "groups", play: groups::play },
        Scenario { name: "commits", play: commits::play },
        Scenario { name: "describe", play: describe::play },
        Scenario { name: "frames", play: frames::play },
    ]
}

//! Rules of idempotent producers that a test breaks one at a time, to see that it notices.

/// A rule to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::partition) enum Mutation {
    /// P4: begin a takeover without the state of producers.
    ForgetProducers,
    /// P2: answer a duplicate of an assigned batch at once.
    AckEarly,
    /// P3: keep what was refused as assigned.
    KeepRefused,
}

/// The rules that are broken; none in production.
pub(in crate::partition) type Mutations = geminga_runtime::Mutations<Mutation>;

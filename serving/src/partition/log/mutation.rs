//! Rules of a partition's log that a test breaks one at a time, to see that it notices.

/// A rule of a partition's log to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::partition) enum Mutation {
    /// 2.2, M8: change metadata without asking whether the term is still this opening's.
    ForgetTerm,
    /// W9: write again what nobody knows the outcome of, before its ledger is closed.
    SkipSettle,
    /// DESIGN 4: write the log start without looking what stands there.
    LowerLogStart,
    /// P4, S1: remove segments although no later one is known to hold a complete snapshot.
    DropUnanchored,
}

/// The rules that are broken; none in production.
pub(in crate::partition) type Mutations = geminga_runtime::Mutations<Mutation>;

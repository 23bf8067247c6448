//! Switches that break one rule each, so that the tests of uploads can be seen to notice (protocol 8.3).

/// A rule of tiering to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// T3: publish what was sent without holding it against metadata.
    SkipVerify,
    /// 7.4 step 6: publish under another's claim.
    PublishUnclaimed,
    /// M6: publish the object of a ledger that is being deleted.
    PublishDeleted,
    /// T2: give an object up when nobody knows whether it was published.
    AbortUnknown,
    /// 7.4 step 8: drop local copies before metadata says `TRIMMED`.
    DropBeforeTrimmed,
    /// 7.4 step 8: drop them without a look at the object.
    DropUnseen,
}

/// The rules that are broken; none in production.
pub(crate) type Mutations = geminga_runtime::Mutations<Mutation>;

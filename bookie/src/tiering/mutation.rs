//! Switches that break one rule each, so that the tests of uploads can be seen to notice (protocol 8.3).

/// A rule of tiering to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// T3: publish what was sent without holding it against metadata.
    SkipVerify,
    /// 7.4 step 5: publish whatever is found when the object is read back.
    SkipReadBack,
    /// 7.4 step 6: publish under another's claim.
    PublishUnclaimed,
    /// M6: publish the object of a ledger that is being deleted.
    PublishDeleted,
    /// T2: give an object up when nobody knows whether it was published.
    AbortUnknown,
    /// 7.4 step 7: let bookies drop their copies without a look at the object.
    TrimUnseen,
    /// 7.4 step 8: drop local copies before metadata says `TRIMMED`.
    DropBeforeTrimmed,
    /// 7.4 step 8: drop them without a look at the object.
    DropUnseen,
    /// 7.5: take the object of a ledger that names none for garbage.
    SweepUnnamed,
    /// 6.8: take for garbage what metadata from a backup cannot know.
    SweepRestored,
    /// 7.9: remove the keys of segments for a list that was not read back.
    FoldUnseen,
    /// 7.9: remove the keys of segments whatever became of them meanwhile.
    FoldUnguarded,
    /// 7.9: write or remove a manifest whatever became of it meanwhile.
    FoldBlindly,
}

/// The rules that are broken; none in production.
pub type Mutations = geminga_runtime::Mutations<Mutation>;

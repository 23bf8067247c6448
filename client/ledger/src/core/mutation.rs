//! Switches that break one rule each, so that the model checker and the simulator can be seen to notice
//! (protocol 8.3). They exist only with the test-only feature `mutations`; without it every rule holds.

/// A rule of the ledger client to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// S3: be content with one seal reply less than coverage needs.
    SealWithOneLess,
    /// H3: take an empty last fragment for the whole ledger.
    SealFromTheStart,
    /// H15: count an answer that says nothing as a negative.
    CountUnknownAsNegative,
    /// H4: publish who stands in before they have their copies.
    PublishStandInsEarly,
    /// K1: let an answer of a bookie that lost data count as any other.
    CountNonAuthoritative,
    /// S4: end at the shortest tail that was reported.
    TakeShortestTail,
    /// 4.3: end below an entry that nobody can deliver, whoever holds it.
    EndBelowUnreadable,
    /// 4.6: go on although a newer recoverer is at work.
    IgnoreNewerRecoverer,
    /// M2: write an end over the one that somebody else wrote.
    RewriteEnd,
    /// M9: take an unknown outcome for a success.
    AssumeApplied,
    /// W2: acknowledge with one copy less than Qa.
    AckWithOneLess,
    /// 6.7: acknowledge what is in fewer zones than asked for.
    AckInOneZone,
    /// W4: take another life of a bookie for the member.
    IgnoreIncarnation,
    /// M7: make the key of a ledger again that was deleted meanwhile.
    MakeKeyAgain,
    /// W6: let entries complete while a change of the ensemble is being committed.
    CompleteWhileChanging,
    /// 1.6: take a verdict for a broken connection.
    IgnoreVerdicts,
    /// 2.5 step 0: wait for somebody in the place of a failed member, although Qa others are healthy.
    WaitForSpare,
    /// 2.5 step 3: append a fragment although the last one holds nothing.
    AppendEmptyFragment,
    /// M3: change, or close, a ledger that is not open any more.
    WriteWhenNotOpen,
    /// 1.4: after a lost swap send the old value again, with the new version.
    ResendOldValue,
    /// M9: do not recognise one's own operation.
    ForgetOperation,
    /// 2.5 step 5: do not send to a new member what was appended before it came.
    SkipReplay,
    /// H9: forget who lacks entries of a fragment that ended.
    ForgetDebt,
    /// 2.5: do not count the fragments.
    IgnoreFragmentLimit,
    /// 2.6: keep a member that is too slow because it moves.
    ForgiveSlow,
    /// 2.6: let writers hold as many bytes as they like.
    IgnoreBudgets,
    /// 6.4: leave a member alone that is not registered, where nothing is written.
    AskNobody,
    /// 2.9: close at the last id that was assigned.
    CloseAtLap,
    /// A2: give a place away before everything is copied.
    RepairSwapsFirst,
    /// A3: copy from the member whose place is given away.
    RepairDropsSource,
    /// H17: repair the last fragment of a ledger that is not closed.
    RepairOpenFragment,
    /// 6.5 step 4: take a copy for whole whose tail is short of the end.
    RepairTrustsShortTail,
    /// 1.4: after a lost swap of a repair send the old value again, with the new version.
    RepairResendsOldValue,
    /// 6.7: move a copy although its fragment lacks one.
    RepairMovesShort,
    /// T6: call lost what no peer has, although the ledger's object has it.
    RepairForgetsObject,
    /// 3.4: take a copy for good whose tail says that it is whole, although it rotted.
    RepairForgetsRot,
}

/// The rules that are broken; none in production.
pub type Mutations = geminga_runtime::Mutations<Mutation>;

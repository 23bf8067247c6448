//! Switches that break one rule each, so that the model checker and the simulator can be seen to notice
//! (protocol 8.3). They exist only with the test-only feature `mutations`; without it every rule holds.

/// A rule of the bookie to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// F2: answer a seal before its record is durable.
    ReplyBeforeSealIsDurable,
    /// H1b: the same, but only when the tail is empty.
    ReplyBeforeEmptySealIsDurable,
    /// H11: serve whoever names another life of this disk.
    IgnoreIncarnation,
    /// H6: take a recoverer's copies for what the writer acknowledged.
    RecoveryRaisesLac,
    /// 4.2: keep a seal in memory only.
    ForgetSeal,
    /// 4.2: take a writer's entries although the ledger is sealed.
    AcceptAfterSeal,
    /// 4.2: take the copies of a recoverer whose seal was replaced by a newer one.
    AcceptStaleEpoch,
    /// 4.2 row 4: take a ledger for what its metadata said when it was read, whatever came since.
    TrustCheck,
    /// F4: treat a ledger that was deleted like any other.
    IgnoreTombstone,
    /// 5.7: take a restored copy of a disk for the disk.
    IgnoreBootCounter,
    /// K3: acknowledge what is sent again before the first copy of it is durable.
    AckDuplicateAtOnce,
    /// D3: take what is sent again for the same without looking.
    SkipCompare,
    /// K10: need room for data to seal.
    SealNeedsRoom,
    /// K1: say of an entry that cannot be read that there is none.
    SayAbsent,
    /// G2: drop what has no metadata, however much that is.
    IgnoreBreakers,
    /// No rule, but a defect: panic when the ledger's end is told.
    PanicOnClosed,
    /// 6.5: take a repair's copies beyond the end of its fragment.
    RepairBeyondEnd,
    /// 5.6: give a copy up that a repair was promised meanwhile.
    GiveUpPromised,
    /// K1: vouch for what was given up.
    VouchAfterGivingUp,
    /// 5.6: give a copy up while others lack some of it.
    GiveUpNeeded,
    /// 5.6: announce that a copy may go only when all is read and asked.
    AnnounceLate,
    /// 6.2: give a bookie up as soon as it is away.
    IgnoreDelay,
    /// A1: give up however many vanish together.
    IgnoreStorm,
    /// G1: drop what a listing does not show, without reading its own key.
    DropUnannounced,
    /// 6.8: drop what metadata from a backup does not know, however young that metadata is.
    ForgetQuarantine,
    /// M1: drop what metadata does not know although it is older than that.
    ForgetHorizon,
}

/// The rules that are broken; none in production.
pub type Mutations = geminga_runtime::Mutations<Mutation>;

//! Switches that break one rule each, so that its test can be seen to fail. They exist only with the test-only feature
//! `mutations`; without it every rule holds.

/// A rule of the log to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// K3: move the durable mark without syncing.
    SkipSync,
    /// K6: try a sync that failed once more, and go on.
    RetrySync,
    /// 5.2: take a frame although its numbers are not those that come next here.
    TakeStaleFrames,
    /// K7: do not sync the directory after a new segment got its name.
    SkipDirSync,
    /// K8: take every bad frame for a torn tail.
    SkipLookAhead,
    /// K5: report what was found without making sure that it is on stable storage.
    TrustFoundTail,
    /// 5.2: do not remove what a crash left behind the last good frame.
    KeepStaleTail,
    /// 5.5: let a snapshot name frames that are not durable yet.
    SnapshotBeforeDurable,
    /// K9: remove a segment although no snapshot holds its seals and tombstones.
    DropUncovered,
    /// K1: take entries for absent whose place the index has on the disk.
    ForgetSpilled,
    /// S1: take a record that the disk refuses to read for one that has rotted.
    TakeRefusalForRot,
}

/// The rules that are broken; none in production.
pub type Mutations = geminga_runtime::Mutations<Mutation>;

//! What a bookie reads from its disks when it boots: cookies, segment headers, frames, footers, snapshots.

use geminga_bookie::identity_decoders;
use geminga_bookie::log::decoders;

use crate::Target;

/// The file that names a disk.
pub(crate) const COOKIE: Target = Target {
    name: "cookie",
    run: identity_decoders::cookie,
    seeds: identity_decoders::cookie_seeds,
};
/// The first page of a segment.
pub(crate) const HEADER: Target =
    Target { name: "segment_header", run: decoders::header, seeds: decoders::header_seeds };
/// A group commit and its records.
pub(crate) const FRAME: Target =
    Target { name: "frame", run: decoders::frame, seeds: decoders::frame_seeds };
/// The index at the end of a segment.
pub(crate) const FOOTER: Target =
    Target { name: "footer", run: decoders::footer, seeds: decoders::footer_seeds };
/// The table of ledgers.
pub(crate) const SNAPSHOT: Target =
    Target { name: "snapshot", run: decoders::snapshot, seeds: decoders::snapshot_seeds };

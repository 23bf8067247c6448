//! The sizes that are checked, and the rules that are broken to see the checks fail.

use geminga_bookie::ledger::{Mutation as BookieMutation, Mutations as BookieMutations};
use geminga_bookie::tiering::{Mutation as TierMutation, Mutations as TierMutations};
use geminga_ledger::core::mutation::{Mutation as ClientMutation, Mutations as ClientMutations};
use geminga_metastore::record::UnderReason;

use super::size::{Faults, Upkeep};

const NO: Faults =
    Faults { crashes: 0, lost_replies: 0, short: 0, by_hand: 0, wipes: 0, listings: 0 };

/// Sizes whose whole state space is explored with every change.
pub fn sizes() -> Vec<(&'static str, Upkeep)> {
    vec![
        (
            "two uploaders, a crash, a lost reply",
            Upkeep { faults: Faults { crashes: 1, lost_replies: 1, ..NO }, ..uploads() },
        ),
        (
            "an uploader, something cut short, an object deleted by hand",
            Upkeep {
                uploaders: 1,
                attempts: 3,
                sweep: true,
                faults: Faults { short: 1, by_hand: 1, ..NO },
                ..uploads()
            },
        ),
        (
            "two repairs, a lost life, a lost reply, a copy cut short, two entries",
            Upkeep { faults: Faults { lost_replies: 1, short: 1, ..NO }, ..repairs() },
        ),
        ("a repair, one of three members is left, one has nothing, a wipe", wiped()),
        ("a repair beside an upload and a trim, a lost reply", repair_beside_upload()),
        ("deletion during uploads, a collector, a listing that lacks it", deletion()),
    ]
}

/// Sizes whose whole state space `make model` explores as well.
pub fn longer_sizes() -> Vec<(&'static str, Upkeep)> {
    vec![
        (
            "two repairs, one of three members is left, one has nothing, a wipe",
            Upkeep { repairs: 2, ..wiped() },
        ),
        (
            "deletion during uploads, two collectors, a listing that lacks it",
            Upkeep { collectors: 2, ..deletion() },
        ),
    ]
}

/// Two members that upload, each once at least.
fn uploads() -> Upkeep {
    Upkeep { uploaders: 2, attempts: 2, ..Upkeep::calm() }
}

/// One of two copies is lost; two repairs, and somebody who can take the place.
fn repairs() -> Upkeep {
    Upkeep {
        bookies: 4,
        entries: 2,
        repairs: 2,
        marked: vec![(0, UnderReason::Lost)],
        ..Upkeep::calm()
    }
}

/// One of two members is to be left, both have everything.
fn drains() -> Upkeep {
    Upkeep { bookies: 3, repairs: 1, marked: vec![(0, UnderReason::Draining)], ..Upkeep::calm() }
}

/// One of three members has nothing, one is to be left, and any may lose its life.
fn wiped() -> Upkeep {
    let marked = vec![(1, UnderReason::Behind), (0, UnderReason::Draining)];
    let faults = Faults { wipes: 1, ..NO };
    Upkeep { qw: 3, bookies: 5, repairs: 1, marked, faults, ..Upkeep::calm() }
}

fn repair_beside_upload() -> Upkeep {
    let faults = Faults { lost_replies: 1, ..NO };
    Upkeep { uploaders: 2, attempts: 1, faults, ..drains() }
}

fn deletion() -> Upkeep {
    let faults = Faults { listings: 1, ..NO };
    Upkeep { collectors: 1, deletion: true, sweep: true, faults, ..uploads() }
}

/// One rule broken at a time, each in a size that is just large enough.
pub fn broken_rules() -> Vec<(&'static str, Upkeep)> {
    let tier = |rule, size: Upkeep| Upkeep { tier_mutations: TierMutations::only(rule), ..size };
    let client =
        |rule, size: Upkeep| Upkeep { client_mutations: ClientMutations::only(rule), ..size };
    let with = |faults, size: Upkeep| Upkeep { faults, ..size };
    let alone = || Upkeep { uploaders: 1, attempts: 1, ..uploads() };
    let by_hand = Faults { by_hand: 1, ..NO };
    let short = Faults { short: 1, ..NO };
    let lost = Faults { lost_replies: 1, ..NO };
    vec![
        (
            "trim early: copies stay until TRIMMED (7.4 step 8)",
            tier(TierMutation::DropBeforeTrimmed, alone()),
        ),
        (
            "trim early: a look before a bookie drops (step 8)",
            tier(TierMutation::DropUnseen, with(by_hand, alone())),
        ),
        (
            "trim early: a look before TRIMMED (step 7)",
            tier(TierMutation::TrimUnseen, with(by_hand, alone())),
        ),
        ("T3: what was read is verified", tier(TierMutation::SkipVerify, with(short, alone()))),
        (
            "7.4 step 5: what was sent is read back",
            tier(TierMutation::SkipReadBack, with(short, alone())),
        ),
        ("T1: under its own claim only", tier(TierMutation::PublishUnclaimed, uploads())),
        (
            "T2: no object goes for an unknown swap",
            tier(TierMutation::AbortUnknown, with(lost, alone())),
        ),
        (
            "M6: nothing is published of a deleted ledger",
            tier(TierMutation::PublishDeleted, Upkeep { deletion: true, ..alone() }),
        ),
        (
            "7.5: who names no object supersedes none",
            tier(TierMutation::SweepUnnamed, Upkeep { sweep: true, ..alone() }),
        ),
        ("A2: copied before the swap", client(ClientMutation::RepairSwapsFirst, drains())),
        (
            "6.5 step 4: a copy is whole",
            client(ClientMutation::RepairTrustsShortTail, with(short, drains())),
        ),
        (
            "1.4: a lost swap is built anew",
            client(ClientMutation::RepairResendsOldValue, Upkeep { uploaders: 1, ..drains() }),
        ),
        (
            "M7: no repair makes a key",
            client(ClientMutation::MakeKeyAgain, Upkeep { deletion: true, ..drains() }),
        ),
        (
            "G1: a listing decides nothing",
            Upkeep {
                collectors: 1,
                faults: Faults { listings: 1, ..NO },
                bookie_mutations: BookieMutations::only(BookieMutation::DropUnannounced),
                ..Upkeep::calm()
            },
        ),
    ]
}

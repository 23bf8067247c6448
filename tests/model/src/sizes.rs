//! The sizes that are checked, and the rules that are broken to see the checks fail.

use geminga_bookie::ledger::{Mutation as BookieMutation, Mutations as BookieMutations};
use geminga_ledger::core::mutation::{Mutation as ClientMutation, Mutations as ClientMutations};

use crate::size::Size;

/// Sizes whose whole state space is explored with every change, in less than a minute.
pub fn sizes() -> Vec<(&'static str, Size)> {
    vec![
        ("an ensemble change, one entry", change()),
        ("two ledgers and a roll between them, one entry each", roll()),
        ("a crash, no entry", Size { entries: 0, ..Size::with_crash() }),
        ("a crash, one entry", crash()),
        ("a wipe, one entry", wipe()),
        (
            "two recoverers, one lost reply, no entry",
            Size { recoverers: 2, lost_replies: 1, entries: 0, ..Size::calm() },
        ),
        ("three copies, two acks, four bookies, one entry", wide()),
        ("two recoverers, one entry", two()),
        ("metadata checks that take their time, one entry", check()),
        ("deletion, one entry", delete()),
        ("deletion, two recoverers, no entry", Size { recoverers: 2, entries: 0, ..delete() }),
        ("a resend and a crash, one entry", Size { resends: 1, ..crash() }),
        ("size 1: two ledgers, a roll, two entries each", Size { entries: 2, ..roll() }),
        ("size 2: four bookies, two recoverers, one entry", Size { recoverers: 2, ..wide() }),
        (
            "size 2: four bookies, two recoverers, two entries",
            Size { entries: 2, recoverers: 2, ..wide() },
        ),
    ]
}

/// Sizes whose whole state space `make model` explores as well, in some minutes.
pub fn longer_sizes() -> Vec<(&'static str, Size)> {
    vec![
        (
            "size 1: two ledgers, a roll, two recoverers, a lost reply, two entries each",
            Size { entries: 2, recoverers: 2, lost_replies: 1, ..roll() },
        ),
        ("a crash, two entries", Size { entries: 2, ..crash() }),
        ("a crash, two recoverers, one entry", Size { recoverers: 2, ..crash() }),
        (
            "deletion, an ensemble change, a lost reply, one entry",
            Size { failures: 1, lost_replies: 1, ..delete() },
        ),
        ("a resend, two recoverers, one entry", Size { resends: 1, ..two() }),
        ("a wipe, two entries", Size { entries: 2, ..wipe() }),
        ("an ensemble change, two entries", Size { entries: 2, ..change() }),
        ("an ensemble change, two recoverers, one entry", Size { failures: 1, ..two() }),
        (
            "slow metadata checks, two recoverers, a lost reply, one entry",
            Size { recoverers: 2, lost_replies: 1, ..check() },
        ),
        (
            "size 2: four bookies, two recoverers, a lost reply, two entries",
            Size { entries: 2, recoverers: 2, lost_replies: 1, ..wide() },
        ),
    ]
}

/// Sizes that are too large for that: each is explored for a limited time.
pub fn limited_sizes() -> Vec<(&'static str, Size)> {
    let second = Size { recoverers: 2, ..wide() };
    vec![
        ("size 2 with an ensemble change, one entry", Size { failures: 1, ..second.clone() }),
        ("size 2 with a wipe, one entry", Size { wipes: 1, ..second.clone() }),
        ("size 2 with three entries", Size { entries: 3, ..second.clone() }),
        ("size 2 with an ensemble change, two entries", Size { entries: 2, failures: 1, ..second }),
        (
            "size 1 with an ensemble change, a crash and a lost reply",
            Size { failures: 1, ledgers: 2, ..Size::with_crash() },
        ),
        (
            "size 3: five bookies, three entries, a wipe, two ensemble changes",
            Size { bookies: 5, entries: 3, wipes: 1, failures: 2, ..wide() },
        ),
    ]
}

fn change() -> Size {
    Size { failures: 1, ..Size::calm() }
}

fn roll() -> Size {
    Size { ledgers: 2, ..Size::calm() }
}

fn crash() -> Size {
    Size { entries: 1, hellos: false, lost_replies: 0, ..Size::with_crash() }
}

fn wipe() -> Size {
    Size { wipes: 1, ..Size::calm() }
}

fn two() -> Size {
    Size { recoverers: 2, ..Size::calm() }
}

fn check() -> Size {
    Size { slow_checks: true, hellos: true, ..Size::calm() }
}

fn delete() -> Size {
    Size { deletion: true, ..Size::calm() }
}

fn wide() -> Size {
    Size { qw: 3, bookies: 4, ..Size::calm() }
}

/// One rule broken at a time, each in a size that is just large enough.
pub fn broken_rules() -> Vec<(&'static str, Size)> {
    let bookie =
        |mutation, size: Size| Size { bookie_mutations: BookieMutations::only(mutation), ..size };
    let client =
        |mutation, size: Size| Size { client_mutations: ClientMutations::only(mutation), ..size };
    vec![
        ("F2", bookie(BookieMutation::ReplyBeforeSealIsDurable, crash())),
        ("4.2: a seal is in the log", bookie(BookieMutation::ForgetSeal, crash())),
        ("4.2: no add after a seal", bookie(BookieMutation::AcceptAfterSeal, Size::calm())),
        ("4.2: no copies of an older epoch", bookie(BookieMutation::AcceptStaleEpoch, two())),
        ("4.2 row 4: a seal goes ahead of a check", bookie(BookieMutation::TrustCheck, check())),
        (
            "K3: a duplicate waits for the first copy",
            bookie(BookieMutation::AckDuplicateAtOnce, Size { resends: 1, ..crash() }),
        ),
        (
            "F2 for empty tails (H1b)",
            bookie(BookieMutation::ReplyBeforeEmptySealIsDurable, crash()),
        ),
        (
            "M4: publish only with the close (H4)",
            client(ClientMutation::PublishStandInsEarly, two()),
        ),
        (
            "W5: no LAC in recovery adds (H6)",
            bookie(BookieMutation::RecoveryRaisesLac, Size::calm()),
        ),
        ("W2: Qa copies", client(ClientMutation::AckWithOneLess, Size::calm())),
        ("M3: a writer's swap needs OPEN", client(ClientMutation::WriteWhenNotOpen, Size::calm())),
        ("2.9: a close at the LAC", client(ClientMutation::CloseAtLap, Size::calm())),
        ("2.5 step 3: no empty fragment", client(ClientMutation::AppendEmptyFragment, change())),
        ("W6: a frozen LAC", client(ClientMutation::CompleteWhileChanging, change())),
        ("unknown is no negative (H15)", client(ClientMutation::CountUnknownAsNegative, wipe())),
        ("incarnations (H11)", bookie(BookieMutation::IgnoreIncarnation, wipe())),
        ("full coverage at S3 (QC - 1)", client(ClientMutation::SealWithOneLess, Size::calm())),
        (
            "the lower bound f - 1 (H3)",
            client(ClientMutation::SealFromTheStart, Size { entries: 1, ..change() }),
        ),
        (
            "M7: no update makes a key",
            client(ClientMutation::MakeKeyAgain, Size { entries: 0, ..delete() }),
        ),
    ]
}

//! The sizes that are checked, and the rules that are broken to see the checks fail.

use geminga_bookie::ledger::{Mutation as BookieMutation, Mutations as BookieMutations};
use geminga_ledger::core::mutation::{Mutation as ClientMutation, Mutations as ClientMutations};

use crate::world::Size;

/// The property that a broken rule must violate.
pub const DURABILITY: &str = "I1, I3: nothing acknowledged is beyond the end";

/// Sizes whose whole state space is explored with every change, in about a minute.
pub fn sizes() -> Vec<(&'static str, Size)> {
    vec![
        ("one recoverer, one crash, two entries", Size::smallest()),
        (
            "two recoverers, one lost reply, no entry",
            Size { recoverers: 2, crashes: 0, entries: 0, ..Size::smallest() },
        ),
    ]
}

/// Sizes that take many minutes; `make model` explores them too.
pub fn large_sizes() -> Vec<(&'static str, Size)> {
    vec![(
        "two recoverers, one lost reply, one entry",
        Size { recoverers: 2, crashes: 0, entries: 1, ..Size::smallest() },
    )]
}

/// One rule broken at a time.
pub fn broken_rules() -> Vec<(&'static str, Size)> {
    let bookie =
        |mutation| Size { bookie_mutations: BookieMutations::only(mutation), ..Size::smallest() };
    let client =
        |mutation| Size { client_mutations: ClientMutations::only(mutation), ..Size::smallest() };
    vec![
        ("F2", bookie(BookieMutation::ReplyBeforeSealIsDurable)),
        ("F2 for empty tails (H1b)", bookie(BookieMutation::ReplyBeforeEmptySealIsDurable)),
        ("full coverage at S3 (QC - 1)", client(ClientMutation::SealWithOneLess)),
    ]
}

//! States that differ only in the names of bookies are one (protocol 8.3).
//!
//! A state's hash, by which the search tells states apart, is the least over all ways to name the bookies. The search itself
//! goes on with the states as it met them, so its paths are real executions. Sound, since renaming a state renames what may
//! happen next: no rule looks at a name, and the only order among members is their position, of which nothing depends but
//! which of several equal sources serves a copy. Three things would break that and switch it off ([`crate::Size::is_symmetric`]):
//! wipes, with which sources are not equal; several lost places with too few spares, where the first is served first; and
//! several spares, of which the first is taken first.
//! A test explores sizes both ways and compares the sets of states.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::LazyLock;

use geminga_metastore::record::{Fragment, LedgerMeta};
use geminga_proto::ids::Member;

use crate::ledger::{Ledger, member, number};

/// Most bookies of a size.
pub(crate) const MAX_BOOKIES: usize = 5;

/// A way to name the bookies: the new number of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names(Vec<usize>);

/// What names bookies.
pub(crate) trait Named {
    /// The same under other names.
    fn renamed(&self, names: &Names) -> Self;
}

impl Names {
    /// All ways to name so many bookies, in lexical order.
    pub(crate) fn all(bookies: usize) -> &'static [Self] {
        static ALL: LazyLock<Vec<Vec<Names>>> =
            LazyLock::new(|| (0..=MAX_BOOKIES).map(permutations).collect());
        &ALL[bookies]
    }

    pub(crate) fn member(&self, old: &Member) -> Member {
        Member { incarnation: old.incarnation, ..member(self.0[number(old)], 0) }
    }

    pub(crate) fn fragment(&self, old: &Fragment) -> Fragment {
        let mut ensemble: Vec<Member> = old.ensemble.iter().map(|m| self.member(m)).collect();
        ensemble.sort();
        Fragment { first_entry: old.first_entry, ensemble }
    }

    pub(crate) fn meta(&self, old: &LedgerMeta) -> LedgerMeta {
        let fragments = old.fragments.iter().map(|fragment| self.fragment(fragment)).collect();
        LedgerMeta { fragments, ..old.clone() }
    }
}

fn permutations(count: usize) -> Vec<Names> {
    let mut all = vec![Vec::new()];
    for _ in 0..count {
        let longer = |names: &Vec<usize>| {
            let free = (0..count).filter(|number| !names.contains(number));
            free.map(|number| [names.clone(), vec![number]].concat()).collect::<Vec<_>>()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all.into_iter().map(Names).collect()
}

/// The least hash of these ledgers under all ways to name their bookies, which they have in common.
pub(crate) fn least_hash(ledgers: &[Ledger], bookies: usize, fragile: Option<usize>) -> u64 {
    // What stands at one bookie in all ledgers; only names that bring this into order need to be tried.
    let mut places = [0; MAX_BOOKIES];
    for (bookie, place) in places.iter_mut().enumerate().take(bookies) {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(u8::from(fragile == Some(bookie)));
        ledgers.iter().for_each(|ledger| hasher.write_u64(ledger.place(bookie)));
        *place = hasher.finish();
    }
    let mut sorted = places;
    sorted[..bookies].sort_unstable();
    let in_order = |names: &&(usize, &Names)| {
        names.1.0.iter().zip(&places).all(|(new, place)| sorted[*new] == *place)
    };
    let names = Names::all(bookies).iter().enumerate();
    let hashes = names.filter(|names| in_order(&names)).map(|(index, _)| {
        let mut hasher = DefaultHasher::new();
        sorted[..bookies].hash(&mut hasher);
        ledgers.iter().for_each(|l| l.named(bookies, index).for_each(|h| hasher.write_u64(h)));
        hasher.finish()
    });
    hashes.min().expect("some names are in order")
}

//! Whether the bookies that are left can take over what those have that leave: pure.
//!
//! * Nobody holds anything of a trimmed ledger, and nothing of it is copied.
//! * A place goes to a bookie that takes data and has none in that fragment, as repairs choose. So what counts is room where it can be used:
//!   with as many bookies left as there are copies, one disk that is full stops all.
//! * Fragments with the least choice are given away first, each to the emptiest of those that can have it. Where there is no choice that is
//!   what repairs do; elsewhere they find room if this does.
//! * Of open ledgers lengths are not known: their writers leave, and begin elsewhere.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use geminga_ledger::takers;
use geminga_metastore::record::{Fragment, LedgerMeta, LiveBookie};
use geminga_proto::ids::{BookieId, LedgerId};

use crate::exit::Failure;

/// So much of a disk is never filled by repairs.
const KEPT_FREE_PERCENT: u64 = 10;

/// What is there.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// Who leaves now.
    pub(super) asked: &'a [BookieId],
    /// Who leaves already.
    pub(super) draining: &'a [BookieId],
    /// Who is registered.
    pub(super) live: &'a [LiveBookie],
    /// All ledgers that are not being deleted.
    pub(super) ledgers: &'a [LedgerMeta],
    /// The copies that each topic keeps, with its name.
    pub(super) copies: Vec<(u8, &'a str)>,
}

/// Why somebody cannot leave.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "{left} bookies would be left that take data, and topic {topic} keeps {copies} copies: add bookies first"
    )]
    TooFew { left: usize, copies: u8, topic: String },
    #[error(
        "the only copy of ledger {ledger} of topic {topic} is there, and an only copy is never moved: delete the topic, or wait for its retention"
    )]
    OnlyCopy { ledger: LedgerId, topic: String },
    #[error(
        "{bookie} has copies of {ledgers} ledgers whose objects are missing in the object store, and may be the last to have them: bring the objects back first, or delete the topics"
    )]
    ObjectsMissing { bookie: BookieId, ledgers: u32 },
    #[error(
        "{needed} bytes are to be copied to bookies that do not have them yet, and for {short} of them these have no room: add bookies, or free space first"
    )]
    NoRoom { needed: u64, short: u64 },
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal {
            Refusal::TooFew { .. } => "TOO_FEW_BOOKIES",
            Refusal::OnlyCopy { .. } => "ONLY_COPY",
            Refusal::ObjectsMissing { .. } => "OBJECTS_MISSING",
            Refusal::NoRoom { .. } => "NO_ROOM",
        };
        Self::new(refusal).because(reason)
    }
}

/// Places of one fragment that others have to take.
struct Places<'a> {
    fragment: &'a Fragment,
    /// How many.
    count: usize,
    /// Bytes of each.
    bytes: u64,
    /// How many more could take one.
    spare: usize,
}

impl Facts<'_> {
    /// # Errors
    /// The first [`Refusal`].
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let mut asked = self.live.iter().filter(|live| self.asked.contains(&live.id));
        let missing = |live: &LiveBookie| live.objects_missing.filter(|ledgers| *ledgers > 0);
        let missing = asked.find_map(|live| Some((live.id.clone(), missing(live)?)));
        if let Some((bookie, ledgers)) = missing {
            return Err(Refusal::ObjectsMissing { bookie, ledgers });
        }
        let room = self.room();
        let held: Vec<&LedgerMeta> = self
            .ledgers
            .iter()
            .filter(|meta| {
                !meta.tier.is_trimmed() && meta.fragments.iter().any(|f| self.leaves(f) > 0)
            })
            .collect();
        let of_ledgers = held.iter().map(|meta| (meta.qw, meta.custom.name.as_str()));
        let most = of_ledgers.chain(self.copies.iter().copied()).max_by_key(|(copies, _)| *copies);
        if let Some((copies, topic)) = most.filter(|(copies, _)| room.len() < usize::from(*copies))
        {
            return Err(Refusal::TooFew { left: room.len(), copies, topic: topic.to_owned() });
        }
        // What has an object is copied from there.
        if let Some(single) = held.iter().find(|meta| meta.qw == 1 && meta.tier.object().is_none())
        {
            let (ledger, topic) = (single.id, single.custom.name.clone());
            return Err(Refusal::OnlyCopy { ledger, topic });
        }
        give_away(self.places(&held, &room), room)
    }

    /// How many members of a fragment leave.
    fn leaves(&self, fragment: &Fragment) -> usize {
        fragment.ensemble.iter().filter(|member| self.is_leaving(&member.bookie)).count()
    }

    fn is_leaving(&self, bookie: &BookieId) -> bool {
        self.asked.contains(bookie) || self.draining.contains(bookie)
    }

    /// Bookies that stay and take data, and for how many bytes each of their disks has room: a copy goes to one disk.
    fn room(&self) -> BTreeMap<&BookieId, Vec<u64>> {
        let mut room = BTreeMap::new();
        for live in takers(self.live) {
            if !self.is_leaving(&live.id) {
                let writable = live.disks.iter().filter(|disk| disk.writable);
                let free = writable.map(|disk| {
                    disk.free_bytes.saturating_sub(disk.total_bytes / 100 * KEPT_FREE_PERCENT)
                });
                room.insert(&live.id, free.collect());
            }
        }
        room
    }

    fn places<'a>(
        &self,
        held: &[&'a LedgerMeta],
        room: &BTreeMap<&BookieId, Vec<u64>>,
    ) -> Vec<Places<'a>> {
        let mut places = Vec::new();
        for meta in held {
            for (index, fragment) in meta.fragments.iter().enumerate() {
                let count = self.leaves(fragment);
                if count > 0 {
                    let free = room.keys().filter(|bookie| !is_in(fragment, bookie)).count();
                    let (bytes, spare) = (share(meta, index), free.saturating_sub(count));
                    places.push(Places { fragment, count, bytes, spare });
                }
            }
        }
        places.sort_by_key(|places| (places.spare, Reverse(places.bytes)));
        places
    }
}

fn is_in(fragment: &Fragment, bookie: &BookieId) -> bool {
    fragment.ensemble.iter().any(|member| member.bookie == *bookie)
}

/// Gives every place to somebody, in order.
fn give_away(
    places: Vec<Places<'_>>,
    mut room: BTreeMap<&BookieId, Vec<u64>>,
) -> Result<(), Refusal> {
    let (mut needed, mut short) = (0_u64, 0_u64);
    for Places { fragment, count, bytes, .. } in places {
        let mut taken = BTreeSet::new();
        for _ in 0..count {
            needed = needed.saturating_add(bytes);
            let others = room
                .iter_mut()
                .filter(|(bookie, _)| !is_in(fragment, bookie) && !taken.contains(**bookie));
            let disks =
                others.flat_map(|(bookie, disks)| disks.iter_mut().map(move |d| (bookie, d)));
            let emptiest = disks.max_by_key(|(_, free)| **free);
            match emptiest {
                Some((bookie, free)) if *free >= bytes => {
                    *free -= bytes;
                    taken.insert(*bookie);
                }
                Some(_) | None => short = short.saturating_add(bytes),
            }
        }
    }
    if short > 0 {
        return Err(Refusal::NoRoom { needed, short });
    }
    Ok(())
}

/// Payload bytes of a fragment. Lengths of fragments are nowhere: an entry counts as the average one of its ledger.
fn share(meta: &LedgerMeta, index: usize) -> u64 {
    let (Some(end), Some(last)) = (meta.fragment_end(index), meta.last_entry) else { return 0 };
    let count = |from: i64, to: i64| u128::try_from(to - from + 1).unwrap_or(0);
    let held = count(meta.fragments[index].first_entry.0, end.0);
    let bytes = (u128::from(meta.length) * held).checked_div(count(0, last.0)).unwrap_or(0);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

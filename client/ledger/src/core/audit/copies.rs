//! Who holds what of one ledger, whoever the metadata says should. Copies move: a writer replaces members, and repair does. A backup names
//! those who had them when it was made. Only one writer ever made the content of a ledger (D3), so that what anybody holds is good.

use geminga_metastore::record::{Fragment, LedgerMeta};
use geminga_proto::caps;
use geminga_proto::ids::{EntryId, Member};

use super::Holder;

/// How far the copies of a ledger reach that is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Where others go on behind its members: the fragments with those who do, so that a recovery hears them. `None`: nobody does.
    pub fragments: Option<Vec<Fragment>>,
    /// An entry that nobody holds, although somebody holds a later one, or was told that the ledger ends later.
    pub missing: Option<EntryId>,
    /// The first entry behind an end that bookies were told, where somebody holds it. A recovery that came to nothing may have left it (RC1),
    /// and so may another life of the same backup, which acknowledged it.
    pub beyond: Option<EntryId>,
}

/// The entries from `from` on that a holder has without a gap: where they end.
fn tail(holder: &Holder, from: EntryId) -> EntryId {
    let run = holder.local.runs.iter().find(|(first, last)| *first <= from && from <= *last);
    run.map_or(from.prev(), |(_, last)| *last)
}

/// How many entries of `first..=last` a holder has.
fn share(holder: &Holder, first: EntryId, last: EntryId) -> i64 {
    let within = |(from, to): &(EntryId, EntryId)| to.min(&last).0 - from.max(&first).0 + 1;
    holder.local.runs.iter().map(|run| within(run).max(0)).sum()
}

/// Whether anybody of these lacks an entry of `first..=last` that none of the others has; the first one.
fn gap<'a>(
    holders: impl Iterator<Item = &'a Holder>,
    first: EntryId,
    last: EntryId,
) -> Option<EntryId> {
    let mut runs: Vec<_> = holders.flat_map(|holder| holder.local.runs.clone()).collect();
    runs.sort_unstable();
    let mut next = first;
    for (from, to) in runs {
        if from <= next {
            next = next.max(to.next());
        }
    }
    (next <= last).then_some(next)
}

/// How far the copies reach, from the last fragment's first entry on. A recovery asks the members of the last fragment only, and closes
/// where those end.
pub fn reach(meta: &LedgerMeta, holders: &[Holder]) -> Reach {
    let last = meta.last_fragment();
    let first = last.first_entry;
    let members = holders.iter().filter(|holder| last.ensemble.contains(&holder.member));
    let mut next = members.map(|holder| tail(holder, first)).max().unwrap_or(first.prev()).next();
    // What was closed ends there for ever: whoever goes on behind it makes it no longer.
    let closed = holders.iter().filter_map(|holder| holder.local.closed).min();
    let counts = |entry: EntryId| closed.is_none_or(|closed| entry <= closed);
    let mut fragments = meta.fragments.clone();
    while let Some(end) = holders.iter().map(|holder| tail(holder, next)).max()
        && end >= next
        && counts(next)
    {
        fragments.retain(|fragment| fragment.first_entry < next);
        let ensemble = ensemble_at(&last.ensemble, holders, next);
        fragments.push(Fragment { first_entry: next, ensemble });
        next = end.next();
    }
    let mut runs = holders.iter().flat_map(|holder| &holder.local.runs);
    let later = runs.any(|(from, _)| *from > next && counts(*from));
    let below = closed.is_some_and(|closed| next <= closed);
    let full = fragments.len() > caps::MAX_FRAGMENTS;
    let missing = (later || below || full).then_some(next);
    let behind = |closed: EntryId| {
        let mut held = holders.iter().flat_map(|holder| &holder.local.runs);
        held.any(|(_, last)| *last > closed).then(|| closed.next())
    };
    let beyond = closed.and_then(behind);
    let fragments = (!full && fragments != meta.fragments).then_some(fragments);
    Reach { fragments, missing, beyond }
}

/// Those who hold `entry`, the furthest first, and of the former ensemble as many as there is room for.
fn ensemble_at(former: &[Member], holders: &[Holder], entry: EntryId) -> Vec<Member> {
    let mut on: Vec<_> = holders.iter().filter(|holder| tail(holder, entry) >= entry).collect();
    on.sort_by_key(|holder| std::cmp::Reverse(tail(holder, entry)));
    let mut ensemble: Vec<Member> = Vec::with_capacity(former.len());
    for member in on.into_iter().map(|holder| &holder.member).chain(former) {
        let there = ensemble.iter().any(|one| one.bookie == member.bookie);
        if !there && ensemble.len() < former.len() {
            ensemble.push(member.clone());
        }
    }
    ensemble
}

/// The first entry of a closed ledger that no member of its fragment holds, and which fragment that is.
pub(super) fn first_missing(meta: &LedgerMeta, holders: &[Holder]) -> Option<(usize, EntryId)> {
    (0..meta.fragments.len()).find_map(|index| {
        let fragment = &meta.fragments[index];
        let members = holders.iter().filter(|holder| fragment.ensemble.contains(&holder.member));
        let entry = gap(members, fragment.first_entry, meta.fragment_end(index)?)?;
        Some((index, entry))
    })
}

/// Whether the members of a closed ledger hold all of it between them.
pub fn is_whole(meta: &LedgerMeta, holders: &[Holder]) -> bool {
    first_missing(meta, holders).is_none()
}

/// The fragments of a closed ledger with others, who hold what its members lack, in the places of members that hold nothing of it. `None`
/// when its members lack nothing, or nobody has what they lack.
pub fn moved(meta: &LedgerMeta, holders: &[Holder]) -> Option<Vec<Fragment>> {
    first_missing(meta, holders)?;
    let mut fragments = meta.fragments.clone();
    for (index, fragment) in fragments.iter_mut().enumerate() {
        let (first, last) = (fragment.first_entry, meta.fragment_end(index)?);
        let members = holders.iter().filter(|holder| fragment.ensemble.contains(&holder.member));
        if gap(members, first, last).is_some() {
            take_in(&mut fragment.ensemble, holders, first, last);
        }
    }
    let with = LedgerMeta { fragments, ..meta.clone() };
    first_missing(&with, holders).is_none().then_some(with.fragments)
}

/// Takes those in who close the first gap and reach furthest, each in the place of a member that holds nothing, until there is no gap.
fn take_in(ensemble: &mut [Member], holders: &[Holder], first: EntryId, last: EntryId) {
    let share_of = |member: &Member| {
        let holder = holders.iter().find(|holder| holder.member == *member);
        holder.map_or(0, |holder| share(holder, first, last))
    };
    // Another life of the same bookie takes its own place.
    let place = |ensemble: &[Member], other: &Member| {
        let own = ensemble.iter().position(|member| member.bookie == other.bookie);
        let empty = || ensemble.iter().position(|member| share_of(member) == 0);
        own.or_else(empty).filter(|place| share_of(&ensemble[*place]) == 0)
    };
    loop {
        let members = holders.iter().filter(|holder| ensemble.contains(&holder.member));
        let Some(entry) = gap(members, first, last) else { break };
        let others = holders.iter().filter(|holder| {
            tail(holder, entry) >= entry
                && !ensemble.contains(&holder.member)
                && place(ensemble, &holder.member).is_some()
        });
        let Some(best) = others.max_by_key(|holder| tail(holder, entry)) else { break };
        let place = place(ensemble, &best.member).expect("looked for above");
        ensemble[place] = best.member.clone();
    }
    // Whoever else holds something takes the places that are left: each is a copy more.
    let mut others: Vec<Member> = elsewhere(ensemble, holders);
    others.sort_by_key(|member| std::cmp::Reverse(share_of(member)));
    for other in others.into_iter().filter(|other| share_of(other) > 0) {
        if let Some(place) = place(ensemble, &other) {
            ensemble[place] = other;
        }
    }
}

/// Members of a closed ledger that have not all that they should.
pub fn lacking(meta: &LedgerMeta, holders: &[Holder]) -> Vec<Member> {
    let mut lacking: Vec<Member> = Vec::new();
    for (index, fragment) in meta.fragments.iter().enumerate() {
        let Some(last) = meta.fragment_end(index) else { continue };
        for member in &fragment.ensemble {
            let copies = holders.iter().filter(|holder| holder.member == *member);
            if gap(copies, fragment.first_entry, last).is_some() && !lacking.contains(member) {
                lacking.push(member.clone());
            }
        }
    }
    lacking
}

/// Who holds something and is in this ensemble not.
pub(super) fn elsewhere(ensemble: &[Member], holders: &[Holder]) -> Vec<Member> {
    let members = holders.iter().map(|holder| &holder.member);
    members.filter(|member| !ensemble.contains(member)).cloned().collect()
}

//! Which bookies a new ledger lives on, who takes a lost place, and who could spread copies better that are all there (protocol 6.7,
//! 2.5): distinct bookies, in so many zones at least as are asked for, where there are so many, those that fail all the time last, spread
//! over more zones, and hosts, emptier disks first, and chance between equals so that ledgers spread.
//!
//! A copy moves only where that leaves fewer members without a zone, or as many in more zones ([`spread`]): each move brings an
//! ensemble nearer to an end, so none is ever taken back while the zones stay as they are.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use geminga_metastore::record::LiveBookie;
use geminga_proto::ids::Member;
use geminga_runtime::{Random, SeededRandom};

use crate::quarantine::Quarantine;

/// What is asked of bookies, and what is known of them here and now.
#[derive(Clone, Copy)]
pub(crate) struct Choice<'a> {
    /// Copies are in so many zones at least, where so many have a bookie that takes data (6.7): whatever else speaks against that bookie,
    /// a zone that loses its power is worse.
    pub(crate) min_zones: usize,
    /// Who fails all the time.
    pub(crate) quarantine: &'a Quarantine,
    /// Decides between equals.
    pub(crate) random: &'a dyn Random,
}

/// Fewer bookies that take new data ([`takers`]) than the ack quorum needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooFew {
    /// How many there are.
    pub(crate) live: usize,
}

/// Where a bookie is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place<'a> {
    zone: &'a str,
    host: &'a str,
}

impl<'a> Place<'a> {
    fn of(bookie: &'a LiveBookie) -> Self {
        Self { zone: &bookie.zone, host: host(&bookie.address) }
    }
}

/// The machine in an address `HOST:PORT`, as far as that tells: one that is only reached from itself is the same for all, and two names of
/// one machine are two.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let loops = host.parse::<IpAddr>().map_or(host == "localhost", |ip| ip.is_loopback());
    if loops { "" } else { host }
}

struct Candidate<'a> {
    member: Member,
    place: Place<'a>,
    avoid: bool,
    free_bytes: u64,
    lot: u64,
}

/// The smaller the better.
type Rank = (bool, bool, usize, usize, bool, u64);

impl Candidate<'_> {
    /// Until there are `min_zones`, another zone comes first; then those that are not in quarantine; a zone that is used less; a host that
    /// is; the emptier half; the lot.
    fn rank(&self, used: &[Place<'_>], median: u64, min_zones: usize) -> Rank {
        let same_zone = used.iter().filter(|place| place.zone == self.place.zone).count();
        let same_host = used.iter().filter(|place| place.host == self.place.host).count();
        let zones = used.iter().map(|place| place.zone);
        let named: BTreeSet<&str> = zones.filter(|zone| !zone.is_empty()).collect();
        let too_few = same_zone > 0 && named.len() < min_zones;
        (too_few, self.avoid, same_zone, same_host, self.free_bytes < median, self.lot)
    }
}

/// Chooses up to `qw` members, at least `qa`.
///
/// # Errors
/// [`TooFew`] when fewer than `qa` bookies can take data.
pub(crate) fn choose(
    live: &[LiveBookie],
    qw: u8,
    qa: u8,
    by: Choice<'_>,
) -> Result<Vec<Member>, TooFew> {
    let mut candidates = candidates(live, by);
    if candidates.len() < usize::from(qa) {
        return Err(TooFew { live: candidates.len() });
    }
    let mut chosen: Vec<Member> = Vec::new();
    let mut used = Vec::new();
    while chosen.len() < usize::from(qw)
        && let Some(best) = take_best(&mut candidates, &used, by.min_zones)
    {
        used.push(best.place);
        chosen.push(best.member);
    }
    Ok(chosen)
}

fn take_best<'a>(
    candidates: &mut Vec<Candidate<'a>>,
    used: &[Place<'_>],
    min_zones: usize,
) -> Option<Candidate<'a>> {
    let median = median_free(candidates)?;
    let rank = |at: &usize| candidates[*at].rank(used, median, min_zones);
    let best = (0..candidates.len()).min_by_key(rank)?;
    Some(candidates.swap_remove(best))
}

/// Who takes the places `lost` of `ensemble`, as far as somebody can: no present member, but a bookie's new life may take
/// the place of its old one, unless that life is shunned as well; no bookie of `shunned`, who failed here a moment ago.
pub(crate) fn replace(
    live: &[LiveBookie],
    ensemble: &[Member],
    lost: &[usize],
    shunned: &[Member],
    by: Choice<'_>,
) -> Vec<(Member, Member)> {
    let mut candidates = candidates(live, by);
    let mut found = Vec::new();
    for &index in lost {
        // One that was wiped: its former life is gone for good, so nothing is given up by coming back to it.
        let reborn = candidates.iter().position(|c| {
            !shunned.contains(&c.member) && is_reborn(live, &ensemble[index], &c.member)
        });
        if let Some(reborn) = reborn {
            found.push((index, candidates.swap_remove(reborn)));
        }
    }
    candidates.retain(|c| {
        let bookie = &c.member.bookie;
        shunned.iter().chain(ensemble).all(|member| member.bookie != *bookie)
    });
    let kept = ensemble.iter().enumerate().filter(|(index, _)| !lost.contains(index));
    let kept = kept.filter_map(|(_, member)| live.iter().find(|l| l.id == member.bookie));
    let mut used: Vec<Place<'_>> = kept.map(Place::of).collect();
    used.extend(found.iter().map(|(_, candidate)| candidate.place));
    for &index in lost {
        if found.iter().all(|(other, _)| *other != index)
            && let Some(best) = take_best(&mut candidates, &used, by.min_zones)
        {
            used.push(best.place);
            found.push((index, best));
        }
    }
    found.into_iter().map(|(index, c)| (ensemble[index].clone(), c.member)).collect()
}

/// Who takes a place of an ensemble that lacks nothing, so that its copies are spread better; `None`: nobody, or it is not known of each
/// member where it is. Nobody whose disk is much fuller than others.
pub(crate) fn relocate(
    live: &[LiveBookie],
    ensemble: &[Member],
    position: usize,
    shunned: &[Member],
    by: Choice<'_>,
) -> Option<Member> {
    let places = places(live, ensemble)?;
    let zones: Vec<&str> = places.iter().map(|place| place.zone).collect();
    let candidates = candidates(live, by);
    let median = median_free(&candidates)?;
    let others: Vec<Place<'_>> = without(&places, position).collect();
    let fits = |c: &Candidate<'_>| {
        let taken = shunned.iter().chain(ensemble).any(|member| member.bookie == c.member.bookie);
        !taken && !c.avoid && c.free_bytes >= median && is_better(&zones, position, c.place.zone)
    };
    let best = candidates.into_iter().filter(fits);
    best.min_by_key(|candidate| candidate.rank(&others, median, by.min_zones))
        .map(|best| best.member)
}

/// Members of an ensemble whose places somebody could take who spreads its copies better, as of who is registered. For the audit: whoever
/// moves a copy asks again, with what it knows then.
pub fn misplaced(live: &[LiveBookie], ensemble: &[Member]) -> Vec<Member> {
    // Neither chance nor what fails here and now decides what is marked, nor how many zones are enough: a move is to one more.
    let (quarantine, random) = (Quarantine::new(u32::MAX, Duration::ZERO), SeededRandom::new(0));
    let by = Choice { min_zones: 1, quarantine: &quarantine, random: &random };
    let moves = |position: &usize| relocate(live, ensemble, *position, &[], by).is_some();
    (0..ensemble.len()).filter(moves).map(|position| ensemble[position].clone()).collect()
}

/// In which zone each member is; `None` while one of them is not registered.
pub(crate) fn zones<'a>(live: &'a [LiveBookie], ensemble: &[Member]) -> Option<Vec<&'a str>> {
    Some(places(live, ensemble)?.into_iter().map(|place| place.zone).collect())
}

/// Where each member is; `None` while one of them is not registered: no copy is moved by half a view.
fn places<'a>(live: &'a [LiveBookie], ensemble: &[Member]) -> Option<Vec<Place<'a>>> {
    let place = |member: &Member| {
        let bookie = live.iter().find(|bookie| bookie.id == member.bookie)?;
        let lives = bookie.disks.iter().any(|disk| disk.incarnation == member.incarnation);
        lives.then(|| Place::of(bookie))
    };
    ensemble.iter().map(place).collect()
}

fn without<T: Copy>(all: &[T], position: usize) -> impl Iterator<Item = T> {
    all.iter().enumerate().filter(move |(index, _)| *index != position).map(|(_, one)| *one)
}

/// Whether `zone` in that place leaves fewer members without a zone, or as many and more zones.
fn is_better(zones: &[&str], position: usize, zone: &str) -> bool {
    let worth = |zones: &[&str]| {
        let distinct: BTreeSet<&str> = zones.iter().copied().collect();
        (zones.iter().filter(|zone| zone.is_empty()).count(), Reverse(distinct.len()))
    };
    let moved: Vec<&str> = without(zones, position).chain([zone]).collect();
    worth(&moved) < worth(zones)
}

fn is_reborn(live: &[LiveBookie], lost: &Member, candidate: &Member) -> bool {
    let former_life_is_there = || {
        let bookie = live.iter().find(|bookie| bookie.id == lost.bookie);
        bookie.is_some_and(|b| b.disks.iter().any(|d| d.incarnation == lost.incarnation))
    };
    candidate.bookie == lost.bookie
        && candidate.incarnation != lost.incarnation
        && !former_life_is_there()
}

/// Those that new data is placed on (6.7): they have a disk that takes it and, where any bookie that is registered names a zone, a zone.
///
/// Also one that takes nothing makes zones count: else, whenever those of all zones are full, copies would go where nobody knows what
/// shares a fate, and be moved back when there is room again.
pub fn takers<T: Borrow<LiveBookie>>(live: &[T]) -> impl Iterator<Item = &LiveBookie> {
    let zoned = is_zoned(live);
    live.iter().map(T::borrow).filter(move |bookie| {
        bookie.disks.iter().any(|disk| disk.writable) && !(zoned && bookie.zone.is_empty())
    })
}

/// Those that get nothing new, whatever their disks take, since they name no zone and others do.
pub fn without_zone(live: &[LiveBookie]) -> impl Iterator<Item = &LiveBookie> {
    let zoned = is_zoned(live);
    live.iter().filter(move |bookie| zoned && bookie.zone.is_empty())
}

/// How many zones fewer than `min_zones` have a bookie that takes new data (6.7). Of bookies that all name no zone none is asked for but
/// those that acknowledgements are to be in.
pub(crate) fn zones_missing(live: &[LiveBookie], min_zones: usize, min_ack_zones: usize) -> usize {
    if !is_zoned(live) {
        return min_ack_zones.saturating_sub(1);
    }
    let zones: BTreeSet<&str> = takers(live).map(|bookie| bookie.zone.as_str()).collect();
    min_zones.saturating_sub(zones.len())
}

fn is_zoned<T: Borrow<LiveBookie>>(live: &[T]) -> bool {
    live.iter().any(|bookie| !bookie.borrow().zone.is_empty())
}

/// One candidate per bookie that takes data: its emptiest writable disk.
fn candidates<'a>(live: &'a [LiveBookie], by: Choice<'_>) -> Vec<Candidate<'a>> {
    takers(live)
        .filter_map(|bookie| {
            let disk = bookie.disks.iter().filter(|d| d.writable).max_by_key(|d| d.free_bytes)?;
            Some(Candidate {
                member: Member { bookie: bookie.id.clone(), incarnation: disk.incarnation },
                place: Place::of(bookie),
                avoid: by.quarantine.holds(bookie),
                free_bytes: disk.free_bytes,
                lot: by.random.next_u64(),
            })
        })
        .collect()
}

/// `None` where there is nobody.
fn median_free(candidates: &[Candidate<'_>]) -> Option<u64> {
    let mut free: Vec<u64> = candidates.iter().map(|c| c.free_bytes).collect();
    free.sort_unstable();
    // Half of the median: only disks that are much fuller than the others wait.
    free.get(free.len() / 2).map(|median| median / 2)
}

#[cfg(test)]
mod tests;

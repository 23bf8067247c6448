//! Which bookies a new ledger lives on (protocol 6.7): distinct bookies, spread over zones, emptier disks first, and
//! chance between equals so that ledgers spread.

use geminga_metastore::record::LiveBookie;
use geminga_proto::ids::{Incarnation, Member};
use geminga_runtime::Random;

/// Fewer live bookies with a writable disk than the ack quorum needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooFew {
    /// How many there are.
    pub(crate) live: usize,
}

struct Candidate<'a> {
    member: Member,
    zone: &'a str,
    free_bytes: u64,
    lot: u64,
}

/// Chooses up to `qw` members, at least `qa`.
///
/// # Errors
/// [`TooFew`] when fewer than `qa` bookies can take data.
pub(crate) fn choose(
    live: &[LiveBookie],
    qw: u8,
    qa: u8,
    random: &dyn Random,
) -> Result<Vec<Member>, TooFew> {
    let mut candidates = candidates(live, random);
    if candidates.len() < usize::from(qa) {
        return Err(TooFew { live: candidates.len() });
    }
    let mut chosen: Vec<Candidate<'_>> = Vec::new();
    while chosen.len() < usize::from(qw) && !candidates.is_empty() {
        // A zone that is not used yet comes first; then the emptier half; then the lot.
        let median = median_free(&candidates);
        let used = |c: &Candidate<'_>| chosen.iter().filter(|other| other.zone == c.zone).count();
        let rank = |c: &Candidate<'_>| (used(c), c.free_bytes < median, c.lot);
        let best = (0..candidates.len()).min_by_key(|i| rank(&candidates[*i])).expect("not empty");
        chosen.push(candidates.swap_remove(best));
    }
    Ok(chosen.into_iter().map(|c| c.member).collect())
}

/// One candidate per bookie: its emptiest writable disk. Where some bookies name a zone, those without are left out.
fn candidates<'a>(live: &'a [LiveBookie], random: &dyn Random) -> Vec<Candidate<'a>> {
    let zoned = live.iter().any(|bookie| !bookie.zone.is_empty());
    live.iter()
        .filter(|bookie| !zoned || !bookie.zone.is_empty())
        .filter_map(|bookie| {
            let disk = bookie.disks.iter().filter(|d| d.writable).max_by_key(|d| d.free_bytes)?;
            Some(Candidate {
                member: Member {
                    bookie: bookie.id.clone(),
                    incarnation: Incarnation(disk.incarnation.0),
                },
                zone: &bookie.zone,
                free_bytes: disk.free_bytes,
                lot: random.next_u64(),
            })
        })
        .collect()
}

fn median_free(candidates: &[Candidate<'_>]) -> u64 {
    let mut free: Vec<u64> = candidates.iter().map(|c| c.free_bytes).collect();
    free.sort_unstable();
    // Half of the median: only disks that are much fuller than the others wait.
    free[free.len() / 2] / 2
}

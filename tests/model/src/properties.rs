//! What must always hold, and what must be reachable (protocol 8.2).

use geminga_metastore::record::{CloseKind, LedgerState};
use geminga_proto::ids::EntryId;
use stateright::Property;

use crate::bookie::Bookie;
use crate::ledger::{Ledger, member, number};
use crate::part::Part;
use crate::size::Size;
use crate::world::World;

pub(crate) fn all() -> Vec<Property<Size>> {
    let mut all = safety();
    all.extend(reachability());
    all
}

fn safety() -> Vec<Property<Size>> {
    vec![
        Property::always("I1, I3: nothing acknowledged is beyond the end", |_, world: &World| {
            world.ledgers.iter().all(|l| end(l).is_none_or(|last| acked(l) <= last))
        }),
        Property::always("I2: a closed ledger is readable", |_, world: &World| {
            world.ledgers.iter().all(|ledger| is_readable(world, ledger))
        }),
        Property::always("I4, I5, I10: one end, and only legal states", |_, world: &World| {
            world.ledgers.iter().all(|ledger| !ledger.metadata.went_back)
        }),
        Property::always("I6: a LAC is something the writer acknowledged", |_, world: &World| {
            let holds = |l: &Ledger| {
                let acked = l.writer.said().acked;
                l.bookies.iter().all(|bookie| bookie.max_lac() <= acked)
            };
            world.ledgers.iter().all(holds)
        }),
        Property::always("I7: acknowledgements are a prefix", |_, world: &World| {
            world.ledgers.iter().all(|l| !l.writer.said().acked_backwards)
        }),
        Property::always("I8: all copies of an entry are equal", |_, world: &World| {
            world.ledgers.iter().all(copies_are_equal)
        }),
        Property::always("I9: runs are contiguous", |_, world: &World| {
            bookies(world).all(|bookie| !bookie.left_gap)
        }),
        Property::always("I10: what is acknowledged is on Qa members", |_, world: &World| {
            let on_members = |ledger: &Ledger| {
                (0..=acked(ledger).0).all(|entry| enough_copies(world, ledger, EntryId(entry)))
            };
            world.ledgers.iter().all(on_members)
        }),
        Property::always("I11: a bookie keeps a seal that it answered", |_, world: &World| {
            bookies(world).all(|bookie| bookie.keeps_its_seal() && !bookie.broke_seal)
        }),
        Property::always("I12: a sealed tail stays", |_, world: &World| {
            bookies(world).all(|bookie| bookie.keeps_its_tail() && !bookie.broke_tail)
        }),
        Property::always("I13: a ledger acknowledges after the one before", |_, world: &World| {
            let pairs = world.ledgers.iter().zip(world.ledgers.iter().skip(1));
            let mut pairs = pairs.filter(|(_, next)| acked(next) > EntryId::NONE);
            pairs.all(|(before, _)| end(before).is_some() || before.metadata.removed)
        }),
        Property::always("I16: a removed ledger stays removed", |_, world: &World| {
            let back = |l: &Ledger| l.metadata.removed && l.metadata.meta.is_some();
            !world.ledgers.iter().any(back)
        }),
    ]
}

/// What a size allows must be seen in it, or the checks above check nothing.
fn reachability() -> Vec<Property<Size>> {
    vec![
        Property::sometimes("the last ledger is closed by its writer", |_, world: &World| {
            world.ledgers.last().is_some_and(|l| closed_by(l) == Some(CloseKind::Writer))
        }),
        Property::sometimes("closed by a recoverer", |size: &Size, world: &World| {
            size.recoverers == 0
                || world.ledgers.iter().any(|l| closed_by(l) == Some(CloseKind::Recovered))
        }),
        Property::sometimes("acknowledged and then recovered", |size: &Size, world: &World| {
            let recovered = |ledger: &Ledger| {
                closed_by(ledger) == Some(CloseKind::Recovered) && acked(ledger) >= EntryId(0)
            };
            size.entries == 0 || size.recoverers == 0 || world.ledgers.iter().any(recovered)
        }),
        Property::sometimes("two recoverers adopt one end", |size: &Size, world: &World| {
            size.recoverers < 2 || world.ledgers.iter().any(|l| closed_by_recoverers(l) == 2)
        }),
        Property::sometimes("the ensemble changed", |size: &Size, world: &World| {
            size.failures == 0 || world.ledgers.iter().any(|l| has_changed(l) && end(l).is_some())
        }),
        Property::sometimes("acknowledged after a change", |size: &Size, world: &World| {
            let acked = |l: &Ledger| has_changed(l) && acked(l) >= EntryId(0);
            size.failures == 0 || size.entries == 0 || world.ledgers.iter().any(acked)
        }),
        Property::sometimes("removed with something acknowledged", |size: &Size, world: &World| {
            let removed = |l: &Ledger| l.metadata.removed && acked(l) >= EntryId(0);
            !size.deletion || size.entries == 0 || world.ledgers.iter().any(removed)
        }),
        Property::sometimes("a request arrived twice", |size: &Size, world: &World| {
            size.resends == 0 || world.has_resent(size)
        }),
    ]
}

/// How a ledger ended: which one, its last entry, who closed it, where its fragments begin, and how far bookies had come by
/// then, whatever their names.
pub type End = (usize, i64, String, Vec<i64>, Vec<i64>);

/// The ledgers that a step closed, and what their writers had acknowledged.
pub(crate) fn ends(before: &World, after: &World) -> Vec<(End, i64)> {
    let of = |(index, (before, after)): (usize, (&Ledger, &Ledger))| {
        let last = end(after).filter(|_| end(before).is_none())?;
        let fragments = &after.metadata.meta.as_ref()?.fragments;
        let firsts = fragments.iter().map(|fragment| fragment.first_entry.0).collect();
        let mut tails: Vec<i64> = after.bookies.iter().map(|b| b.last().0).collect();
        tails.sort_unstable();
        let closer = format!("{:?}", closed_by(after)?);
        Some(((index, last.0, closer, firsts, tails), acked(before).0))
    };
    before.ledgers.iter().zip(&after.ledgers).enumerate().filter_map(of).collect()
}

fn bookies(world: &World) -> impl Iterator<Item = &Part<Bookie>> {
    world.ledgers.iter().flat_map(|ledger| &ledger.bookies)
}

fn acked(ledger: &Ledger) -> EntryId {
    ledger.acked()
}

fn end(ledger: &Ledger) -> Option<EntryId> {
    let meta = ledger.metadata.meta.as_ref()?;
    match meta.state {
        LedgerState::Closed => meta.last_entry,
        LedgerState::Open | LedgerState::InRecovery | LedgerState::Deleting => None,
    }
}

fn closed_by(ledger: &Ledger) -> Option<CloseKind> {
    ledger.metadata.meta.as_ref()?.close_kind.clone()
}

fn closed_by_recoverers(ledger: &Ledger) -> usize {
    ledger.recoverers.iter().filter(|recoverer| recoverer.knows_end()).count()
}

fn has_changed(ledger: &Ledger) -> bool {
    ledger.metadata.meta.as_ref().is_some_and(|meta| {
        meta.fragments.len() > 1
            || meta.fragments[0].ensemble.iter().any(|m| number(m) >= usize::from(meta.qw))
    })
}

fn durable_copies(ledger: &Ledger, entry: EntryId) -> Option<(usize, usize)> {
    let meta = ledger.metadata.meta.as_ref()?;
    let ensemble = &meta.fragment_of(entry).ensemble;
    let alive = ensemble.iter().map(|m| (m, &ledger.bookies[number(m)]));
    let alive = alive.filter(|(m, bookie)| member(number(m), bookie.life) == **m);
    let copies = alive.filter(|(_, bookie)| bookie.durable(entry).is_some()).count();
    Some((copies, usize::from(meta.qa)))
}

/// On Qa members; each life that was lost may have taken one copy with it.
fn enough_copies(world: &World, ledger: &Ledger, entry: EntryId) -> bool {
    durable_copies(ledger, entry)
        .is_none_or(|(copies, qa)| copies >= qa.saturating_sub(world.wiped()))
}

fn is_readable(world: &World, ledger: &Ledger) -> bool {
    let Some(last) = end(ledger) else { return true };
    (0..=last.0).all(|entry| enough_copies(world, ledger, EntryId(entry)))
}

fn copies_are_equal(ledger: &Ledger) -> bool {
    (0..ledger.writer.said().written).all(|entry| {
        let entry = EntryId(entry as i64);
        let mut copies = ledger.bookies.iter().filter_map(|bookie| bookie.stored(entry));
        let first = copies.next();
        copies.all(|copy| Some(copy) == first)
    })
}

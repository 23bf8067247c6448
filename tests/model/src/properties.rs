//! What must always hold, and what must be reachable (protocol 8.2).

use geminga_metastore::record::{CloseKind, LedgerState};
use geminga_proto::ids::EntryId;
use stateright::Property;

use crate::sizes::DURABILITY;
use crate::world::{Size, World};

pub(crate) fn all() -> Vec<Property<Size>> {
    vec![
        Property::always(DURABILITY, |_, world: &World| {
            end(world).is_none_or(|last| world.writer.acked <= last)
        }),
        Property::always("I2: a closed ledger is readable from Qa members", |_, world: &World| {
            readable(world)
        }),
        Property::always("I4, I5: one end, and states only advance", |_, world: &World| {
            !world.metadata.went_back
        }),
        Property::always("I6: a LAC is something the writer acknowledged", |_, world: &World| {
            world.bookies.iter().all(|bookie| bookie.max_lac() <= world.writer.acked)
        }),
        Property::always("I8: all copies of an entry are equal", |_, world: &World| {
            copies_are_equal(world)
        }),
        Property::always(
            "I10: an acknowledged entry is durable on Qa members",
            |_, world: &World| {
                let last = world.writer.acked.0;
                (0..=last).all(|entry| durable_copies(world, EntryId(entry)) >= qa(world))
            },
        ),
        Property::always("I11: a bookie keeps a seal that it answered", |_, world: &World| {
            world.bookies.iter().all(crate::bookie::Bookie::keeps_its_seal)
        }),
        Property::always("I12: a sealed tail never shrinks", |_, world: &World| {
            world.bookies.iter().all(|bookie| bookie.keeps_its_tail(EntryId(0)))
        }),
        Property::sometimes("closed by its writer", |_, world: &World| {
            end(world).is_some() && world.metadata.meta.close_kind.is_none()
        }),
        Property::sometimes("closed by a recoverer", |_, world: &World| {
            world.metadata.meta.close_kind == Some(CloseKind::Recovered)
        }),
        Property::sometimes(
            "an entry is acknowledged and then recovered",
            |size: &Size, world: &World| {
                let recovered = world.metadata.meta.close_kind == Some(CloseKind::Recovered);
                size.entries == 0 || (recovered && world.writer.acked >= EntryId(0))
            },
        ),
        Property::sometimes("two recoverers adopt one end", |size: &Size, world: &World| {
            size.recoverers < 2 || world.closed_by_recoverers() == 2
        }),
    ]
}

fn end(world: &World) -> Option<EntryId> {
    match world.metadata.meta.state {
        LedgerState::Closed => world.metadata.meta.last_entry,
        LedgerState::Open | LedgerState::InRecovery | LedgerState::Deleting => None,
    }
}

fn qa(world: &World) -> usize {
    usize::from(world.metadata.meta.qa)
}

fn durable_copies(world: &World, entry: EntryId) -> usize {
    let ensemble = &world.metadata.meta.fragment_of(entry).ensemble;
    ensemble.iter().filter(|member| world.bookie(member).durable(entry).is_some()).count()
}

fn readable(world: &World) -> bool {
    let Some(last) = end(world) else { return true };
    (0..=last.0).all(|entry| durable_copies(world, EntryId(entry)) >= qa(world))
}

fn copies_are_equal(world: &World) -> bool {
    (0..world.writer.written()).all(|entry| {
        let entry = EntryId(entry as i64);
        let mut copies = world.bookies.iter().filter_map(|bookie| bookie.stored(entry));
        let first = copies.next();
        copies.all(|copy| Some(copy) == first)
    })
}

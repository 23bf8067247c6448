//! What must always hold of a closed ledger, and what must be reachable (protocol 8.2).

use geminga_metastore::record::{LedgerMeta, LedgerState, Tier};
use geminga_proto::ids::Member;
use stateright::Property;

use super::size::Upkeep;
use super::world::World;
use crate::ledger::number;

pub(super) fn all() -> Vec<Property<Upkeep>> {
    let mut all = safety();
    all.extend(reachability());
    all
}

fn safety() -> Vec<Property<Upkeep>> {
    vec![
        Property::always("I14: the object that metadata names is all of it", |_, world: &World| {
            let names = world.closed().is_some_and(|meta| meta.tier.object().is_some());
            !names || world.by_hand || world.has_object()
        }),
        Property::always("I14: copies go for an object that was seen", |_, world: &World| {
            !world.broken.early
        }),
        Property::always("I15: nothing leaves fewer copies", |_, world: &World| {
            !world.broken.fewer
        }),
        Property::always("I2: a closed ledger is readable", is_readable),
        Property::always("I16: a removed ledger stays removed", |_, world: &World| {
            !world.broken.back
        }),
        Property::always("M2, M5, M6, T1: only legal changes", |_, world: &World| {
            !world.broken.illegal
        }),
        Property::always("6.5: a mark goes when all is repaired", |_, world: &World| {
            !world.broken.unclean
        }),
    ]
}

/// What a size allows must be seen in it, or the checks above check nothing.
fn reachability() -> Vec<Property<Upkeep>> {
    vec![
        Property::sometimes("a copy went for an object", |size: &Upkeep, world: &World| {
            size.uploaders == 0 || world.bookies.iter().any(|disk| disk.trimmed)
        }),
        Property::sometimes("offloaded by the second attempt", |size: &Upkeep, world: &World| {
            let second = |meta: &LedgerMeta| meta.tier.object().is_some_and(|o| o.attempt > 1);
            size.attempts < 2 || size.uploaders == 0 || world.closed().is_some_and(second)
        }),
        Property::sometimes("a place went to somebody else", |size: &Upkeep, world: &World| {
            size.repairs == 0 || world.closed().is_some_and(|meta| is_replaced(size, meta))
        }),
        Property::sometimes("repaired", |size: &Upkeep, world: &World| {
            size.repairs == 0 || (world.mark.is_none() && world.closed().is_some())
        }),
        Property::sometimes("removed, and every copy", |size: &Upkeep, world: &World| {
            let collected = &world.bookies[..size.collectors];
            !size.deletion || (world.meta.is_none() && collected.iter().all(|disk| disk.held == 0))
        }),
    ]
}

fn is_replaced(size: &Upkeep, meta: &LedgerMeta) -> bool {
    let refilled = size.marked.iter().all(|(_, reason)| !reason.replaces());
    let new = |m: &Member| number(m) >= usize::from(size.qw) || m.incarnation.0 > 1;
    refilled || meta.last_fragment().ensemble.iter().any(new)
}

/// On Qa members; each life that was lost may have taken one copy with it.
fn is_readable(size: &Upkeep, world: &World) -> bool {
    let trimmed = world.closed().is_some_and(|meta| matches!(meta.tier, Tier::Trimmed(_)));
    let lost: u64 = world.bookies.iter().map(|disk| disk.life).sum();
    let enough = usize::from(size.qa).saturating_sub(usize::try_from(lost).expect("few"));
    let copies = world.copies(|member, entry| world.delivers(member, entry));
    (world.by_hand && trimmed) || copies.iter().all(|copies| *copies >= enough)
}

/// Whether a change of the metadata is one that its state allows (1.3, 7.2).
pub(super) fn is_legal(old: &LedgerMeta, new: &LedgerMeta) -> bool {
    let ensembles = old.fragments.iter().zip(&new.fragments);
    let places = ensembles.flat_map(|(old, new)| old.ensemble.iter().zip(&new.ensemble));
    let changed = places.filter(|(old, new)| old != new).count();
    let same_shape = old.fragments.len() == new.fragments.len()
        && old.fragments.iter().zip(&new.fragments).all(|(a, b)| a.first_entry == b.first_entry);
    let kept = same_shape && old.last_entry == new.last_entry && new.validate().is_ok();
    let tier_stays = old.tier == new.tier;
    let one_thing = match (old.state, new.state) {
        (LedgerState::Closed, LedgerState::Closed) if tier_stays => changed <= 1,
        (LedgerState::Closed, LedgerState::Closed) => changed == 0 && is_next(&old.tier, &new.tier),
        (LedgerState::Closed, LedgerState::Deleting) => changed == 0 && tier_stays,
        (LedgerState::Deleting, LedgerState::Deleting) => {
            changed == 0 && (tier_stays || new.tier == Tier::Local)
        }
        _ => false,
    };
    kept && one_thing
}

/// 7.2: an object is named under its own claim, and trimmed is for good.
fn is_next(old: &Tier, new: &Tier) -> bool {
    match (old, new) {
        (Tier::Local | Tier::Uploading { .. }, Tier::Uploading { .. }) => true,
        (Tier::Uploading { attempt, .. }, Tier::Offloaded(object)) => *attempt == object.attempt,
        (Tier::Offloaded(before), Tier::Trimmed(object)) => before == object,
        // T7: the object is gone, and copies are there.
        (Tier::Offloaded(_), Tier::Local) => true,
        _ => false,
    }
}

//! Who keeps closed ledgers: bookies that upload and trim them, and repairs. Only some runs have them ([`crate::settings`]), so that the others
//! are about writing and recovering all the time.
//!
//! * [`uploader`]: one at each bookie. [`repairer`]: a few, wherever. [`giver`]: one at each bookie, in runs in which copies move. Each carries
//!   out one effect of its production core at a time.

mod giver;
mod repairer;
mod uploader;

use geminga_metastore::record::{LedgerMeta, LedgerState, Tier, Under, UnderReason};
use geminga_proto::ids::{LedgerId, Member};

use crate::bookie::Bookie;
use crate::context::{Context, number};
use crate::store::{Change, Guard, Key, Request, Store, Value};
pub(crate) use giver::Giver;
pub(crate) use repairer::Repairer;
pub(crate) use uploader::Uploader;

/// Marks closed ledgers with members whose lives are lost, as the auditor does.
pub(crate) fn audit(store: &mut Store, bookies: &[Bookie], context: &mut Context) {
    let ledgers: Vec<LedgerId> = context.truth.ledgers.keys().copied().collect();
    for ledger in ledgers {
        let Some(Value::Ledger(meta)) = store.peek(Key::Ledger(ledger)) else { continue };
        if meta.state != LedgerState::Closed || matches!(meta.tier, Tier::Trimmed(_)) {
            continue;
        }
        let members = meta.fragments.iter().flat_map(|fragment| &fragment.ensemble);
        let lost = |member: &&Member| bookies[number(member)].member() != **member;
        let lost: Vec<Member> = members.filter(lost).cloned().collect();
        let key = Key::Under(ledger);
        let mut mark = match store.peek(key) {
            Some(Value::Under(mark)) => mark.clone(),
            _ => Under::new(ledger, UnderReason::Lost, 0),
        };
        let mut changed = false;
        for member in &lost {
            changed |= mark.add(member, UnderReason::Lost);
        }
        if context.settings.movers && context.dice.chance(200) {
            changed |= mark_move(&mut mark, meta, context);
        }
        if changed {
            let guards: Vec<Guard> = vec![(key, store.version(key))];
            let puts = vec![Value::Under(mark)];
            store.carry_out(Request::Txn { guards, puts, deletes: Vec::new() });
            context.coverage.hit("repair: ledger marked");
        }
    }
}

/// Marks one copy as one that could be elsewhere, as the auditor does where zones come and go. Whether that changed the mark.
fn mark_move(mark: &mut Under, meta: &LedgerMeta, context: &mut Context) -> bool {
    let members = meta.fragments.iter().flat_map(|fragment| &fragment.ensemble);
    let unmarked = members.filter(|member| !mark.members.contains(member));
    let Some(member) = context.dice.pick_any(unmarked.cloned()) else { return false };
    if mark.only_moves() {
        mark.reason = UnderReason::Misplaced;
    }
    context.coverage.hit("repair: copy to be moved");
    mark.add(&member, UnderReason::Misplaced)
}

/// The leases of some of those who have locks end, and of all who are gone by and by.
pub(crate) fn end_leases(store: &mut Store, context: &mut Context) {
    for ledger in store.locked() {
        if context.dice.chance(200) {
            let deletes = vec![Key::Lock(ledger)];
            store.carry_out(Request::Txn { guards: Vec::new(), puts: Vec::new(), deletes });
        }
    }
}

/// Reads a trimmed ledger where it is now: in its object.
pub(crate) fn read_object(context: &mut Context) {
    let trimmed = context.truth.ledgers.iter().filter_map(|(id, ledger)| {
        ledger.live().filter(|meta| matches!(meta.tier, Tier::Trimmed(_))).map(|_| *id)
    });
    let Some(ledger) = context.dice.pick_any(trimmed) else { return };
    if context.has_object(ledger) {
        context.coverage.hit("tier: read from the object");
    } else {
        let detail = format!("ledger {ledger}: its object is not what was written");
        context.truth.violated("I14: a trimmed ledger is in its object", detail);
    }
}

impl Context {
    /// I14: an object that metadata names is all of the ledger; a mark goes when no place that it names is left (6.5 step 6).
    pub(crate) fn check_kept(&mut self, change: &Change) {
        match (&change.old, &change.new) {
            (Some(Value::Ledger(old)), Some(Value::Ledger(new))) if old.tier != new.tier => {
                let id = new.id;
                match (&old.tier, &new.tier) {
                    (_, Tier::Uploading { .. }) if old.tier != Tier::Local => {
                        self.coverage.hit("tier: claim taken over");
                        self.retried.insert(id);
                    }
                    (_, Tier::Offloaded(_)) => {
                        self.coverage.hit("tier: offloaded");
                        if self.retried.contains(&id) {
                            self.coverage.hit("tier: offloaded by the second attempt");
                        }
                    }
                    (_, Tier::Trimmed(_)) => self.coverage.hit("tier: trimmed"),
                    _ => {}
                }
                if new.tier.object().is_some() && !self.has_object(id) {
                    let detail = format!("ledger {id}: {:?}", new.tier);
                    self.truth.violated("I14: an object that is named is all of it", detail);
                }
            }
            (Some(Value::Under(mark)), None) => {
                let meta = self.truth.ledgers.get(&mark.ledger).and_then(|truth| truth.live());
                let members = meta.into_iter().flat_map(|meta| &meta.fragments);
                let mut members = members.flat_map(|fragment| &fragment.ensemble);
                if members.any(|member| mark.replace.contains(member)) {
                    let detail = format!("ledger {}: {mark:?}", mark.ledger);
                    self.truth.violated("6.5: a mark goes when all is repaired", detail);
                }
            }
            _ => {}
        }
    }

    /// Whether the object that a ledger's metadata names is all of it.
    pub(crate) fn has_object(&self, ledger: LedgerId) -> bool {
        let Some(truth) = self.truth.ledgers.get(&ledger) else { return false };
        let content = |id| truth.content(geminga_proto::ids::EntryId(id)).cloned();
        truth.meta.as_ref().is_some_and(|meta| self.objects.is_whole(meta, content))
    }
}

//! A bookie that uploads the ledger, lets copies go, and drops its own: the production core, and what becomes of its effects.

use geminga_bookie::tiering::core::{
    Effect, Event, Head, KeepLocal, Now, Offload, Seen, Timing, Wanted,
};
use geminga_ledger::core::commit::CasResult;
use geminga_metastore::Version;
use geminga_metastore::record::{LedgerMeta, Tier};
use geminga_proto::ids::{ClusterUuid, EntryId};
use geminga_tier::{Names, Summary};

use super::size::Upkeep;
use super::world::{Action, Object, Trouble, World};
use crate::ledger::member;
use crate::writer::CLUSTER;

/// Payload bytes of the ledger.
pub(super) const LENGTH: u64 = 100;
/// The digest of its entries.
pub(super) const CRC: u64 = 9;
/// Everybody's turn comes at once.
const TIMING: Timing = Timing { look_ms: 0, take_over_ms: 0, pace: u64::MAX };
/// It is due at once, and copies may go at once.
const WANTED: Wanted =
    Wanted { upload_from_ms: Some(0), keep_local: KeepLocal::Ms(0), hurries: false, leaves: false };
const IDLE: Effect = Effect::LookAt(0);

/// What all entries come to, or only some of them.
fn summary(size: &Upkeep, whole: bool) -> Summary {
    let missing = u64::from(!whole);
    Summary {
        entries: size.entries as u64 - missing,
        length: LENGTH - missing,
        entries_crc: CRC + missing,
        size: 1000 - missing,
        object_crc: 5,
        index_place: 500,
    }
}

/// One uploader.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Uploader {
    pub(super) bookie: usize,
    offload: Offload,
    /// What it is to do next.
    effect: Effect,
    /// What it has streamed.
    sent: Option<(u128, Summary)>,
    /// The object that it found when it asked last.
    saw: Option<u128>,
}

/// What was sent off by somebody who died since.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Stray {
    Swap(Version, Box<LedgerMeta>),
    Object(u128, Object),
}

impl Uploader {
    /// One that has just started.
    pub(super) fn new(size: &Upkeep, bookie: usize, life: u64) -> Self {
        let cluster = ClusterUuid::from_random(CLUSTER);
        let names = Names::of("memory://");
        let mutations = size.tier_mutations;
        let offload = Offload::new(member(bookie, life), cluster, names, TIMING, mutations);
        Self { bookie, offload, effect: IDLE, sent: None, saw: None }
    }

    fn rests(&self) -> bool {
        matches!(self.effect, Effect::LookAt(_) | Effect::Alarm(_) | Effect::Done)
    }

    /// The object that it is about to publish.
    fn publishes(&self, trouble: Trouble) -> Option<(u128, Object)> {
        let (attempt, summary) = self.sent?;
        let whole = summary.entries_crc == CRC && trouble != Trouble::Short;
        let size = if trouble == Trouble::Short { 1 } else { summary.size };
        Some((attempt, Object { size, whole }))
    }

    /// Whether its next step is to claim more than the size has attempts for.
    fn claims_too_much(&self, size: &Upkeep) -> bool {
        let Effect::Cas { meta, .. } = &self.effect else { return false };
        matches!(meta.tier, Tier::Uploading { attempt, .. } if attempt > size.attempts)
    }
}

impl World {
    pub(super) fn uploads(&self, size: &Upkeep, actions: &mut Vec<Action>) {
        for (index, uploader) in self.uploaders.iter().enumerate() {
            let upload = |trouble| Action::Upload(index, trouble);
            if uploader.rests() {
                // It follows the ledgers of which it holds something.
                let looks =
                    uploader.effect != Effect::Done && self.bookies[uploader.bookie].held != 0;
                actions.extend(looks.then_some(Action::Look(index)));
                continue;
            }
            if uploader.claims_too_much(size) {
                continue;
            }
            actions.push(upload(Trouble::No));
            let (loses, cuts) = match uploader.effect {
                Effect::Cas { .. } => (true, false),
                Effect::Stream { .. } => (false, true),
                Effect::Complete => (true, true),
                _ => (false, false),
            };
            let loses = loses && self.left.lost_replies > 0;
            actions.extend(loses.then(|| upload(Trouble::LostReply)));
            actions.extend((cuts && self.left.short > 0).then(|| upload(Trouble::Short)));
            if self.left.crashes > 0 {
                let crash = |arrives| Action::Crash { uploader: index, arrives };
                let sent = matches!(uploader.effect, Effect::Cas { .. } | Effect::Complete);
                actions.push(crash(false));
                actions.extend((sent && self.stray.is_none()).then(|| crash(true)));
            }
        }
        actions.extend(self.stray.as_ref().map(|_| Action::Land));
    }

    /// Nothing that is done between a look and its read matters to anybody.
    pub(super) fn look(&mut self, index: usize) {
        let uploader = &mut self.uploaders[index];
        (uploader.sent, uploader.saw) = (None, None);
        uploader.effect = uploader.offload.look();
        self.carry_out(index, Event::Read(self.meta.clone(), WANTED));
    }

    fn carry_out(&mut self, index: usize, event: Event) {
        let fresh = self.attempts + 1;
        let uploader = &mut self.uploaders[index];
        uploader.effect = uploader.offload.step(Now { ms: 0, fresh }, event);
        if let Effect::Cas { meta, .. } = &uploader.effect
            && matches!(meta.tier, Tier::Uploading { attempt, .. } if attempt == fresh)
        {
            self.attempts = fresh;
        }
        if uploader.rests() {
            (uploader.sent, uploader.saw) = (None, None);
        }
    }

    pub(super) fn upload(&mut self, size: &Upkeep, index: usize, trouble: Trouble) {
        self.left.lost_replies -= u8::from(trouble == Trouble::LostReply);
        self.left.short -= u8::from(trouble == Trouble::Short);
        let event = match self.uploaders[index].effect.clone() {
            Effect::Read => Event::Read(self.meta.clone(), WANTED),
            Effect::Cas { expected, meta } => self.swap_tier(index, expected, *meta, trouble),
            Effect::Stream { attempt, meta } => self.stream(size, index, attempt, &meta, trouble),
            Effect::Complete => {
                let publishes = self.uploaders[index].publishes(trouble);
                self.objects.extend(publishes);
                Event::Completed(trouble != Trouble::LostReply)
            }
            Effect::Abort => {
                // What is given up may be gone.
                let sent = self.uploaders[index].sent.take();
                self.judged(|world| {
                    if let Some((attempt, _)) = sent {
                        world.objects.remove(&attempt);
                    }
                });
                Event::Failed
            }
            Effect::ReadBack { object, .. } => Event::ReadBack(self.seen(object.attempt)),
            Effect::Head(object) => {
                let seen = self.seen(object.attempt);
                self.uploaders[index].saw = seen.as_ref().map(|_| object.attempt);
                Event::Head(seen.map_or(Head::Gone, Head::There))
            }
            Effect::Drop { attempt, .. } => {
                self.drop_for_object(index, attempt);
                Event::Dropped
            }
            Effect::LookAt(_) | Effect::Alarm(_) | Effect::Done => return,
        };
        self.carry_out(index, event);
    }

    fn swap_tier(
        &mut self,
        index: usize,
        expected: Version,
        meta: LedgerMeta,
        trouble: Trouble,
    ) -> Event {
        let trims = match &meta.tier {
            Tier::Trimmed(object) => Some(object.attempt),
            _ => None,
        };
        let result = self.cas(expected, meta);
        let applied = matches!(result, CasResult::Applied(_));
        // Step 7: only for what was there when it was asked for.
        self.broken.early |= applied && trims.is_some() && trims != self.uploaders[index].saw;
        Event::Cas(if trouble == Trouble::LostReply { CasResult::Unknown } else { result })
    }

    fn stream(
        &mut self,
        size: &Upkeep,
        index: usize,
        attempt: u128,
        meta: &LedgerMeta,
        trouble: Trouble,
    ) -> Event {
        let readable = (0..size.entries as i64).map(EntryId).all(|entry| {
            let ensemble = &meta.fragment_of(entry).ensemble;
            ensemble.iter().any(|member| self.delivers(member, entry))
        });
        if !readable {
            return Event::Streamed(None);
        }
        let sent = summary(size, trouble != Trouble::Short);
        self.uploaders[index].sent = Some((attempt, sent));
        Event::Streamed(Some(sent))
    }

    /// What the store says of an upload's object.
    fn seen(&self, attempt: u128) -> Option<Seen> {
        let object = self.objects.get(&attempt)?;
        Some(Seen { size: object.size, etag: attempt.to_string() })
    }

    /// Step 8.
    fn drop_for_object(&mut self, index: usize, attempt: u128) {
        let trimmed = match self.closed().map(|meta| &meta.tier) {
            Some(Tier::Trimmed(object)) => object.attempt == attempt,
            Some(_) => false,
            // It is being deleted: nobody wants it any more.
            None => true,
        };
        let Uploader { bookie, saw, .. } = self.uploaders[index];
        self.broken.early |= !trimmed || saw != Some(attempt);
        self.judged(|world| {
            let disk = &mut world.bookies[bookie];
            (disk.held, disk.trimmed) = (0, true);
        });
    }

    pub(super) fn crash(&mut self, size: &Upkeep, index: usize, arrives: bool) {
        self.left.crashes -= 1;
        let bookie = self.uploaders[index].bookie;
        let new = Uploader::new(size, bookie, self.bookies[bookie].life);
        let old = std::mem::replace(&mut self.uploaders[index], new);
        if arrives {
            self.stray = match old.effect {
                Effect::Cas { expected, meta } => Some(Stray::Swap(expected, meta)),
                Effect::Complete => old.publishes(Trouble::No).map(|(a, o)| Stray::Object(a, o)),
                _ => None,
            };
        }
    }

    pub(super) fn land(&mut self) {
        match self.stray.take() {
            Some(Stray::Swap(expected, meta)) => {
                self.cas(expected, *meta);
            }
            Some(Stray::Object(attempt, object)) => {
                self.objects.insert(attempt, object);
            }
            None => {}
        }
    }
}

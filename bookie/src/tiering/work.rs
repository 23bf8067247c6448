//! The task that tiers: goes through the ledgers that this bookie holds, oldest first, and carries out what [`super::core`] says
//! about each. One upload at a time bounds memory and keeps disks free for those who write.
//!
//! While the store is not the cluster's, or does not say so ([`super::mark`]), ledgers are only looked at, for what waits is to be told.
//!
//! Ledgers that turn out to have no key are put off to the end of the cycle, and looked up in manifests together: whether they were
//! folded is known only from manifests that are read after their keys, and those are many.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use geminga_ledger::core::commit::CasResult;
use geminga_ledger::{BookieDirectory, Bookies};
use geminga_metastore::record::{LedgerMeta, LedgerState, Tier};
use geminga_metastore::{Error, Guard, MetaStore, Txn, TxnOutcome, Version, keys};
use geminga_proto::ids::{LedgerId, TopicId};
use geminga_runtime::{Random, Tasks, WallClock, fail_point};
use geminga_tier::Store;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Config;
use super::core::{Effect, Event, Head, KeepLocal, Now, Offload, Seen, Timing, Wanted};
use super::due::{Place, Round};
use super::filling;
use super::mark::Mark;
use super::mutation::Mutations;
use super::upload::{self, Sent};
use super::wanted;
use crate::folded::{Folded, Listing};
use crate::handle::BookieHandle;
use crate::ledger::Fullness;
use crate::metrics;

/// A ledger, and when it was looked at and is next, milliseconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Followed {
    pub(super) looked_at: i64,
    pub(super) look_at: i64,
    pub(super) offload: Offload,
    pub(super) last: Last,
}

/// What the last look at a ledger found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Last {
    /// The topic of one that no upload has begun of: nothing is to be done about it before that topic is tiered.
    pub(super) untouched: Option<TopicId>,
    /// Since when it is due, and its bytes, when it is not uploaded yet.
    pub(super) waiting: Option<(i64, u64)>,
    /// Whether it has an object, and is here for a while only.
    pub(super) spare: bool,
    /// Another bookie was sending it.
    pub(super) elsewhere: bool,
    /// It is trimmed, its object is not there, and a copy is here.
    pub(super) missing: bool,
    /// What is here of it is nobody's last copy: metadata names others for all of it, or there is no such ledger, or its object was
    /// there. It stays so where the bookie takes nothing new.
    pub(super) spared: bool,
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) handle: BookieHandle,
    pub(super) folded: Folded,
    pub(super) store: Arc<dyn MetaStore>,
    pub(super) bookies: Arc<BookieDirectory>,
    pub(super) objects: Store,
    pub(super) random: Arc<dyn Random>,
    pub(super) clock: Arc<dyn WallClock>,
    pub(super) config: Config,
    pub(super) mark: Mark,
    /// Whether the store was the cluster's when this cycle began.
    pub(super) usable: bool,
    pub(super) mutations: Mutations,
    /// The ledgers that are held here, by id: about by age.
    pub(super) offloads: BTreeMap<LedgerId, Followed>,
    /// Where a cycle ended before its end: the next one goes on behind it.
    pub(super) resume: Option<Place>,
    pub(super) let_go: filling::LetGo,
}

/// What one ledger's work holds between effects.
#[derive(Debug, Default)]
pub(super) struct Hand {
    sent: Option<Sent>,
    /// As streamed, for reading back.
    meta: Option<LedgerMeta>,
    last: Last,
    /// What manifests say, once they were read after the ledger's key.
    listed: Option<Listed>,
    /// There is no key, and that was not found out before.
    keyless: bool,
}

/// What manifests say of a ledger without a key.
type Listed = Option<Listing>;

impl Worker {
    /// Runs until `tasks` stops. What an upload had sent by then is garbage that nobody sees.
    pub(super) async fn run(mut self, tasks: Tasks) {
        let mut cycle = interval(self.config.interval);
        cycle.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancelled = tasks.cancelled();
        tokio::pin!(cancelled);
        loop {
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                _ = cycle.tick() => {}
            }
            tokio::select! {
                biased;
                () = &mut cancelled => return,
                () = self.cycle() => {}
            }
        }
    }

    /// Looks at each ledger that is due. Cancel-safe, in that what was done is done.
    pub(super) async fn cycle(&mut self) {
        self.follow();
        // Also when nothing is due: what it says of the store is told.
        self.usable = self.mark.holds().await;
        let now = self.clock.now_ms();
        let tiered = match wanted::tiered(&*self.store).await {
            Ok(tiered) => tiered,
            Err(error) => {
                tracing::debug!(%error, "topics cannot be listed now; ledgers are looked at later");
                return;
            }
        };
        let leaving = self.handle.is_leaving();
        if !leaving {
            // Its copies may be counted on again.
            self.offloads.values_mut().for_each(|followed| followed.last.spared = false);
        }
        let (begun, hurried) = (Instant::now(), filling::ledgers(&self.handle));
        let round = Round { now, tiered, hurried, leaving, resume: self.resume.take() };
        self.let_go.forget();
        let mut keyless = BTreeSet::new();
        for place in round.due(&self.offloads) {
            let ledger = place.ledger;
            // The ledgers before it may have been enough.
            let certain = self.offloads.get(&ledger).is_some_and(|f| round.is_certain(f));
            if !certain && !self.let_go.wants(&self.handle, ledger) {
                continue;
            }
            if !self.take_up(ledger, None).await {
                keyless.insert(ledger);
            }
            self.tell();
            // Uploads take long: where a disk fills up, what others have uploaded meanwhile goes first.
            if begun.elapsed() >= self.config.interval && filling::is_any(&self.handle) {
                self.resume = Some(place);
                break;
            }
        }
        // Lists that are not in another store are not lost.
        if self.may_go_on() {
            self.take_up_keyless(keyless).await;
        }
        self.tell();
        if leaving && self.may_leave() {
            self.handle.set_objects_missing(Some(0));
        }
    }

    /// Whether all that is held was looked at, and may go.
    fn may_leave(&self) -> bool {
        let spared = |ledger| self.offloads.get(&ledger).is_some_and(|f| f.last.spared);
        self.handle.disks().iter().all(|disk| disk.held().into_keys().all(spared))
    }

    /// One look at a ledger; false when it has no key and `listed` is not told.
    async fn take_up(&mut self, ledger: LedgerId, listed: Option<Listed>) -> bool {
        let Some(mut followed) = self.offloads.remove(&ledger) else { return true };
        let before = filling::bytes(&self.handle, ledger);
        let done = self.work(ledger, &mut followed.offload, listed).await;
        self.let_go.note(&self.handle, ledger, &before);
        if let Some((look_at, mut last)) = done {
            // A store that does not answer brings no object back.
            last.missing |= followed.last.missing && look_at < i64::MAX;
            (followed.look_at, followed.last) = (look_at, last);
            followed.looked_at = self.clock.now_ms();
        }
        self.offloads.insert(ledger, followed);
        done.is_some()
    }

    /// Looks at ledgers without a key, by manifests that are read once for all of them. Where they cannot be read the next cycle does.
    async fn take_up_keyless(&mut self, keyless: BTreeSet<LedgerId>) {
        let mut found = match self.folded.find(&keyless).await {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "manifests cannot be read now; ledgers without metadata are looked at later");
                return;
            }
        };
        for ledger in keyless {
            let listed = found.remove(&ledger);
            self.take_up(ledger, Some(listed)).await;
        }
    }

    /// Whether this cycle began with the cluster's store, and nobody found since that it is not.
    fn may_go_on(&self) -> bool {
        self.usable && self.mark.held()
    }

    /// Says what waits, and what is missing.
    fn tell(&self) {
        let missing = self.offloads.values().filter(|followed| followed.last.missing).count();
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        // That there is none is known at the end of a cycle only, and holds from then on.
        if missing > 0 || self.handle.objects_missing() != Some(0) {
            self.handle.set_objects_missing((missing > 0).then_some(missing));
        }
        let waiting = || self.offloads.values().filter_map(|followed| followed.last.waiting);
        let oldest = waiting().map(|(since, _)| since).min().unwrap_or(i64::MAX);
        let late = u64::try_from(self.clock.now_ms().saturating_sub(oldest)).unwrap_or(0);
        let bytes = waiting().map(|(_, bytes)| bytes).sum();
        metrics::waiting(waiting().count(), bytes, std::time::Duration::from_millis(late));
    }

    /// Takes up ledgers that are new here, and lets go of those whose entries are gone.
    fn follow(&mut self) {
        let mut held = BTreeMap::new();
        for disk in self.handle.disks() {
            held.extend(disk.held().into_keys().map(|ledger| (ledger, disk.member().clone())));
        }
        self.offloads.retain(|ledger, _| held.contains_key(ledger));
        for (ledger, member) in held {
            let look_ms = millis(self.config.interval);
            let take_over_ms = millis(self.config.take_over);
            let timing = Timing { look_ms, take_over_ms, pace: self.config.pace() };
            let (cluster, names) = (self.handle.cluster(), self.objects.names().clone());
            self.offloads.entry(ledger).or_insert_with(|| Followed {
                looked_at: i64::MIN,
                look_at: i64::MIN,
                last: Last::default(),
                offload: Offload::new(member, cluster, names, timing, self.mutations),
            });
        }
    }

    /// All there is to do about one ledger now; when to look again, and what was found. `None`: it has no key, and `listed` is not told.
    async fn work(
        &self,
        ledger: LedgerId,
        offload: &mut Offload,
        listed: Option<Listed>,
    ) -> Option<(i64, Last)> {
        let mut hand = Hand { listed, ..Hand::default() };
        let mut effect = offload.look();
        loop {
            effect = match effect {
                Effect::LookAt(at) => return Some((at, hand.last)),
                Effect::Done => return Some((i64::MAX, Last { spared: true, ..Last::default() })),
                Effect::Alarm(at) => {
                    metrics::object_missing();
                    tracing::error!(%ledger, "the object of a trimmed ledger is not there, or is another; this bookie keeps its copy: restore the object, or let no other bookie drop its copy");
                    return Some((at, Last { missing: true, ..Last::default() }));
                }
                effect if !matches!(effect, Effect::Read) && !self.may_go_on() => {
                    if let Some(sent) = &mut hand.sent {
                        sent.abort().await;
                    }
                    let later = self.clock.now_ms().saturating_add(millis(self.config.interval));
                    return Some((later, hand.last));
                }
                effect => {
                    let step = step_of(&effect);
                    let event = self.perform(ledger, effect, &mut hand).await;
                    fail_point(if is_checked(&event) { "tier-1-checked" } else { step });
                    if hand.keyless {
                        return None;
                    }
                    let now = Now { ms: self.clock.now_ms(), fresh: self.random.next_u128() };
                    offload.step(now, event)
                }
            };
        }
    }

    /// Carries out one effect.
    pub(super) async fn perform(&self, ledger: LedgerId, effect: Effect, hand: &mut Hand) -> Event {
        match effect {
            Effect::Read => self.read(ledger, hand).await.unwrap_or_else(|error| {
                tracing::debug!(%ledger, %error, "metadata cannot be read now; a ledger is looked at later");
                Event::Unreadable
            }),
            // An object is named, believed to be missing, or the only copy, in the cluster's own store only.
            Effect::Cas { meta, .. }
                if !matches!(meta.tier, Tier::Uploading { .. })
                    && !self.mark.holds_in_the_end().await =>
            {
                Event::Failed
            }
            Effect::Cas { expected, meta } => Event::Cas(self.swap(expected, &meta).await),
            Effect::Stream { attempt, meta } => self.stream(attempt, *meta, hand).await,
            Effect::Complete => {
                let Some(sent) = &mut hand.sent else { return Event::Failed };
                let done = sent.complete().await;
                if let Err(error) = &done {
                    failed(ledger, &**error, "publishing an object");
                }
                Event::Completed(done.is_ok())
            }
            Effect::Abort => {
                if let Some(sent) = &mut hand.sent {
                    sent.abort().await;
                }
                Event::Failed
            }
            Effect::ReadBack { object, summary } => {
                let Some(meta) = &hand.meta else { return Event::Failed };
                let random = self.random.next_u64();
                let cluster = self.handle.cluster();
                let seen =
                    upload::read_back(cluster, &self.objects, meta, &object, &summary, random);
                match seen.await {
                    Ok(seen) => Event::ReadBack(Some(seen)),
                    Err(error) => {
                        failed(ledger, &*error, "reading an object back");
                        Event::ReadBack(None)
                    }
                }
            }
            Effect::Head(object) => {
                if !self.objects.covers(self.handle.cluster(), &object.bucket, &object.key) {
                    tracing::warn!(%ledger, bucket = object.bucket, object = object.key, own = self.objects.place(), "a ledger's object is in another store than this bookie was given");
                    return Event::Head(Head::Unknown);
                }
                Event::Head(match self.objects.head(&object.key).await {
                    Ok(Some(found)) => {
                        Head::There(Seen { size: found.size, etag: found.etag })
                    }
                    Ok(None) if !self.mark.holds().await => Head::Unknown,
                    Ok(None) => Head::Gone,
                    Err(error) => {
                        failed(ledger, &error, "asking for an object");
                        Head::Unknown
                    }
                })
            }
            Effect::Drop { last, attempt } => {
                for disk in self.handle.disks() {
                    if let Err(error) = disk.trim_ledger(ledger, last, attempt).await {
                        tracing::warn!(%ledger, %error, "a trimmed ledger could not be dropped");
                        return Event::Failed;
                    }
                }
                metrics::trimmed();
                Event::Dropped
            }
            Effect::LookAt(_) | Effect::Done | Effect::Alarm(_) => Event::Failed,
        }
    }

    async fn read(&self, ledger: LedgerId, hand: &mut Hand) -> Result<Event, Error> {
        let key = keys::ledger(ledger);
        let Some(found) = self.store.get(&key).await? else {
            hand.keyless = hand.listed.is_none();
            return Ok(without_key(hand.listed.take().flatten()));
        };
        let meta = LedgerMeta::decode(ledger, &found.value)
            .map_err(|invalid| Error::Corrupt { key, why: invalid.to_string() })?;
        let asks = meta.state == LedgerState::Closed && !meta.tier.is_trimmed();
        let mut wanted = match asks {
            true => wanted::of(&*self.store, &meta, millis(self.config.local_retention)).await?,
            false => Wanted::default(),
        };
        let is_due = |from: &i64| *from <= self.clock.now_ms() && meta.tier.object().is_none();
        hand.last = Last {
            untouched: (meta.tier == Tier::Local).then_some(meta.custom.topic),
            waiting: wanted.upload_from_ms.filter(is_due).map(|from| (from, meta.length)),
            spare: asks && meta.tier.object().is_some() && wanted.keep_local != KeepLocal::Always,
            elsewhere: matches!(&meta.tier, Tier::Uploading { by, .. } if by.bookie != *self.handle.id()),
            missing: false,
            spared: !meta.tier.is_trimmed() && !self.is_named(&meta),
        };
        // Who has little of it reads the rest from others, and leaves it to them.
        let held: u64 = filling::bytes(&self.handle, ledger).iter().sum();
        let has_it = meta.tier.object().is_some() || held.saturating_mul(2) >= meta.length;
        wanted.hurries = has_it && self.let_go.wants(&self.handle, ledger);
        wanted.leaves = self.handle.is_leaving();
        Ok(Event::Read(Some((meta, found.version)), wanted))
    }

    /// Whether metadata counts on this bookie for any of it.
    fn is_named(&self, meta: &LedgerMeta) -> bool {
        let mut members = meta.fragments.iter().flat_map(|fragment| &fragment.ensemble);
        members.any(|member| member.bookie == *self.handle.id())
    }

    async fn swap(&self, expected: Version, meta: &LedgerMeta) -> CasResult {
        let key = keys::ledger(meta.id);
        let txn = Txn::new().guard(Guard::Version(key.clone(), expected)).put(key, meta.encode());
        match self.store.txn(txn).await {
            Ok(TxnOutcome::Committed(revision)) => CasResult::Applied(Version(revision.0)),
            Ok(TxnOutcome::GuardFailed) => CasResult::Lost,
            Err(error) => {
                tracing::debug!(ledger = %meta.id, %error, "nobody knows whether a ledger's metadata was changed; it is read");
                CasResult::Unknown
            }
        }
    }

    async fn stream(&self, attempt: u128, meta: LedgerMeta, hand: &mut Hand) -> Event {
        let ledger = meta.id;
        let bookies: Arc<dyn Bookies> = Arc::<BookieDirectory>::clone(&self.bookies);
        // Also where the bookie is to leave.
        let hurries = || self.handle.disks().iter().any(|disk| disk.fullness() >= Fullness::Warn);
        let (cluster, rate) = (self.handle.cluster(), self.config.upload_rate);
        let sent =
            upload::send(cluster, &bookies, &self.objects, attempt, &meta, rate, &hurries).await;
        hand.meta = Some(meta);
        match sent {
            Ok(sent) => {
                let summary = sent.summary;
                metrics::uploaded(summary.size);
                hand.sent = Some(sent);
                Event::Streamed(Some(summary))
            }
            Err(error) => {
                failed(ledger, &*error, "uploading a ledger");
                Event::Streamed(None)
            }
        }
    }
}

/// The step of 7.4 that an effect is, as tests name it that kill an uploader behind it.
fn step_of(effect: &Effect) -> &'static str {
    match effect {
        Effect::Read => "tier-read",
        Effect::Cas { meta, .. } => match meta.tier {
            Tier::Uploading { .. } => "tier-2-claimed",
            Tier::Offloaded(_) => "tier-6-named",
            Tier::Trimmed(_) => "tier-7-trimmed",
            Tier::Local => "tier-uploaded-again",
        },
        Effect::Stream { .. } => "tier-3-streamed",
        Effect::Complete => "tier-4-completed",
        Effect::ReadBack { .. } => "tier-5-read-back",
        Effect::Drop { .. } => "tier-8-dropped",
        Effect::Head(_) => "tier-asked",
        Effect::Abort | Effect::LookAt(_) | Effect::Done | Effect::Alarm(_) => "tier-rested",
    }
}

/// Whether step 1 found a ledger that may be uploaded.
fn is_checked(event: &Event) -> bool {
    let Event::Read(Some((meta, _)), _) = event else { return false };
    meta.state == LedgerState::Closed && meta.tier == Tier::Local
}

/// A ledger without a key: one that was folded is as trimmed as it was before, and what is here of it goes as it would have.
fn without_key(listed: Listed) -> Event {
    match listed {
        None => Event::Read(None, Wanted::default()),
        Some(Listing::Unknown) => Event::Unreadable,
        // Of a trimmed ledger nothing is ever swapped, so no version is asked for.
        Some(Listing::Folded(meta)) => Event::Read(Some((*meta, Version(0))), Wanted::default()),
    }
}

fn failed(ledger: LedgerId, error: &(dyn std::error::Error + 'static), what: &'static str) {
    metrics::tiering_failed();
    tracing::warn!(%ledger, error = %error, "{what} failed; it is tried again later");
}

fn millis(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;

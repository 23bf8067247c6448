//! Watches bookies until they have left. It changes nothing, so it can go on whatever happens: a metadata store that does not answer for
//! a while is asked again, and what takes long to read is read less often.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use geminga_metastore::record::{LedgerMeta, LedgerState, LiveBookie};
use geminga_metastore::{Error, ErrorKind, MetaStore, keys};
use geminga_proto::ids::BookieId;
use tokio::time::{Instant, sleep};

use super::super::list::holders;
use crate::exit::Failure;

/// Between two looks at whether they have left.
const POLL: Duration = Duration::from_secs(1);
/// Ledgers are counted no sooner than after so many times what that took.
const REST: u32 = 20;
/// Longest pause while the store does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A store that does not answer for so long is given up.
const PATIENCE: Duration = Duration::from_secs(600);
/// Keys of one page of a listing.
const PAGE: usize = 500;

/// Why nobody watches any more.
enum Ended {
    /// All have left.
    Left,
    /// The decommission was taken back.
    Cancelled(BookieId),
}

/// Ledgers that a bookie has copies of.
#[derive(Default)]
struct Held {
    ledgers: u64,
    /// Those whose only copy it has, and which no object has: nobody copies from who is to leave.
    only_here: Named,
    /// Those whose only copy it has beside an object: they are copied from that.
    from_objects: Named,
}

/// How many ledgers, and which is the first of them.
#[derive(Default)]
struct Named {
    count: u64,
    first: String,
}

impl Held {
    fn add(&mut self, meta: &LedgerMeta) {
        self.ledgers += 1;
        if meta.qw > 1 {
            return;
        }
        let named = match meta.tier.object() {
            None => &mut self.only_here,
            Some(_) => &mut self.from_objects,
        };
        if named.count == 0 {
            named.first = format!("{} of topic {}", meta.id, meta.custom.name);
        }
        named.count += 1;
    }

    fn say(&self) -> String {
        let mut text = format!("{} ledgers left", self.ledgers);
        let Named { count, first } = &self.only_here;
        if *count > 0 {
            text += &format!(
                ", and it waits for {count} whose only copy it has and that no object has, first {first}: an only copy is never moved, so delete the topics, wait for their retention, or take this back with --cancel"
            );
        }
        let Named { count, first } = &self.from_objects;
        if *count > 0 {
            text += &format!(
                ", and {count} whose only copy it has are copied from their objects, first {first}: the object store has to answer"
            );
        }
        text
    }
}

/// What was said last, of whom.
struct Watch<'a> {
    store: &'a dyn MetaStore,
    left: Vec<BookieId>,
    said: BTreeMap<BookieId, String>,
    count_at: Instant,
    say: &'a mut (dyn FnMut(&str) + Send),
}

/// Until none of them is known any more. What is to be said goes to `say`.
pub(super) async fn until_left(
    store: &dyn MetaStore,
    left: Vec<BookieId>,
    say: &mut (dyn FnMut(&str) + Send),
) -> Result<(), Failure> {
    let said = BTreeMap::new();
    let mut watch = Watch { store, left, said, count_at: Instant::now(), say };
    let (mut pause, mut silent_since) = (POLL, None);
    loop {
        match watch.look().await {
            Ok(Some(Ended::Left)) => return Ok(()),
            Ok(Some(Ended::Cancelled(bookie))) => {
                let text = format!("the decommission of {bookie} was taken back meanwhile");
                return Err(Failure::new(text).because("DECOMMISSION_CANCELLED"));
            }
            Ok(None) => (pause, silent_since) = (POLL, None),
            Err(error) => {
                let transient = matches!(error.kind(), ErrorKind::Retry | ErrorKind::Unknown);
                let since = *silent_since.get_or_insert_with(Instant::now);
                if !transient || since.elapsed() >= PATIENCE {
                    return Err(error.into());
                }
                (watch.say)(&format!("{error}; the decommission goes on, and so does this"));
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        sleep(pause).await;
    }
}

impl Watch<'_> {
    async fn look(&mut self) -> Result<Option<Ended>, Error> {
        let mut still = Vec::new();
        for bookie in &self.left {
            if self.store.get(&keys::bookie_cookie(bookie)).await?.is_none() {
                if self.said.insert(bookie.clone(), String::new()) != Some(String::new()) {
                    (self.say)(&format!("{bookie}: has left"));
                }
            } else if self.store.get(&keys::bookie_draining(bookie)).await?.is_some() {
                still.push(bookie.clone());
            } else if self.store.get(&keys::bookie_cookie(bookie)).await?.is_some() {
                return Ok(Some(Ended::Cancelled(bookie.clone())));
            } else {
                // Both went between the two reads, and the next look says so.
                still.push(bookie.clone());
            }
        }
        self.left = still;
        if self.left.is_empty() {
            return Ok(Some(Ended::Left));
        }
        if Instant::now() >= self.count_at {
            let begun = Instant::now();
            self.count().await?;
            self.count_at = begun + POLL.max(begun.elapsed() * REST);
        }
        Ok(None)
    }

    /// Says how many ledgers each has copies of, where that is news.
    async fn count(&mut self) -> Result<(), Error> {
        let (mut counts, mut unread) = (BTreeMap::<BookieId, Held>::new(), 0);
        let (mut after, mut trimmed) = (None::<String>, BTreeSet::new());
        let folded = !self.store.range(keys::MANIFESTS, None, 1).await?.items.is_empty();
        loop {
            let page = self.store.range(keys::LEDGERS, after.as_deref(), PAGE).await?;
            for item in &page.items {
                let Some(ledger) = keys::parse_ledger(&item.key) else { continue };
                match LedgerMeta::decode(ledger, &item.value.value) {
                    Ok(meta) if meta.state == LedgerState::Deleting => {}
                    Ok(meta) if meta.tier.is_trimmed() => {
                        let places = meta.fragments.into_iter().flat_map(|f| f.ensemble);
                        trimmed.extend(places.map(|member| member.bookie));
                    }
                    Ok(meta) => {
                        for bookie in holders(&meta) {
                            counts.entry(bookie).or_default().add(&meta);
                        }
                    }
                    Err(_) => unread += 1,
                }
            }
            after = page.items.last().map(|item| item.key.clone()).or(after);
            if !page.more {
                break;
            }
        }
        for bookie in self.left.clone() {
            let mut text = counts.entry(bookie.clone()).or_default().say();
            if unread > 0 {
                text += &format!(
                    ", and it waits for {unread} whose metadata cannot be read: the auditor's log names them"
                );
            }
            let missing = self.objects_missing(&bookie).await?;
            if missing.is_none() && (folded || trimmed.contains(&bookie)) {
                text += ", and it waits until the bookie has looked at its copies of ledgers that are in the object store only: it has to run, with the cluster's object store; of one that is lost the auditor asks for all their objects, and its log says which it did not find";
            }
            if let Some(missing) = missing.filter(|missing| *missing > 0) {
                text += &format!(
                    ", and it waits for the objects of {missing} that the object store lost: bring them back, or delete the topics"
                );
            }
            if self.said.get(&bookie) != Some(&text) {
                (self.say)(&format!("{bookie}: {text}"));
                self.said.insert(bookie, text);
            }
        }
        Ok(())
    }

    async fn objects_missing(&self, bookie: &BookieId) -> Result<Option<u32>, Error> {
        let found = self.store.get(&keys::bookie_live(bookie)).await?;
        let live = found.and_then(|found| LiveBookie::decode(&found.value).ok());
        Ok(live.and_then(|live| live.objects_missing))
    }
}

#[cfg(test)]
mod tests;

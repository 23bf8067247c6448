//! Under-replication marks (protocol 2.5 step 6, 4.3 S7): who lacks entries of which ledger. A hint for whoever repairs, so
//! a mark that is too many costs a look, and one that got lost is found by the audit.

use geminga_metastore::record::{LedgerMeta, Under, UnderReason};
use geminga_metastore::{Error, MetaStore, keys};
use geminga_proto::ids::{EntryId, LedgerId, Member};
use tokio::time::Instant;

/// How often a mark is tried against others' before its caller has to try again.
const ATTEMPTS: usize = 8;

/// Whether a report that says nothing new is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeated {
    /// It is: something failed now, and a repair that runs may have looked before that (6.5 step 6).
    Written,
    /// It is not: it tells who is gone, again.
    Left,
}

/// Adds `members` to the mark of `ledger`. Each report changes the mark's version, also one about members that it names already, so that a
/// repair that looked before it does not remove the mark. Cancel-safe: made whole or not at all.
///
/// # Errors
/// When the store did not do it; it may have all the same.
pub async fn mark_under(
    store: &dyn MetaStore,
    ledger: LedgerId,
    members: &[Member],
    reason: UnderReason,
    now_ms: i64,
) -> Result<(), Error> {
    let members: Vec<_> = members.iter().map(|member| (member.clone(), reason)).collect();
    mark(store, ledger, &members, None, now_ms, Repeated::Written).await
}

/// What an audit says of all who do not come back or are to be left, each with a reason of its own; the first names the mark. `copies`: how
/// many are left of the fragment with fewest. Nothing is written that stands there already.
///
/// # Errors
/// As [`mark_under`].
pub async fn mark_all(
    store: &dyn MetaStore,
    ledger: LedgerId,
    members: &[(Member, UnderReason)],
    copies: Option<u32>,
    now_ms: i64,
) -> Result<(), Error> {
    mark(store, ledger, members, copies, now_ms, Repeated::Left).await
}

async fn mark(
    store: &dyn MetaStore,
    ledger: LedgerId,
    members: &[(Member, UnderReason)],
    copies: Option<u32>,
    now_ms: i64,
    repeated: Repeated,
) -> Result<(), Error> {
    let Some((_, first)) = members.first() else { return Ok(()) };
    let key = keys::under(ledger);
    for _ in 0..ATTEMPTS {
        let found = store.get(&key).await?;
        let version = found.as_ref().map(|found| found.version);
        let old = match found.map(|found| Under::decode(ledger, &found.value)).transpose() {
            Ok(old) => old,
            Err(invalid) => return Err(Error::Corrupt { key, why: invalid.to_string() }),
        };
        let mut mark = old.unwrap_or_else(|| Under::new(ledger, *first, now_ms));
        let mut changed = version.is_none() || repeated == Repeated::Written;
        let moved_only = mark.only_moves();
        for (member, reason) in members {
            changed |= mark.add(member, *reason);
        }
        if moved_only && !mark.only_moves() {
            // From now on it is short of copies, and was not before.
            (mark.reason, mark.created_ms) = (*first, now_ms);
        }
        if copies.is_some() && mark.lost_entry.is_none() && mark.copies != copies {
            (mark.copies, changed) = (copies, true);
        }
        if !changed {
            return Ok(());
        }
        match store.put_if(&key, version, mark.encode()).await {
            Ok(Some(_)) => return Ok(()),
            // Somebody else marked it; or nobody knows, and the next read tells (M9).
            Ok(None) | Err(Error::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::Unknown(format!("marking ledger {ledger} as under-replicated")))
}

/// What is under-replicated, for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnderSummary {
    /// Marked ledgers.
    pub ledgers: u64,
    /// Fragments of them that have a marked member.
    pub fragments: u64,
    /// Those of them that are being written: they are copied once they end, and how long they are is not known before.
    pub open_fragments: u64,
    /// Payload bytes that are to be copied, as far as lengths are known.
    pub bytes: u64,
    /// When the oldest mark was made.
    pub oldest_ms: Option<i64>,
    /// Ledgers with an entry that no copy is known of: the ledger, its topic, the entry. The first few.
    pub lost: Vec<(LedgerId, String, EntryId)>,
    /// Whether only a part was looked at: more are marked than anybody reads.
    pub partial: bool,
}

/// Keys of one page of a listing.
const PAGE: usize = 500;
/// Ledgers whose metadata is read for a summary.
const MAX_READ: u64 = 5_000;
/// Lost ledgers that are named.
const MAX_NAMED: usize = 20;

/// Adds up what is marked, as far as that goes until `deadline`; what there is more makes the summary a partial one.
///
/// # Errors
/// When the store does not answer.
pub async fn summarize_under(
    store: &dyn MetaStore,
    deadline: Instant,
) -> Result<UnderSummary, Error> {
    let (mut summary, mut after) = (UnderSummary::default(), None::<String>);
    loop {
        let page = store.range(keys::UNDER, after.as_deref(), PAGE).await?;
        for item in &page.items {
            let Some(ledger) = keys::parse_under(&item.key) else { continue };
            let Ok(mark) = Under::decode(ledger, &item.value.value) else { continue };
            if mark.only_moves() {
                continue;
            }
            summary.ledgers += 1;
            let oldest = summary.oldest_ms.unwrap_or(i64::MAX);
            summary.oldest_ms = Some(oldest.min(mark.created_ms));
            if summary.ledgers > MAX_READ || Instant::now() >= deadline {
                summary.partial = true;
                continue;
            }
            let Some(found) = store.get(&keys::ledger(ledger)).await? else { continue };
            if let Ok(meta) = LedgerMeta::decode(ledger, &found.value) {
                summary.add(&mark, &meta);
            }
        }
        after = page.items.last().map(|item| item.key.clone());
        if !page.more || after.is_none() {
            return Ok(summary);
        }
        if Instant::now() >= deadline {
            summary.partial = true;
            return Ok(summary);
        }
    }
}

impl UnderSummary {
    fn add(&mut self, mark: &Under, meta: &LedgerMeta) {
        let entries = meta.last_entry.map_or(0, |last| u128::try_from(last.0 + 1).unwrap_or(0));
        for (index, fragment) in meta.fragments.iter().enumerate() {
            let lacking = fragment.ensemble.iter().filter(|m| mark.members.contains(m)).count();
            if lacking == 0 {
                continue;
            }
            self.fragments += 1;
            let Some(end) = meta.fragment_end(index) else {
                self.open_fragments += 1;
                continue;
            };
            // Lengths of fragments are nowhere: an entry counts as the average one of its ledger.
            let held = u128::try_from(end.0 - fragment.first_entry.0 + 1).unwrap_or(0);
            let bytes = (u128::from(meta.length) * held).checked_div(entries).unwrap_or(0);
            self.bytes += u64::try_from(bytes).unwrap_or(u64::MAX) * lacking as u64;
        }
        if let Some(entry) = mark.lost_entry.filter(|_| self.lost.len() < MAX_NAMED) {
            let topic = format!("{}/{}", meta.custom.namespace, meta.custom.name);
            self.lost.push((meta.id, topic, entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use geminga_metastore::MemoryStore;
    use geminga_metastore::record::{CloseKind, Custom, Digest, Fragment, LedgerState, Tier};
    use geminga_proto::ids::{Incarnation, SealEpoch};

    use super::*;

    fn member(number: u64) -> Member {
        Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
    }

    #[tokio::test]
    async fn marks_of_one_ledger_add_up() {
        let store = MemoryStore::new();
        let ledger = LedgerId(7);
        for (numbers, now_ms) in [(vec![1, 2], 10), (vec![2, 3], 20), (vec![1], 30)] {
            let members: Vec<Member> = numbers.into_iter().map(member).collect();
            mark_under(&store, ledger, &members, UnderReason::Replaced, now_ms).await.unwrap();
        }
        let found = store.get(&keys::under(ledger)).await.unwrap().unwrap();
        let mark = Under::decode(ledger, &found.value).unwrap();
        assert_eq!(mark.members, [member(1), member(2), member(3)]);
        assert_eq!((mark.created_ms, mark.reason), (10, UnderReason::Replaced));
    }

    /// What is merely to be moved is neither short of a copy nor as old as what fails later.
    #[tokio::test]
    async fn copies_that_are_to_move_are_not_missing() {
        let store = MemoryStore::new();
        let (ledger, misplaced) = (LedgerId(7), [(member(1), UnderReason::Misplaced)]);
        mark_all(&store, ledger, &misplaced, None, 10).await.unwrap();
        assert_eq!(summarized(&store).await, UnderSummary::default());
        mark_under(&store, ledger, &[member(2)], UnderReason::Damaged, 20).await.unwrap();
        let found = store.get(&keys::under(ledger)).await.unwrap().unwrap();
        let mark = Under::decode(ledger, &found.value).unwrap();
        assert_eq!((mark.members, mark.misplaced), (vec![member(2)], vec![member(1)]));
        assert_eq!((mark.created_ms, mark.reason), (20, UnderReason::Damaged));
        let summary = summarized(&store).await;
        assert_eq!((summary.ledgers, summary.oldest_ms), (1, Some(20)));
    }

    /// An open ledger of two copies, with a fragment for each of these beginnings and members.
    fn open(ledger: LedgerId, fragments: [(i64, [u64; 2]); 2]) -> LedgerMeta {
        let fragment = |(first, numbers): (i64, [u64; 2])| Fragment {
            first_entry: EntryId(first),
            ensemble: numbers.map(member).to_vec(),
        };
        LedgerMeta {
            id: ledger,
            state: LedgerState::Open,
            seal_epoch: SealEpoch(0),
            qw: 2,
            qa: 2,
            digest: Digest::Crc32c,
            fragments: fragments.map(fragment).to_vec(),
            last_entry: None,
            length: 0,
            entries_crc: None,
            tier: Tier::Local,
            close_kind: None,
            recoverer: String::new(),
            last_op: 1,
            custom: Custom::default(),
            created_ms: 0,
            owner: String::new(),
            degraded: false,
        }
    }

    async fn summarized(store: &MemoryStore) -> UnderSummary {
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        summarize_under(store, deadline).await.unwrap()
    }

    /// A copy that an open ledger lacks is missing as well, though nobody makes it before it ends.
    #[tokio::test]
    async fn fragments_that_are_written_count() {
        let store = MemoryStore::new();
        let (ledger, gone) = (LedgerId(7), [(member(1), UnderReason::Gone)]);
        let open = open(ledger, [(0, [2, 3]), (5, [1, 2])]);
        store.put_if(&keys::ledger(ledger), None, open.encode()).await.unwrap().unwrap();
        mark_all(&store, ledger, &gone, Some(1), 10).await.unwrap();
        let summary = summarized(&store).await;
        assert_eq!((summary.fragments, summary.open_fragments, summary.bytes), (1, 1, 0));
    }

    /// Each member that lacks a fragment is to get what that fragment holds, and nothing of the others.
    #[tokio::test]
    async fn bytes_are_those_of_the_fragments_that_members_lack() {
        let store = MemoryStore::new();
        let ledger = LedgerId(7);
        // Entries 0 to 3, and 4 to 9, of 100 bytes each.
        let open = open(ledger, [(0, [1, 2]), (4, [1, 3])]);
        let (state, close_kind) = (LedgerState::Closed, Some(CloseKind::Writer));
        let last_entry = Some(EntryId(9));
        let closed = LedgerMeta { state, close_kind, last_entry, length: 1_000, ..open };
        store.put_if(&keys::ledger(ledger), None, closed.encode()).await.unwrap().unwrap();
        for (number, fragments, bytes) in [(3, 1, 600), (2, 2, 1_000), (1, 2, 2_000)] {
            let members = [member(number)];
            mark_under(&store, ledger, &members, UnderReason::Behind, 10).await.unwrap();
            let summary = summarized(&store).await;
            assert_eq!((summary.fragments, summary.open_fragments), (fragments, 0), "{number}");
            assert_eq!(summary.bytes, bytes, "{number}");
        }
    }

    /// 6.5 step 6: a repair removes the mark at the version that it read, so what failed again since must have changed it.
    #[tokio::test]
    async fn a_failure_told_again_changes_the_mark() {
        let store = MemoryStore::new();
        let (ledger, members) = (LedgerId(7), [member(1)]);
        let version = async || store.get(&keys::under(ledger)).await.unwrap().unwrap().version;
        mark_under(&store, ledger, &members, UnderReason::Damaged, 10).await.unwrap();
        let before = version().await;
        mark_under(&store, ledger, &members, UnderReason::Damaged, 20).await.unwrap();
        let after = version().await;
        assert_ne!(before, after);
        // Who is gone is gone: the auditor says so over and over.
        let gone = members.map(|member| (member, UnderReason::Damaged));
        mark_all(&store, ledger, &gone, None, 30).await.unwrap();
        assert_eq!(version().await, after);
    }
}

//! The removal of one deleted topic. Each stage lists what is left of its kind, removes a part of it, and goes on when a
//! listing shows nothing more; so it may begin anew after any crash, and an outcome that is unknown is answered by the next
//! listing (M9).
//!
//! ```text
//!   assign/<id>/*  ─►  term of each partition + 1, broker -1  ─►  segments/<id>/*  ─►  (no manifests/<id>/* any more)
//!                  ─►  partitions/<id>/*  ─►  the mark
//! ```
//!
//! The order is what makes it safe. Without an assignment nobody opens a partition any more, since that is guarded by the
//! assignment's version; so a partition without a term gets none either. With its term raised no owner adds a segment, since
//! that is guarded by the term's version. Only then is a listing of the segments all there will ever be.

use geminga_metastore::record::{PartitionTerm, Segment};
use geminga_metastore::{Guard, KeyValue, Range, Revision, Txn, Version, keys};
use geminga_proto::caps;
use geminga_proto::ids::{LedgerId, Term, TopicId};

/// Guards that every transaction carries: the office and the mark.
const COMMON: usize = 2;
/// Keys that one transaction removes without a guard of their own.
const DELETES: usize = caps::MAX_METADATA_TXN_OPS - COMMON;
/// Terms that one transaction raises: a guard and a put each.
const RAISES: usize = (caps::MAX_METADATA_TXN_OPS - COMMON) / 2;
/// Segments that one transaction removes: a guard and a delete each, and the ledger's two guards and two puts.
const ENDS: usize = (caps::MAX_METADATA_TXN_OPS - COMMON) / 6;
/// Transactions in a row that may come to nothing before the removal is put off.
const MAX_FAILURES: u32 = 5;

/// What is being removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Assignments,
    Terms,
    Segments,
    Manifests,
    Partitions,
    Mark,
}

/// A segment whose ledger is to end with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) key: String,
    pub(super) version: Version,
    /// `None`: the record of the segment cannot be read, and the segment stays.
    pub(super) ledger: Option<LedgerId>,
}

/// What can be done about a segment's ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// It is closed: this makes it a tombstone.
    Part(Txn),
    /// It is gone, or a tombstone already.
    Gone,
    /// It cannot be closed now; its segment stays.
    NotYet,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// The answer to [`Effect::List`].
    Listed(Range),
    /// The answer to [`Effect::End`].
    Ended(Vec<(Found, Ending)>),
    /// The transaction took place.
    Committed,
    /// It did not, or nobody knows.
    Doubt,
    /// The answer to [`Effect::Check`].
    Checked(Standing),
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Yes.
    Ours,
    /// Somebody else is the coordinator.
    Deposed,
    /// The mark is gone: all is done.
    Done,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// Read keys, linearizably (M8).
    List { prefix: String, after: Option<String> },
    /// Close these ledgers where need be, and say how each can end.
    End(Vec<Found>),
    /// Commit this.
    Commit(Txn),
    /// Read the mark and the election.
    Check,
    /// It is over.
    Over(Over),
}

/// How a removal ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing is left.
    Done,
    /// This broker is not the coordinator any more.
    Deposed,
    /// To be tried again later.
    Later(String),
}

/// One deleted topic.
#[derive(Debug)]
pub(super) struct Removal {
    topic: TopicId,
    office: Revision,
    /// Version of the mark.
    mark: Version,
    stage: Stage,
    /// What was looked at is not to be listed again; `None` = from the start.
    after: Option<String>,
    /// The last key of what is being committed.
    upto: Option<String>,
    /// Segments are begun with behind this one, where the last attempt ended: those that stay would else keep every attempt
    /// from what lies behind them. Those up to it come last.
    from: Option<String>,
    /// Behind this segment all were looked at.
    until: Option<String>,
    /// Segments that stay for now.
    kept: usize,
    failures: u32,
}

impl Removal {
    /// For the coordinator of this office, when the mark has this version; and what to do first. `from`: the
    /// [place](Self::place) of the attempt before.
    pub(super) fn begin(
        topic: TopicId,
        office: Revision,
        mark: Version,
        from: Option<String>,
    ) -> (Self, Effect) {
        let removal = Self {
            topic,
            office,
            mark,
            stage: Stage::Assignments,
            after: None,
            upto: None,
            from,
            until: None,
            kept: 0,
            failures: 0,
        };
        let first = removal.list();
        (removal, first)
    }

    /// The last segment that was looked at.
    pub(super) fn place(&self) -> Option<String> {
        match self.stage {
            Stage::Segments => self.after.clone(),
            _ => self.from.clone(),
        }
    }

    pub(super) fn step(&mut self, input: Input) -> Effect {
        match input {
            Input::Listed(range) => self.listed(range),
            Input::Ended(endings) => self.ended(endings),
            Input::Committed => self.committed(),
            Input::Doubt => Effect::Check,
            Input::Checked(Standing::Done) => Effect::Over(Over::Done),
            Input::Checked(Standing::Deposed) => Effect::Over(Over::Deposed),
            Input::Checked(Standing::Ours) => self.again(),
        }
    }

    fn list(&self) -> Effect {
        let prefix = match self.stage {
            Stage::Assignments => keys::assignments_of(self.topic),
            Stage::Terms | Stage::Partitions => keys::partitions_of(self.topic),
            Stage::Segments => keys::all_segments_of(self.topic),
            Stage::Manifests => keys::manifests_of(self.topic),
            Stage::Mark => return self.commit(&[keys::deleted_topic(self.topic)], Txn::new()),
        };
        Effect::List { prefix, after: self.after.clone() }
    }

    fn guarded(&self) -> Txn {
        Txn::new()
            .guard(Guard::Created(keys::COORDINATOR.to_owned(), self.office))
            .guard(Guard::Version(keys::deleted_topic(self.topic), self.mark))
    }

    fn commit(&self, deleted: &[String], with: Txn) -> Effect {
        let txn = self.guarded().and(with);
        Effect::Commit(deleted.iter().fold(txn, |txn, key| txn.delete(key)))
    }

    fn enter(&mut self, stage: Stage) -> Effect {
        (self.stage, self.after, self.upto) = (stage, None, None);
        if stage == Stage::Segments {
            self.after = self.from.clone();
        }
        self.list()
    }

    fn listed(&mut self, range: Range) -> Effect {
        let Range { items, more, .. } = range;
        match self.stage {
            Stage::Assignments | Stage::Partitions => {
                let keys: Vec<String> =
                    items.into_iter().take(DELETES).map(|item| item.key).collect();
                if !keys.is_empty() {
                    return self.commit(&keys, Txn::new());
                }
            }
            Stage::Terms => match self.raise(&items) {
                Ok(Some(txn)) => return self.commit(&[], txn),
                Ok(None) => {
                    if let Some(last) = items.last().filter(|_| more) {
                        self.after = Some(last.key.clone());
                        return self.list();
                    }
                }
                Err(why) => return Effect::Over(Over::Later(why)),
            },
            Stage::Segments => {
                let found = segments(items, self.until.as_deref());
                if !found.is_empty() {
                    return Effect::End(found);
                }
                if self.from.is_some() {
                    (self.until, self.after) = (self.from.take(), None);
                    return self.list();
                }
                if self.kept > 0 {
                    let why = format!("{} ledgers cannot be closed now", self.kept);
                    return Effect::Over(Over::Later(why));
                }
            }
            // Whoever folds removes them, with the objects that they list. Without segments nobody makes another: a fold is
            // guarded by those that it takes.
            Stage::Manifests if !items.is_empty() => {
                let why = "objects of its folded segments are not removed yet: a bookie with --object-store does that";
                return Effect::Over(Over::Later(why.to_owned()));
            }
            Stage::Manifests | Stage::Mark => {}
        }
        match self.stage {
            Stage::Assignments => self.enter(Stage::Terms),
            Stage::Terms => self.enter(Stage::Segments),
            Stage::Segments => self.enter(Stage::Manifests),
            Stage::Manifests => self.enter(Stage::Partitions),
            Stage::Partitions | Stage::Mark => self.enter(Stage::Mark),
        }
    }

    /// Raises the terms among `items` that still name a broker; `None` when none does.
    fn raise(&self, items: &[KeyValue]) -> Result<Option<Txn>, String> {
        let mut txn = Txn::new();
        for item in items.iter().filter(|item| keys::is_term(&item.key)) {
            let now = PartitionTerm::decode(&item.value.value)
                .map_err(|invalid| format!("{} holds {invalid}", item.key))?;
            if now.broker.is_none() {
                continue;
            }
            let raised = PartitionTerm { term: Term(now.term.0.saturating_add(1)), broker: None };
            let own = Guard::Version(item.key.clone(), item.value.version);
            txn = txn.guard(own).put(&item.key, raised.encode());
            if txn.ops.len() == RAISES {
                break;
            }
        }
        Ok((!txn.ops.is_empty()).then_some(txn))
    }

    fn ended(&mut self, endings: Vec<(Found, Ending)>) -> Effect {
        let last = endings.last().map(|(found, _)| found.key.clone());
        let (mut txn, mut deleted) = (Txn::new(), Vec::new());
        for (found, ending) in endings {
            let part = match ending {
                Ending::Part(part) => part,
                Ending::Gone => Txn::new(),
                Ending::NotYet => {
                    self.kept += 1;
                    continue;
                }
            };
            txn = txn.guard(Guard::Version(found.key.clone(), found.version)).and(part);
            deleted.push(found.key);
        }
        if deleted.is_empty() {
            self.after = last;
            return self.list();
        }
        self.upto = last;
        self.commit(&deleted, txn)
    }

    fn committed(&mut self) -> Effect {
        self.failures = 0;
        if self.stage == Stage::Mark {
            return Effect::Over(Over::Done);
        }
        // Of segments that were passed over some stay; all else that was committed is gone, or shows that it is done.
        self.after = self.upto.take().or(self.after.take());
        self.list()
    }

    fn again(&mut self) -> Effect {
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            return Effect::Over(Over::Later("its transactions do not take place".to_owned()));
        }
        (self.after, self.upto, self.kept) = (None, None, 0);
        (self.from, self.until) = (None, None);
        self.list()
    }
}

/// The first segments of a listing, as many as one transaction removes, and none behind `until`.
fn segments(items: Vec<KeyValue>, until: Option<&str>) -> Vec<Found> {
    let wanted = |item: &KeyValue| until.is_none_or(|until| item.key.as_str() <= until);
    let found = items.into_iter().take_while(wanted).take(ENDS).map(|item| {
        let segment = Segment::decode(&item.value.value).inspect_err(|invalid| {
            tracing::warn!(key = item.key, %invalid, "a segment of a deleted topic cannot be read; it is passed over");
        });
        let ledger = segment.ok().map(|segment| segment.ledger);
        Found { key: item.key, version: item.value.version, ledger }
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    use geminga_metastore::Versioned;
    use geminga_proto::ids::{Offset, PartitionIndex};

    use super::*;

    fn topic() -> TopicId {
        TopicId::from_random(1)
    }

    fn key(partition: u32) -> String {
        keys::segment(topic(), PartitionIndex(partition), 1)
    }

    fn range(partitions: &[u32]) -> Range {
        let item = |partition: &u32| {
            let segment = Segment {
                ledger: LedgerId(u64::from(*partition)),
                base_offset: Offset(0),
                term: Term(1),
                end_offset: None,
                max_timestamp: None,
                bytes: None,
            };
            let value =
                Versioned { value: segment.encode(), version: Version(1), created: Revision(1) };
            KeyValue { key: key(*partition), value }
        };
        Range { items: partitions.iter().map(item).collect(), revision: Revision(9), more: false }
    }

    fn nothing() -> Input {
        Input::Listed(range(&[]))
    }

    /// At the segments.
    fn begun(from: Option<String>) -> (Removal, Effect) {
        let (mut removal, _) = Removal::begin(topic(), Revision(1), Version(1), from);
        removal.step(nothing());
        let effect = removal.step(nothing());
        (removal, effect)
    }

    fn listed_after(effect: &Effect) -> Option<String> {
        let Effect::List { after, .. } = effect else { panic!("{effect:?}") };
        after.clone()
    }

    fn stuck(effect: Effect) -> Input {
        let Effect::End(found) = effect else { panic!("{effect:?}") };
        Input::Ended(found.into_iter().map(|found| (found, Ending::NotYet)).collect())
    }

    /// What cannot be closed at the front costs the whole of one attempt; the next one is for what lies behind.
    #[test]
    fn an_attempt_goes_on_where_the_last_one_ended() {
        let (mut first, effect) = begun(None);
        assert_eq!((listed_after(&effect), first.place()), (None, None));
        let effect = first.step(Input::Listed(range(&[1, 2])));
        let effect = first.step(stuck(effect));
        assert_eq!(listed_after(&effect), Some(key(2)));
        // Its time is over.
        let (mut second, effect) = begun(first.place());
        assert_eq!(listed_after(&effect), Some(key(2)));
        let effect = second.step(Input::Listed(range(&[3])));
        let Effect::End(found) = effect else { panic!("{effect:?}") };
        let gone = found.into_iter().map(|found| (found, Ending::Gone)).collect();
        assert!(matches!(second.step(Input::Ended(gone)), Effect::Commit(_)));
        assert_eq!(listed_after(&second.step(Input::Committed)), Some(key(3)));
        // Then those before it, which may be closed by now; and no more than these.
        assert_eq!(listed_after(&second.step(nothing())), None);
        let effect = second.step(Input::Listed(range(&[1, 2, 4])));
        let Effect::End(found) = &effect else { panic!("{effect:?}") };
        assert_eq!(found.len(), 2);
        let effect = second.step(stuck(effect));
        assert_eq!(listed_after(&effect), Some(key(2)));
        assert!(matches!(second.step(nothing()), Effect::Over(Over::Later(_))));
    }

    /// One segment whose record is damaged stays, and keeps nothing behind it from going; the topic is not done.
    #[test]
    fn what_cannot_be_read_is_passed_over() {
        let (mut removal, _) = begun(None);
        let mut listed = range(&[1, 2, 3]);
        listed.items[1].value.value = bytes::Bytes::from_static(b"?");
        let Effect::End(found) = removal.step(Input::Listed(listed)) else { panic!("it goes on") };
        let ledgers: Vec<_> = found.iter().map(|found| found.ledger).collect();
        assert_eq!(ledgers, [Some(LedgerId(1)), None, Some(LedgerId(3))]);
        let ending = |found: Found| {
            let ending = if found.ledger.is_some() { Ending::Gone } else { Ending::NotYet };
            (found, ending)
        };
        let ended = removal.step(Input::Ended(found.into_iter().map(ending).collect()));
        let Effect::Commit(txn) = ended else { panic!("{ended:?}") };
        let deletes =
            txn.ops.iter().filter(|op| matches!(op, geminga_metastore::Op::Delete { .. }));
        assert_eq!(deletes.count(), 2);
        assert_eq!(listed_after(&removal.step(Input::Committed)), Some(key(3)));
        assert!(matches!(removal.step(nothing()), Effect::Over(Over::Later(_))));
    }

    /// A place in the middle lets nothing before it be forgotten.
    #[test]
    fn partitions_go_only_when_all_segments_have() {
        let (mut removal, effect) = begun(Some(key(5)));
        assert_eq!(listed_after(&effect), Some(key(5)));
        let effect = removal.step(nothing());
        assert_eq!(listed_after(&effect), None);
        let Effect::List { prefix, .. } = removal.step(nothing()) else { panic!("it goes on") };
        assert_eq!(prefix, keys::manifests_of(topic()));
        let Effect::List { prefix, .. } = removal.step(nothing()) else { panic!("it goes on") };
        assert_eq!(prefix, keys::partitions_of(topic()));
    }

    /// Objects of folded segments are other people's to remove, and the mark tells them to.
    #[test]
    fn a_manifest_keeps_the_mark() {
        let (mut removal, _) = begun(None);
        removal.step(nothing());
        let over = removal.step(Input::Listed(range(&[1])));
        assert!(matches!(over, Effect::Over(Over::Later(_))), "{over:?}");
    }
}

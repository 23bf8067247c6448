//! What one cycle of deletion may drop: a pure function of what was read (protocol 5.6).

use geminga_metastore::record::{LedgerMeta, LedgerState};
use geminga_proto::ids::LedgerId;

use crate::ledger::{Mutation, Mutations};

/// More than so many percent of the local ledgers, or of their bytes, without metadata at once is no deletion, but metadata that
/// was lost.
const MAX_ABSENT_PERCENT: u64 = 10;

/// What a linearizable read of a ledger's own key says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    Kept,
    /// It is being deleted.
    Deleting,
    /// There is no such key.
    Absent,
    /// There is none, since a manifest lists it, and all that is here is for which object its entries were dropped, which no backup of
    /// use asks for any more.
    Spent,
    /// There is none, and the metadata that was lost may have had one (6.8).
    Quarantined,
    /// There is none, and this metadata never handed its id out (M1): it is older than the ledger.
    Beyond,
}

impl Fate {
    /// By the metadata that was read; `None`: there is no such key.
    pub fn of(meta: Option<&LedgerMeta>) -> Self {
        match meta {
            None => Self::Absent,
            Some(meta) if meta.state == LedgerState::Deleting => Self::Deleting,
            Some(_) => Self::Kept,
        }
    }
}

/// A local ledger that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// Which.
    pub ledger: LedgerId,
    /// What its key says.
    pub fate: Fate,
    /// What its entries take on the disk.
    pub bytes: u64,
    /// Whether none of them is here: only for which object they were dropped, or that they were given up.
    pub is_pointer: bool,
}

/// What one cycle found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// Whether the store holds the cluster that the disks belong to.
    pub same_cluster: bool,
    /// Whether the store has shown a later revision before, in this epoch.
    pub went_back: bool,
    /// Ledgers that a listing showed.
    pub listed: u64,
    /// Ledgers that were here before it.
    pub local: u64,
    /// The bytes of their entries.
    pub local_bytes: u64,
    /// Those that it did not show as alive, each read on its own since.
    pub read: Vec<Read>,
}

/// Why a cycle drops less than was found, or nothing (G2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breaker {
    /// The store is another cluster's.
    #[error("the metadata store holds another cluster")]
    OtherCluster,
    /// No ledger at all is listed.
    #[error("the metadata store lists no ledger at all")]
    EmptyListing,
    /// The store is older than what it showed before, or than ledgers that are here: it was restored from a backup, and what it does
    /// not know may be of the time since.
    #[error(
        "the metadata store went back to an earlier state: stop all servers and run `geminga cluster epoch-bump`"
    )]
    WentBack,
    /// Too many are not there.
    #[error("{absent} of {local} ledgers of this bookie have no metadata")]
    TooManyAbsent {
        /// How many.
        absent: u64,
        /// Of how many.
        local: u64,
    },
    /// Too many are not there of those without entries. A week after a start all come at once that were deleted or given up before it,
    /// so that this says nothing of others.
    #[error(
        "of {local} ledgers of this bookie {absent}, whose entries it has dropped, have no metadata, and no list names them"
    )]
    TooManyPointers {
        /// How many.
        absent: u64,
        /// Of how many.
        local: u64,
    },
}

/// What to drop, and which breaker tripped. Ledgers that are *read* as being deleted are dropped even when too many others are
/// absent: their own key says so.
pub fn judge(survey: &Survey, mutations: Mutations) -> (Vec<LedgerId>, Option<Breaker>) {
    if mutations.is(Mutation::DropUnannounced) {
        return (survey.read.iter().map(|read| read.ledger).collect(), None);
    }
    if mutations.is(Mutation::IgnoreBreakers) {
        let gone = survey.read.iter().filter(|read| read.fate != Fate::Kept);
        return (gone.map(|read| read.ledger).collect(), None);
    }
    if !survey.same_cluster {
        return (Vec::new(), Some(Breaker::OtherCluster));
    }
    if survey.listed == 0 && survey.local > 0 {
        return (Vec::new(), Some(Breaker::EmptyListing));
    }
    let went_back = survey.went_back || survey.read.iter().any(|read| read.fate == Fate::Beyond);
    let absent = |is_pointer| {
        let of = move |read: &&Read| read.fate == Fate::Absent && read.is_pointer == is_pointer;
        survey.read.iter().filter(of)
    };
    let (count, pointers) = (absent(false).count() as u64, absent(true).count() as u64);
    let bytes: u64 = absent(false).map(|read| read.bytes).sum();
    let too_many = is_too_many(count, survey.local) || is_too_many(bytes, survey.local_bytes);
    let too_many_pointers = is_too_many(pointers, survey.local);
    let drops = |read: &&Read| match read.fate {
        Fate::Kept | Fate::Quarantined | Fate::Beyond => false,
        Fate::Deleting | Fate::Spent => true,
        Fate::Absent => !(went_back || too_many || read.is_pointer && too_many_pointers),
    };
    let dropped = survey.read.iter().filter(drops).map(|read| read.ledger).collect();
    let local = survey.local;
    let breaker = match (went_back, too_many, too_many_pointers) {
        (true, ..) => Some(Breaker::WentBack),
        (false, true, _) => Some(Breaker::TooManyAbsent { absent: count, local }),
        (false, false, true) => Some(Breaker::TooManyPointers { absent: pointers, local }),
        (false, false, false) => None,
    };
    (dropped, breaker)
}

fn is_too_many(absent: u64, of: u64) -> bool {
    u128::from(absent) * 100 > u128::from(of) * u128::from(MAX_ABSENT_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With every rule.
    fn judged(survey: &Survey) -> (Vec<LedgerId>, Option<Breaker>) {
        judge(survey, Mutations::default())
    }

    fn read(ledger: u64, fate: Fate) -> Read {
        Read { ledger: LedgerId(ledger), fate, bytes: 10, is_pointer: false }
    }

    fn survey(read: Vec<Read>) -> Survey {
        Survey {
            same_cluster: true,
            went_back: false,
            listed: 90,
            local: 100,
            local_bytes: 1000,
            read,
        }
    }

    #[test]
    fn what_is_confirmed_is_dropped() {
        let read = vec![read(1, Fate::Kept), read(2, Fate::Deleting), read(3, Fate::Absent)];
        assert_eq!(judged(&survey(read)), (vec![LedgerId(2), LedgerId(3)], None));
    }

    /// 6.8: what only bookies know after a restore is neither dropped nor a reason to stop.
    #[test]
    fn what_is_in_quarantine_stays() {
        let read: Vec<_> = (0..50)
            .map(|ledger| read(ledger, Fate::Quarantined))
            .chain([read(60, Fate::Deleting)])
            .collect();
        assert_eq!(judged(&survey(read)), (vec![LedgerId(60)], None));
    }

    /// M1: metadata that is older than one ledger may be older than all that it does not know.
    #[test]
    fn nothing_absent_is_dropped_by_metadata_that_went_back() {
        let read = vec![read(1, Fate::Absent), read(2, Fate::Deleting)];
        let back = Survey { went_back: true, ..survey(read.clone()) };
        assert_eq!(judged(&back), (vec![LedgerId(2)], Some(Breaker::WentBack)));
        let mut beyond = survey(read);
        let ledger = LedgerId(70);
        beyond.read.push(Read { ledger, fate: Fate::Beyond, bytes: 0, is_pointer: false });
        assert_eq!(judged(&beyond), (vec![LedgerId(2)], Some(Breaker::WentBack)));
    }

    /// A topic that was deleted a week ago is no reason to keep what was deleted today; what looks lost is one to keep everything.
    #[test]
    fn pointers_are_judged_by_their_own_tenth() {
        let pointer = |ledger| Read { is_pointer: true, bytes: 0, ..read(ledger, Fate::Absent) };
        let mut many = survey((20..31).map(pointer).collect());
        many.read.extend((0..10).map(|ledger| read(ledger, Fate::Absent)));
        let (dropped, breaker) = judged(&many);
        assert_eq!(dropped, (0..10).map(LedgerId).collect::<Vec<_>>());
        assert_eq!(breaker, Some(Breaker::TooManyPointers { absent: 11, local: 100 }));
        many.read.remove(0);
        assert_eq!((judged(&many).0.len(), judged(&many).1), (20, None), "ten of each");
        many.read.push(read(40, Fate::Absent));
        let lost = Breaker::TooManyAbsent { absent: 11, local: 100 };
        assert_eq!(judged(&many), (vec![], Some(lost)));
    }

    /// G2, scenario 44.
    #[test]
    fn breakers_keep_what_looks_lost() {
        let absent =
            |count| (0..count).map(|ledger| read(ledger, Fate::Absent)).collect::<Vec<_>>();
        let mut ten = survey(absent(10));
        assert_eq!(judged(&ten).0.len(), 10);
        ten.read[0].bytes = 11;
        assert_eq!(judged(&ten).0, [], "too many bytes");
        let mut eleven = survey(absent(11));
        eleven.read.push(read(50, Fate::Deleting));
        let (dropped, breaker) = judged(&eleven);
        assert_eq!(dropped, [LedgerId(50)]);
        assert_eq!(breaker, Some(Breaker::TooManyAbsent { absent: 11, local: 100 }));
        let mut folded = survey(absent(10));
        folded.read.extend((20..90).map(|ledger| read(ledger, Fate::Spent)));
        assert_eq!(judged(&folded).0.len(), 80, "those that were folded are not absent");
        let deleting: Vec<_> = (0..100).map(|ledger| read(ledger, Fate::Deleting)).collect();
        assert_eq!(judged(&survey(deleting.clone())).0.len(), 100);
        let empty = Survey { listed: 0, ..survey(deleting.clone()) };
        assert_eq!(judged(&empty), (vec![], Some(Breaker::EmptyListing)));
        let other = Survey { same_cluster: false, ..survey(deleting) };
        assert_eq!(judged(&other), (vec![], Some(Breaker::OtherCluster)));
        let nothing = Survey { same_cluster: true, ..Survey::default() };
        assert_eq!(judged(&nothing), (vec![], None), "a new bookie of a new cluster");
    }
}

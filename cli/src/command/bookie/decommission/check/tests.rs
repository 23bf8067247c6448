use geminga_metastore::LeaseId;
use geminga_metastore::record::{
    Custom, Digest, Features, LedgerState, LiveDisk, Tier, TierObject,
};
use geminga_proto::ids::{EntryId, Incarnation, Member, SealEpoch, TopicId};

use super::*;

fn id(number: u64) -> BookieId {
    format!("bookie-{number}").parse().expect("a name")
}

/// One disk of 1,000 bytes, of which a hundred stay free.
fn live(number: u64, free_bytes: u64) -> LiveBookie {
    let incarnation = Incarnation(number);
    let disk = LiveDisk { incarnation, writable: true, free_bytes, total_bytes: 1_000 };
    LiveBookie {
        id: id(number),
        address: String::new(),
        http_address: String::new(),
        zone: String::new(),
        rack: String::new(),
        disks: vec![disk],
        lease: LeaseId(1),
        started_ms: 0,
        repair_rate: 0,
        objects_missing: None,
        features: Features::ALL,
    }
}

/// Closed after ten entries, of `length` bytes together, on these bookies.
fn ledger(ensemble: &[u64], length: u64) -> LedgerMeta {
    let qw = u8::try_from(ensemble.len()).expect("few");
    LedgerMeta {
        id: LedgerId(7),
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw,
        qa: qw.min(2),
        digest: Digest::Crc32c,
        fragments: vec![fragment(0, ensemble)],
        last_entry: Some(EntryId(9)),
        length,
        entries_crc: None,
        close_kind: None,
        recoverer: String::new(),
        last_op: 0,
        custom: Custom { topic: TopicId::default(), name: "t".to_owned(), ..Custom::default() },
        created_ms: 0,
        owner: String::new(),
        degraded: false,
        tier: Tier::Local,
    }
}

fn fragment(first: i64, ensemble: &[u64]) -> Fragment {
    let member = |number: &u64| Member { bookie: id(*number), incarnation: Incarnation(*number) };
    Fragment { first_entry: EntryId(first), ensemble: ensemble.iter().map(member).collect() }
}

fn object() -> TierObject {
    TierObject {
        attempt: 1,
        bucket: String::new(),
        key: String::new(),
        size: 1,
        entries: 10,
        object_crc: 1,
        etag: String::new(),
        index_place: 1,
        at_ms: 1,
    }
}

/// Bookies from number 1 on with so much free space each.
struct Case {
    live: Vec<LiveBookie>,
    draining: Vec<BookieId>,
    ledgers: Vec<LedgerMeta>,
    copies: Vec<(u8, &'static str)>,
}

impl Case {
    fn new(free: &[u64], ledgers: Vec<LedgerMeta>) -> Self {
        let live = (1..).zip(free).map(|(number, free)| live(number, *free)).collect();
        Self { live, draining: vec![], ledgers, copies: vec![] }
    }

    fn refusal(&self, asked: &[u64]) -> Option<Refusal> {
        let asked: Vec<BookieId> = asked.iter().copied().map(id).collect();
        let Self { live, draining, ledgers, copies } = self;
        let facts = Facts { asked: &asked, draining, live, ledgers, copies: copies.clone() };
        facts.check().err()
    }

    fn reason(&self, asked: &[u64]) -> Option<&'static str> {
        self.refusal(asked).and_then(|refusal| Failure::from(refusal).reason)
    }
}

#[test]
fn what_the_others_cannot_carry_is_refused() {
    let ledgers = || vec![ledger(&[1, 2, 3], 500)];
    for (free, asked, reason) in [
        (&[1_000, 1_000, 1_000, 1_000][..], &[1][..], None),
        (&[1_000, 1_000, 1_000], &[1], Some("TOO_FEW_BOOKIES")),
        (&[1_000, 1_000, 1_000, 1_000], &[1, 4], Some("TOO_FEW_BOOKIES")),
        (&[200, 200, 200, 200], &[1], Some("NO_ROOM")),
        (&[1_000, 1_000, 1_000, 599], &[1], Some("NO_ROOM")),
        (&[1_000, 1_000, 1_000, 600], &[1], None),
        // It has nothing.
        (&[100, 100, 100, 100], &[4], None),
    ] {
        assert_eq!(Case::new(free, ledgers()).reason(asked), reason, "{free:?} without {asked:?}");
    }
    let single = Case::new(&[1_000; 4], vec![ledger(&[1], 5)]);
    assert_eq!(single.reason(&[1]), Some("ONLY_COPY"));
    assert_eq!(single.reason(&[2]), None);
    // One that leaves already takes nothing.
    let leaving = Case { draining: vec![id(3)], ..Case::new(&[1_000; 4], ledgers()) };
    assert_eq!(leaving.reason(&[1]), Some("TOO_FEW_BOOKIES"));
    // A topic without a ledger yet wants its copies, too.
    let topic = Case { copies: vec![(3, "t")], ..Case::new(&[1_000; 3], vec![]) };
    assert_eq!(topic.reason(&[1]), Some("TOO_FEW_BOOKIES"));
}

/// T6: nobody holds anything of a trimmed ledger, and an object is a copy as well.
#[test]
fn what_is_in_the_object_store_only_is_neither_counted_nor_moved() {
    let tiered = |ensemble: &[u64], length, tier| LedgerMeta { tier, ..ledger(ensemble, length) };
    let trimmed = || Tier::Trimmed(object());
    for (ledgers, reason) in [
        (vec![tiered(&[1, 2, 3], 1 << 40, trimmed())], None),
        (vec![tiered(&[1], 5, trimmed())], None),
        (vec![tiered(&[1, 2, 3, 4], 5, trimmed())], None),
        (vec![tiered(&[1], 5, Tier::Offloaded(object()))], None),
        (vec![tiered(&[1, 2, 3], 1 << 40, Tier::Offloaded(object()))], Some("NO_ROOM")),
        (vec![tiered(&[1, 2, 3], 1 << 40, trimmed()), ledger(&[1, 2, 3], 901)], Some("NO_ROOM")),
        (vec![tiered(&[1, 2, 3], 1 << 40, trimmed()), ledger(&[1, 2, 3], 900)], None),
    ] {
        assert_eq!(Case::new(&[1_000; 4], ledgers).reason(&[1]), reason);
    }
}

/// What counts is room where a copy may go, not room somewhere.
#[test]
fn room_counts_where_it_can_be_used() {
    // Bookie 4 alone can take the places of bookie 1; that 2 and 3 are empty helps nobody.
    let one = vec![ledger(&[1, 2, 3], 300)];
    assert_eq!(Case::new(&[1_000, 1_000, 1_000, 300], one.clone()).reason(&[1]), Some("NO_ROOM"));
    assert_eq!(Case::new(&[1_000, 100, 100, 400], one.clone()).reason(&[1]), None);
    let refusal = Case::new(&[1_000, 1_000, 1_000, 100], one.clone()).refusal(&[1]);
    assert_eq!(refusal, Some(Refusal::NoRoom { needed: 300, short: 300 }));
    // A fifth of which either can take it.
    assert_eq!(Case::new(&[1_000, 1_000, 1_000, 300, 400], one).reason(&[1]), None);
    // Both have their own successor only, whichever is met first.
    for (first, second) in [(4, 5), (5, 4)] {
        let two = vec![ledger(&[1, 2, 3, first], 500), ledger(&[1, 2, 3, second], 500)];
        assert_eq!(Case::new(&[1_000; 5], two.clone()).reason(&[1]), None);
        let full = Case::new(&[1_000, 1_000, 1_000, 1_000, 500], two);
        assert_eq!(full.reason(&[1]), Some("NO_ROOM"));
    }
    // Who can go to one bookie only goes there before others that could take it.
    let forced = ledger(&[1, 2, 3, 4], 800);
    let free = ledger(&[1, 2, 3], 800);
    for ledgers in [vec![forced.clone(), free.clone()], vec![free, forced]] {
        assert_eq!(Case::new(&[1_000; 5], ledgers).reason(&[1]), None);
    }
    // Two of one fragment go to two bookies.
    let both = vec![ledger(&[1, 2, 3], 400)];
    assert_eq!(Case::new(&[0, 0, 1_000, 1_000, 500], both.clone()).reason(&[1, 2]), None);
    assert_eq!(Case::new(&[0, 0, 1_000, 1_000, 400], both).reason(&[1, 2]), Some("NO_ROOM"));
    // Nobody without a zone gets anything where others name one; a disk that takes nothing has no room.
    let zoned = |zone: &str| {
        let mut case = Case::new(&[1_000; 4], vec![ledger(&[1, 2, 3], 5)]);
        case.live.iter_mut().take(3).for_each(|live| live.zone = "a".to_owned());
        case.live[3].zone = zone.to_owned();
        case.reason(&[1])
    };
    assert_eq!((zoned("b"), zoned("")), (None, Some("TOO_FEW_BOOKIES")));
    let mut full = Case::new(&[1_000; 5], vec![ledger(&[1, 2, 3], 500)]);
    full.live[4].disks[0].writable = false;
    full.live[3].disks[0].free_bytes = 500;
    assert_eq!(full.reason(&[1]), Some("NO_ROOM"));
}

/// Of a ledger whose ensemble changed only that part moves that is there.
#[test]
fn a_fragment_counts_for_its_own_entries() {
    let fragments = vec![fragment(0, &[1, 2, 3]), fragment(1, &[2, 3, 4])];
    let changed = vec![LedgerMeta { fragments, ..ledger(&[1, 2, 3], 10_000) }];
    let free = |free| Case::new(&[1_000, 1_000, 1_000, free, 100], changed.clone()).reason(&[1]);
    assert_eq!(free(1_000), Some("NO_ROOM"), "a tenth of it, but only 900 fit");
    let fragments = vec![fragment(0, &[1, 2, 3]), fragment(1, &[2, 3, 4])];
    let less = vec![LedgerMeta { fragments, ..ledger(&[1, 2, 3], 9_000) }];
    assert_eq!(Case::new(&[1_000, 1_000, 1_000, 1_000, 100], less).reason(&[1]), None);
    // How long an open one is nobody knows; its writer leaves by itself.
    let open = LedgerMeta {
        state: LedgerState::Open,
        last_entry: None,
        length: 0,
        ..ledger(&[1, 2, 3], 0)
    };
    assert_eq!(Case::new(&[100; 4], vec![open]).reason(&[1]), None);
}

#[test]
fn whoever_may_have_the_last_copy_stays() {
    let mut case = Case::new(&[1_000; 4], vec![]);
    case.live[1].objects_missing = Some(2);
    assert_eq!((case.reason(&[2]), case.reason(&[3])), (Some("OBJECTS_MISSING"), None));
}

/// A copy goes to one disk, however much all of a bookie's have together.
#[test]
fn room_is_that_of_one_disk() {
    let mut case = Case::new(&[1_000, 1_000, 1_000, 300], vec![ledger(&[1, 2, 3], 300)]);
    let disk = case.live[3].disks[0].clone();
    case.live[3].disks.push(disk.clone());
    assert_eq!(case.reason(&[1]), Some("NO_ROOM"), "200 on each");
    case.live[3].disks.push(LiveDisk { free_bytes: 400, ..disk });
    assert_eq!(case.reason(&[1]), None);
}

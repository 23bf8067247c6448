use geminga_metastore::LeaseId;
use geminga_metastore::record::{Custom, Digest, Features, Fragment, LedgerState, LiveDisk, Tier};
use geminga_proto::ids::{EntryId, Incarnation, LedgerId, Member, SealEpoch, TopicId};

use super::*;

fn id(number: u64) -> BookieId {
    format!("bookie-{number}").parse().expect("a name")
}

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
        features: Features::ALL,
    }
}

fn ledger(qw: u8, length: u64) -> LedgerMeta {
    let member = |number: u8| {
        let number = u64::from(number);
        Member { bookie: id(number), incarnation: Incarnation(number) }
    };
    LedgerMeta {
        id: LedgerId(7),
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw,
        qa: qw.min(2),
        digest: Digest::Crc32c,
        fragments: vec![Fragment {
            first_entry: EntryId(0),
            ensemble: (1..=qw).map(member).collect(),
        }],
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

fn cluster(bookies: u64, free: u64, ledgers: Vec<LedgerMeta>) -> Cluster {
    Cluster {
        known: (1..=bookies).map(id).collect(),
        draining: vec![],
        live: (1..=bookies).map(|number| live(number, free)).collect(),
        ledgers,
        topics: vec![],
    }
}

fn reason(cluster: &Cluster, asked: &[u64]) -> Option<&'static str> {
    let asked: Vec<BookieId> = asked.iter().copied().map(id).collect();
    cluster.check(&asked).err().and_then(|failure| failure.reason)
}

#[test]
fn what_the_others_cannot_carry_is_refused() {
    let ledgers = || vec![ledger(3, 500)];
    assert_eq!(reason(&cluster(4, 1_000, ledgers()), &[1]), None);
    assert_eq!(reason(&cluster(3, 1_000, ledgers()), &[1]), Some("TOO_FEW_BOOKIES"));
    assert_eq!(reason(&cluster(4, 1_000, ledgers()), &[1, 4]), Some("TOO_FEW_BOOKIES"));
    assert_eq!(reason(&cluster(4, 200, ledgers()), &[1]), Some("NO_ROOM"));
    assert_eq!(reason(&cluster(4, 1_000, vec![ledger(1, 5)]), &[1]), Some("ONLY_COPY"));
    assert_eq!(reason(&cluster(4, 1_000, vec![ledger(1, 5)]), &[2]), None);
    // One that leaves already takes nothing.
    let mut leaving = cluster(4, 1_000, ledgers());
    leaving.draining = vec![id(3)];
    assert_eq!(reason(&leaving, &[1]), Some("TOO_FEW_BOOKIES"));
    // A topic without a ledger yet wants its copies, too.
    let mut topic = cluster(3, 1_000, vec![]);
    let wants = Topic {
        id: TopicId::default(),
        partitions: 1,
        write_quorum: 3,
        ack_quorum: 2,
        configs: BTreeMap::new(),
        created_ms: 0,
    };
    topic.topics = vec![("t".to_owned(), wants)];
    assert_eq!(reason(&topic, &[1]), Some("TOO_FEW_BOOKIES"));
}

#[test]
fn bookies_are_chosen_by_name_or_number() {
    let mut cluster = cluster(4, 1_000, vec![]);
    cluster.known.extend(["other", "old-bookie-4"].map(|name| name.parse().expect("a name")));
    assert_eq!(cluster.choose(Some(&id(2)), None, None).expect("known"), [id(2)]);
    let numbered = |from, set| cluster.choose(None, Some(from), set).expect("known");
    assert_eq!(numbered(3, Some("bookie")), [id(3), id(4)]);
    assert_eq!(numbered(3, Some("book")), []);
    assert_eq!(numbered(5, Some("bookie")), []);
    let any: Vec<String> = numbered(4, None).iter().map(BookieId::to_string).collect();
    assert_eq!(any, ["bookie-4", "old-bookie-4"]);
    let unknown = cluster.choose(Some(&id(9)), None, None).expect_err("unknown");
    assert_eq!(unknown.reason, Some("UNKNOWN_BOOKIE"));
}

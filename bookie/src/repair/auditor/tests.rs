//! An auditor over a metadata store, without bookies.

use std::collections::HashMap;

use geminga_ledger::{BookieDirectory, Config as LedgerConfig, Parts};
use geminga_metastore::record::{
    CloseKind, Cluster, CookieDisk, Custom, Digest, DrainingBookie, Feature, Features, Fragment,
    LedgerMeta, LedgerState, LiveDisk, Tier, TierObject, Under, UnderReason,
};
use geminga_metastore::{LedgerIds, MemoryStore};
use geminga_proto::ids::{
    BrokerId, ClusterUuid, DiskUuid, EntryId, Incarnation, Member, PartitionIndex, SealEpoch,
    TopicId,
};
use geminga_runtime::{SeededRandom, SystemClock};
use metrics_exporter_prometheus::PrometheusBuilder;

use super::*;

mod vouch;

const GRACE: Duration = Duration::from_secs(30);

fn member(number: u64) -> Member {
    Member { bookie: format!("b{number}").parse().unwrap(), incarnation: Incarnation(number) }
}

fn closed(ledger: u64, ensemble: [u64; 2]) -> LedgerMeta {
    let ensemble = ensemble.map(member).to_vec();
    LedgerMeta {
        id: LedgerId(ledger),
        state: LedgerState::Closed,
        seal_epoch: SealEpoch(0),
        qw: 2,
        qa: 2,
        digest: Digest::Crc32c,
        fragments: vec![Fragment { first_entry: EntryId(0), ensemble }],
        last_entry: Some(EntryId(3)),
        length: 0,
        entries_crc: None,
        close_kind: Some(CloseKind::Writer),
        recoverer: String::new(),
        last_op: 1,
        custom: Custom::default(),
        created_ms: 0,
        owner: String::new(),
        degraded: false,
        tier: Tier::Local,
    }
}

struct World {
    store: MemoryStore,
    auditor: Auditor,
    term: Term,
}

impl World {
    /// Three bookies that are there and take data.
    async fn new() -> Self {
        let (store, tasks) = (MemoryStore::new(), Tasks::new("test"));
        let (shared, cluster): (Arc<dyn MetaStore>, _) =
            (Arc::new(store.clone()), ClusterUuid::from_random(1));
        let config = LedgerConfig::default();
        let bookies = BookieDirectory::start(
            &*shared,
            tasks.clone(),
            HashMap::new(),
            config.lane_bytes,
            geminga_tls::Dial::Plain,
        );
        let client = LedgerClient::new(Parts {
            cluster,
            ids: Arc::new(LedgerIds::new(Arc::clone(&shared), 0)),
            store: Arc::clone(&shared),
            bookies: bookies.await.unwrap(),
            clock: Arc::new(SystemClock),
            random: Arc::new(SeededRandom::new(1)),
            tasks,
            config,
            owner: "test".to_owned(),
        });
        let config = RepairConfig { open_grace: GRACE, ..RepairConfig::default() };
        let term = Term::new(Instant::now(), &config);
        let id = member(1).bookie;
        let folded = Folded::new(cluster, Arc::clone(&shared));
        let clock = Arc::new(SystemClock);
        let auditor = Auditor::new(shared, cluster, client, id, folded, clock, config);
        let world = Self { store, auditor, term };
        world.uses(Features::ALL).await;
        for number in 1..=3 {
            world.join(number, "").await;
        }
        world
    }

    /// A bookie, new or registered once more, which takes data.
    async fn join(&self, number: u64, zone: &str) {
        let Member { bookie, incarnation } = member(number);
        let disk = CookieDisk {
            disk: DiskUuid::from_random(u128::from(number)),
            incarnation,
            boot_counter: 1,
            lost: Vec::new(),
        };
        let cluster = ClusterUuid::from_random(1);
        let cookie = Cookie { cluster, bookie: bookie.clone(), disks: vec![disk] };
        self.put(keys::bookie_cookie(&bookie), cookie.encode()).await;
        self.live_in(number, zone, true).await;
    }

    /// The cluster, which uses these features.
    async fn uses(&self, features: Features) {
        let record = Cluster {
            uuid: ClusterUuid::from_random(1),
            epoch: 0,
            group_shards: 8,
            next_broker: BrokerId(1),
            groups_topic: TopicId::from_random(2),
            created_ms: 0,
            restored: None,
            features,
        };
        self.put(keys::CLUSTER.to_owned(), record.encode()).await;
    }

    async fn put(&self, key: String, value: bytes::Bytes) {
        let version = self.store.get(&key).await.unwrap().map(|found| found.version);
        self.store.put_if(&key, version, value).await.unwrap().unwrap();
    }

    async fn live(&self, number: u64, writable: bool) {
        self.live_in(number, "", writable).await;
    }

    async fn live_in(&self, number: u64, zone: &str, writable: bool) {
        self.live_as(number, zone, writable, Features::ALL).await;
    }

    async fn live_as(&self, number: u64, zone: &str, writable: bool, features: Features) {
        let Member { bookie, incarnation } = member(number);
        let live = LiveBookie {
            id: bookie.clone(),
            address: String::new(),
            http_address: String::new(),
            zone: zone.to_owned(),
            rack: String::new(),
            disks: vec![LiveDisk { incarnation, writable, free_bytes: 1, total_bytes: 2 }],
            lease: LeaseId(1),
            started_ms: 0,
            repair_rate: 0,
            objects_missing: None,
            features,
        };
        self.put(keys::bookie_live(&bookie), live.encode()).await;
    }

    /// It says of so many trimmed ledgers that it has a copy, and that the object is missing.
    async fn misses(&self, number: u64, ledgers: impl Into<Option<u32>>) {
        let key = keys::bookie_live(&member(number).bookie);
        let found = self.store.get(&key).await.unwrap().unwrap();
        let live = LiveBookie::decode(&found.value).unwrap();
        self.put(key, LiveBookie { objects_missing: ledgers.into(), ..live }.encode()).await;
    }

    async fn ledger(&self, meta: LedgerMeta) {
        self.put(keys::ledger(meta.id), meta.encode()).await;
    }

    async fn leaves(&self, number: u64) {
        let asked = DrainingBookie { since_ms: 1 }.encode();
        self.put(keys::bookie_draining(&member(number).bookie), asked).await;
    }

    async fn pass(&mut self) {
        let view = self.auditor.view(&mut self.term).await.unwrap();
        let judgement = judge(&view, self.auditor.config.lost_bookie_delay, Mutations::default());
        self.auditor.full_pass(&mut self.term, judgement).await.unwrap();
    }

    /// As often as it takes for the marks to be swept.
    async fn looks(&mut self) {
        for _ in 0..=SWEEP_EVERY {
            self.auditor.look(&mut self.term).await.unwrap();
        }
    }

    async fn marks(&self) -> Vec<Under> {
        let all = self.store.range(keys::UNDER, None, 10_000).await.unwrap().items;
        let of = |item: &KeyValue| {
            Under::decode(keys::parse_under(&item.key).unwrap(), &item.value.value).unwrap()
        };
        all.iter().map(of).collect()
    }

    /// Whether it is known yet.
    async fn known(&self, number: u64) -> bool {
        self.has(&keys::bookie_cookie(&member(number).bookie)).await
    }

    async fn has(&self, key: &str) -> bool {
        self.store.get(key).await.unwrap().is_some()
    }
}

/// 6.6: two passes that find nothing, a while apart, while it takes no new data.
#[tokio::test(start_paused = true)]
async fn a_bookie_leaves_after_two_passes_apart() {
    let mut world = World::new().await;
    world.leaves(3).await;
    // It did not hear of it yet.
    for _ in 0..3 {
        world.pass().await;
        tokio::time::advance(GRACE).await;
    }
    assert!(world.known(3).await, "it takes data yet");
    world.live(3, false).await;
    world.pass().await;
    world.pass().await;
    tokio::time::advance(GRACE / 2).await;
    world.pass().await;
    assert!(world.known(3).await, "another segment may have begun on it");
    tokio::time::advance(GRACE).await;
    world.pass().await;
    assert!(!world.known(3).await);
}

/// 6.6: what cannot be read may name it.
#[tokio::test(start_paused = true)]
async fn a_bookie_stays_while_a_ledger_cannot_be_read() {
    let mut world = World::new().await;
    world.leaves(3).await;
    world.live(3, false).await;
    let key = keys::ledger(LedgerId(5));
    world.put(key.clone(), bytes::Bytes::from_static(b"of a newer version")).await;
    for _ in 0..3 {
        world.pass().await;
        tokio::time::advance(GRACE).await;
    }
    assert!(world.known(3).await);
    world.ledger(closed(5, [1, 3])).await;
    for _ in 0..3 {
        world.pass().await;
        tokio::time::advance(GRACE).await;
    }
    assert!(world.known(3).await, "a ledger names it");
    world.ledger(closed(5, [1, 2])).await;
    for _ in 0..2 {
        world.pass().await;
        tokio::time::advance(GRACE).await;
    }
    assert!(!world.known(3).await);
}

/// One value that nobody can read costs its own ledger the audit, and no other's.
#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_stops_no_pass() {
    let mut world = World::new().await;
    let noise = bytes::Bytes::from_static(b"of a newer version");
    // Bookies 7 and 8 are unknown; of 8 there is a cookie, though nobody can read it.
    for ledger in 4..=6 {
        world.ledger(closed(ledger, [1, 7])).await;
    }
    world.ledger(closed(7, [1, 8])).await;
    world.put(keys::under(LedgerId(4)), noise.clone()).await;
    world.put(keys::ledger(LedgerId(5)), noise.clone()).await;
    world.put(keys::bookie_cookie(&member(8).bookie), noise).await;
    world.pass().await;
    assert!(world.has(&keys::under(LedgerId(6))).await, "it came behind what cannot be read");
    assert!(!world.has(&keys::under(LedgerId(7))).await, "it may be there");
}

/// Who is registered is not away, whatever it says of itself.
#[tokio::test(start_paused = true)]
async fn a_registration_that_cannot_be_read_is_one() {
    let mut world = World::new().await;
    let noise = bytes::Bytes::from_static(b"of a newer version");
    world.put(keys::bookie_live(&member(2).bookie), noise).await;
    let view = world.auditor.view(&mut world.term).await.unwrap();
    assert_eq!(view.bookies[&member(2).bookie].away, None);
}

/// 6.7: of what is not placed on somebody hears, and of what needs no zone nobody does.
#[tokio::test(start_paused = true)]
async fn bookies_without_a_zone_are_told_where_others_have_one() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _counting = ::metrics::set_default_local_recorder(&recorder);
    let said = || {
        let page = recorder.handle().render();
        let value =
            page.lines().find_map(|l| l.strip_prefix("geminga_repair_bookies_without_zone "));
        value.map(str::to_owned)
    };
    let mut world = World::new().await;
    world.looks().await;
    assert_eq!(said().as_deref(), Some("0"), "nobody names one");
    for (number, zone, without) in [(1, "a", "2"), (2, "b", "1"), (3, "b", "0"), (4, "", "1")] {
        world.join(number, zone).await;
        world.looks().await;
        assert_eq!(said().as_deref(), Some(without), "bookie {number} in zone `{zone}`");
    }
    world.leaves(4).await;
    world.looks().await;
    assert_eq!(said().as_deref(), Some("0"), "who leaves takes nothing anyhow");
}

/// 6.3, 6.7: copies of one zone are to be spread once it is sure that there are more, and not while bookies come and go.
#[tokio::test(start_paused = true)]
async fn misplaced_copies_are_marked_while_nothing_changes() {
    let mut world = World::new().await;
    let delay = world.auditor.config.lost_bookie_delay;
    for (number, zone) in [(1, "a"), (2, "a"), (3, "a"), (4, "b")] {
        world.join(number, zone).await;
    }
    world.ledger(closed(5, [1, 2])).await;
    world.ledger(closed(6, [1, 4])).await;
    let open = LedgerMeta {
        state: LedgerState::Open,
        last_entry: None,
        close_kind: None,
        ..closed(7, [1, 2])
    };
    world.ledger(open).await;
    world.looks().await;
    tokio::time::advance(delay / 2).await;
    world.looks().await;
    assert_eq!(world.marks().await, [], "it came a moment ago");
    tokio::time::advance(delay).await;
    world.looks().await;
    let marks = world.marks().await;
    let [mark] = &marks[..] else { panic!("{marks:?}") };
    assert_eq!((mark.ledger, &mark.misplaced), (LedgerId(5), &[1, 2].map(member).to_vec()));
    assert!(mark.only_moves());

    // One that is away: what was marked is taken back, and nothing is marked before all is as it was for a while.
    let key = keys::bookie_live(&member(3).bookie);
    let there = world.store.get(&key).await.unwrap().unwrap();
    let txn = geminga_metastore::Txn::new().delete(key.clone());
    world.store.txn(txn).await.unwrap();
    world.looks().await;
    assert_eq!(world.marks().await, []);
    world.store.put_if(&key, None, there.value).await.unwrap().unwrap();
    tokio::time::advance(delay / 2).await;
    world.looks().await;
    assert_eq!(world.marks().await, []);
    tokio::time::advance(delay).await;
    world.looks().await;
    assert_eq!(world.marks().await.len(), 1);
    world.leaves(3).await;
    world.looks().await;
    assert!(!world.has(&keys::under(LedgerId(5))).await, "somebody leaves");
}

/// A1: while many are away nothing moves, and what lacks a copy stays marked.
#[tokio::test(start_paused = true)]
async fn who_is_away_takes_moves_back_and_nothing_else() {
    let mut world = World::new().await;
    for (number, zone) in [(1, "a"), (2, "a"), (3, "b")] {
        world.join(number, zone).await;
    }
    world.ledger(closed(5, [1, 2])).await;
    world.ledger(closed(6, [1, 7])).await;
    world.looks().await;
    tokio::time::advance(world.auditor.config.lost_bookie_delay).await;
    world.looks().await;
    assert_eq!(world.marks().await.len(), 2);
    for number in [2, 3] {
        let txn = geminga_metastore::Txn::new().delete(keys::bookie_live(&member(number).bookie));
        world.store.txn(txn).await.unwrap();
    }
    world.looks().await;
    let marks = world.marks().await;
    let [mark] = &marks[..] else { panic!("{marks:?}") };
    assert_eq!((mark.ledger, mark.misplaced.is_empty()), (LedgerId(6), true));
}

#[tokio::test(start_paused = true)]
async fn only_so_many_moves_wait_at_a_time() {
    let mut world = World::new().await;
    for (number, zone) in [(1, "a"), (2, "a"), (3, "b")] {
        world.join(number, zone).await;
    }
    for ledger in 0..spread::MAX_MOVES as u64 + 7 {
        world.ledger(closed(ledger + 1, [1, 2])).await;
    }
    world.looks().await;
    tokio::time::advance(world.auditor.config.lost_bookie_delay).await;
    world.looks().await;
    assert_eq!(world.marks().await.len(), spread::MAX_MOVES);
    world.term.next_spread = Instant::now();
    world.looks().await;
    assert_eq!(world.marks().await.len(), spread::MAX_MOVES);
}

/// Versions that do not read such marks would take them for damage, and repair nothing of what they mark: none is made while one is
/// registered.
#[tokio::test(start_paused = true)]
async fn nothing_is_to_be_moved_before_all_versions_read_such_marks() {
    let mut world = World::new().await;
    world.uses(Features::NONE).await;
    for (number, zone) in [(1, "a"), (2, "a"), (3, "b")] {
        world.join(number, zone).await;
    }
    let old = Features::ALL.without(Feature::Moves);
    world.live_as(2, "a", true, old).await;
    world.ledger(closed(5, [1, 2])).await;
    let used = async |world: &World| {
        let record = world.store.get(keys::CLUSTER).await.unwrap().unwrap();
        Cluster::decode(&record.value).unwrap().features
    };
    world.looks().await;
    tokio::time::advance(world.auditor.config.lost_bookie_delay).await;
    world.looks().await;
    assert_eq!((world.marks().await, used(&world).await), (vec![], Features::NONE));
    world.live_as(2, "a", true, Features::ALL).await;
    for _ in 0..2 {
        world.term.next_spread = Instant::now();
        world.looks().await;
    }
    assert_eq!(used(&world).await, Features::NONE.with(Feature::Moves));
    assert_eq!(world.marks().await.len(), 1);
}

fn trimmed(ledger: u64, ensemble: [u64; 2]) -> LedgerMeta {
    let object = TierObject {
        attempt: 1,
        bucket: "b".to_owned(),
        key: "k".to_owned(),
        size: 1,
        entries: 4,
        object_crc: 1,
        etag: String::new(),
        index_place: 1,
        at_ms: 1,
    };
    LedgerMeta { tier: Tier::Trimmed(object), ..closed(ledger, ensemble) }
}

/// 6.6, T6: a trimmed ledger names its bookies for ever, and is asked of none of them.
#[tokio::test(start_paused = true)]
async fn a_trimmed_ledger_keeps_no_bookie() {
    let mut world = World::new().await;
    world.leaves(3).await;
    world.live(3, false).await;
    world.misses(3, 0).await;
    world.ledger(trimmed(5, [1, 3])).await;
    world.ledger(closed(6, [1, 2])).await;
    for _ in 0..2 {
        assert!(world.known(3).await);
        world.pass().await;
        tokio::time::advance(GRACE).await;
    }
    assert!(!world.known(3).await, "it waits for what is never given away");
    world.pass().await;
    assert_eq!(world.marks().await, [], "nobody is to copy it");
}

/// The copy of a trimmed ledger whose object is gone may be the last one.
#[tokio::test(start_paused = true)]
async fn a_bookie_stays_while_it_has_what_the_object_store_lost() {
    let mut world = World::new().await;
    world.leaves(3).await;
    world.live(3, false).await;
    world.misses(3, 1).await;
    for _ in 0..3 {
        world.pass().await;
        tokio::time::advance(GRACE).await;
    }
    assert!(world.known(3).await);
    world.misses(3, 0).await;
    for _ in 0..2 {
        world.pass().await;
        tokio::time::advance(GRACE).await;
    }
    assert!(!world.known(3).await);
}

/// 6.6: it may be the last that has a ledger whose object is missing, and is stopped, of an older version, or did not look yet.
#[tokio::test(start_paused = true)]
async fn a_bookie_that_does_not_say_what_it_has_stays() {
    for stopped in [false, true] {
        let mut world = World::new().await;
        world.leaves(3).await;
        world.live(3, false).await;
        if stopped {
            let live = keys::bookie_live(&member(3).bookie);
            world.store.txn(geminga_metastore::Txn::new().delete(live)).await.unwrap();
        }
        let passes = async |world: &mut World| {
            for _ in 0..3 {
                world.pass().await;
                tokio::time::advance(GRACE).await;
            }
            world.known(3).await
        };
        world.ledger(trimmed(5, [1, 3])).await;
        assert!(passes(&mut world).await, "a trimmed ledger names it; stopped: {stopped}");
        world.ledger(trimmed(5, [1, 2])).await;
        let manifest = keys::manifest(TopicId::from_random(9), PartitionIndex(0));
        world.put(manifest.clone(), bytes::Bytes::new()).await;
        assert!(passes(&mut world).await, "a folded ledger may; stopped: {stopped}");
        world.store.txn(geminga_metastore::Txn::new().delete(manifest)).await.unwrap();
        assert!(!passes(&mut world).await, "nothing is known that it could have");
    }
}

/// Members of a trimmed ledger hold nothing of it, and need not be asked.
#[test]
fn nobody_is_asked_how_far_a_trimmed_ledger_goes() {
    let kept: std::collections::BTreeMap<_, _> = (1..=2)
        .map(|number| {
            let bookie = Bookie { draining: false, away: None, lives: vec![Incarnation(number)] };
            (member(number).bookie, bookie)
        })
        .collect();
    let view = View { now_ms: 0, bookies: kept, live: Vec::new() };
    let judgement = judge(&view, Duration::ZERO, Mutations::default());
    assert_eq!(tails::questions(&closed(5, [1, 2]), &judgement).len(), 2);
    assert_eq!(tails::questions(&trimmed(5, [1, 2]), &judgement), []);
}

/// An open ledger that goes on without a member is short of a copy, and that is to be seen before it ends. Who merely leaves has its copy.
#[tokio::test(start_paused = true)]
async fn a_fragment_that_is_written_is_marked_while_a_member_is_gone() {
    let mut world = World::new().await;
    let open = |ledger, ensemble| LedgerMeta {
        state: LedgerState::Open,
        last_entry: None,
        close_kind: None,
        ..closed(ledger, ensemble)
    };
    world.ledger(open(5, [1, 2])).await;
    world.ledger(open(6, [1, 3])).await;
    world.leaves(3).await;
    let live = keys::bookie_live(&member(2).bookie);
    world.store.txn(geminga_metastore::Txn::new().delete(live)).await.unwrap();
    world.pass().await;
    assert_eq!(world.marks().await, [], "it may come back");
    // What the auditor wrote of its absence, long ago.
    let absent = keys::bookie_absent(&member(2).bookie);
    let since = AbsentBookie { since_ms: 0, zone: String::new() };
    world.put(absent, since.encode()).await;
    world.pass().await;
    let marks = world.marks().await;
    let [mark] = &marks[..] else { panic!("{marks:?}") };
    assert_eq!((mark.ledger, &mark.replace, mark.copies), (LedgerId(5), &vec![member(2)], Some(2)));
    assert_eq!(mark.reason, UnderReason::Gone);
}

/// Once it ends it is as urgent as its copies are few, and that is found out soon.
#[tokio::test(start_paused = true)]
async fn a_fragment_that_has_ended_counts_soon() {
    let mut world = World::new().await;
    let ended = closed(5, [1, 7]);
    let open = LedgerMeta {
        state: LedgerState::Open,
        last_entry: None,
        close_kind: None,
        ..ended.clone()
    };
    for (meta, copies, again) in [(open, 2, GRACE), (ended, 1, world.auditor.config.audit_interval)]
    {
        world.ledger(meta).await;
        world.pass().await;
        assert_eq!(world.marks().await[0].copies, Some(copies));
        assert_eq!(world.term.next_pass - Instant::now(), again);
    }
}

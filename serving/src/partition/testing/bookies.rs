//! Bookies in memory for tests, on the production ledger core: what they fence, accept and answer is what real
//! ones do; their disk is perfect. A test stops, holds or mutes them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_bookie::ledger::{
    Effect, Event, Finding, Identity, LedgerState, Mutations, Record, judge,
};
use geminga_ledger::{BookieConnection, Bookies, ConnectionLost};
use geminga_metastore::record::{Features, LedgerMeta, LiveBookie, LiveDisk};
use geminga_metastore::{LeaseId, MetaStore, keys};
use geminga_proto::bookie::{
    Code, QueryOp, QueryReply, QueryRequest, WriteOp, WriteReply, WriteRequest,
};
use geminga_proto::entry;
use geminga_proto::ids::{BookieId, ClusterUuid, EntryId, Incarnation, LedgerId, Member};
use geminga_runtime::requests;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

/// How a bookie behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As it should.
    Up,
    /// Does nothing and answers nothing: every call ends at once without an answer.
    Stopped,
    /// Takes requests in and does nothing about them until it is up again; stopped, it forgets them.
    Held,
    /// Does what it is asked, but every answer is lost.
    Mute,
}

enum Call {
    Write(WriteRequest, oneshot::Sender<WriteReply>),
    Query(QueryRequest, oneshot::Sender<QueryReply>),
}

struct Bookie {
    identity: Identity,
    mode: Mode,
    zone: String,
    registered: bool,
    ledgers: HashMap<LedgerId, LedgerState>,
    entries: BTreeMap<(LedgerId, EntryId), Bytes>,
    tombstones: BTreeSet<LedgerId>,
    held: Vec<Call>,
    reads: usize,
    read_bytes: usize,
}

/// All bookies of a test, named `bookie-1` and so on. Cloning shares them.
#[derive(Clone)]
pub(crate) struct MemoryBookies {
    store: Arc<dyn MetaStore>,
    bookies: Arc<Mutex<BTreeMap<BookieId, Bookie>>>,
    changed: watch::Sender<u64>,
    /// Requests that something was read for.
    read_for: Arc<Mutex<BTreeSet<String>>>,
}

impl std::fmt::Debug for MemoryBookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryBookies").finish_non_exhaustive()
    }
}

fn id(number: usize) -> BookieId {
    format!("bookie-{number}").parse().unwrap()
}

impl MemoryBookies {
    pub(crate) fn new(cluster: ClusterUuid, store: Arc<dyn MetaStore>, count: usize) -> Self {
        let bookie = |number: usize| {
            let member =
                Member { bookie: id(number), incarnation: Incarnation(1000 + number as u64) };
            let identity = Identity {
                cluster,
                member,
                authoritative: true,
                writable: true,
                mutations: Mutations::default(),
            };
            let bookie = Bookie {
                identity,
                mode: Mode::Up,
                zone: String::new(),
                registered: true,
                ledgers: HashMap::new(),
                entries: BTreeMap::new(),
                tombstones: BTreeSet::new(),
                held: Vec::new(),
                reads: 0,
                read_bytes: 0,
            };
            (id(number), bookie)
        };
        let bookies = (1..=count).map(bookie).collect();
        let (changed, read_for) = (watch::Sender::new(0), Arc::default());
        Self { store, bookies: Arc::new(Mutex::new(bookies)), changed, read_for }
    }

    /// Changes how bookie `number` (from 1) behaves. One that comes up serves what it was holding, in order.
    pub(crate) fn set(&self, number: usize, mode: Mode) {
        let mut bookies = self.bookies.lock();
        let bookie = bookies.get_mut(&id(number)).unwrap();
        bookie.mode = mode;
        let held = if mode == Mode::Held { Vec::new() } else { std::mem::take(&mut bookie.held) };
        for call in held {
            if mode != Mode::Stopped {
                bookie.answer(&*self.store, call);
            }
        }
    }

    /// [`MemoryBookies::set`] on every bookie.
    pub(crate) fn set_all(&self, mode: Mode) {
        let count = self.bookies.lock().len();
        (1..=count).for_each(|number| self.set(number, mode));
    }

    /// Whether bookie `number` is registered; a stopped one stays registered until its lease ends.
    pub(crate) fn register(&self, number: usize, registered: bool) {
        self.bookies.lock().get_mut(&id(number)).unwrap().registered = registered;
        self.changed.send_modify(|version| *version += 1);
    }

    /// Puts bookie `number` into a zone, before any ledger is made.
    pub(crate) fn put_into(&self, number: usize, zone: &str) {
        self.bookies.lock().get_mut(&id(number)).unwrap().zone = zone.to_owned();
    }

    /// The entries of a closed ledger, as bookies hold them.
    pub(crate) fn entries_of(&self, ledger: LedgerId, last: EntryId) -> Vec<Bytes> {
        let bookies = self.bookies.lock();
        let held = |id| bookies.values().find_map(|bookie| bookie.entries.get(&(ledger, id)));
        (0..=last.0).map(|id| held(EntryId(id)).expect("somebody holds it").clone()).collect()
    }

    /// Every bookie drops the entries of a ledger, whose object has them.
    pub(crate) fn trim(&self, ledger: LedgerId, last: EntryId, attempt: u128) {
        for bookie in self.bookies.lock().values_mut() {
            if let Some(state) = bookie.ledgers.get_mut(&ledger) {
                state.trim(last, attempt);
            }
            bookie.entries.retain(|(of, _), _| *of != ledger);
        }
    }

    /// Bookie `number` drops a ledger for good, whatever the metadata says.
    pub(crate) fn delete(&self, number: usize, ledger: LedgerId) {
        let mut bookies = self.bookies.lock();
        let bookie = bookies.get_mut(&id(number)).unwrap();
        bookie.entries.retain(|(of, _), _| *of != ledger);
        bookie.ledgers.remove(&ledger);
        bookie.tombstones.insert(ledger);
    }

    /// Every bookie loses the bytes of the last `count` entries of a ledger, and believes to have them. Which was the last.
    pub(crate) fn lose_last(&self, ledger: LedgerId, count: i64) -> EntryId {
        let mut bookies = self.bookies.lock();
        let of = |bookie: &Bookie| {
            let ids = bookie.entries.keys().filter(|(of, _)| *of == ledger);
            ids.map(|(_, entry)| *entry).max()
        };
        let last = bookies.values().filter_map(of).max().expect("somebody holds it");
        for bookie in bookies.values_mut() {
            bookie.entries.retain(|(of, entry), _| *of != ledger || entry.0 <= last.0 - count);
        }
        last
    }

    /// Read requests answered so far, by all bookies.
    pub(crate) fn reads(&self) -> usize {
        self.bookies.lock().values().map(|bookie| bookie.reads).sum()
    }

    /// The requests that something was read for, by their ids.
    pub(crate) fn read_for(&self) -> BTreeSet<String> {
        self.read_for.lock().clone()
    }

    /// Bytes of entries given to readers so far, by all bookies.
    pub(crate) fn read_bytes(&self) -> usize {
        self.bookies.lock().values().map(|bookie| bookie.read_bytes).sum()
    }
}

impl Bookie {
    fn answer(&mut self, store: &dyn MetaStore, call: Call) {
        match call {
            Call::Write(request, to) => {
                let reply = self.write(store, request);
                let _gone = (self.mode != Mode::Mute).then(|| to.send(reply));
            }
            Call::Query(request, to) => {
                let reply = self.query(&request);
                let _gone = (self.mode != Mode::Mute).then(|| to.send(reply));
            }
        }
    }

    fn write(&mut self, store: &dyn MetaStore, request: WriteRequest) -> WriteReply {
        let ledger = request.scope.ledger;
        if self.tombstones.contains(&ledger) {
            return WriteReply::refusal(Code::Deleted, "");
        }
        if let WriteOp::Add { first, entries, .. } = &request.op {
            let mut ids = (first.0..).map(EntryId).zip(entries);
            let cluster = self.identity.cluster;
            if ids.any(|(id, e)| entry::decode_expecting(cluster, ledger, id, e).is_err()) {
                return WriteReply::refusal(Code::Corrupt, "not what was made");
            }
        }
        let mut state =
            self.ledgers.remove(&ledger).unwrap_or_else(|| LedgerState::unknown(ledger));
        let mut event = Event::Request { to: (), request };
        let reply = loop {
            let mut reply = None;
            let mut next = None;
            for effect in state.step(&self.identity, event) {
                match effect {
                    Effect::Append(record) => self.append(ledger, record),
                    Effect::ReplyWhenDurable((), said) | Effect::ReplyNow((), said) => {
                        reply = Some(said);
                    }
                    Effect::CheckMetadata((), request) => {
                        let finding = self.check(store, ledger);
                        next = Some(Event::Checked { to: (), request, finding });
                    }
                    Effect::Compare { first, entries, equal, .. } => {
                        let same = (first.0..)
                            .zip(&entries)
                            .all(|(id, e)| self.entries.get(&(ledger, EntryId(id))) == Some(e));
                        let conflict = WriteReply::refusal(Code::Conflict, "other content");
                        reply = Some(if same { equal } else { conflict });
                    }
                }
            }
            match (reply, next) {
                (Some(reply), _) => break reply,
                (None, Some(next)) => event = next,
                (None, None) => panic!("a request gets a reply or a check"),
            }
        };
        self.ledgers.insert(ledger, state);
        reply
    }

    fn append(&mut self, ledger: LedgerId, record: Record) {
        if let Record::Entries { first, entries, .. } = record {
            for (id, entry) in (first.0..).zip(entries) {
                self.entries.insert((ledger, EntryId(id)), entry);
            }
        }
    }

    fn check(&self, store: &dyn MetaStore, ledger: LedgerId) -> Finding {
        match store.get(&keys::ledger(ledger)).now_or_never() {
            Some(Ok(found)) => {
                let meta = found.map(|found| LedgerMeta::decode(ledger, &found.value).unwrap());
                judge(meta.as_ref(), &self.identity.member)
            }
            Some(Err(_)) | None => Finding::Unavailable,
        }
    }

    fn query(&mut self, request: &QueryRequest) -> QueryReply {
        self.reads += 1;
        let QueryOp::Read { from, to, max_bytes, prefix_bytes } = request.op else {
            return QueryReply::refusal(Code::Busy, "not in this test");
        };
        let ledger = request.scope.ledger;
        if self.tombstones.contains(&ledger) {
            return QueryReply::refusal(Code::Deleted, "");
        }
        let Some(state) = self.ledgers.get(&ledger) else {
            return QueryReply::refusal(Code::NoSuchLedger, "");
        };
        if state.trimmed().is_some() {
            return QueryReply::refusal(Code::Trimmed, "");
        }
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for id in from.0..=to.0 {
            let Some(stored) = self.entries.get(&(ledger, EntryId(id))) else { break };
            let cut = prefix_bytes.map_or_else(
                || stored.clone(),
                |prefix_bytes| entry::prefix(stored, prefix_bytes).unwrap(),
            );
            bytes += cut.len();
            if !entries.is_empty() && bytes > max_bytes as usize {
                break;
            }
            self.read_bytes += cut.len();
            entries.push(cut);
        }
        let code = if entries.is_empty() { Code::NoSuchEntry } else { Code::Ok };
        QueryReply {
            entries,
            lac: state.max_lac(),
            sealed: state.sealed_epoch().0 > 0,
            ..QueryReply::refusal(code, "")
        }
    }

    fn live(&self) -> LiveBookie {
        LiveBookie {
            id: self.identity.member.bookie.clone(),
            address: "memory:1".to_owned(),
            http_address: String::new(),
            zone: self.zone.clone(),
            rack: String::new(),
            disks: vec![LiveDisk {
                incarnation: self.identity.member.incarnation,
                writable: true,
                free_bytes: 1 << 40,
                total_bytes: 1 << 40,
            }],
            lease: LeaseId(1),
            started_ms: 0,
            repair_rate: 0,
            objects_missing: None,
            features: Features::ALL,
        }
    }
}

impl Bookies for MemoryBookies {
    fn connection(&self, bookie: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost> {
        Ok(Arc::new(Connection { bookies: self.clone(), bookie: bookie.clone() }))
    }

    fn live(&self) -> Vec<LiveBookie> {
        let bookies = self.bookies.lock();
        bookies.values().filter(|b| b.registered).map(Bookie::live).collect()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

#[derive(Debug)]
struct Connection {
    bookies: MemoryBookies,
    bookie: BookieId,
}

impl Connection {
    /// Served at once, in call order.
    fn call<R: Send + 'static>(
        &self,
        call: impl FnOnce(oneshot::Sender<R>) -> Call,
    ) -> BoxFuture<'static, Result<R, ConnectionLost>> {
        let (to, reply) = oneshot::channel();
        let call = call(to);
        let mut bookies = self.bookies.bookies.lock();
        let bookie = bookies.get_mut(&self.bookie).expect("bookies of a test never vanish");
        match bookie.mode {
            Mode::Stopped => drop(call),
            Mode::Held => bookie.held.push(call),
            Mode::Up | Mode::Mute => bookie.answer(&*self.bookies.store, call),
        }
        let lost = ConnectionLost { bookie: self.bookie.clone(), why: "by the test".to_owned() };
        reply.map(|reply| reply.map_err(|_| lost)).boxed()
    }
}

impl BookieConnection for Connection {
    fn write(
        &self,
        request: WriteRequest,
    ) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        self.call(|to| Call::Write(request, to))
    }

    fn query(
        &self,
        request: QueryRequest,
    ) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        let id = requests::current().map(|id| id.to_string());
        self.bookies.read_for.lock().extend(id);
        self.call(|to| Call::Query(request, to))
    }
}

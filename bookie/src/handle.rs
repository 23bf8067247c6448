//! The bookie as seen by whoever sends it requests: the streams of its server, and callers in the same process. Finds the disk
//! that a request is for, and refuses what is for nobody here.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, ready};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use geminga_ledger::{BookieConnection, ConnectionLost};
use geminga_proto::bookie::{Code, QueryReply, QueryRequest, Scope, WriteReply, WriteRequest};
use geminga_proto::ids::{BookieId, ClusterUuid, LedgerId};
use geminga_runtime::requests::{self, Requests};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};

use crate::adds::Adds;
use crate::ledger::{DiskLedgers, MIN_ROOM, ReplyTo, Salvaged};
use crate::metrics;
use crate::watched::Watched;

/// Bytes that callers in this process may have outstanding.
const LOCAL_BUDGET: usize = 256 * 1024 * 1024;

/// A handle on a running bookie. Cheap to clone; requests are answered `Busy` once it stops.
#[derive(Clone)]
pub struct BookieHandle(Arc<Shared>);

struct Shared {
    cluster: ClusterUuid,
    bookie: BookieId,
    disks: Vec<DiskLedgers>,
    /// What is left of lost lives.
    salvaged: Vec<Salvaged>,
    local: Arc<Semaphore>,
    requests: Requests,
    adds: Arc<Adds>,
    objects: Mutex<Objects>,
}

/// What whoever tiers knows of objects, for those who decide whether the bookie may leave.
#[derive(Debug, Default)]
struct Objects {
    /// Whether the bookie is to leave, and its disks take nothing any more.
    leaving: bool,
    /// See [`BookieHandle::objects_missing`].
    missing: Option<u32>,
}

/// Who answers a request.
enum Route<'a> {
    /// A disk.
    Lives(&'a DiskLedgers),
    /// What is left of a former life of one.
    Lost(&'a Salvaged),
}

impl fmt::Debug for BookieHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BookieHandle({})", self.0.bookie)
    }
}

impl BookieHandle {
    pub(crate) fn new(
        cluster: ClusterUuid,
        bookie: BookieId,
        disks: Vec<DiskLedgers>,
        salvaged: Vec<Salvaged>,
        requests: Requests,
    ) -> Self {
        let local = Arc::new(Semaphore::new(LOCAL_BUDGET));
        let (adds, objects) = (Arc::default(), Mutex::default());
        Self(Arc::new(Shared { cluster, bookie, disks, salvaged, local, requests, adds, objects }))
    }

    /// What requests are called, and which are slow.
    pub(crate) fn requests(&self) -> &Requests {
        &self.0.requests
    }

    /// What it adds for writers.
    pub(crate) fn adds(&self) -> &Arc<Adds> {
        &self.0.adds
    }

    /// The bookie's name.
    pub fn id(&self) -> &BookieId {
        &self.0.bookie
    }

    /// The cluster that it belongs to.
    pub(crate) fn cluster(&self) -> ClusterUuid {
        self.0.cluster
    }

    /// Sends a request that may change the bookie's state. It is queued before this returns, so calls take effect in call
    /// order; dropping the future does not take it back. Never waits for room: too much outstanding is `Busy`.
    pub fn write(&self, request: WriteRequest) -> impl Future<Output = WriteReply> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        match Arc::clone(&self.0.local)
            .try_acquire_many_owned(room(request.payload_bytes(), LOCAL_BUDGET))
        {
            Ok(room) => {
                let watched =
                    Watched::write(&self.0.requests, &self.0.adds, &request, requests::current());
                let to = ReplyTo::Caller { watched, reply, room };
                match self.admit(&request) {
                    Ok(disk) => disk.try_write(request, to),
                    Err(refusal) => to.send(refusal),
                }
            }
            Err(_) => drop(reply),
        }
        answer.map(|reply| {
            reply.unwrap_or_else(|_| {
                WriteReply::refusal(
                    Code::Busy,
                    "too much is outstanding, or the bookie is stopping",
                )
            })
        })
    }

    /// Answers a request that changes nothing. Cancel-safe.
    pub async fn query(&self, request: QueryRequest) -> QueryReply {
        metrics::query_asked(&request.op);
        let watched = Watched::query(&self.0.requests, &request, requests::current());
        let mut reply = match self.route(&request.scope) {
            Ok(Route::Lives(disk)) => disk.query(request).await,
            Ok(Route::Lost(salvaged)) => salvaged.query(request).await,
            Err((code, detail)) => QueryReply::refusal(code, detail),
        };
        reply.adds = (!reply.entries.is_empty()).then(|| self.0.adds.told());
        watched.answered(reply.code, reply.entries.iter().map(Bytes::len).sum());
        reply
    }

    /// The disk of a write whose entries are good.
    ///
    /// # Errors
    /// The reply that answers it at once: a refusal, or that of a life that was lost.
    pub(crate) fn admit(&self, request: &WriteRequest) -> Result<&DiskLedgers, WriteReply> {
        metrics::write_asked(&request.op);
        let routed = self.route(&request.scope);
        match routed.map_err(|(code, detail)| WriteReply::refusal(code, detail))? {
            Route::Lives(disk) => disk.verify(request).map(|()| disk),
            Route::Lost(salvaged) => Err(salvaged.write(request)),
        }
    }

    /// Rows 1 and 2 of the order of checks (4.2), which the ledger's owner makes again.
    fn route(&self, scope: &Scope) -> Result<Route<'_>, (Code, String)> {
        if scope.cluster != self.0.cluster {
            return Err((Code::Unauthorised, "another cluster's request".to_owned()));
        }
        let lives = |disk: &&DiskLedgers| disk.member().incarnation == scope.incarnation;
        if let Some(disk) = self.0.disks.iter().find(lives) {
            return Ok(Route::Lives(disk));
        }
        let lived = |lost: &&Salvaged| lost.member().incarnation == scope.incarnation;
        self.0.salvaged.iter().find(lived).map(Route::Lost).ok_or_else(|| {
            (Code::WrongIncarnation, format!("bookie {} lives another life now", self.0.bookie))
        })
    }

    /// Whether a disk has entries of a ledger.
    pub fn holds_bytes(&self, ledger: LedgerId) -> bool {
        self.0.disks.iter().any(|disk| disk.log().bytes_of(ledger) > 0)
    }

    /// Whether all that its disks have of a ledger is that its entries were dropped, for an object (T4) or since others had all of
    /// them (5.6).
    pub(crate) fn is_pointer(&self, ledger: LedgerId) -> bool {
        !self.holds_bytes(ledger) && self.0.disks.iter().any(|disk| disk.is_let_go(ledger))
    }

    /// The ledgers that its disks have records of, deleted ones aside, and the bytes of their entries.
    pub(crate) fn local_ledgers(&self) -> BTreeMap<LedgerId, u64> {
        let mut local = BTreeMap::new();
        for (ledger, bytes) in self.0.disks.iter().flat_map(DiskLedgers::local) {
            *local.entry(ledger).or_default() += bytes;
        }
        local
    }

    /// Trimmed ledgers that are held here and whose objects were not there, as whoever tiers saw last. None of them is only known where
    /// the bookie takes nothing new, and all that it holds was looked at since.
    pub(crate) fn objects_missing(&self) -> Option<u32> {
        self.0.objects.lock().missing
    }

    /// Tells it.
    pub(crate) fn set_objects_missing(&self, ledgers: Option<u32>) {
        let mut objects = self.0.objects.lock();
        // What is none now may be some tomorrow, where new data comes.
        objects.missing = ledgers.filter(|ledgers| *ledgers > 0 || objects.leaving);
    }

    /// Whether the bookie is to leave, and its disks take nothing any more.
    pub(crate) fn is_leaving(&self) -> bool {
        self.0.objects.lock().leaving
    }

    /// Tells it.
    pub(crate) fn set_leaving(&self, leaving: bool) {
        let mut objects = self.0.objects.lock();
        objects.leaving = leaving;
        if !leaving && objects.missing == Some(0) {
            objects.missing = None;
        }
    }

    pub(crate) fn disks(&self) -> &[DiskLedgers] {
        &self.0.disks
    }
}

/// What a request counts for in its sender's budget: its bytes, at least [`MIN_ROOM`]; a larger one than the budget takes all of it.
pub(crate) fn room(bytes: usize, budget: usize) -> u32 {
    let room = bytes.max(MIN_ROOM).min(budget);
    u32::try_from(room).expect("budgets are far below 4 GiB")
}

/// Standalone's way to its own bookie: the same contract without a network.
impl BookieConnection for BookieHandle {
    fn write(
        &self,
        request: WriteRequest,
    ) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>> {
        BookieHandle::write(self, request).then(|reply| ready(Ok(reply))).boxed()
    }

    fn query(
        &self,
        request: QueryRequest,
    ) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>> {
        let handle = self.clone();
        async move { Ok(BookieHandle::query(&handle, request).await) }.boxed()
    }
}

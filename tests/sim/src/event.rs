//! What can happen, and who it happens to.

use std::fmt;

use geminga_proto::bookie::{QueryReply, QueryRequest, WriteReply, WriteRequest};
use geminga_proto::ids::{EntryId, LedgerId, SealEpoch};

use crate::faults::Heal;
use crate::schedule::Time;
use crate::store;

/// A machine. Partitions and slowness are between machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    /// The metadata store.
    Store,
    /// A broker, with the recoverers that it runs.
    Broker(usize),
    /// A bookie.
    Bookie(usize),
    /// Whoever recovers ledgers that look orphaned.
    Auditor,
    /// A reader.
    Reader,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => f.write_str("store"),
            Self::Broker(number) => write!(f, "broker-{number}"),
            Self::Bookie(number) => write!(f, "bookie-{number}"),
            Self::Auditor => f.write_str("auditor"),
            Self::Reader => f.write_str("reader"),
        }
    }
}

/// A part of a host that makes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Client {
    /// A broker's own business with the store.
    Broker(usize),
    /// The writer of one ledger.
    Writer { broker: usize, writer: u32 },
    /// One recoverer of one ledger.
    Recoverer(u32),
    /// The reader.
    Reader,
    /// A bookie that asks the store.
    Bookie(usize),
    /// The uploader of a bookie.
    Uploader(usize),
    /// One of those who repair.
    Repairer(usize),
    /// Whoever gives copies up at a bookie.
    Giver(usize),
}

/// Who gets a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) host: Host,
    pub(crate) client: Client,
    /// Which of its calls.
    pub(crate) call: u64,
    /// The number of the connection, for calls on one.
    pub(crate) connection: Option<u32>,
}

/// What a write is, for whoever gets its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Hello,
    Add,
    RecoveryAdd,
    Seal,
    Hint,
    RepairAdd,
    Tail,
}

/// A request as its bookie remembers it until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct To {
    pub(crate) caller: Caller,
    pub(crate) ask: Ask,
    pub(crate) ledger: LedgerId,
    pub(crate) fragment_first: EntryId,
    pub(crate) epoch: SealEpoch,
}

/// What a bookie waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BookieTimer {
    /// Write and sync what is queued.
    Flush,
    /// Nothing was appended since this many flushes were done.
    Idle(u64),
    /// Start the process.
    Start,
    /// Look for ledgers that were deleted.
    Collect,
    /// Keep the log in order.
    Upkeep,
}

/// What a broker waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BrokerTimer {
    /// A producer sends something.
    Produce,
    /// Look after positions, rolls and drains.
    Tick,
    /// Connect to a bookie again.
    Reconnect { writer: u32, bookie: usize, connection: u32 },
    /// Try what failed again.
    Retry(u32),
    /// Start the process.
    Start,
}

/// What a recoverer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecovererTimer {
    Grace,
    Deadline,
    /// Copies beyond the ack quorum had their chance.
    CopyGrace,
    /// Ask sources again.
    Pause,
    Seal(usize),
    Copy(usize),
    /// Look again for others that stand in.
    Search,
    Length,
    /// Look whether another recoverer has closed the ledger.
    Poll,
    /// Begin a new attempt.
    Restart,
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    Request {
        bookie: usize,
        caller: Caller,
        request: WriteRequest,
    },
    Reply {
        bookie: usize,
        caller: Caller,
        reply: WriteReply,
    },
    Query {
        bookie: usize,
        caller: Caller,
        request: QueryRequest,
    },
    QueryReply {
        caller: Caller,
        reply: QueryReply,
    },
    Store {
        caller: Caller,
        request: store::Request,
        sent: Time,
    },
    StoreReply {
        caller: Caller,
        reply: store::Reply,
    },
    /// The client notices that a connection is gone.
    Broken {
        broker: usize,
        writer: u32,
        bookie: usize,
        connection: u32,
    },
    /// A call got no answer in time.
    Timeout(Caller),
    Bookie {
        bookie: usize,
        life: u32,
        timer: BookieTimer,
    },
    Broker {
        broker: usize,
        life: u32,
        timer: BrokerTimer,
    },
    Recoverer {
        id: u32,
        attempt: u32,
        timer: RecovererTimer,
    },
    /// A recoverer that a broker had started closed its ledger, or found it gone.
    Recovered {
        broker: usize,
        life: u32,
        ledger: LedgerId,
    },
    /// The lease of a bookie's registration ran out.
    LeaseOver {
        bookie: usize,
        life: u32,
    },
    /// An uploader's wait is over.
    Uploader {
        bookie: usize,
        turn: u64,
    },
    /// The wait of somebody who repairs is over.
    Repairer {
        index: usize,
        turn: u64,
    },
    /// The wait of whoever gives copies up is over.
    Giver {
        bookie: usize,
        turn: u64,
    },
    /// The auditor looks for members whose lives are lost.
    Audit,
    Read,
    Fault,
    Heal(Heal),
}

impl Event {
    /// Where it happens: a machine that is paused puts it off.
    pub(crate) fn host(&self) -> Option<Host> {
        match self {
            Self::Request { bookie, .. } | Self::Query { bookie, .. } => {
                Some(Host::Bookie(*bookie))
            }
            Self::Bookie { bookie, .. }
            | Self::Uploader { bookie, .. }
            | Self::Giver { bookie, .. } => Some(Host::Bookie(*bookie)),
            Self::Repairer { .. } => Some(Host::Auditor),
            Self::Reply { caller, .. }
            | Self::QueryReply { caller, .. }
            | Self::StoreReply { caller, .. }
            | Self::Timeout(caller) => Some(caller.host),
            Self::Broken { broker, .. }
            | Self::Broker { broker, .. }
            | Self::Recovered { broker, .. } => Some(Host::Broker(*broker)),
            Self::Store { .. } => Some(Host::Store),
            Self::Recoverer { .. }
            | Self::LeaseOver { .. }
            | Self::Audit
            | Self::Read
            | Self::Fault
            | Self::Heal(_) => None,
        }
    }
}

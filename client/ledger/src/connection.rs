//! The seam between the protocol and the network: what a bookie looks like to a writer, a reader or a recoverer. The
//! production transport, the in-process bookie of standalone and the simulator implement it.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use geminga_metastore::record::LiveBookie;
use geminga_proto::bookie::{Adds, QueryReply, QueryRequest, WriteReply, WriteRequest};
use geminga_proto::ids::BookieId;
use tokio::sync::watch;

use crate::read::Distance;

/// No answer will come: the request may or may not have taken effect. Always *unknown*, never a negative (H15).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no answer from bookie {bookie}: {why}")]
pub struct ConnectionLost {
    /// Who.
    pub bookie: BookieId,
    /// What happened.
    pub why: String,
}

/// A connection to one bookie.
///
/// # Contract
/// * A call enqueues its request before it returns, so requests take effect in call order.
/// * The future resolves with the reply, or with [`ConnectionLost`] when none will come; it never hangs on a broken
///   connection. Dropping it does not take the request back.
/// * A connection that broke stays broken; [`Bookies::connection`] makes another.
pub trait BookieConnection: Send + Sync + fmt::Debug + 'static {
    /// Sends a request that may change the bookie's state.
    fn write(
        &self,
        request: WriteRequest,
    ) -> BoxFuture<'static, Result<WriteReply, ConnectionLost>>;

    /// Sends a request that changes nothing.
    fn query(
        &self,
        request: QueryRequest,
    ) -> BoxFuture<'static, Result<QueryReply, ConnectionLost>>;
}

/// All bookies of the cluster.
pub trait Bookies: Send + Sync + fmt::Debug + 'static {
    /// The connection to a bookie, made on first use and again after it broke.
    ///
    /// # Errors
    /// [`ConnectionLost`] when the bookie's address is not known.
    fn connection(&self, bookie: &BookieId) -> Result<Arc<dyn BookieConnection>, ConnectionLost>;

    /// How far the bookie is from a reader in `zone`, by what is registered now. A hint for whom to ask first.
    fn distance(&self, bookie: &BookieId, zone: &str) -> Distance {
        Distance::of(self.live().iter().find(|live| live.id == *bookie), zone)
    }

    /// The bookies that are registered now. From a cache: good for placement, never a proof of death.
    fn live(&self) -> Vec<LiveBookie>;

    /// Changes whenever [`Bookies::live`] does.
    fn changed(&self) -> watch::Receiver<u64>;

    /// A bookie says what it does for writers meanwhile.
    fn note_adds(&self, _bookie: &BookieId, _adds: Adds) {}

    /// What each bookie said last, of those that said anything. A hint for who is to give way.
    fn adds(&self) -> Vec<(BookieId, Adds)> {
        Vec::new()
    }

    /// Bytes of entries that wait in the connections to be sent; bookies of this process keep none waiting.
    fn waiting_bytes(&self) -> usize {
        0
    }
}

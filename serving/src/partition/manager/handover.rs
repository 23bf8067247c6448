//! A partition that moves from one living broker to another: whoever takes over asks the former owner to let go first, which
//! finishes what is on its way and closes the ledger. Otherwise the takeover would seal that ledger under it, and leave
//! what is on its way with an unknown outcome. Nothing depends on the answer but that: a former owner that is silent is
//! sealed all the same.

use std::time::Duration;

use geminga_metastore::{keys, record};
use geminga_proto::ids::{BrokerId, Term};
use geminga_proto::internal::LetGoRequest;
use geminga_proto::internal::peer_client::PeerClient;
use tokio::time::Instant;

use super::{END_SLACK, Key, MOVE_GRACE, Partitions, ended, moved, no_owner, not_owner};
use crate::router::{Router, hop};

/// How long the former owner is waited for: a little longer than it waits for what is on its way.
const LET_GO_WAIT: Duration = MOVE_GRACE.saturating_add(Duration::from_millis(200));

impl Partitions {
    /// Asks whoever had the partition before, if that broker lives, and waits until it has closed it. Cancel-safe.
    pub(super) async fn ask_to_let_go(&self, key: Key, term: Term) {
        let Some(router) = &self.0.router else { return };
        let Some(former) = self.former(key, term).await else { return };
        let since = Instant::now();
        let asked = ask(router, former, key, term);
        let error = match tokio::time::timeout(LET_GO_WAIT, asked).await {
            Ok(Ok(())) => None,
            Ok(Err(why)) => Some(why),
            Err(_) => Some("no answer in time".to_owned()),
        };
        tracing::debug!(partition = %key.1, %former, error, waited = ?since.elapsed(), "partition was asked for");
    }

    /// Who opened it last, if that is another broker that is registered.
    async fn former(&self, (topic, partition): Key, term: Term) -> Option<BrokerId> {
        // The first owner ever has nobody before it.
        if term.0 <= 1 {
            return None;
        }
        let found = self.0.log.store.get(&keys::term(topic, partition)).await.ok()??;
        let last = record::PartitionTerm::decode(&found.value).ok()?;
        let others = |broker: &BrokerId| *broker != self.0.registration.id();
        let former = last.broker.filter(others).filter(|_| last.term < term)?;
        self.0.topology.broker(former).map(|_| former)
    }

    /// Closes a partition that `to` takes over under a later term, and waits until it is closed.
    pub(crate) async fn let_go(&self, key: Key, term: Term, to: BrokerId) {
        let phase = {
            let table = self.0.table.lock();
            let Some(slot) = table.slots.get(&key).filter(|slot| slot.term < term) else { return };
            let address = self.0.topology.broker(to).map(|broker| broker.grpc_address.clone());
            let error = match address {
                Some(address) => not_owner(&slot.name, key.1, address),
                None => no_owner(&slot.name, key.1),
            };
            slot.close(moved(error));
            slot.phase.subscribe()
        };
        let over = tokio::time::timeout(MOVE_GRACE + END_SLACK, ended(phase)).await;
        tracing::debug!(partition = %key.1, %to, in_time = over.is_ok(), "partition was let go");
    }
}

async fn ask(
    router: &Router,
    former: BrokerId,
    (topic, partition): Key,
    term: Term,
) -> Result<(), String> {
    let channel = router.channel(former).map_err(|error| error.message)?;
    let request = LetGoRequest {
        topic_id: bytes::Bytes::copy_from_slice(topic.as_bytes()),
        partition: partition.0,
        term: term.0,
        to_broker: router.me().0,
    };
    let answer = PeerClient::new(channel).let_go(hop(request)).await;
    answer.map(|_| ()).map_err(|status| status.message().to_owned())
}

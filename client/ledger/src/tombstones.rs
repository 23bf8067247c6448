//! Asks who has a ledger's tombstone. A bookie makes one only where it read that the ledger is being deleted, or has no key (protocol
//! 5.6), and keeps it for ever. So where the key stands all the same, the metadata is older than the end of the ledger (6.8).

use futures::{StreamExt, stream};
use geminga_metastore::record::LedgerMeta;
use geminga_proto::bookie::{Code, QueryOp, QueryRequest, Scope};
use geminga_proto::ids::{EntryId, Member, SealEpoch};

use crate::client::LedgerClient;

/// Ledgers have no more members than that at a time.
const AT_ONCE: usize = 8;

impl LedgerClient {
    /// Which members of the fragment that holds `entry` say that the ledger was deleted. Who does not answer says nothing. Cancel-safe.
    pub async fn tombstones(&self, meta: &LedgerMeta, entry: EntryId) -> Vec<Member> {
        let fragment = meta.fragment_of(entry);
        let first = fragment.first_entry;
        stream::iter(fragment.ensemble.clone())
            .map(|member| async move {
                let deleted = self.has_tombstone(meta, &member, first).await;
                deleted.then_some(member)
            })
            .buffered(AT_ONCE)
            .filter_map(|found| async move { found })
            .collect()
            .await
    }

    async fn has_tombstone(&self, meta: &LedgerMeta, member: &Member, first: EntryId) -> bool {
        let scope = Scope {
            cluster: self.parts.cluster,
            ledger: meta.id,
            fragment_first: first,
            epoch: SealEpoch(0),
            incarnation: member.incarnation,
        };
        // The smallest question there is.
        let op = QueryOp::Read { from: first, to: first, max_bytes: 0, prefix_bytes: Some(0) };
        let Ok(connection) = self.parts.bookies.connection(&member.bookie) else { return false };
        let asked = connection.query(QueryRequest { scope, op });
        match tokio::time::timeout(self.parts.config.read_timeout, asked).await {
            Ok(Ok(reply)) => reply.code == Code::Deleted,
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

//! Asks who has a ledger's tombstone, or has dropped it for an object. A bookie makes one only where it read that the ledger is being deleted, or has no key (protocol
//! 5.6), and keeps it for ever. So where the key stands all the same, the metadata is older than the end of the ledger (6.8).

use std::collections::BTreeMap;

use futures::{StreamExt, stream};
use geminga_metastore::record::LedgerMeta;
use geminga_proto::bookie::{Code, QueryOp, QueryRequest, Scope};
use geminga_proto::ids::{EntryId, Member, SealEpoch};

use crate::client::LedgerClient;

/// Members that are asked at a time.
const AT_ONCE: usize = 8;

impl LedgerClient {
    /// Which members of the fragment that holds `entry` say that the ledger was deleted. Who does not answer says nothing. Cancel-safe.
    pub async fn tombstones(&self, meta: &LedgerMeta, entry: EntryId) -> Vec<Member> {
        let fragment = meta.fragment_of(entry);
        let members = fragment.ensemble.iter().map(|member| (member.clone(), fragment.first_entry));
        self.who_says(meta, members.collect(), Code::Deleted).await
    }

    /// Which members have dropped the ledger's entries for an object.
    pub(crate) async fn trimmed(&self, meta: &LedgerMeta) -> Vec<Member> {
        let mut members = BTreeMap::new();
        for fragment in &meta.fragments {
            let of = |member: &Member| (member.clone(), fragment.first_entry);
            members.extend(fragment.ensemble.iter().map(of));
        }
        self.who_says(meta, members.into_iter().collect(), Code::Trimmed).await
    }

    /// Which of these members refuse an entry, each another one, with this code.
    async fn who_says(
        &self,
        meta: &LedgerMeta,
        members: Vec<(Member, EntryId)>,
        code: Code,
    ) -> Vec<Member> {
        stream::iter(members)
            .map(|(member, entry)| async move {
                let said = self.ask_for(meta, &member, entry).await;
                (said == Some(code)).then_some(member)
            })
            .buffered(AT_ONCE)
            .filter_map(|found| async move { found })
            .collect()
            .await
    }

    /// What a member says when it is asked for an entry; `None`: nothing.
    async fn ask_for(&self, meta: &LedgerMeta, member: &Member, entry: EntryId) -> Option<Code> {
        let scope = Scope {
            cluster: self.parts.cluster,
            ledger: meta.id,
            fragment_first: entry,
            epoch: SealEpoch(0),
            incarnation: member.incarnation,
        };
        // The smallest question there is.
        let op = QueryOp::Read { from: entry, to: entry, max_bytes: 0, prefix_bytes: Some(0) };
        let connection = self.parts.bookies.connection(&member.bookie).ok()?;
        let asked = connection.query(QueryRequest { scope, op });
        let reply = tokio::time::timeout(self.parts.config.read_timeout, asked).await;
        reply.ok()?.ok().map(|reply| reply.code)
    }
}

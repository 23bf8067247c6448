//! The tail pass (protocol 6.3): asks the members of immutable fragments how far they are. Finds the copy that was never made (H9) without
//! reading data.

use futures::StreamExt;
use futures::stream;
use geminga_ledger::mark_under;
use geminga_metastore::record::{LedgerMeta, LedgerState, UnderReason};
use geminga_metastore::{Error, keys};
use geminga_proto::ids::{EntryId, Member};

use super::judge::Judgement;
use super::{Auditor, PAGE};

/// Members that are asked at a time.
const AT_ONCE: usize = 16;

impl Auditor {
    /// One pass.
    pub(super) async fn tails(&self, judgement: &Judgement) -> Result<(), Error> {
        let mut after: Option<String> = None;
        loop {
            let page = self.store.range(keys::LEDGERS, after.as_deref(), PAGE).await?;
            let ledgers = page.items.iter().filter_map(|item| {
                let ledger = keys::parse_ledger(&item.key)?;
                LedgerMeta::decode(ledger, &item.value.value).ok()
            });
            let questions: Vec<_> = ledgers.flat_map(|meta| questions(&meta, judgement)).collect();
            let mut short = stream::iter(questions)
                .map(|(meta, member, first, end)| async move {
                    let tail = self.client.durable_tail(meta, &member, first).await;
                    tail.is_some_and(|tail| tail < end).then_some((meta, member))
                })
                .buffer_unordered(AT_ONCE);
            while let Some(answer) = short.next().await {
                let Some((ledger, member)) = answer else { continue };
                tracing::warn!(%ledger, %member, "a member has not everything; its ledger is marked for repair");
                let (members, now_ms) = ([member], self.clock.now_ms());
                let reason = UnderReason::Behind;
                match mark_under(&*self.store, ledger, &members, reason, now_ms).await {
                    Err(Error::Corrupt { key, why }) => {
                        tracing::error!(
                            key,
                            why,
                            "a mark is invalid; its ledger is not repaired until the key is removed"
                        );
                    }
                    marked => marked?,
                }
            }
            after = page.items.last().map(|item| item.key.clone());
            if !page.more || after.is_none() {
                return Ok(());
            }
        }
    }
}

pub(super) type Question = (geminga_proto::ids::LedgerId, Member, EntryId, EntryId);

pub(super) fn questions(meta: &LedgerMeta, judgement: &Judgement) -> Vec<Question> {
    let mut questions = Vec::new();
    if meta.state == LedgerState::Deleting || meta.tier.is_trimmed() {
        return questions;
    }
    for (index, fragment) in meta.fragments.iter().enumerate() {
        let Some(end) = meta.fragment_end(index) else { continue };
        let asked = fragment.ensemble.iter().filter(|member| judgement.counts(member));
        let first = fragment.first_entry;
        questions.extend(asked.map(|member| (meta.id, member.clone(), first, end)));
    }
    questions
}

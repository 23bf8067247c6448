//! Keeps the marks current: who marked a member did not know whether it comes back, and who was given up may be there again. A
//! node that is back in time costs no copying: its marks are found clean. What was marked only so that copies are spread better is taken back
//! while bookies come and go.

use geminga_metastore::record::Under;
use geminga_metastore::{Error, Guard, KeyValue, Txn, keys};
use geminga_proto::ids::Member;

use super::judge::Judgement;
use super::{Auditor, PAGE, metrics};

impl Auditor {
    /// Goes through all marks; how many ask for nothing but that copies are spread better. `settled`: whether they may.
    pub(super) async fn sweep(&self, judgement: &Judgement, settled: bool) -> Result<usize, Error> {
        let mut moves = 0;
        let (mut marked, mut lost, mut oldest, mut after) = (0, 0, i64::MAX, None::<String>);
        loop {
            let page = self.store.range(keys::UNDER, after.as_deref(), PAGE).await?;
            for item in &page.items {
                let Some(ledger) = keys::parse_under(&item.key) else { continue };
                let Ok(mark) = Under::decode(ledger, &item.value.value) else { continue };
                if mark.only_moves() {
                    moves += 1;
                    self.withdraw(item, settled).await?;
                    continue;
                }
                marked += 1;
                lost += usize::from(mark.lost_entry.is_some());
                oldest = oldest.min(mark.created_ms);
                self.correct(item, mark, judgement, settled).await?;
            }
            after = page.items.last().map(|item| item.key.clone());
            if !page.more || after.is_none() {
                break;
            }
        }
        let age_ms = if marked == 0 { 0 } else { self.clock.now_ms().saturating_sub(oldest) };
        metrics::marks(marked, lost, age_ms.max(0) as f64 / 1000.0);
        metrics::moves(moves);
        Ok(moves)
    }

    /// Takes a mark back that only asks for moves, unless these are in order.
    async fn withdraw(&self, item: &KeyValue, settled: bool) -> Result<(), Error> {
        if settled {
            return Ok(());
        }
        // Whoever added to it meanwhile is heard, and a copy that is under way ends at its next look.
        let guard = Guard::Version(item.key.clone(), item.value.version);
        self.store.txn(Txn::new().guard(guard).delete(&item.key)).await.map(|_| ())
    }

    async fn correct(
        &self,
        item: &KeyValue,
        mut mark: Under,
        judgement: &Judgement,
        settled: bool,
    ) -> Result<(), Error> {
        let replaced = |member: &&Member| {
            // Of a bookie that a listing did not show nothing is said here: the pass looks at its own key.
            match judgement.knows(&member.bookie) {
                true => judgement.of(member).is_some(),
                false => mark.replace.contains(*member),
            }
        };
        let replace: Vec<Member> = mark.members.iter().filter(replaced).cloned().collect();
        let same = replace.iter().all(|member| mark.replace.contains(member));
        let moves = settled || mark.misplaced.is_empty();
        if same && replace.len() == mark.replace.len() && moves {
            return Ok(());
        }
        mark.replace = replace;
        if !moves {
            mark.misplaced.clear();
        }
        // Whoever changed it meanwhile is heard at the next sweep.
        self.store.put_if(&item.key, Some(item.value.version), mark.encode()).await.map(|_| ())
    }
}

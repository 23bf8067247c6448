//! The calls around the audit core ([`crate::core::audit`]): asks every disk that the metadata knows what it holds, page by page, and
//! asks for the tombstones of what is missing. [`apply`] carries out what is found.

mod apply;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, stream};
use geminga_metastore::record::Cookie;
use geminga_proto::bookie::{Code, LocalLedger, MAX_INVENTORY, QueryOp, QueryRequest, Scope};
use geminga_proto::ids::{EntryId, LedgerId, Member, SealEpoch};

use crate::client::LedgerClient;
use crate::core::audit::{self, Holder, View};

/// Disks that are asked at a time.
const AT_ONCE: usize = 8;
/// Tries of one page, each within [`TIMEOUT`].
const TRIES: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(30);

/// Fills a view with what the disks of these bookies hold. A disk that does not answer every page is unanswered, and what it said
/// before is kept: it holds that.
pub async fn take_inventory(client: &LedgerClient, cookies: &[Cookie], view: &mut View) {
    let members: BTreeSet<Member> = cookies
        .iter()
        .flat_map(|cookie| {
            let member = |disk: &geminga_metastore::record::CookieDisk| Member {
                bookie: cookie.bookie.clone(),
                incarnation: disk.incarnation,
            };
            cookie.disks.iter().map(member).collect::<Vec<_>>()
        })
        .collect();
    let mut answers = stream::iter(members)
        .map(|member| async move {
            let (held, whole) = disk(client, &member).await;
            (member, held, whole)
        })
        .buffer_unordered(AT_ONCE);
    while let Some((member, held, whole)) = answers.next().await {
        for local in held {
            let holder = Holder { member: member.clone(), local };
            view.held.entry(holder.local.ledger).or_default().push(holder);
        }
        if !whole {
            view.unanswered.insert(member);
        }
    }
}

/// Asks who of those that should hold what nobody holds has its tombstone. To be called with everything else in the view.
pub async fn ask_for_tombstones(client: &LedgerClient, view: &mut View) {
    let missing = audit::missing(view);
    let mut answers = stream::iter(missing.iter().filter_map(|(ledger, entry)| {
        let meta = view.ledgers.get(ledger)?;
        Some(async move { (*ledger, client.tombstones(meta, *entry).await) })
    }))
    .buffer_unordered(AT_ONCE);
    let mut found = Vec::new();
    while let Some((ledger, members)) = answers.next().await {
        found.push((ledger, members));
    }
    drop(answers);
    view.tombstones.extend(found.into_iter().filter(|(_, members)| !members.is_empty()));
}

/// What one disk holds, and whether that is all.
async fn disk(client: &LedgerClient, member: &Member) -> (Vec<LocalLedger>, bool) {
    let (mut held, mut after) = (Vec::new(), None);
    loop {
        let Some(page) = page(client, member, after).await else { return (held, false) };
        let Some(last) = page.last() else { return (held, true) };
        // A bookie that goes back would keep this going for ever.
        if after.is_some_and(|after| last.ledger <= after) {
            return (held, false);
        }
        after = Some(last.ledger);
        held.extend(page);
    }
}

async fn page(
    client: &LedgerClient,
    member: &Member,
    after: Option<LedgerId>,
) -> Option<Vec<LocalLedger>> {
    let scope = Scope {
        cluster: client.parts.cluster,
        ledger: LedgerId(0),
        fragment_first: EntryId(0),
        epoch: SealEpoch(0),
        incarnation: member.incarnation,
    };
    for _ in 0..TRIES {
        let op = QueryOp::Inventory { after, max_ledgers: MAX_INVENTORY };
        let ask = async {
            let connection = client.bookies().connection(&member.bookie)?;
            connection.query(QueryRequest { scope, op }).await
        };
        match tokio::time::timeout(TIMEOUT, ask).await {
            Ok(Ok(reply)) if reply.code == Code::Ok => {
                let ledgers: Result<Vec<_>, _> =
                    reply.entries.iter().map(|entry| LocalLedger::decode(entry)).collect();
                match ledgers {
                    Ok(ledgers) => return Some(ledgers),
                    Err(error) => tracing::warn!(%member, %error, "an inventory makes no sense"),
                }
            }
            Ok(Ok(reply)) => {
                tracing::warn!(%member, code = ?reply.code, reply.detail, "no inventory");
            }
            Ok(Err(error)) => tracing::warn!(%member, %error, "no inventory"),
            Err(_) => tracing::warn!(%member, "no inventory in time"),
        }
    }
    None
}

//! The calls around the audit core ([`crate::core::audit`]): asks every disk that the metadata knows what it holds, page by page, and
//! asks for the tombstones of what is missing, and once more for what seems to be lost. [`apply`] carries out what is found, [`adopt`] names
//! those who hold what was moved.

mod adopt;
mod apply;

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, stream};
use geminga_metastore::Error as MetaError;
use geminga_metastore::record::Cookie;
use geminga_proto::bookie::{Code, LocalLedger, MAX_INVENTORY, QueryOp, QueryRequest, Scope};
use geminga_proto::ids::{EntryId, LedgerId, Member, SealEpoch};

pub use self::adopt::AdoptError;
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
    let mut answers = stream::iter(members(cookies))
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

/// Reads the metadata of these ledgers anew, and asks every disk once more what it holds of them: while one disk after the other was asked,
/// repair may have moved a copy from one that was not asked yet to one that was. Of a disk that does not answer now its former answer stands.
///
/// # Errors
/// [`MetaError`].
pub async fn ask_again(
    client: &LedgerClient,
    cookies: &[Cookie],
    ledgers: &BTreeSet<LedgerId>,
    view: &mut View,
) -> Result<(), MetaError> {
    let members = members(cookies);
    for ledger in ledgers {
        match client.metadata(*ledger).await? {
            Some((meta, _)) => drop(view.ledgers.insert(*ledger, meta)),
            None => drop(view.ledgers.remove(ledger)),
        }
        let mut answers = stream::iter(&members)
            .map(|member| async move { (member, one(client, member, *ledger).await) })
            .buffer_unordered(AT_ONCE);
        let holders = view.held.entry(*ledger).or_default();
        while let Some((member, answer)) = answers.next().await {
            let Some(found) = answer else { continue };
            holders.retain(|holder| holder.member != *member);
            let holder = |local| Holder { member: member.clone(), local };
            holders.extend(found.into_iter().map(holder));
        }
    }
    view.held.retain(|_, holders| !holders.is_empty());
    Ok(())
}

/// All disks.
fn members(cookies: &[Cookie]) -> BTreeSet<Member> {
    let of = |cookie: &Cookie| {
        let member = |incarnation| Member { bookie: cookie.bookie.clone(), incarnation };
        cookie.disks.iter().map(|disk| member(disk.incarnation)).collect::<Vec<_>>()
    };
    cookies.iter().flat_map(of).collect()
}

/// What a disk holds of one ledger, if anything; `None` when it does not answer.
async fn one(client: &LedgerClient, member: &Member, ledger: LedgerId) -> Option<Vec<LocalLedger>> {
    let before = ledger.0.checked_sub(1).map(LedgerId);
    let mut page = page(client, member, before, 1).await?;
    page.retain(|local| local.ledger == ledger);
    Some(page)
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
        let Some(page) = page(client, member, after, MAX_INVENTORY).await else {
            return (held, false);
        };
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
    max_ledgers: u32,
) -> Option<Vec<LocalLedger>> {
    let scope = Scope {
        cluster: client.parts.cluster,
        ledger: LedgerId(0),
        fragment_first: EntryId(0),
        epoch: SealEpoch(0),
        incarnation: member.incarnation,
    };
    for _ in 0..TRIES {
        let op = QueryOp::Inventory { after, max_ledgers };
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

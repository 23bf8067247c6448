//! `geminga bookie list`: every bookie that the cluster knows, from the metadata itself, so that it also works when no broker runs.

use std::collections::BTreeMap;

use geminga_metastore::keys;
use geminga_metastore::record::{
    AbsentBookie, Cookie, DrainingBookie, LedgerMeta, LedgerState, LiveBookie,
};
use geminga_proto::ids::BookieId;

use crate::args::PrintArgs;
use crate::config::{EtcdTlsArgs, MetastoreUrl};
use crate::exit::Failure;
use crate::metadata;
use crate::view::{Bookie, Bookies, View};

/// Arguments of `geminga bookie list`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where: etcd://HOST:PORT[,HOST:PORT...][/CLUSTER]; also file://PATH for a standalone server that is stopped.
    #[arg(long, value_name = "URL", env = "GEMINGA_METASTORE")]
    metastore: MetastoreUrl,
    #[command(flatten)]
    tls: EtcdTlsArgs,
    #[command(flatten)]
    print: PrintArgs,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let range = metadata::list(&args.metastore, &args.tls, keys::BOOKIES).await?;
    let mut bookies: BTreeMap<BookieId, Bookie> = BTreeMap::new();
    for item in &range.items {
        if !item.key.starts_with(keys::BOOKIE_COOKIES) {
            continue;
        }
        if let Ok(cookie) = Cookie::decode(&item.value.value) {
            bookies.insert(cookie.bookie.clone(), Bookie::new(&cookie.bookie));
        }
    }
    for item in &range.items {
        if let Some(bookie) = keys::parse_bookie_draining(&item.key)
            && let Some(known) = bookies.get_mut(&bookie)
            && let Ok(draining) = DrainingBookie::decode(&item.value.value)
        {
            known.draining(draining.since_ms);
        }
        if let Some(bookie) = keys::parse_bookie_absent(&item.key)
            && let Some(known) = bookies.get_mut(&bookie)
            && let Ok(absent) = AbsentBookie::decode(&item.value.value)
        {
            known.absent(&absent);
        }
        if keys::parse_bookie_live(&item.key).is_some()
            && let Ok(live) = LiveBookie::decode(&item.value.value)
            && let Some(known) = bookies.get_mut(&live.id)
        {
            known.live(&live);
        }
    }
    for meta in ledgers(&args.metastore, &args.tls).await? {
        for bookie in named(&meta) {
            if let Some(known) = bookies.get_mut(&bookie) {
                known.holds();
            }
        }
    }
    Bookies(bookies.into_values().collect()).print(args.print)
}

/// All ledgers that are not being deleted.
pub(super) async fn ledgers(
    metastore: &MetastoreUrl,
    tls: &EtcdTlsArgs,
) -> Result<Vec<LedgerMeta>, Failure> {
    let range = metadata::list(metastore, tls, keys::LEDGERS).await?;
    let mut ledgers = Vec::with_capacity(range.items.len());
    for item in &range.items {
        let Some(ledger) = keys::parse_ledger(&item.key) else { continue };
        let meta = LedgerMeta::decode(ledger, &item.value.value).map_err(|why| {
            Failure::new(format!("the value of {} cannot be read: {why}", item.key))
                .because("METADATA_CORRUPT")
        })?;
        if meta.state != LedgerState::Deleting {
            ledgers.push(meta);
        }
    }
    Ok(ledgers)
}

/// The bookies that a ledger names, each once.
pub(crate) fn named(meta: &LedgerMeta) -> Vec<BookieId> {
    let members = meta.fragments.iter().flat_map(|fragment| &fragment.ensemble);
    let mut names: Vec<BookieId> = members.map(|member| member.bookie.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

//! One topic for people: owners from the view, segments and their ledgers from the store, open offsets from the owners. What
//! cannot be read now is left out rather than the whole refused, but for the store itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use geminga_metastore::record::{LedgerMeta, LedgerState, Manifest, Segment};
use geminga_metastore::{Error, MetaStore, keys};
use geminga_proto::ids::{BookieId, PartitionIndex};
use geminga_proto::reason::ApiError;
use geminga_proto::v1;

use super::PARALLEL;
use crate::ownership::topology::Topic;
use crate::router::OpenOffsets;
use crate::rpc::context::Context;
use crate::rpc::metadata::api_error;

/// Segments of one partition that are shown: the newest.
const MAX_SEGMENTS: usize = 1_000;
const PAGE: usize = 1_000;
/// How long an owner is waited for; what it knows is left out after that.
const OWNER_WAIT: Duration = Duration::from_secs(2);

/// All partitions of a topic.
pub(super) async fn partitions(
    ctx: &Arc<Context>,
    topic: &Arc<Topic>,
) -> Result<Vec<v1::PartitionInfo>, ApiError> {
    let partitions = (0..topic.partitions).map(PartitionIndex);
    futures::stream::iter(partitions)
        .map(|partition| one(Arc::clone(ctx), Arc::clone(topic), partition))
        .buffered(PARALLEL)
        .try_collect()
        .await
}

async fn one(
    ctx: Arc<Context>,
    topic: Arc<Topic>,
    partition: PartitionIndex,
) -> Result<v1::PartitionInfo, ApiError> {
    let owner = ctx.router.topology().owner(topic.id, partition);
    let segments = segments(&*ctx.store, &topic, partition).await?;
    let folded_segments = folded(&*ctx.store, &topic, partition).await?;
    let size = tokio::time::timeout(OWNER_WAIT, ctx.source.size(&topic, partition));
    let (offsets, size) = tokio::join!(open_offsets(&ctx, &topic, partition), size);
    Ok(v1::PartitionInfo {
        partition: partition.0,
        owner_broker: owner.as_ref().map_or(-1, |owner| owner.broker.0),
        term: owner.as_ref().map_or(0, |owner| owner.term.0),
        owner_address: owner.and_then(|owner| owner.address).unwrap_or_default(),
        log_start_offset: offsets.map(|o| o.log_start.0),
        high_watermark: offsets.map(|o| o.high_watermark.0),
        segments,
        size_bytes: size.ok().and_then(Result::ok),
        folded_segments,
    })
}

/// Of a partition that is open; looking never opens one here.
async fn open_offsets(
    ctx: &Context,
    topic: &Arc<Topic>,
    partition: PartitionIndex,
) -> Option<OpenOffsets> {
    use crate::router::{OffsetAt, Route};
    match ctx.router.owner_of(topic, partition) {
        Route::Local { .. } => ctx.partitions.open_offsets(topic.id, partition),
        Route::Remote { .. } => {
            let find = |at| ctx.source.find_offset(topic, partition, at);
            let both =
                async { tokio::try_join!(find(OffsetAt::Earliest), find(OffsetAt::Latest)).ok() };
            let (first, last) = tokio::time::timeout(OWNER_WAIT, both).await.ok().flatten()?;
            Some(OpenOffsets { log_start: first.offset?, high_watermark: last.offset? })
        }
        Route::NoOwner => None,
    }
}

async fn segments(
    store: &dyn MetaStore,
    topic: &Topic,
    partition: PartitionIndex,
) -> Result<Vec<v1::SegmentInfo>, ApiError> {
    let prefix = keys::segments_of(topic.id, partition);
    // Key order is log order; the highest of equal base offsets is the one that counts (DESIGN 4).
    let mut newest: BTreeMap<i64, Segment> = BTreeMap::new();
    let mut after: Option<String> = None;
    loop {
        let page = store.range(&prefix, after.as_deref(), PAGE).await;
        let mut page = page.map_err(|e| api_error(&e))?;
        for item in &page.items {
            let segment = Segment::decode(&item.value.value)
                .map_err(|e| corrupt(&item.key, &e.to_string()))?;
            newest.insert(segment.base_offset.0, segment);
        }
        while newest.len() > MAX_SEGMENTS {
            newest.pop_first();
        }
        after = page.items.pop().map(|last| last.key);
        if !page.more || after.is_none() {
            break;
        }
    }
    futures::stream::iter(newest.into_values())
        .map(|segment| info(store, topic, segment))
        .buffered(PARALLEL)
        .try_collect()
        .await
}

/// How many segments a manifest lists; of a list whose beginning was given up, all.
async fn folded(
    store: &dyn MetaStore,
    topic: &Topic,
    partition: PartitionIndex,
) -> Result<u32, ApiError> {
    let key = keys::manifest(topic.id, partition);
    let Some(found) = store.get(&key).await.map_err(|e| api_error(&e))? else { return Ok(0) };
    let manifest = Manifest::decode(&found.value).map_err(|e| corrupt(&key, &e.to_string()))?;
    Ok(manifest.live().map(|part| part.segments).sum())
}

async fn info(
    store: &dyn MetaStore,
    topic: &Topic,
    segment: Segment,
) -> Result<v1::SegmentInfo, ApiError> {
    let key = keys::ledger(segment.ledger);
    let found = store.get(&key).await.map_err(|e| api_error(&e))?;
    let meta = found
        .map(|found| LedgerMeta::decode(segment.ledger, &found.value))
        .transpose()
        .map_err(|e| corrupt(&key, &e.to_string()))?;
    let wanted = topic.quorum.map_or(0, |quorum| quorum.write);
    Ok(v1::SegmentInfo {
        ledger_id: segment.ledger.to_string(),
        base_offset: segment.base_offset.0,
        term: segment.term.0,
        state: meta.as_ref().map_or("deleted", |meta| state(meta.state)).to_owned(),
        bookies: meta.as_ref().map(bookies).unwrap_or_default(),
        degraded: meta.is_some_and(|meta| meta.degraded || meta.qw < wanted),
    })
}

fn state(state: LedgerState) -> &'static str {
    match state {
        LedgerState::Open => "open",
        LedgerState::InRecovery => "in-recovery",
        LedgerState::Closed => "closed",
        LedgerState::Deleting => "deleting",
    }
}

/// Every bookie that holds some of it, in the order of first use.
fn bookies(meta: &LedgerMeta) -> Vec<String> {
    let mut seen: Vec<&BookieId> = Vec::new();
    for member in meta.fragments.iter().flat_map(|fragment| &fragment.ensemble) {
        if !seen.contains(&&member.bookie) {
            seen.push(&member.bookie);
        }
    }
    seen.into_iter().map(|bookie| bookie.as_str().to_owned()).collect()
}

fn corrupt(key: &str, why: &str) -> ApiError {
    api_error(&Error::Corrupt { key: key.to_owned(), why: why.to_owned() })
}

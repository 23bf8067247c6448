//! What an object store gives to somebody who does nothing else: objects put in parts as an upload's are, and ranges got as blocks
//! are, by the HTTP client that Geminga has, with nothing read, checked or kept.

use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::stream::{self, FuturesUnordered};
use futures::{StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt};
use serde::Serialize;
use tokio::time::Instant;
use url::Url;

/// Where the objects are.
#[derive(Debug, clap::Args)]
pub(crate) struct At {
    /// `s3://BUCKET/PREFIX` or `file:///PATH`.
    #[arg(long)]
    store: String,
    /// Where an `s3://` store is.
    #[arg(long)]
    endpoint: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    at: At,
    /// How many objects.
    #[arg(long)]
    objects: usize,
    /// Bytes of each.
    #[arg(long)]
    bytes: usize,
    /// Objects that are written at a time, as there are bookies.
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    /// Bytes of a part.
    #[arg(long, default_value_t = 16 << 20)]
    part: usize,
    /// Parts of an object that are on their way at a time.
    #[arg(long, default_value_t = 2)]
    parts_at_once: usize,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    at: At,
    /// Bytes of a range.
    #[arg(long, default_value_t = 1 << 20)]
    range: u64,
    /// Ranges that are asked for at a time, in order.
    #[arg(long, default_value_t = 1)]
    at_once: usize,
}

/// What was moved.
#[derive(Debug, Serialize)]
pub(crate) struct Moved {
    objects: usize,
    bytes: u64,
    seconds: f64,
    mb_per_second: f64,
}

impl Moved {
    fn new(objects: usize, bytes: u64, begun: Instant) -> Self {
        let seconds = begun.elapsed().as_secs_f64();
        let mb_per_second = bytes as f64 / 1e6 / seconds.max(1e-9);
        Self { objects, bytes, seconds, mb_per_second }
    }

    /// As one line of JSON.
    pub(crate) fn print(&self) -> anyhow::Result<()> {
        println!("{}", serde_json::to_string(self)?);
        Ok(())
    }
}

/// Writes objects.
pub(crate) async fn put(args: PutArgs) -> anyhow::Result<Moved> {
    let (store, prefix) = open(&args.at)?;
    // No two bytes alike for long: a store may compress.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let part: Bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(args.part.div_ceil(8))
    .flatten()
    .collect();
    let begun = Instant::now();
    stream::iter(0..args.objects)
        .map(|number| put_one(&*store, prefix.clone().join(format!("{number:08}")), &part, &args))
        .buffer_unordered(args.at_once.max(1))
        .try_collect::<Vec<()>>()
        .await?;
    Ok(Moved::new(args.objects, (args.objects * args.bytes) as u64, begun))
}

async fn put_one(
    store: &dyn ObjectStore,
    path: Path,
    part: &Bytes,
    args: &PutArgs,
) -> anyhow::Result<()> {
    let mut upload = store.put_multipart(&path).await?;
    let mut sending = FuturesUnordered::new();
    let mut left = args.bytes;
    while left > 0 {
        if sending.len() >= args.parts_at_once.max(1) {
            sending.try_next().await?;
        }
        let length = left.min(part.len());
        sending.push(upload.put_part(part.slice(..length).into()));
        left -= length;
    }
    while sending.try_next().await?.is_some() {}
    upload.complete().await?;
    Ok(())
}

/// Reads all objects below the prefix, one after the other.
pub(crate) async fn get(args: GetArgs) -> anyhow::Result<Moved> {
    let (store, prefix) = open(&args.at)?;
    let mut found: Vec<_> = store.list(Some(&prefix)).try_collect().await?;
    found.sort_by(|one, other| one.location.cmp(&other.location));
    if found.is_empty() {
        bail!("{}: nothing is there", args.at.store);
    }
    let ranges = found.iter().flat_map(|object| {
        let starts = (0..object.size).step_by(usize::try_from(args.range).unwrap_or(usize::MAX));
        starts.map(|start| (&object.location, start..object.size.min(start + args.range)))
    });
    let begun = Instant::now();
    let bytes = stream::iter(ranges)
        .map(|(path, range)| store.get_range(path, range))
        .buffered(args.at_once.max(1))
        .try_fold(0, |sum, bytes| async move { Ok(sum + bytes.len() as u64) })
        .await?;
    Ok(Moved::new(found.len(), bytes, begun))
}

fn open(at: &At) -> anyhow::Result<(Arc<dyn ObjectStore>, Path)> {
    let url = Url::parse(&at.store).with_context(|| format!("--store {}", at.store))?;
    if url.scheme() == "file" {
        std::fs::create_dir_all(url.path())?;
        let store = LocalFileSystem::new_with_prefix(url.path())?;
        return Ok((Arc::new(store.with_fsync(true)), Path::default()));
    }
    // Another library of the process may have chosen one already.
    let _chosen = rustls::crypto::ring::default_provider().install_default();
    let mut options: Vec<(String, String)> = std::env::vars()
        .map(|(key, value)| (key.to_ascii_lowercase(), value))
        .filter(|(key, _)| key.starts_with("aws_"))
        .collect();
    if let Some(endpoint) = &at.endpoint {
        options.push(("aws_endpoint".to_owned(), endpoint.clone()));
        options.push(("aws_allow_http".to_owned(), "true".to_owned()));
        options.push(("aws_virtual_hosted_style_request".to_owned(), "false".to_owned()));
    }
    let (store, prefix) = object_store::parse_url_opts(&url, options)?;
    Ok((Arc::from(store), prefix))
}

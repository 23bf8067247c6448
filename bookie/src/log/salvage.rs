//! Reads what a lost life of a disk left (protocol 5.7): every frame that is whole, whatever stands beside it. What comes out
//! may lack anything, so nobody may take it for the whole; but each entry in it is one that was stored.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::catalogue::Catalogue;
use super::format::{self, HEADER_BYTES, Seed};
use super::index::Index;
use super::load::{self, Loaded};
use super::queue::Queue;
use super::reader::Reader;
use super::rebuild::Rebuilt;
use super::segment::{self, Named};
use super::snapshot::{self, Snapshot};
use super::spares::Spares;
use super::turns::Turns;
use super::window::Window;
use super::{Config, Handle, Identity, Log, MAX_READS, Opened, Shared};
use crate::io::Disk;

impl Log {
    /// Opens a log to read from only: damage is skipped, nothing is repaired, appends are refused as by a log that was shut
    /// down. Its index takes [`Config::index_bytes`]. Blocks.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn open_salvaged(
        disk: Arc<dyn Disk>,
        identity: &Identity,
        index_bytes: usize,
    ) -> io::Result<Opened> {
        let seed = Seed::of(identity);
        let config =
            Config { window_bytes: 0, reserve_segments: 0, index_bytes, ..Config::default() };
        let index = Index::new(Arc::clone(&disk), seed, config.index_bytes);
        let Rebuilt { ledgers, index } = salvage(&*disk, seed, index)?;
        let queue = Queue::new(config.queue_bytes);
        queue.close();
        let spares = Spares::found(Arc::clone(&disk), config.segment_bytes, 0, Vec::new())?;
        let shared = Shared {
            seed,
            queue,
            durable: watch::Sender::default(),
            index,
            window: Mutex::new(Window::new(config.window_bytes)),
            reader: Reader::new(Arc::clone(&disk), seed, config.read_ahead_bytes),
            turns: Turns::new(MAX_READS),
            catalogue: Mutex::new(Catalogue::default()),
            spares: Arc::new(spares),
            scrubbing: Mutex::default(),
            suspects: Mutex::default(),
            damaged: Mutex::default(),
            disk,
            config,
        };
        let handle = Handle { shared: Arc::new(shared), committer: Mutex::new(None) };
        Ok(ledgers.opened(Self(Arc::new(handle))))
    }
}

fn salvage(disk: &dyn Disk, seed: Seed, index: Index) -> io::Result<Rebuilt> {
    let (mut segments, mut snapshots) = (Vec::new(), Vec::new());
    for name in disk.list()? {
        match segment::parse_name(&name) {
            Some(Named::Segment(seq)) => segments.push(seq),
            Some(Named::Unfinished(_) | Named::Spare) => {}
            None => snapshots.extend(snapshot::parse_name(&name)),
        }
    }
    segments.sort_unstable();
    snapshots.sort_unstable();
    let read = |number: &u64| Snapshot::read(disk, *number, seed).ok().flatten();
    let image = snapshots.iter().rev().find_map(read).map(|snapshot| snapshot.image);
    let mut rebuilt = Rebuilt::from_image(image.unwrap_or_default(), index);
    for seq in segments {
        rebuilt.index.make_room();
        if let Some(footer) = load::footer(disk, seq, seed) {
            footer.items.iter().for_each(|item| rebuilt.apply(seq, item));
            continue;
        }
        match Loaded::read_known(disk, seq) {
            Ok(loaded) => frames(&loaded, seed, &mut rebuilt),
            Err(error) => tracing::warn!(seq, %error, "a segment of a lost log cannot be read"),
        }
    }
    rebuilt.index.built();
    Ok(rebuilt)
}

/// Applies every whole frame of a segment.
fn frames(loaded: &Loaded, seed: Seed, rebuilt: &mut Rebuilt) {
    let mut at = HEADER_BYTES;
    while at < loaded.bytes.len() {
        let Some(frame) = loaded.frame(at, seed) else {
            at += format::ALIGNMENT;
            continue;
        };
        match loaded.items(at, &frame, seed) {
            Ok(items) => items.iter().for_each(|item| rebuilt.apply(loaded.seq, item)),
            Err(error) => tracing::warn!(%error, "a frame of a lost log is skipped"),
        }
        at = frame.end;
    }
}

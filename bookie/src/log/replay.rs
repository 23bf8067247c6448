//! Opening a log: rebuilds ledgers and index, and tells a torn tail from corruption (K5, K8).
//!
//! The newest valid snapshot gives the ledgers as of a frame, the footers of full segments give where entries are, and what
//! came after is applied record by record: from footers, or from the frames where there is none. Nothing that is damaged
//! is trusted: an older snapshot or the frames themselves stand in for it. They also stand in for what the disk refuses to read; but
//! nothing is removed, cut or called lost for a refusal, since what was not read may be there. Where nothing stands in, opening fails
//! with [`OpenError::Io`], which changes nothing and may be tried again.
//!
//! Frames are numbered densely from 1 over all segments, and a segment ends where the first frame of the next begins; only
//! below the last segment that a snapshot lists may segments be missing, those that it does not list.
//! The scan stops at frame `k`, the first that is not there. Frames behind it that are whole decide, and the snapshot: if one says that
//! frame `k` was durable when it was built, `k` may have been acknowledged, and opening is refused without a change to
//! the disk. Otherwise `k` and everything behind it was in flight when the process or the machine stopped, nobody was
//! told of it, and it is removed: [`Repair`] cuts the segment after frame `k - 1` and removes later ones, so that what
//! is left of frames that were in flight can never be taken for frames of the log as it goes on.
//!
//! A frame that was found is not durable for that reason alone: after a killed process it may stand in the page cache
//! only, and where a sync failed the cache may call it clean. So frames that no later frame vouches for are written
//! again before anything is reported (K5, K6).

use std::collections::BTreeSet;
use std::io::{self, IoSlice};

use bytes::Bytes;

use super::catalogue::{Catalogue, Full};
use super::error::OpenError;
use super::footer::Footer;
use super::format::{HEADER_BYTES, Seed};
use super::index::{self, Index};
use super::load::{self, Loaded};
use super::mutation::{Mutation, Mutations};
use super::rebuild::Rebuilt;
use super::scan::Scan;
use super::segment::{self, Named};
use super::snapshot::{self, Listed, Snapshot};
use super::{Identity, corrupt, io_error};
use crate::io::Disk;

/// Number of the first frame of a log.
pub(super) const FIRST_FRAME: u64 = 1;

/// What a log's files say.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) rebuilt: Rebuilt,
    /// The segments that stay.
    pub(super) catalogue: Catalogue,
    /// Where the log goes on.
    pub(super) next_frame: u64,
    /// Above every segment's number, unfinished ones included.
    pub(super) next_segment: u64,
    /// Files that segments can be made of.
    pub(super) spares: Vec<String>,
    /// What must be done to the disk first.
    pub(super) repair: Repair,
}

/// How to bring the disk to the state that was found; repeating a part of it does no harm.
#[derive(Debug, Default)]
pub(super) struct Repair {
    /// Files to remove, in this order: later segments first.
    pub(super) remove: Vec<String>,
    /// Frames that nothing vouches for: segment, offset, bytes.
    pub(super) rewrite: Vec<(u64, u64, Bytes)>,
    /// The last segment and its new length.
    pub(super) cut: Option<(u64, u64)>,
}

impl Repair {
    /// Changes the disk. After an error the next opening finds the same log, or one with less to repair.
    pub(super) fn run(&self, disk: &dyn Disk, mutations: Mutations) -> Result<(), OpenError> {
        if !mutations.is(Mutation::KeepStaleTail) {
            for name in &self.remove {
                match disk.remove(name) {
                    // The index took the name of what an earlier one left behind.
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(io_error("remove", name)(error));
                    }
                    Ok(()) | Err(_) => {}
                }
                // One by one: a later segment must never survive an earlier one.
                disk.sync_dir().map_err(io_error("sync the directory after removing", name))?;
            }
            if let Some((seq, bytes)) = self.cut {
                let name = segment::file_name(seq);
                let cut = disk.open(&name).and_then(|file| file.set_len(bytes));
                cut.map_err(io_error("cut", &name))?;
            }
        }
        if mutations.is(Mutation::TrustFoundTail) {
            return Ok(());
        }
        for (seq, offset, bytes) in &self.rewrite {
            let name = segment::file_name(*seq);
            let file = disk.open(&name).map_err(io_error("open", &name))?;
            let written = file.write_all_at(*offset, &[IoSlice::new(bytes)]);
            written.map_err(io_error("write", &name))?;
            file.sync_data().map_err(io_error("sync", &name))?;
        }
        Ok(())
    }
}

/// The files of a log, by what their names say.
#[derive(Debug, Default)]
struct Files {
    /// In order.
    segments: Vec<u64>,
    /// The numbers of snapshots, in order.
    snapshots: Vec<u64>,
    unfinished: Vec<String>,
    spares: Vec<String>,
    /// Above every segment's number.
    next_segment: u64,
}

impl Files {
    fn list(disk: &dyn Disk) -> Result<Self, OpenError> {
        let mut files = Self { next_segment: 1, ..Self::default() };
        for name in disk.list().map_err(io_error("list", "the data directory"))? {
            let named = segment::parse_name(&name);
            if let Some(Named::Segment(seq) | Named::Unfinished(seq)) = named {
                files.next_segment = files.next_segment.max(seq + 1);
            }
            match named {
                Some(Named::Segment(seq)) => files.segments.push(seq),
                Some(Named::Unfinished(_)) => files.unfinished.push(name),
                Some(Named::Spare) => files.spares.push(name),
                None if snapshot::is_partial(&name) || index::is_left_over(&name) => {
                    files.unfinished.push(name);
                }
                None => files.snapshots.extend(snapshot::parse_name(&name)),
            }
        }
        files.segments.sort_unstable();
        files.snapshots.sort_unstable();
        Ok(files)
    }
}

/// Reads the whole log, and builds up an empty index. Changes nothing.
pub(super) fn scan(
    disk: &dyn Disk,
    identity: &Identity,
    index: Index,
    mutations: Mutations,
) -> Result<Found, OpenError> {
    let files = Files::list(disk)?;
    let Newest { snapshot, damaged, refused } =
        newest_snapshot(disk, &files.snapshots, Seed::of(identity));
    match rebuild(disk, identity, index, mutations, files, snapshot, damaged) {
        // What was not read may say otherwise.
        Err(error) if error.is_loss() => Err(refused.unwrap_or(error)),
        rebuilt => rebuilt,
    }
}

fn rebuild(
    disk: &dyn Disk,
    identity: &Identity,
    index: Index,
    mutations: Mutations,
    files: Files,
    snapshot: Option<Snapshot>,
    damaged: Vec<String>,
) -> Result<Found, OpenError> {
    let (mut remove, spares) = (files.unfinished, files.spares);
    remove.extend(damaged);
    let covers = snapshot.as_ref().map_or(0, |snapshot| snapshot.covers);
    let (listed, image) = snapshot.map(|found| (found.segments, found.image)).unwrap_or_default();
    // The log goes on from the last of those that the snapshot lists.
    let (last, before) = match listed.split_last() {
        Some((last, before)) => (*last, before),
        None => (Listed { seq: 0, first_frame: FIRST_FRAME, last_frame: 0 }, &[][..]),
    };
    not_needed(&files.segments, &listed, &mut remove)?;

    let mut rebuilt = Rebuilt::from_image(image, index);
    let mut catalogue = Catalogue::after(files.snapshots.last().copied().unwrap_or(0));
    covered(disk, identity, before, &mut rebuilt, &mut catalogue)?;
    let tail: Vec<u64> = files.segments.into_iter().filter(|seq| *seq >= last.seq).collect();
    let begin = (rebuilt, &mut catalogue);
    let mut scan = Scan::new(disk, identity, begin, last.first_frame, mutations);
    let stop = scan.frames(&tail)?;
    if !mutations.is(Mutation::SkipLookAhead) {
        if scan.expected <= covers {
            let why = "a frame is missing that a snapshot says was on stable storage";
            return Err(corrupt(
                tail.get(stop.index).copied().unwrap_or(last.seq),
                stop.offset,
                why,
            ));
        }
        scan.look_ahead(&tail, &stop)?;
    }
    // A segment without a frame of the log goes as a whole.
    let keep = if stop.offset > HEADER_BYTES { stop.index + 1 } else { stop.index };
    let keep = keep.min(tail.len());
    remove.extend(tail[keep..].iter().rev().map(|seq| segment::file_name(*seq)));
    let cut = (keep > stop.index && !stop.full).then(|| (tail[stop.index], stop.offset as u64));
    let repair = Repair { remove, rewrite: std::mem::take(&mut scan.unvouched), cut };
    let next_frame = scan.expected;
    let rebuilt = scan.rebuilt;
    rebuilt.index.built();
    let next_segment = files.next_segment;
    Ok(Found { rebuilt, catalogue, next_frame, next_segment, spares, repair })
}

/// The snapshots of a log.
#[derive(Debug, Default)]
struct Newest {
    /// The newest that is whole.
    snapshot: Option<Snapshot>,
    /// Names of newer ones that are not.
    damaged: Vec<String>,
    /// Why one of the newer ones could not be read.
    refused: Option<OpenError>,
}

fn newest_snapshot(disk: &dyn Disk, snapshots: &[u64], seed: Seed) -> Newest {
    let mut newest = Newest::default();
    for number in snapshots.iter().rev() {
        let name = snapshot::file_name(*number);
        match Snapshot::read(disk, *number, seed) {
            Ok(Some(snapshot)) => {
                newest.snapshot = Some(snapshot);
                break;
            }
            Ok(None) => {
                tracing::warn!(
                    name,
                    "a snapshot is damaged; an older one, or the frames, stand in for it"
                );
                newest.damaged.push(name);
            }
            Err(error) => {
                tracing::warn!(
                    name,
                    %error,
                    "a snapshot cannot be read; an older one, or the frames, stand in for it"
                );
                newest.refused = Some(io_error("read", &name)(error));
            }
        }
    }
    newest
}

/// Holds the segments that are there against those that a snapshot lists.
fn not_needed(
    present: &[u64],
    listed: &[Listed],
    remove: &mut Vec<String>,
) -> Result<(), OpenError> {
    let Some(last) = listed.last() else { return Ok(()) };
    let present: BTreeSet<u64> = present.iter().copied().collect();
    if let Some(missing) = listed.iter().find(|listed| !present.contains(&listed.seq)) {
        return Err(corrupt(
            missing.seq,
            0,
            "it is missing, and a snapshot says that it was there",
        ));
    }
    let listed: BTreeSet<u64> = listed.iter().map(|listed| listed.seq).collect();
    let gone = present.range(..last.seq).filter(|seq| !listed.contains(seq));
    remove.extend(gone.map(|seq| segment::file_name(*seq)));
    Ok(())
}

/// Takes in full segments whose records a snapshot covers.
fn covered(
    disk: &dyn Disk,
    identity: &Identity,
    listed: &[Listed],
    rebuilt: &mut Rebuilt,
    catalogue: &mut Catalogue,
) -> Result<(), OpenError> {
    let seed = Seed::of(identity);
    let seqs: Vec<u64> = listed.iter().map(|listed| listed.seq).collect();
    load::footers(disk, &seqs, seed, |number, found| {
        let listed = listed[number];
        let same = |footer: &Footer| {
            (footer.first_frame, footer.last_frame) == (listed.first_frame, listed.last_frame)
        };
        let (footer, written) = match found.filter(same) {
            Some(footer) => (footer, true),
            None => {
                let loaded = Loaded::read(disk, identity, listed.seq)?;
                (loaded.footer(listed.first_frame, listed.last_frame, seed)?, false)
            }
        };
        rebuilt.locate_only(listed.seq, &footer.items);
        let Footer { first_frame, last_frame, end, .. } = footer;
        let full = Full { first_frame, last_frame, end };
        catalogue.found(listed.seq, full, (!written).then_some(footer));
        rebuilt.index.make_room();
        Ok(())
    })
}

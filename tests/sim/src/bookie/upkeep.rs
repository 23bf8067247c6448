//! What keeps a log in order, as the production task does it, one thing after the other: footers, entries moved out of
//! sparse segments, snapshots, segments given back. Between the two halves of a move or a snapshot anything may happen.

use bytes::Bytes;
use geminga_bookie::log::{Begun, Image, Reclaimed, Relocation, UpkeepError};
use geminga_proto::entry;

use super::process::Process;
use crate::context::{Context, cluster, note};
use crate::truth::Staged;

/// Most bytes that are moved at a time.
const RELOCATE_BYTES: usize = 4_000;

/// What waits until something is durable.
#[derive(Debug)]
pub(super) enum Waiting {
    Relocation(Relocation),
    Snapshot(Box<Begun>),
}

impl Process {
    /// One look. What fails is tried again at the next; a log that failed shows with its next flush.
    pub(super) fn look(&mut self, context: &mut Context) {
        if self.upkeep.is_none()
            && let Err(error) = self.keep(context)
        {
            context.coverage.hit("log: upkeep failed");
            note!(context, "bookie-{}: {error}", self.bookie);
        }
    }

    fn keep(&mut self, context: &mut Context) -> Result<(), UpkeepError> {
        self.log.write_footers_blocking()?;
        let sound = |ledger, id, entry: &Bytes| {
            entry::decode_expecting(cluster(), ledger, id, entry).is_ok()
        };
        if let Some(relocation) = self.log.begin_relocation(RELOCATE_BYTES, &sound)? {
            context.coverage.hit("log: entries moved");
            note!(context, "bookie-{} moves entries, up to {}", self.bookie, relocation.due.0);
            self.stage(relocation.due, Staged::Other);
            self.upkeep = Some(Waiting::Relocation(relocation));
            return Ok(());
        }
        let often = context.settings.snapshots;
        let often = if self.reclaim(context)?.waiting > 0 { 3 * often } else { often };
        if context.dice.chance(often) {
            let image = || {
                let ledgers = self.ledgers.values().map(|slot| slot.state.clone()).collect();
                Some(Image { ledgers, tombstones: self.tombstones.clone() })
            };
            let begun = self.log.begin_snapshot(image);
            self.upkeep = begun.map(|begun| Waiting::Snapshot(Box::new(begun)));
        }
        self.go_on(context)
    }

    fn reclaim(&self, context: &mut Context) -> Result<Reclaimed, UpkeepError> {
        let reclaimed = self.log.reclaim_blocking()?;
        if reclaimed.removed > 0 {
            context.coverage.add("log: segments given back", reclaimed.removed as u64);
            note!(context, "bookie-{} gives {} segments back", self.bookie, reclaimed.removed);
        }
        Ok(reclaimed)
    }

    /// The second half, once its time has come.
    pub(super) fn go_on(&mut self, context: &mut Context) -> Result<(), UpkeepError> {
        let durable = self.log.durable().borrow().lsn;
        match self.upkeep.take() {
            Some(Waiting::Relocation(relocation)) if relocation.due <= durable => {
                drop(relocation);
                self.reclaim(context)?;
            }
            Some(Waiting::Snapshot(begun)) if begun.due <= durable => {
                self.log.finish_snapshot(&begun)?;
                context.coverage.hit("log: snapshot written");
                note!(context, "bookie-{} writes a snapshot", self.bookie);
                self.reclaim(context)?;
            }
            other => self.upkeep = other,
        }
        Ok(())
    }
}

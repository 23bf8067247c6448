//! `under/<ledger>`: members that lack entries of a ledger, or are to be left (protocol 2.5 step 6, 4.3 S7, 3.4, 6.3). Written
//! by writers, recoverers, scrubbers and the auditor, removed by whoever repaired it.

use bytes::Bytes;
use geminga_proto::ids::{EntryId, Incarnation, LedgerId, Member};
use geminga_proto::internal as wire;
use prost::Message;

use super::{FORMAT, Invalid, check_format, counted};

/// Why a ledger was marked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnderReason {
    /// A writer replaced or left out members that had not everything.
    Replaced,
    /// Its writer closed it while members had not everything.
    Closed,
    /// A recoverer closed it while members had not everything.
    Recovered,
    /// A copy is damaged.
    Damaged,
    /// The disk of a member was lost, or its bookie was decommissioned.
    Lost,
    /// A member's bookie was away for too long.
    Gone,
    /// A member's bookie is being decommissioned.
    Draining,
    /// The audit found members that have not everything.
    Behind,
    /// Every copy is there, but somewhere else they would be spread better.
    Misplaced,
}

impl UnderReason {
    /// Whether its members do not come back, or are to be left.
    pub fn replaces(self) -> bool {
        matches!(self, Self::Lost | Self::Gone | Self::Draining)
    }
}

/// An under-replication mark.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Under {
    /// Equals the key.
    pub ledger: LedgerId,
    /// Who lacks entries or is to be left; each once.
    pub members: Vec<Member>,
    /// Those of them in whose places somebody else comes.
    pub replace: Vec<Member>,
    /// Those of them whose copies are rotten in part.
    pub damaged: Vec<Member>,
    /// Members that lack nothing, and whose places may go to somebody who spreads the copies better (6.7). None of the above.
    pub misplaced: Vec<Member>,
    /// Copies that are left of the fragment that has fewest, as far as is known.
    pub copies: Option<u32>,
    /// An entry that no copy is known of.
    pub lost_entry: Option<EntryId>,
    /// Why it was marked first.
    pub reason: UnderReason,
    /// When it was marked first, milliseconds since the Unix epoch; never used for safety.
    pub created_ms: i64,
}

impl Under {
    /// A mark of nobody yet.
    pub fn new(ledger: LedgerId, reason: UnderReason, created_ms: i64) -> Self {
        Self {
            ledger,
            members: Vec::new(),
            replace: Vec::new(),
            damaged: Vec::new(),
            misplaced: Vec::new(),
            copies: None,
            lost_entry: None,
            reason,
            created_ms,
        }
    }

    /// Adds a member; whether that changed anything.
    pub fn add(&mut self, member: &Member, reason: UnderReason) -> bool {
        let mut changed = false;
        let mut add = |list: &mut Vec<Member>| {
            if !list.contains(member) {
                list.push(member.clone());
                changed = true;
            }
        };
        if reason == UnderReason::Misplaced {
            add(&mut self.misplaced);
            return changed;
        }
        add(&mut self.members);
        if reason.replaces() {
            add(&mut self.replace);
        }
        if reason == UnderReason::Damaged {
            add(&mut self.damaged);
        }
        changed
    }

    /// Whether no copy is missing: all that it asks for is that copies move.
    pub fn only_moves(&self) -> bool {
        self.members.is_empty()
    }

    /// The value to store.
    pub fn encode(&self) -> Bytes {
        let member = |m: &Member| wire::EnsembleMember {
            bookie_id: m.bookie.as_str().to_owned(),
            incarnation: m.incarnation.0,
        };
        let reason = match self.reason {
            UnderReason::Replaced => wire::UnderReason::Replaced,
            UnderReason::Closed => wire::UnderReason::Closed,
            UnderReason::Recovered => wire::UnderReason::Recovered,
            UnderReason::Damaged => wire::UnderReason::Damaged,
            UnderReason::Lost => wire::UnderReason::Lost,
            UnderReason::Gone => wire::UnderReason::Gone,
            UnderReason::Draining => wire::UnderReason::Draining,
            UnderReason::Behind => wire::UnderReason::Behind,
            UnderReason::Misplaced => wire::UnderReason::Misplaced,
        };
        let record = wire::UnderRecord {
            format: FORMAT,
            ledger_id: self.ledger.0,
            members: self.members.iter().map(member).collect(),
            reason: reason as i32,
            created_ms: self.created_ms,
            replace: self.replace.iter().map(member).collect(),
            damaged: self.damaged.iter().map(member).collect(),
            misplaced: self.misplaced.iter().map(member).collect(),
            copies: self.copies,
            lost_entry: self.lost_entry.map(|entry| entry.0),
        };
        record.encode_to_vec().into()
    }

    /// Reads the value stored under the key of ledger `id`.
    ///
    /// # Errors
    /// [`Invalid`] when it is not a valid mark of that ledger.
    pub fn decode(id: LedgerId, value: &[u8]) -> Result<Self, Invalid> {
        counted(Self::read(id, value))
    }

    fn read(id: LedgerId, value: &[u8]) -> Result<Self, Invalid> {
        let record =
            wire::UnderRecord::decode(value).map_err(|e| Invalid::Encoding(e.to_string()))?;
        check_format(record.format)?;
        if record.ledger_id != id.0 {
            let why = format!("{:016x} under the key of {id}", record.ledger_id);
            return Err(Invalid::field("ledger_id", why));
        }
        let reason = match record.reason() {
            wire::UnderReason::Replaced => UnderReason::Replaced,
            wire::UnderReason::Closed => UnderReason::Closed,
            wire::UnderReason::Recovered => UnderReason::Recovered,
            wire::UnderReason::Damaged => UnderReason::Damaged,
            wire::UnderReason::Lost => UnderReason::Lost,
            wire::UnderReason::Gone => UnderReason::Gone,
            wire::UnderReason::Draining => UnderReason::Draining,
            wire::UnderReason::Behind => UnderReason::Behind,
            wire::UnderReason::Misplaced => UnderReason::Misplaced,
            wire::UnderReason::Unspecified => return Err(Invalid::field("reason", "missing")),
        };
        let member = |m: wire::EnsembleMember| {
            let bookie =
                m.bookie_id.parse().map_err(|e| Invalid::field("bookie_id", format!("{e}")))?;
            Ok(Member { bookie, incarnation: Incarnation(m.incarnation) })
        };
        let members = |list: Vec<wire::EnsembleMember>| {
            list.into_iter().map(member).collect::<Result<Vec<_>, Invalid>>()
        };
        let (marked, mut damaged) = (members(record.members)?, members(record.damaged)?);
        // Of a version that did not say who: then it may be any of them.
        if reason == UnderReason::Damaged && damaged.is_empty() {
            damaged.clone_from(&marked);
        }
        Ok(Self {
            ledger: id,
            members: marked,
            replace: members(record.replace)?,
            damaged,
            misplaced: members(record.misplaced)?,
            copies: record.copies,
            lost_entry: record.lost_entry.map(EntryId),
            reason,
            created_ms: record.created_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stood there before marks said whose copy is damaged is looked at all over.
    #[test]
    fn a_mark_of_damage_that_names_nobody_means_all_of_them() {
        let members: Vec<Member> = [1, 2]
            .map(|n| Member {
                bookie: format!("b{n}").parse().unwrap(),
                incarnation: Incarnation(n),
            })
            .to_vec();
        for (reason, damaged) in
            [(UnderReason::Damaged, members.clone()), (UnderReason::Replaced, vec![])]
        {
            let mut mark = Under::new(LedgerId(7), reason, 5);
            mark.members = members.clone();
            let read = Under::decode(LedgerId(7), &mark.encode()).unwrap();
            assert_eq!(read, Under { damaged, ..mark });
        }
    }
}

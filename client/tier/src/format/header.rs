//! The first bytes of an object: which ledger it holds, so that a store alone tells what is in it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use geminga_metastore::record::{Custom, LedgerMeta};
use geminga_proto::ids::{ClusterUuid, EntryId, LedgerId, TopicId};

use super::{VERSION, crc};
use crate::error::FormatError;

const MAGIC: u64 = u64::from_be_bytes(*b"GEMINGAT");
/// CRC-32C, keyed with the cluster uuid: the only digest of entries so far.
const DIGEST_CRC32C: u8 = 1;
/// Bytes up to the length.
const START_BYTES: usize = 16;
/// Bytes without the two names.
const FIXED_BYTES: usize = 108;
const CRC_BYTES: usize = 4;
const WHAT: &str = "the header";

/// What an object says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The cluster.
    pub cluster: ClusterUuid,
    /// The upload that made it.
    pub attempt: u128,
    /// The ledger.
    pub ledger: LedgerId,
    /// Copies that bookies had.
    pub qw: u8,
    /// Durable copies before an acknowledgement.
    pub qa: u8,
    /// Its end.
    pub last_entry: EntryId,
    /// What the ledger belongs to.
    pub custom: Custom,
}

impl Header {
    /// The header of a ledger's object; `None` when the ledger is not closed.
    pub fn of(cluster: ClusterUuid, attempt: u128, meta: &LedgerMeta) -> Option<Self> {
        let last_entry = meta.last_entry?;
        let (ledger, custom) = (meta.id, meta.custom.clone());
        Some(Self { cluster, attempt, ledger, qw: meta.qw, qa: meta.qa, last_entry, custom })
    }

    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let (namespace, name) = (clip(&self.custom.namespace), clip(&self.custom.name));
        let length = FIXED_BYTES + namespace.len() + name.len();
        let mut out = BytesMut::with_capacity(length);
        out.put_u64(MAGIC);
        out.put_u16(VERSION);
        out.put_u16(0);
        out.put_u32(u32::try_from(length).expect("two names of 64 KiB at most"));
        out.put_slice(self.cluster.as_bytes());
        out.put_u128(self.attempt);
        out.put_u64(self.ledger.0);
        out.put_slice(&[self.qw, self.qa, DIGEST_CRC32C, 0]);
        out.put_i64(self.last_entry.0);
        out.put_slice(self.custom.topic.as_bytes());
        out.put_u32(self.custom.partition);
        out.put_i64(self.custom.first_offset);
        out.put_i32(self.custom.term);
        for text in [namespace, name] {
            out.put_u16(u16::try_from(text.len()).expect("clipped"));
            out.put_slice(text);
        }
        let sum = crc(&out);
        out.put_u32(sum);
        out.freeze()
    }

    /// From the first bytes of an object; more may follow.
    ///
    /// # Errors
    /// [`FormatError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let short = |want: usize| FormatError::Truncated {
            what: WHAT,
            have: bytes.len() as u64,
            want: want as u64,
        };
        let damaged = |why| FormatError::Damaged { what: WHAT, why };
        let mut start = bytes.get(..START_BYTES).ok_or_else(|| short(START_BYTES))?;
        if start.get_u64() != MAGIC {
            return Err(damaged("its magic"));
        }
        match start.get_u16() {
            VERSION => {}
            newer => return Err(FormatError::Version(newer)),
        }
        start.advance(2);
        let length = start.get_u32() as usize;
        if length < FIXED_BYTES {
            return Err(damaged("its length"));
        }
        let whole = bytes.get(..length).ok_or_else(|| short(length))?;
        let (covered, mut sum) = whole.split_at(length - CRC_BYTES);
        if crc(covered) != sum.get_u32() {
            return Err(damaged("its checksum"));
        }
        let mut rest = &covered[START_BYTES..];
        let cluster = ClusterUuid::from_slice(&take_id(&mut rest)).ok_or(damaged("the cluster"))?;
        let (attempt, ledger) = (rest.get_u128(), LedgerId(rest.get_u64()));
        let (qw, qa) = (rest.get_u8(), rest.get_u8());
        if rest.get_u8() != DIGEST_CRC32C {
            return Err(damaged("the kind of digest"));
        }
        rest.advance(1);
        let last_entry = EntryId(rest.get_i64());
        let topic = TopicId::from_slice(&take_id(&mut rest)).ok_or(damaged("the topic"))?;
        let (partition, first_offset, term) = (rest.get_u32(), rest.get_i64(), rest.get_i32());
        let namespace = text(&mut rest).ok_or(damaged("the namespace"))?;
        let name = text(&mut rest).ok_or(damaged("the name"))?;
        if !rest.is_empty() {
            return Err(damaged("its length"));
        }
        let custom = Custom { topic, namespace, name, partition, first_offset, term };
        Ok(Self { cluster, attempt, ledger, qw, qa, last_entry, custom })
    }
}

/// Sixteen bytes off the front; whoever calls has checked that they are there.
fn take_id(rest: &mut &[u8]) -> [u8; 16] {
    let mut id = [0; 16];
    rest.copy_to_slice(&mut id);
    id
}

/// A name is at most 249 bytes everywhere else.
fn clip(text: &str) -> &[u8] {
    let most = text.len().min(usize::from(u16::MAX));
    &text.as_bytes()[..most]
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::from(rest.try_get_u16().ok()?);
    let (text, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    String::from_utf8(text.to_vec()).ok()
}

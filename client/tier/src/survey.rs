//! What an object says of itself, where there is no metadata that tells (a store that outlived its cluster). Everything is read from
//! its two ends; [`Surveyed::verify`] reads all of it.

use std::sync::Arc;

use geminga_metastore::record::TierObject;
use geminga_proto::ids::ClusterUuid;

use crate::error::{FormatError, ObjectError};
use crate::format::{FOOTER_BYTES, Footer, Header};
use crate::object::Object;
use crate::store::{Listed, ObjectName, Store};

/// Bytes of one read of a verification.
const READ_BYTES: u64 = 8 << 20;

/// An object whose ends were read, and agree with its key.
#[derive(Debug, Clone)]
pub struct Surveyed {
    /// As metadata would refer to it.
    pub at: TierObject,
    /// What it says at its beginning.
    pub header: Header,
    /// And at its end.
    pub footer: Footer,
    /// The offset after its last record.
    pub end_offset: i64,
    /// The largest timestamp of the partition up to its end, milliseconds; -1 when there is none.
    pub running_max_timestamp: i64,
}

impl Surveyed {
    /// Reads the ends of an object that was listed, and its last block.
    ///
    /// # Errors
    /// [`ObjectError`]: it is none, or is damaged, or the store did not deliver it.
    pub async fn read(
        store: &Store,
        cluster: ClusterUuid,
        name: &ObjectName,
        listed: &Listed,
    ) -> Result<Self, ObjectError> {
        let at = TierObject {
            attempt: name.attempt,
            bucket: store.bucket().to_owned(),
            key: listed.key.clone(),
            size: listed.size,
            entries: 0,
            object_crc: 0,
            etag: listed.etag.clone(),
            index_place: 0,
            at_ms: listed.modified_ms,
        };
        let footer_bytes = FOOTER_BYTES as u64;
        let Some(end) = listed.size.checked_sub(footer_bytes) else {
            let (have, want) = (listed.size, footer_bytes);
            return Err(FormatError::Truncated { what: "the object", have, want }.into());
        };
        let footer = Footer::decode(&store.read(&at, end..listed.size).await?, listed.size)?;
        let (entries, object_crc, index_place) =
            (footer.entries, footer.object_crc, footer.index_place);
        let at = TierObject { entries, object_crc, index_place, ..at };
        let object = Object::open(store, name.ledger, Arc::new(at.clone())).await?;
        let header = object.header(store).await?;
        let same = header.cluster == cluster
            && header.custom.topic == name.topic
            && header.custom.partition == name.partition.0
            && header.last_entry == footer.last_entry;
        if !same {
            let why = "it is not the one that its key and its end name";
            return Err(FormatError::Damaged { what: "the header", why }.into());
        }
        let last = object.index().blocks().len() - 1;
        let block = object.block(store, last).await?;
        let entry = block.entry(cluster, name.ledger, footer.last_entry, None)?;
        let attributes = entry.attributes;
        let end_offset = attributes.first_offset.checked_add(i64::from(attributes.offset_count));
        let wrong = FormatError::Damaged { what: "the last entry", why: "its offsets" };
        let end_offset =
            end_offset.filter(|end| *end >= header.custom.first_offset).ok_or(wrong)?;
        let running_max_timestamp = attributes.running_max_timestamp;
        Ok(Self { at, header, footer, end_offset, running_max_timestamp })
    }

    /// Whether two uploads of one ledger have the same content. They do where it was closed once; metadata that went back to a backup may
    /// have closed it twice.
    pub fn is_same(&self, other: &Self) -> bool {
        let of = |one: &Self| {
            let Footer { entries, last_entry, length, entries_crc, .. } = one.footer;
            (entries, last_entry, length, entries_crc, one.end_offset)
        };
        of(self) == of(other)
    }

    /// Reads all of it, and holds it against its checksum.
    ///
    /// # Errors
    /// [`ObjectError`].
    pub async fn verify(&self, store: &Store) -> Result<(), ObjectError> {
        let end = self.at.size - FOOTER_BYTES as u64;
        let (mut place, mut sum) = (0, 0);
        while place < end {
            let next = end.min(place + READ_BYTES);
            sum = crc32c::crc32c_append(sum, &store.read(&self.at, place..next).await?);
            place = next;
        }
        if sum != self.footer.object_crc {
            return Err(FormatError::Damaged { what: "the object", why: "its checksum" }.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use geminga_metastore::record::Custom;
    use geminga_proto::ids::{EntryId, LedgerId, PartitionIndex, TopicId};

    use super::*;
    use crate::SegmentWriter;
    use crate::testing::{cluster, entries};

    async fn stored(store: &Store, attempt: u128) -> (ObjectName, Bytes) {
        let custom = Custom {
            topic: TopicId::from_random(3),
            namespace: "default".to_owned(),
            name: "flights".to_owned(),
            partition: 2,
            first_offset: 100,
            term: 4,
        };
        let ledger = LedgerId(9);
        let sizes = vec![400_000; 6];
        let last_entry = EntryId(sizes.len() as i64 - 1);
        let header =
            Header { cluster: cluster(), attempt, ledger, qw: 3, qa: 2, last_entry, custom };
        let mut writer = SegmentWriter::new(&header);
        for entry in entries(ledger, &sizes) {
            writer.push(&entry).unwrap();
        }
        let (bytes, _) = writer.finish().unwrap();
        let key = store.key(cluster(), &header.custom, ledger, attempt);
        store.upload(&key).complete(bytes.clone()).await.unwrap();
        let (of, name) = store.parse_any_key(&key).unwrap();
        assert_eq!(of, cluster());
        assert_eq!((name.topic, name.partition), (header.custom.topic, PartitionIndex(2)));
        (name, bytes)
    }

    fn memory() -> Store {
        Store::open("memory:///", &crate::Options::default(), []).unwrap()
    }

    #[tokio::test]
    async fn an_object_tells_all_that_its_metadata_did() {
        let store = memory();
        let (name, bytes) = stored(&store, 5).await;
        let key = store.key(
            cluster(),
            &Custom { topic: name.topic, partition: 2, ..Custom::default() },
            name.ledger,
            5,
        );
        let listed = store.head(&key).await.unwrap().unwrap();
        let read = Surveyed::read(&store, cluster(), &name, &listed).await.unwrap();
        assert_eq!((read.header.custom.first_offset, read.end_offset), (100, 112));
        assert_eq!((read.footer.entries, read.at.size), (6, bytes.len() as u64));
        read.verify(&store).await.unwrap();
        // Another cluster's entries fail: their digests are keyed with it.
        let other = ClusterUuid::from_slice(&[6; 16]).unwrap();
        Surveyed::read(&store, other, &name, &listed).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_changed_byte_is_found_by_reading_all() {
        let store = memory();
        let (name, bytes) = stored(&store, 5).await;
        let custom = Custom { topic: name.topic, partition: 2, ..Custom::default() };
        let key = store.key(cluster(), &custom, name.ledger, 6);
        let (_, name) = store.parse_any_key(&key).unwrap();
        // The header names another upload: the object was moved by hand.
        store.upload(&key).complete(bytes.clone()).await.unwrap();
        let listed = store.head(&key).await.unwrap().unwrap();
        Surveyed::read(&store, cluster(), &name, &listed).await.unwrap_err();

        let store = memory();
        let key = store.key(cluster(), &custom, name.ledger, 5);
        let mut bad = bytes.to_vec();
        bad[500_000] ^= 1;
        store.upload(&key).complete(bad.into()).await.unwrap();
        let (_, name) = store.parse_any_key(&key).unwrap();
        let listed = store.head(&key).await.unwrap().unwrap();
        let read = Surveyed::read(&store, cluster(), &name, &listed).await.unwrap();
        assert!(matches!(
            read.verify(&store).await,
            Err(ObjectError::Format(FormatError::Damaged { what: "the object", .. }))
        ));
    }

    #[test]
    fn what_is_no_segment_has_no_name() {
        let store = memory();
        for key in ["x", "a/b/c/d/e.seg", "00000000-0000-4000-8000-000000000001/t/0/1/2.manifest"] {
            assert_eq!(store.parse_any_key(key), None, "{key}");
        }
    }
}

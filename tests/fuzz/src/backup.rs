//! A backup of the metadata: a file that may have been anywhere since.

use std::collections::BTreeMap;

use bytes::Bytes;
use geminga_metastore::Revision;
use geminga_metastore::backup::Backup;
use geminga_proto::ids::ClusterUuid;

use crate::Target;

/// A backup, without its checksum: that is made to fit, or nothing behind it would be reached.
pub(crate) const BACKUP: Target = Target { name: "backup", run, seeds };

const CRC_BYTES: usize = 4;

fn run(data: &[u8]) {
    let _ = Backup::decode(&Bytes::copy_from_slice(data));
    let bytes = [data, &crc32c::crc32c(data).to_be_bytes()].concat();
    let Ok(backup) = Backup::decode(&bytes.into()) else { return };
    assert_eq!(Backup::decode(&backup.encode()), Ok(backup));
}

fn seeds() -> Vec<Bytes> {
    let items = [("cluster", "a value"), ("topics/default/t", ""), ("x", "y")];
    let of = |items: &[(&str, &'static str)]| {
        let item = |(key, value): &(&str, &'static str)| {
            ((*key).to_owned(), Bytes::from_static(value.as_bytes()))
        };
        let backup = Backup {
            cluster: ClusterUuid::from_random(2),
            revision: Revision(77),
            taken_ms: 1_700_000_000_000,
            items: items.iter().map(item).collect::<BTreeMap<_, _>>(),
        };
        let file = backup.encode();
        file.slice(..file.len() - CRC_BYTES)
    };
    vec![of(&[]), of(&items)]
}

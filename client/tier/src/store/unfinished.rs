//! What uploads leave in a directory that are killed before their end: files beside the object, which no listing names.
//!
//! `object_store` writes `X.seg` as `X.seg#1` and renames it at last. S3 and others have lifecycle rules for parts of unfinished uploads
//! (protocol 7.4, step 3), a directory has nobody.
//!
//! * Only a file counts that lies where this cluster's objects do, and whose name is that of one, `#` and digits.
//! * An upload that still runs, and whose file is removed all the same, fails when it is to be published: there is nothing to rename.

use std::fs::DirEntry;
use std::io;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use geminga_proto::ids::ClusterUuid;
use object_store::local::LocalFileSystem;

use super::Store;
use crate::error::ObjectError;

/// Directories between that of a cluster and its files: topic, partition, ledger.
const LEVELS: usize = 3;

/// One look through the files of a cluster.
struct Look<'a> {
    store: &'a Store,
    cluster: ClusterUuid,
    now_ms: i64,
    age_ms: i64,
    most: usize,
    removed: usize,
}

impl Store {
    /// Removes the files of this cluster's uploads that nobody has written to for `age`, at most so many; how many. None where objects are in no
    /// directory. Whoever stops waiting ends nothing.
    ///
    /// # Errors
    /// [`ObjectError`]: some may be removed all the same.
    pub async fn remove_unfinished(
        &self,
        cluster: ClusterUuid,
        now_ms: i64,
        age: Duration,
        most: usize,
    ) -> Result<usize, ObjectError> {
        let Some(files) = self.files.clone() else { return Ok(0) };
        let store = self.clone();
        let looking = tokio::task::spawn_blocking(move || {
            let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            let mut look = Look { store: &store, cluster, now_ms, age_ms, most, removed: 0 };
            look.through(&files)
        });
        let looked = looking.await.map_err(|error| ObjectError::Store(error.to_string()))?;
        looked.map_err(|error| ObjectError::Store(format!("files of unfinished uploads: {error}")))
    }

    /// Whether this is the key of an object of the cluster, with what its file is called before it is published.
    fn is_unfinished(&self, cluster: ClusterUuid, key: &str) -> bool {
        let Some((object, number)) = key.rsplit_once('#') else { return false };
        let numbered = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let named = self.parse_key(cluster, object).is_some()
            || self.parse_manifest_key(cluster, object).is_some();
        numbered && named
    }
}

impl Look<'_> {
    fn through(&mut self, files: &LocalFileSystem) -> io::Result<usize> {
        let root = self.store.root(self.cluster);
        let dir = files.path_to_filesystem(&root).map_err(io::Error::other)?;
        self.below(&dir, root.as_ref(), LEVELS)?;
        Ok(self.removed)
    }

    fn below(&mut self, dir: &Path, key: &str, levels: usize) -> io::Result<()> {
        let entries = match std::fs::read_dir(dir) {
            Ok(entries) => entries,
            // Nothing was uploaded yet, or it was removed meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for entry in entries {
            if self.removed >= self.most {
                return Ok(());
            }
            let entry = entry?;
            let name = entry.file_name();
            // No object is called by what is no text.
            let Some(name) = name.to_str() else { continue };
            let key = format!("{key}/{name}");
            let looked = entry.file_type().and_then(|kind| match levels {
                0 if kind.is_file() && self.store.is_unfinished(self.cluster, &key) => {
                    self.remove(&entry, &key)
                }
                0 => Ok(()),
                _ if kind.is_dir() => self.below(&entry.path(), &key, levels - 1),
                _ => Ok(()),
            });
            match looked {
                Ok(()) => {}
                // It was published meanwhile, or given up.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // It must not keep others from being removed.
                Err(error) => {
                    tracing::warn!(key, %error, "what uploads left cannot be looked for here");
                }
            }
        }
        Ok(())
    }

    /// Removes it if it is old enough. One that is gone was published, or given up.
    fn remove(&mut self, entry: &DirEntry, key: &str) -> io::Result<()> {
        let removed = entry.metadata().and_then(|found| {
            let written = found.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            let written_ms = i64::try_from(written.as_millis()).unwrap_or(i64::MAX);
            let old = self.now_ms.saturating_sub(written_ms) >= self.age_ms;
            if old {
                std::fs::remove_file(entry.path())?;
            }
            Ok(old)
        });
        match removed {
            Ok(true) => {
                tracing::info!(key, "what an upload left that never ended was removed");
                self.removed += 1;
            }
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use geminga_metastore::record::Custom;
    use geminga_proto::ids::{LedgerId, TopicId};

    use super::*;
    use crate::store::Options;
    use crate::testing;

    const NOW_MS: i64 = i64::MAX / 2;
    const AGE: Duration = Duration::from_secs(60);

    fn open(dir: &Path) -> Store {
        let url = format!("file://{}/a b", dir.display());
        Store::open(&url, &Options::default(), []).unwrap()
    }

    fn key(store: &Store, cluster: ClusterUuid, attempt: u128) -> String {
        let custom = Custom { topic: TopicId::from_random(9), partition: 2, ..Custom::default() };
        store.key(cluster, &custom, LedgerId(42), attempt)
    }

    /// Where the file of an object is, under another name.
    fn beside(dir: &Path, key: &str, name: &str) -> std::path::PathBuf {
        let files = LocalFileSystem::new();
        let object = files.path_to_filesystem(&object_store::path::Path::from(key)).unwrap();
        assert!(object.starts_with(dir), "{}", object.display());
        std::fs::create_dir_all(object.parent().unwrap()).unwrap();
        object.with_file_name(name)
    }

    fn files_of(dir: &Path) -> usize {
        let of = |entry: DirEntry| match entry.file_type().unwrap().is_dir() {
            true => files_of(&entry.path()),
            false => 1,
        };
        std::fs::read_dir(dir).unwrap().map(|entry| of(entry.unwrap())).sum()
    }

    /// As a process leaves it that is killed; then as one that only stood still.
    #[tokio::test]
    async fn what_a_dead_upload_left_goes_and_a_late_one_publishes_nothing() {
        let (dir, cluster) = (tempfile::tempdir().unwrap(), testing::cluster());
        let store = open(dir.path());
        let key = key(&store, cluster, 1);
        let mut upload = store.upload(&key);
        upload.part(Bytes::from_static(b"part")).await.unwrap();
        upload.wait_for_part().await.unwrap();
        assert_eq!(files_of(dir.path()), 1, "not as it was thought to be");
        // Written just now, and so by somebody who may live.
        let now_ms = i64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
        assert_eq!(store.remove_unfinished(cluster, now_ms, AGE, 10).await.unwrap(), 0);
        let of_another = ClusterUuid::from_random(77);
        assert_eq!(store.remove_unfinished(of_another, NOW_MS, AGE, 10).await.unwrap(), 0);
        assert_eq!(store.remove_unfinished(cluster, NOW_MS, AGE, 10).await.unwrap(), 1);
        assert_eq!(files_of(dir.path()), 0);
        upload.complete(Bytes::new()).await.unwrap_err();
        assert_eq!((store.head(&key).await.unwrap(), files_of(dir.path())), (None, 0));
    }

    #[tokio::test]
    async fn nothing_else_goes_and_no_more_than_was_said() {
        let (dir, cluster) = (tempfile::tempdir().unwrap(), testing::cluster());
        let store = open(dir.path());
        let object = key(&store, cluster, 7);
        store.upload(&object).complete(Bytes::from_static(b"whole")).await.unwrap();
        let (topic, partition) = (TopicId::from_random(9), 2_u32.into());
        let manifest = store.manifest_key(cluster, topic, partition, 8);
        let name = |key: &str| key.rsplit_once('/').unwrap().1.to_owned();
        let (segment, list) = (name(&object), name(&manifest));
        for other in ["#1", "#", "#x", "#1x", "#1.bak", ".tmp#1", "x#1"] {
            let name = match other {
                "#1" => "notes#1".to_owned(),
                other => format!("{segment}{other}"),
            };
            std::fs::write(beside(dir.path(), &object, &name), name).unwrap();
        }
        // A list's file is not below a ledger, nor a segment's among the lists.
        std::fs::write(beside(dir.path(), &object, &format!("{list}#1")), "x").unwrap();
        std::fs::write(beside(dir.path(), &manifest, &format!("{segment}#1")), "x").unwrap();
        std::fs::create_dir(beside(dir.path(), &object, &format!("{segment}#9"))).unwrap();
        let kept = files_of(dir.path());
        std::fs::write(beside(dir.path(), &manifest, &format!("{list}#3")), "x").unwrap();
        for number in 1..=3 {
            std::fs::write(beside(dir.path(), &object, &format!("{segment}#{number}")), "x")
                .unwrap();
        }
        for expected in [2, 2, 0] {
            let removed = store.remove_unfinished(cluster, NOW_MS, AGE, 2).await.unwrap();
            assert_eq!(removed, expected);
        }
        assert_eq!(files_of(dir.path()), kept);
        assert!(store.head(&object).await.unwrap().is_some());
        let memory = Store::open("memory://", &Options::default(), []).unwrap();
        assert_eq!(memory.remove_unfinished(cluster, NOW_MS, AGE, 10).await.unwrap(), 0);
    }
}

//! A small file system of its own, in memory, that a test can fill. Mounting needs root; a test that needs one and does not
//! get it fails, so that nobody takes it for passed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system; unmounted when dropped, whoever still uses it.
#[derive(Debug)]
pub(crate) struct Volume {
    dir: PathBuf,
}

impl Volume {
    /// Mounts one of `bytes` at `dir`, which is created.
    ///
    /// # Panics
    /// When that is not allowed.
    pub(crate) fn mount(dir: &Path, bytes: u64) -> Self {
        std::fs::create_dir_all(dir).expect("a directory");
        let size = format!("size={bytes}");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir).status();
        let mounted = mounted.expect("mount can be run");
        assert!(mounted.success(), "a small file system cannot be mounted: run this test as root");
        Self { dir: dir.to_owned() }
    }

    /// Fills it to so many percent by a file of somebody else's.
    ///
    /// # Panics
    /// When there is no room for that.
    pub(crate) fn fill(&self, percent: u64) {
        let space = rustix::fs::statvfs(&self.dir).expect("a file system");
        let bytes = |blocks: u64| blocks * space.f_frsize;
        let used = bytes(space.f_blocks - space.f_bavail);
        let more = (bytes(space.f_blocks) * percent / 100).saturating_sub(used);
        let file = File::create(self.dir.join("of-somebody-else")).expect("a file");
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, more).expect("room for it");
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Detached, since a killed process can take a moment to let go.
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.dir).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            eprintln!("{} is still mounted", self.dir.display());
        }
    }
}

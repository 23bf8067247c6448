//! Where the program under test is.

use std::path::{Path, PathBuf};

/// The `geminga` binary: `GEMINGA_BIN`, or the one in the target directory that the running test or program is in.
///
/// # Panics
/// When it is not there.
pub fn geminga() -> PathBuf {
    if let Some(path) = std::env::var_os("GEMINGA_BIN") {
        return PathBuf::from(path);
    }
    let here = std::env::current_exe().expect("a running program has a path");
    let here = here.parent().expect("a program is in a directory");
    // target/<profile>/<program>, or target/<profile>/deps/<test>
    let profile = if here.ends_with("deps") { here.parent().unwrap_or(here) } else { here };
    let binary = profile.join("geminga");
    assert!(
        binary.is_file(),
        "{} is not there: run `make e2e`, or build it with `cargo build --bin geminga`, or set GEMINGA_BIN",
        binary.display()
    );
    binary
}

/// The binary of an earlier version, `GEMINGA_OLD_BIN`, which `tests/skew/run` builds.
pub fn old_geminga() -> Option<PathBuf> {
    std::env::var_os("GEMINGA_OLD_BIN").map(PathBuf::from)
}

/// The root of the repository.
///
/// # Panics
/// When the sources were moved since the build.
pub fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("this package is in tests/harness").to_owned()
}

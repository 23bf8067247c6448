//! Places where a test has a process killed, as a machine that loses power would: with SIGKILL, in the middle of its work. Test-only, like
//! the switches of rules: without the feature `mutations` a place costs nothing and does nothing.
//!
//! `GEMINGA_FAIL_POINTS` in a process's environment is a directory. Who comes to a place and can remove the file of its name from there is
//! killed: a test makes the file while processes run, one of them dies, and all others, that one too when it is started again, go on.

/// Ends the process here if a test asked for it. Blocks until the kernel has.
#[cfg(feature = "mutations")]
pub fn fail_point(name: &str) {
    use std::sync::OnceLock;

    static DIRECTORY: OnceLock<Option<std::ffi::OsString>> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| std::env::var_os("GEMINGA_FAIL_POINTS"));
    if let Some(directory) = directory
        && std::fs::remove_file(std::path::Path::new(directory).join(name)).is_ok()
    {
        kill_self();
    }
}

/// Nothing: only tests ask for more.
#[cfg(not(feature = "mutations"))]
#[inline]
pub fn fail_point(_name: &str) {}

/// No destructor runs, nothing is flushed, nobody is told.
#[cfg(feature = "mutations")]
fn kill_self() {
    let id = std::process::id().to_string();
    // Whatever comes of it: the process does not go on.
    let _ended = std::process::Command::new("kill").args(["-9", &id]).status();
    std::process::abort();
}

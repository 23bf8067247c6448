//! The allocator, and the one thing about it that is not its default.

use libmimalloc_sys::{mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc 3, which the crate does not name.
const PURGE_DELAY: mi_option_t = 15;
/// How long free memory is kept before it is given back to the system, milliseconds. Buffers of a megabyte come and go all the
/// time: with the default of a second, clearing the pages that were given back and taken again was a quarter of what a
/// loaded server did. An idle one still gives it back.
const KEEP_MS: std::ffi::c_long = 10_000;

/// To be called once, first.
#[allow(unsafe_code, reason = "the option can be set in no other way")]
pub(crate) fn set_up() {
    // SAFETY: stores a number in a table of the allocator's, under an index that is in it; no other thread runs yet.
    unsafe { mi_option_set(PURGE_DELAY, KEEP_MS) };
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::{mi_option_get, mi_version};

    use super::*;

    /// The index belongs to this version.
    #[test]
    #[allow(unsafe_code, reason = "as above")]
    fn the_option_is_the_one_meant() {
        // SAFETY: both read numbers.
        let (version, before) = unsafe { (mi_version(), mi_option_get(PURGE_DELAY)) };
        assert!((30_000..40_000).contains(&version), "{version}");
        assert!([1_000, KEEP_MS].contains(&before), "the default is a second, not {before}");
        set_up();
        // SAFETY: reads a number.
        assert_eq!(unsafe { mi_option_get(PURGE_DELAY) }, KEEP_MS);
    }
}

//! See `geminga_fuzz::TARGETS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| (geminga_fuzz::target("object_footer").run)(data));

//! The targets as an ordinary test: their seeds, the files of the corpus, and changed copies of both.

use std::path::Path;

use bytes::Bytes;
use geminga_fuzz::{TARGETS, Target, mutate};
use geminga_runtime::{Random, SeededRandom, SystemRandom};

/// Changed copies of each input.
const COPIES: u32 = 2_000;

/// `GEMINGA_FUZZ_SEED` repeats a run.
fn seed() -> u64 {
    let told = std::env::var("GEMINGA_FUZZ_SEED").ok().and_then(|seed| seed.parse().ok());
    told.unwrap_or_else(|| SystemRandom.next_u64())
}

fn inputs(target: &Target) -> Vec<Bytes> {
    let mut inputs = (target.seeds)();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let files = std::fs::read_dir(&dir).into_iter().flatten();
    let read = |path| std::fs::read(path).expect("a file of the corpus can be read");
    inputs.extend(files.flatten().map(|file| Bytes::from(read(file.path()))));
    inputs
}

#[test]
fn no_decoder_breaks_under_changed_input() {
    let seed = seed();
    println!("GEMINGA_FUZZ_SEED={seed}");
    let random = SeededRandom::new(seed);
    for target in TARGETS {
        for input in inputs(target) {
            (target.run)(&input);
            for _ in 0..COPIES {
                let changed = mutate(&input, &random);
                let broke = std::panic::catch_unwind(|| (target.run)(&changed)).is_err();
                assert!(
                    !broke,
                    "{} broke with GEMINGA_FUZZ_SEED={seed}; keep the input in corpus/{}: {changed:02x?}",
                    target.name, target.name
                );
            }
        }
    }
}

#[test]
fn every_target_has_its_file_for_cargo_fuzz() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer");
    let manifest = std::fs::read_to_string(dir.join("Cargo.toml")).unwrap();
    for Target { name, .. } in TARGETS {
        let file = dir.join("fuzz_targets").join(format!("{name}.rs"));
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(text.contains(&format!("target(\"{name}\")")), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in the manifest");
    }
}

//! A minute of chaos with every change, with a new seed each time. `CHAOS_SEED` and `CHAOS_SECONDS` say otherwise.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use geminga_check::Property;
use geminga_harness::binary::repository;
use geminga_runtime::{Random, SystemRandom};

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// The program, since it starts itself in namespaces, and its clients as processes.
#[test]
fn what_was_promised_is_kept_while_things_go_wrong() {
    let seed = setting("CHAOS_SEED").unwrap_or_else(|| SystemRandom.below(1_000_000));
    let seconds = setting("CHAOS_SECONDS").unwrap_or(60);
    let dir = std::env::temp_dir().join(format!("geminga-chaos-{seed}-{}", std::process::id()));
    println!("seed {seed}; again: make chaos SECONDS={seconds} SEED={seed}");
    println!("logs and history, kept if this fails: {}", dir.display());
    let output = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args([format!("--seed={seed}"), format!("--seconds={seconds}")])
        .arg("--dir")
        .arg(&dir)
        .output()
        .expect("the program of this package");
    let [said, complained] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    println!("{said}");
    assert!(output.status.success(), "{}: {complained}", output.status);
    fs::remove_dir_all(&dir).expect("its own directory");
}

/// What is written between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn each_promise_names_tests_that_exist() {
    let read = |path: &str| {
        fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    };
    let semantics = read("docs/semantics.md");
    let known: BTreeSet<&str> = Property::ALL.map(Property::name).into();
    let mut named = BTreeSet::new();
    let rows = semantics.lines().filter(|line| line.starts_with("| ")).skip(1);
    for row in rows.filter(|row| !row.ends_with("| shown by |")) {
        let shown = row.trim_end_matches(" |").rsplit(" | ").next().expect("a row has columns");
        assert!(quoted(shown).next().is_some(), "nothing shows this: {row}");
        for one in quoted(shown) {
            if let Some(property) = one.strip_prefix("chaos: ") {
                assert!(known.contains(property), "{property} is no property of the checker");
                named.insert(property);
            } else {
                let (path, test) = one.split_once("::").unwrap_or_else(|| panic!("no test: {one}"));
                assert!(read(path).contains(&format!("fn {test}(")), "{path} has no test {test}");
            }
        }
    }
    // And what the checker looks for is promised somewhere, and documented.
    assert_eq!(named, known);
    let testing = read("docs/testing.md");
    let documented: BTreeSet<&str> = testing
        .lines()
        .skip_while(|line| *line != "<!-- properties -->")
        .skip_while(|line| !line.starts_with("| `"))
        .map_while(|line| quoted(line.strip_prefix("| ")?).next())
        .collect();
    assert_eq!(documented, known);
}

//! Plays the scenarios to a standalone server and compares with what Apache Kafka answered. With `GEMINGA_ORACLE_RECORD=HOST:PORT`
//! it plays them to the Kafka there instead, and keeps the answers: `tests/conformance/oracle/record` does that.

use std::path::{Path, PathBuf};
use std::time::Duration;

use geminga_harness::{Process, binary, http, port, wait};
use geminga_oracle::{Differences, Script, Transcript, all, compare};

/// How long an answer may take: some requests Kafka never answers.
const RECORDING: Duration = Duration::from_secs(4);
const PLAYING: Duration = Duration::from_secs(30);

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn file(scenario: &str) -> PathBuf {
    here("transcripts").join(format!("{scenario}.txt"))
}

/// A standalone server, with what scenarios expect of a broker; ends with the value.
fn standalone(dir: &Path) -> (Process, String) {
    let (kafka, probes) = (port::free_address(), port::free_address());
    let args = [
        "standalone".to_owned(),
        format!("--data-dir={}", dir.join("data").display()),
        format!("--grpc={}", port::free_address()),
        format!("--http={probes}"),
        format!("--kafka={kafka}"),
        "--auto-create-topics=false".to_owned(),
        "--default-partitions=1".to_owned(),
    ];
    let mut process = Process::start("standalone", &binary::geminga(), args, dir);
    wait::until("the server", || {
        assert!(process.is_running(), "it ended instead of getting ready");
        http::is_ready(&probes).then_some(())
    });
    (process, kafka)
}

#[test]
fn answers_are_those_of_kafka() {
    let wanted = std::env::var("GEMINGA_ORACLE_SCENARIO").ok().filter(|name| !name.is_empty());
    let scenarios = all().iter().filter(|s| wanted.as_ref().is_none_or(|name| name == s.name));
    if let Ok(address) = std::env::var("GEMINGA_ORACLE_RECORD") {
        let version = std::env::var("GEMINGA_ORACLE_VERSION").expect("which Kafka it is");
        for scenario in scenarios {
            let mut script = Script::new(&address, RECORDING);
            (scenario.play)(&mut script);
            let head = format!(
                "# Answers of Apache Kafka {version}, recorded; made by tests/conformance/oracle/record\n"
            );
            std::fs::write(file(scenario.name), head + &script.finish().text()).expect("writable");
        }
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (_process, address) = standalone(dir.path());
    let text = std::fs::read_to_string(here("differences.txt")).expect("the list");
    let (mut known, mut wrong, mut played) = (Differences::read(&text), Vec::new(), Vec::new());
    for scenario in scenarios {
        let kept = std::fs::read_to_string(file(scenario.name)).expect("a transcript: record it");
        let mut script = Script::new(&address, PLAYING);
        (scenario.play)(&mut script);
        wrong.extend(compare(
            scenario.name,
            &Transcript::read(&kept),
            &script.finish(),
            &mut known,
        ));
        played.push(scenario.name);
    }
    let idle = known.unused(&played);
    assert!(wrong.is_empty(), "{} answers differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(idle.is_empty(), "differences that are none any more:\n{}", idle.join("\n"));
}

//! The binary as a process, without any server: help, exit codes, and where settings come from.

mod metadata;
mod standalone;

use std::process::{Command, Output};

fn geminga(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_geminga"));
    command.args(args).env_clear().envs(variables.iter().copied());
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is text")
}

#[test]
fn a_flag_wins_over_a_variable_and_a_variable_over_the_file() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("geminga.toml");
    std::fs::write(&file, "data-dir = 'file'\ngrpc = '127.0.0.1:1'\nhttp = '127.0.0.1:2'\n")
        .expect("writable");
    let output = geminga(
        &["standalone", "--print-config", "--http", "127.0.0.1:4"],
        &[
            ("GEMINGA_CONFIG", file.to_str().expect("a plain path")),
            ("GEMINGA_GRPC", "127.0.0.1:3"),
            ("GEMINGA_HTTP", "127.0.0.1:3"),
            ("GEMINGA_INSECURE", "true"),
        ],
    );
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown: toml::Table = text(&output.stdout).parse().expect("TOML");
    assert_eq!(shown["data-dir"].as_str(), Some("file"));
    assert_eq!(shown["grpc"].as_str(), Some("127.0.0.1:3"));
    assert_eq!(shown["http"].as_str(), Some("127.0.0.1:4"));
    assert_eq!(shown["insecure"].as_bool(), Some(true));
    assert_eq!(shown["log"]["filter"].as_str(), Some("info"));
}

#[test]
fn a_wrong_variable_is_named() {
    let output = geminga(
        &["bookie", "--metastore", "etcd://a:1", "--print-config"],
        &[("GEMINGA_LISTEN", "everywhere"), ("GEMINGA_DATA_DIR", "x")],
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--listen"), "{}", text(&output.stderr));
}

/// What is not read from a terminal is the log of a pod: usage and hints are for those who type.
#[test]
fn what_a_server_cannot_be_told_is_said_in_one_line() {
    for (args, expected) in [
        (
            &["bookie", "--listen", "everywhere"][..],
            "error: invalid value 'everywhere' for '--listen",
        ),
        (&["serving", "--gprc=127.0.0.1:1"], "error: unexpected argument '--gprc' found"),
        (&["serving", "--tls-client-auth", "maybe"], "[possible values: none, required]"),
        (&["standalone", "--max-producers"], "a value is required for '--max-producers"),
    ] {
        let output = geminga(args, &[]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains(expected), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    }
    // Whoever types a command sees how it is used.
    let stderr = text(&geminga(&["topic", "lost"], &[]).stderr);
    assert!(stderr.contains("Usage: "), "{stderr}");
    let help = geminga(&["bookie", "--help"], &[]);
    assert_eq!((help.status.code(), help.stderr.len()), (Some(0), 0));
    assert!(text(&help.stdout).contains("Usage: "));
}

#[test]
fn wrong_configuration_exits_with_2_and_one_line() {
    for (args, expected) in [
        (&["standalone"][..], "error: --data-dir is missing"),
        (&["standalone", "--data-dir", "x", "--grpc", "0.0.0.0:7070"], "add --insecure"),
        (&["standalone", "--config", "no/such/file"], "cannot be read"),
        (&["serving", "--metastore", "file://x"], "a file serves one process only"),
        (
            &["standalone", "--data-dir", "x", "--log-filter", "a=b=c"],
            "--log-filter `a=b=c` is not a level",
        ),
    ] {
        let output = geminga(args, &[]);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(expected), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    }
}

#[test]
fn help_shows_the_exit_codes() {
    let output = geminga(&["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stdout).contains("Exit codes:"));
}

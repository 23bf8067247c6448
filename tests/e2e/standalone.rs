//! Everything in one process, as a newcomer meets it.

use std::process::Command;

use geminga_harness::{Client, Process, Running, binary, http, port, wait};
use tempfile::TempDir;

/// A standalone server that was configured by a file and by flags.
struct Standalone {
    // Before the directory that it writes to.
    process: Process,
    grpc: String,
    http: String,
    dir: TempDir,
}

impl Standalone {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (grpc, http) = (port::free_address(), port::free_address());
        let file = dir.path().join("geminga.toml");
        // The flag wins over this one.
        let elsewhere = port::free_address();
        let text = format!(
            "data-dir = '{}'\ngrpc = '{grpc}'\nhttp = '{elsewhere}'\n[log]\nformat = 'json'\n",
            dir.path().join("data").display()
        );
        std::fs::write(&file, text).expect("writable");
        let file = file.to_str().expect("a plain path");
        let args = ["standalone", "--config", file, "--http", &http, "--kafka=127.0.0.1:0"];
        let process = Process::start("standalone", &binary::geminga(), args, dir.path());
        let mut server = Self { process, grpc, http, dir };
        server.wait_ready();
        assert!(http::get(&elsewhere, "/livez").is_none(), "the file won over the flag");
        server
    }

    fn wait_ready(&mut self) {
        wait::until("the standalone server", || {
            assert!(self.process.is_running(), "it ended instead of getting ready");
            http::is_ready(&self.http).then_some(())
        });
    }

    fn client(&self) -> Client {
        Client::new(&self.grpc, self.dir.path())
    }
}

#[test]
fn the_lines_that_it_prints_work_as_they_are() {
    let mut server = Standalone::start();
    let said = server.process.log();
    assert!(said.contains(&server.grpc) && said.contains(&server.http), "{said}");
    let lines: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    assert_eq!(lines.len(), 3, "{said}");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let run = |line: &str| {
        let mut shell = Command::new("sh");
        // From elsewhere, and without anything that a developer's shell may have set.
        shell.current_dir("/").env_clear().env("PATH", "/usr/bin:/bin").args(["-c", line]);
        let ended = Running::command(shell, "sh", dir.path()).finish();
        assert_eq!(ended.code, Some(0), "{line}: {}", ended.stderr);
        String::from_utf8(ended.stdout).expect("text")
    };
    let read: Vec<String> = lines.iter().map(|line| run(line)).collect();
    assert!(read[0].contains("single copy"), "{}", read[0]);
    assert_eq!(read[2], "hello\n");
    assert_eq!(server.process.terminate().code(), Some(0));
}

#[test]
fn everything_is_there_after_a_stop_and_after_a_crash() {
    let mut server = Standalone::start();
    let client = server.client();
    client.run(&["topic", "create", "t", "--partitions", "3"]).ok();
    let mut lines = Vec::new();
    let group = ["consume", "t", "--group", "g", "--from-beginning", "--until-end"];
    for round in 0..4 {
        let new: Vec<String> = (0..100).map(|n| format!("{round}-{n:03}")).collect();
        client.run_with(&["produce", "t"], (new.join("\n") + "\n").as_bytes()).ok();
        lines.extend(new.iter().cloned());
        if round % 2 == 0 {
            assert_eq!(server.process.terminate().code(), Some(0), "{}", server.process.log());
        } else {
            server.process.kill();
        }
        server.process.restart();
        server.wait_ready();
        assert_eq!(sorted(client.run(&group).ok()), new, "what the group had not read");
        let all = client.run(&["consume", "t", "--from-beginning", "--until-end"]).ok();
        assert_eq!(sorted(all), lines, "round {round}");
    }
}

fn sorted(read: Vec<u8>) -> Vec<String> {
    let text = String::from_utf8(read).expect("text");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

//! `geminga standalone` as a process: what it acknowledged is there after a kill, and it refuses what it must.

use std::path::Path;

use geminga_harness::{Client, Process, http, port, wait};

struct Standalone {
    process: Process,
    grpc: String,
    http: String,
}

impl Standalone {
    fn start(dir: &Path) -> Self {
        let (grpc, http) = (port::free_address(), port::free_address());
        let data = dir.join("new/data");
        let args = [
            "standalone".to_owned(),
            format!("--data-dir={}", data.display()),
            format!("--grpc={grpc}"),
            format!("--http={http}"),
            "--kafka=none".to_owned(),
        ];
        let binary = Path::new(env!("CARGO_BIN_EXE_geminga"));
        let process = Process::start("standalone", binary, args, dir);
        let mut server = Self { process, grpc, http };
        server.wait_ready();
        server
    }

    fn wait_ready(&mut self) {
        wait::until("the server to be ready", || {
            assert!(self.process.is_running(), "it ended instead of getting ready");
            http::is_ready(&self.http).then_some(())
        });
    }

    fn client(&self, dir: &Path) -> Client {
        Client::new(&self.grpc, dir)
    }
}

#[test]
fn what_it_acknowledged_is_there_after_a_kill_and_after_a_stop() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut server = Standalone::start(dir.path());
    let client = server.client(dir.path());
    client.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let mut expected = String::new();
    for round in 0..3 {
        let line = format!("round {round}\n");
        client.run_with(&["produce", "t"], line.as_bytes()).ok();
        expected.push_str(&line);
        if round == 1 {
            let status = server.process.terminate();
            assert_eq!(status.code(), Some(0), "a stop by a signal is what was asked");
        } else {
            server.process.kill();
        }
        server.process.restart();
        server.wait_ready();
        let read = client.run(&["consume", "t", "--from-beginning", "--until-end"]);
        assert_eq!(read.ok(), expected.as_bytes(), "after round {round}");
    }
}

#[test]
fn a_running_server_keeps_its_metadata_to_itself() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut server = Standalone::start(dir.path());
    let client = server.client(dir.path());
    let file = format!("file://{}", dir.path().join("new/data/metadata.redb").display());
    let dump = ["meta", "dump", "--metastore", &file, "--output", "json"];
    client.run(&dump).refused("DATA_DIR_IN_USE");
    let status = crate::text(&client.run(&["cluster", "status"]).ok());
    assert!(status.contains("single copy"), "{status}");
    server.process.terminate();
    let shown = client.run(&dump).ok();
    let shown: serde_json::Value = serde_json::from_slice(&shown).expect("JSON");
    let keys = shown["keys"].as_array().expect("keys");
    let has = |kind: &str| keys.iter().any(|key| key["kind"] == kind);
    assert!(has("cluster") && has("cookie"), "{shown}");
    assert!(!has("unknown"), "{shown}");
    assert!(!has("broker") && !has("live bookie"), "it left in order: {shown}");
}

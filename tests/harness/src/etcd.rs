//! One real etcd on ports and a data directory of its own. It can be killed, paused and started again on the same
//! data; `etcd` and `etcdctl` must be installed.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::{Pair, Process, http, port, wait};

/// Of no cluster of ours.
const FILL_PREFIX: &str = "/fill/";
/// Fits into one argument of a command.
const FILL_BYTES: usize = 100_000;

/// An etcd of one member that ends, with its data, when this is dropped.
#[derive(Debug)]
pub struct Etcd {
    // Before the directory that it writes to.
    process: Process,
    endpoint: String,
    peer: String,
    /// Where it says whether it is healthy.
    health: String,
    scheme: &'static str,
    dir: TempDir,
}

impl Etcd {
    /// Starts one and waits until it is healthy.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// [`Self::start`] with more flags, as `--quota-backend-bytes=...`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_with(flags: &[&str]) -> Self {
        Self::launch("http", flags)
    }

    /// One that speaks TLS only, with clients that show certificates of that authority.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_tls(ca: &Path, pair: &Pair) -> Self {
        Self::launch("https", &tls_flags("", ca, pair).each_ref().map(String::as_str))
    }

    fn launch(scheme: &'static str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (endpoint, peer) = (port::free_address(), port::free_address());
        let health = if scheme == "http" { endpoint.clone() } else { port::free_address() };
        let data = dir.path().join("data");
        let members = [("one", peer.as_str())];
        let urls = (&*format!("{scheme}://{endpoint}"), "http");
        let mut args = args("one", &data, urls, &peer, &members);
        if health != endpoint {
            args.push(format!("--listen-metrics-urls=http://{health}"));
        }
        args.extend(flags.iter().map(|&flag| flag.to_owned()));
        let process = Process::start("etcd", Path::new("etcd"), args, dir.path());
        let mut etcd = Self { process, endpoint, peer, health, scheme, dir };
        etcd.wait_healthy();
        etcd
    }

    /// Where clients connect, `HOST:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether it speaks TLS.
    pub fn is_tls(&self) -> bool {
        self.scheme == "https"
    }

    /// Kills it with -9. No effect when it has ended.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on its data and waits until it is healthy.
    ///
    /// # Panics
    /// When it still runs, or does not get healthy.
    pub fn restart(&mut self) {
        self.process.restart();
        self.wait_healthy();
    }

    /// Stops it from running (SIGSTOP): connections stay open and nothing answers.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it run on.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// The revision of its last change.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn revision(&self) -> i64 {
        let status: Value = serde_json::from_str(&self.ctl(&["endpoint", "status", "-w", "json"]))
            .expect("etcdctl prints JSON");
        let revision = &status[0]["Status"]["header"]["revision"];
        revision.as_i64().unwrap_or_else(|| panic!("no revision in {status}"))
    }

    /// Forgets all history before the newest revision.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn compact(&self) {
        let revision = self.revision().to_string();
        self.ctl(&["compaction", &revision]);
    }

    /// Runs `etcdctl` against it and returns what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn ctl(&self, args: &[&str]) -> String {
        self.try_ctl(args).unwrap_or_else(|errors| panic!("etcdctl {args:?}: {errors}"))
    }

    /// As [`Self::ctl`]; what it complains about when it fails.
    fn try_ctl(&self, args: &[&str]) -> Result<String, String> {
        let output = etcdctl()
            .arg(format!("--endpoints={}", self.endpoint))
            .args(args)
            .output()
            .unwrap_or_else(|e| panic!("etcdctl: {e}: install the package etcd-client"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Puts values until there is no space left: the NOSPACE alarm is raised. Start it with a small quota.
    ///
    /// # Panics
    /// When etcd refuses for another reason.
    pub fn fill(&self) {
        let value = "x".repeat(FILL_BYTES);
        for number in 0.. {
            let put = self.try_ctl(&["put", &format!("{FILL_PREFIX}{number}"), &value]);
            if let Err(error) = put {
                assert!(error.contains("database space exceeded"), "{error}");
                return;
            }
        }
    }

    /// Does what the message about no space asks an operator to do, after taking away what [`Self::fill`] put.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn make_space(&self) {
        self.ctl(&["del", "--prefix", FILL_PREFIX]);
        self.compact();
        self.ctl(&["defrag"]);
        self.ctl(&["alarm", "disarm"]);
    }

    /// Saves all of it in a file, with etcd's own means.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn snapshot(&self, file: &Path) {
        self.ctl(&["snapshot", "save", file.to_str().expect("a plain path")]);
    }

    /// Kills it, puts what [`Self::snapshot`] saved in the place of its data, and starts it again.
    ///
    /// # Panics
    /// When it does not get healthy.
    pub fn restore(&mut self, file: &Path) {
        self.process.kill();
        let data = self.dir.path().join("data");
        std::fs::remove_dir_all(&data).expect("its data directory");
        let url = format!("http://{}", self.peer);
        let status = etcdctl()
            .args(["snapshot", "restore", file.to_str().expect("a plain path"), "--name=one"])
            .arg(format!("--data-dir={}", data.display()))
            .arg(format!("--initial-cluster=one={url}"))
            .arg(format!("--initial-advertise-peer-urls={url}"))
            .output()
            .expect("etcdctl runs");
        assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
        self.restart();
    }

    fn wait_healthy(&mut self) {
        wait_healthy(&mut self.process, &self.health);
    }
}

/// `etcdctl`, which is stopped after a minute: not all of its commands have a deadline of their own.
fn etcdctl() -> Command {
    let mut command = Command::new("timeout");
    command.args(["60", "etcdctl"]).env("ETCDCTL_API", "3");
    command
}

/// Flags with which listeners show that certificate, and take no connection without one of that authority. `of`: `peer-` for those of
/// members, nothing for those of clients.
pub(crate) fn tls_flags(of: &str, ca: &Path, pair: &Pair) -> [String; 4] {
    let flag = |name: &str, path: &Path| format!("--{of}{name}={}", path.display());
    [
        flag("cert-file", &pair.cert),
        flag("key-file", &pair.key),
        flag("trusted-ca-file", ca),
        format!("--{of}client-cert-auth=true"),
    ]
}

/// The arguments of the member `name` among `members`, which are named with the addresses of their peers' listeners. `urls`: where clients
/// connect, and how members do.
pub(crate) fn args(
    name: &str,
    data: &Path,
    urls: (&str, &str),
    peer: &str,
    members: &[(&str, &str)],
) -> Vec<String> {
    let (client_url, scheme) = urls;
    let members: Vec<String> =
        members.iter().map(|(name, peer)| format!("{name}={scheme}://{peer}")).collect();
    vec![
        format!("--name={name}"),
        format!("--data-dir={}", data.display()),
        format!("--listen-client-urls={client_url}"),
        format!("--advertise-client-urls={client_url}"),
        format!("--listen-peer-urls={scheme}://{peer}"),
        format!("--initial-advertise-peer-urls={scheme}://{peer}"),
        format!("--initial-cluster={}", members.join(",")),
        "--logger=zap".to_owned(),
        "--log-level=warn".to_owned(),
    ]
}

/// Waits until the member says that it can take writes.
pub(crate) fn wait_healthy(process: &mut Process, health: &str) {
    let what = format!("{} to be healthy", process.name());
    wait::until(&what, || {
        assert!(process.is_running(), "{} ended instead of getting healthy", process.name());
        let (status, body) = http::get(health, "/health")?;
        (status == 200 && body.contains(r#""health":"true""#)).then_some(())
    });
}

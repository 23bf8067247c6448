//! TLS on every hop of a real cluster, new certificates while it works, and what each end says when the other is none to
//! talk to.

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use geminga_harness::{
    Authority, Client, Cluster, Finished, Pair, Process, Running, Tls, Valid, binary, http, port,
    wait,
};
use geminga_proto::internal::PartitionSizeRequest;
use geminga_proto::internal::peer_client::PeerClient;
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

const LINES: usize = 2_000;

fn lines(from: usize, to: usize) -> Vec<u8> {
    (from..to).flat_map(|n| format!("{n:05}\n").into_bytes()).collect()
}

/// All of gRPC, Kafka, HTTP, bookies, peers and etcd speak TLS; certificates are replaced under load.
#[test]
fn a_cluster_of_one_authority_takes_new_certificates_under_load() {
    let authority = Authority::new();
    let pair = authority.issue();
    let cluster = Cluster::start_tls(&authority.ca(), &pair, 3, 2);
    let client = cluster.client(0);
    client.run(&["topic", "create", "t", "--partitions", "4"]).ok();

    let mut producing = client.spawn(&["produce", "t"]);
    producing.feed(&lines(0, LINES / 2));
    let (old, new) = (pair.certificate(), authority.issue());
    pair.replace_by(&new);
    let looks = Tls::new(authority.ca(), Some(new.clone()));
    let brokers = cluster.brokers.iter().flat_map(|node| {
        [&node.address, &node.http, node.kafka.as_ref().expect("a broker serves Kafka clients")]
    });
    let all = brokers.chain(cluster.bookies.iter().flat_map(|node| [&node.address, &node.http]));
    for (number, address) in all.enumerate() {
        let from = LINES / 2 + number * 10;
        producing.feed(&lines(from, from + 10));
        wait::until("the new certificate", || {
            let shown = looks.shown_by(address)?;
            assert!(shown == old || shown == new.certificate());
            (shown == new.certificate()).then_some(())
        });
    }
    let sent = LINES / 2 + (2 * 3 + 3 * 2) * 10;
    producing.feed(&lines(sent, LINES));
    producing.finish().ok();
    let read = cluster.client(1).run(&["consume", "t", "--from-beginning", "--until-end"]).ok();
    let mut read: Vec<&str> = std::str::from_utf8(&read).expect("text").lines().collect();
    read.sort_unstable();
    assert!(read.iter().copied().eq((0..LINES).map(|n| format!("{n:05}"))), "{} lines", read.len());

    // The metrics of a broker need a certificate, its probes none.
    let stranger = Tls::new(authority.ca(), None);
    let http = &cluster.brokers[0].http;
    assert_eq!(http::get_by(&stranger, http, "/readyz").map(|(status, _)| status), Some(200));
    assert_eq!(http::get_by(&stranger, http, "/metrics").map(|(status, _)| status), Some(401));
    let (_, metrics) = http::get_by(&looks, http, "/metrics").expect("an answer");
    assert!(metrics.contains("geminga_tls_reloads_total{outcome=\"done\"} 1"), "{metrics}");

    // Who administers the metadata and the ledgers needs the certificate, too.
    let metastore = cluster.metastore();
    client.run(&["ledger", "list", "--metastore", &metastore]).ok();
    kcat(&cluster, &authority, &new);
}

/// Where clients need no certificate those of the cluster do: what brokers and bookies tell each other is nobody else's.
#[test]
fn who_shows_no_certificate_is_no_component() {
    let authority = Authority::new();
    let cluster = Cluster::start_tls_for(&authority.ca(), &authority.issue(), (1, 1), "none");
    let stranger = Tls::new(authority.ca(), None);
    let broker = &cluster.brokers[0].address;
    Client::new(broker, cluster.dir()).by(&stranger).run(&["topic", "list"]).ok();
    let of_bookie = stranger.refused_by(&cluster.bookies[0].address, "127.0.0.1");
    let why = of_bookie.expect("a bookie serves whom nobody knows");
    assert!(why.contains("CertificateRequired"), "{why}");
    assert_eq!(peer(broker, &authority, None), Code::Unauthenticated);
    assert_ne!(peer(broker, &authority, Some(&authority.issue())), Code::Unauthenticated);
}

/// How a broker answers who asks what only brokers ask.
fn peer(broker: &str, authority: &Authority, pair: Option<&Pair>) -> Code {
    let read = |path: &Path| std::fs::read(path).expect("a file in PEM");
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&authority.ca())));
    if let Some(pair) = pair {
        tls = tls.identity(Identity::from_pem(read(&pair.cert), read(&pair.key)));
    }
    let endpoint = Channel::from_shared(format!("https://{broker}")).expect("an address");
    let endpoint = endpoint.tls_config(tls).expect("certificates");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let mut peer = PeerClient::new(endpoint.connect().await.expect("a connection"));
        let asked = PartitionSizeRequest { topic_id: vec![1; 16].into(), partition: 0 };
        peer.partition_size(asked).await.map_or_else(|status| status.code(), |_| Code::Ok)
    })
}

/// A Kafka client that is not ours.
fn kcat(cluster: &Cluster, authority: &Authority, pair: &Pair) {
    let bootstrap = cluster.brokers[1].kafka.as_deref().expect("it serves Kafka clients");
    let flags = |pair: Option<&Pair>| {
        let path = |path: &Path| path.display().to_string();
        let mut flags = vec![
            "security.protocol=ssl".to_owned(),
            format!("ssl.ca.location={}", path(&authority.ca())),
        ];
        if let Some(pair) = pair {
            flags.push(format!("ssl.certificate.location={}", path(&pair.cert)));
            flags.push(format!("ssl.key.location={}", path(&pair.key)));
        }
        flags.into_iter().flat_map(|flag| ["-X".to_owned(), flag]).collect::<Vec<_>>()
    };
    let run = |pair: Option<&Pair>, args: &[&str]| {
        let mut kcat = Command::new("kcat");
        kcat.args(["-b", bootstrap, "-m", "10"]).args(flags(pair)).args(args);
        Running::command(kcat, "kcat", cluster.dir()).finish()
    };
    let listed = run(Some(pair), &["-L"]);
    let said = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(said.contains("2 brokers") && said.contains("topic \"t\""), "{said}{}", listed.stderr);
    let read = run(Some(pair), &["-C", "-t", "t", "-o", "beginning", "-e", "-q"]);
    assert_eq!(read.stdout.iter().filter(|byte| **byte == b'\n').count(), LINES);
    assert_ne!(run(None, &["-L"]).code, Some(0), "a client without a certificate was served");
}

/// A standalone server with its flags.
struct Standalone {
    process: Process,
    grpc: String,
    http: String,
    dir: TempDir,
}

impl Standalone {
    fn start(flags: &[String], ready: impl Fn(&str) -> bool) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (grpc, http) = (port::free_address(), port::free_address());
        let data = dir.path().join("data").display().to_string();
        let mut args: Vec<String> =
            ["standalone", "--data-dir", &data, "--kafka=127.0.0.1:0"].map(str::to_owned).to_vec();
        args.extend([format!("--grpc={grpc}"), format!("--http={http}")]);
        args.extend(flags.iter().cloned());
        let process = Process::start("standalone", &binary::geminga(), args, dir.path());
        let mut server = Self { process, grpc, http, dir };
        wait::until("the standalone server", || {
            assert!(server.process.is_running(), "it ended instead of getting ready");
            ready(&server.http).then_some(())
        });
        server
    }

    /// What a command is told, by that way.
    fn refuses(&self, server: &str, tls: Option<&Tls>, expected: &str) {
        let client = Client::new(server, self.dir.path());
        let client = tls.map_or(client.clone(), |tls| client.by(tls));
        let finished = client.run(&["topic", "list"]);
        assert_eq!(finished.code, Some(4), "{}", finished.stderr);
        assert!(finished.stderr.contains(expected), "{} instead of {expected}", finished.stderr);
    }
}

#[test]
fn each_end_says_why_it_does_not_talk() {
    let (authority, other) = (Authority::new(), Authority::new());
    let pair = authority.issue();
    let ca = format!("--tls-ca={}", authority.ca().display());
    let [cert, key] = pair.flags();
    let good = Tls::new(authority.ca(), Some(authority.issue()));
    let flags = [cert, key, ca, "--tls-client-auth=required".to_owned()];
    let server = Standalone::start(&flags, |at| http::is_ready_by(&good, at));
    let grpc = server.grpc.clone();
    Client::new(&grpc, server.dir.path()).by(&good).run(&["topic", "list"]).ok();
    Client::new(&format!("https://{grpc}"), server.dir.path())
        .by(&good)
        .run(&["topic", "list"])
        .ok();

    let nothing = Tls::new(authority.ca(), None);
    let stranger = Tls::new(authority.ca(), Some(other.issue()));
    let distrustful = Tls::new(other.ca(), Some(other.issue()));
    server.refuses(&grpc, None, "this port speaks TLS");
    server.refuses(&grpc, Some(&nothing), "asks for a certificate and none was shown");
    server.refuses(&grpc, Some(&stranger), "does not know the authority of this side");
    server.refuses(&grpc, Some(&distrustful), "is of another authority than those of --tls-ca");
    let port = grpc.rsplit_once(':').expect("an address").1;
    server.refuses(&format!("127.0.0.2:{port}"), Some(&good), "no answer");
    let log = server.process.log();
    assert!(log.contains("the client speaks plain text and this port speaks TLS"), "{log}");
    let (_, metrics) = http::get_by(&good, &server.http, "/metrics").expect("an answer");
    for why in ["plain-text", "no-certificate", "unknown-authority", "refused-by-peer"] {
        assert!(metrics.contains(&format!("why=\"{why}\"")), "{why}: {metrics}");
    }
    let (status, said) = http::get(&server.http, "/readyz").expect("an answer in plain text");
    assert!(status == 400 && said.contains("this port speaks TLS"), "{status} {said}");

    let plain = Standalone::start(&[], http::is_ready);
    plain.refuses(&plain.grpc.clone(), Some(&good), "does not speak TLS at this address");
    let log = plain.process.log();
    assert!(log.contains("the client speaks TLS and nothing is encrypted here"), "{log}");
}

#[test]
fn a_server_does_not_start_with_certificates_that_nobody_takes() {
    let (authority, other) = (Authority::new(), Authority::new());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let start = |pair: &Pair, more: &[&str]| {
        let mut command = Command::new(binary::geminga());
        command.args(["standalone", "--kafka=none", "--grpc=127.0.0.1:0", "--http=127.0.0.1:0"]);
        command.arg(format!("--data-dir={}", dir.path().join("data").display()));
        command.arg(format!("--tls-ca={}", authority.ca().display()));
        command.args(pair.flags()).args(more);
        let ended = Running::command(command, "standalone", dir.path()).finish();
        (ended.code, ended.stderr)
    };
    for (pair, expected) in [
        (authority.issue_valid(Valid::Before), "has expired: renew it (TLS_FILES)"),
        (authority.issue_valid(Valid::Later), "is not valid yet"),
        (other.issue(), "is not signed by an authority in the file of --tls-ca"),
    ] {
        let (code, said) = start(&pair, &[]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    // What etcd is shown: no connection is tried with it.
    let absent = Pair { cert: dir.path().join("absent.pem"), ..authority.issue() };
    for (pair, expected) in [
        (authority.issue_valid(Valid::Before), "has expired: renew it (TLS_FILES)"),
        (other.issue_valid(Valid::Before), "has expired: renew it (TLS_FILES)"),
        (authority.issue_valid(Valid::Later), "is not valid yet"),
        (absent, "absent.pem cannot be read"),
    ] {
        let mut command = Command::new(binary::geminga());
        command.args(["serving", "--metastore=https://127.0.0.1:1/test", "--kafka=none"]);
        command.args(["--grpc=127.0.0.1:0", "--http=127.0.0.1:0"]);
        let path = |flag: &str, path: &Path| format!("--etcd-{flag}={}", path.display());
        command.arg(path("ca", &authority.ca()));
        command.args([path("cert", &pair.cert), path("key", &pair.key)]);
        let Finished { code, stderr: said, .. } =
            Running::command(command, "serving", dir.path()).finish();
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(expected), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

/// Whoever is not on this machine, and shows no certificate, changes nothing by HTTP.
#[test]
fn the_admin_interface_takes_no_change_from_another_machine() {
    // No packet is sent: it only asks which address this machine would have.
    let Some(own) = UdpSocket::bind("0.0.0.0:0").ok().and_then(|socket| {
        socket.connect("192.0.2.1:9").ok()?;
        Some(socket.local_addr().ok()?.ip())
    }) else {
        eprintln!("this machine has no address but loopback: not tested");
        return;
    };
    let port = port::free();
    let flags = [format!("--http=0.0.0.0:{port}"), "--insecure".to_owned()];
    let outside = format!("{own}:{port}");
    let server = Standalone::start_at(&flags, &outside);
    for (path, method) in [("/api/v1/topics", "POST"), ("/api/v1/topics/t", "DELETE")] {
        let (status, said) = http::request(&outside, method, path).expect("an answer");
        assert_eq!(status, 403, "{said}");
        assert!(said.contains("show a certificate"), "{said}");
    }
    assert_eq!(http::get(&outside, "/api/v1/topics").map(|(status, _)| status), Some(200));
    drop(server);
}

impl Standalone {
    /// With HTTP at another address.
    fn start_at(flags: &[String], http: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let grpc = port::free_address();
        let data = dir.path().join("data").display().to_string();
        let mut args = vec!["standalone".to_owned(), format!("--data-dir={data}")];
        args.extend(["--kafka=none".to_owned(), format!("--grpc={grpc}")]);
        args.extend(flags.iter().cloned());
        let process = Process::start("standalone", &binary::geminga(), args, dir.path());
        let mut server = Self { process, grpc, http: http.to_owned(), dir };
        wait::until("the standalone server", || {
            assert!(server.process.is_running(), "it ended instead of getting ready");
            http::is_ready(&server.http).then_some(())
        });
        server
    }
}

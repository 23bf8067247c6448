//! What can go wrong between a client and each kind of listener: what the client hears, and what the server's log and counter say;
//! and between components.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use geminga_harness::{
    Authority, Client, Etcd, Host, Node, Pair, Process, Running, Tls, Valid, binary, http, port,
    wait,
};
use tempfile::TempDir;

/// What a client of HTTP/2 says first.
const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A standalone server and a bookie: together they have all kinds of listeners.
struct Servers {
    standalone: Process,
    http: String,
    bookie: Node,
    /// Their names, as log and metrics have them, and addresses.
    listeners: [(&'static str, String); 4],
    looks: Option<Tls>,
    _dir: TempDir,
}

impl Servers {
    fn start(etcd: &Etcd, flags: &[String], looks: Option<Tls>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [grpc, http, kafka, listen] = [(); 4].map(|()| port::free_address());
        let mut args = vec!["standalone".to_owned()];
        args.push(format!("--data-dir={}", dir.path().join("data").display()));
        args.extend([
            format!("--grpc={grpc}"),
            format!("--http={http}"),
            format!("--kafka={kafka}"),
        ]);
        args.extend(flags.iter().cloned());
        let standalone = Process::start("standalone", &binary::geminga(), args, dir.path());
        let metastore = format!("etcd://{}/{}", etcd.endpoint(), port::free());
        let bookie =
            Node::bookie(&Host::here(), "bookie-1", &listen, &metastore, dir.path(), flags);
        let mut bookie = Node { tls: looks.clone(), ..bookie };
        bookie.wait_ready();
        let listeners =
            [("grpc", grpc), ("http", http.clone()), ("kafka", kafka), ("bookie", listen)];
        let servers = Self { standalone, http, bookie, listeners, looks, _dir: dir };
        wait::until("the standalone server", || servers.get(&servers.http, "/readyz"));
        servers
    }

    fn get(&self, address: &str, path: &str) -> Option<String> {
        let answer = match &self.looks {
            None => http::get(address, path),
            Some(tls) => http::get_by(tls, address, path),
        };
        answer.filter(|(status, _)| *status == 200).map(|(_, body)| body)
    }

    /// Log and counter of that listener say it, once.
    #[track_caller]
    fn said(&self, listener: &str, why: &str, sentence: &str) {
        let (process, http) = match listener {
            "bookie" => (&self.bookie.process, &self.bookie.http),
            _ => (&self.standalone, &self.http),
        };
        let counted =
            format!("geminga_tls_refused_total{{listener=\"{listener}\",why=\"{why}\"}} 1");
        self.counted(http, &counted);
        let (log, name) = (process.log(), format!("listener=\"{listener}\""));
        let lines = log.lines().filter(|line| line.contains(sentence) && line.contains(&name));
        assert_eq!(lines.count(), 1, "{listener}: {sentence}: {log}");
    }

    /// Metrics have this line.
    fn counted(&self, http: &str, counted: &str) {
        wait::until(counted, || {
            let metrics = self.get(http, "/metrics")?;
            metrics.lines().any(|line| line == counted).then_some(())
        });
    }
}

/// What a server answers to bytes in plain text, until it ends the connection.
fn answer(address: &str, said: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("somebody listens");
    stream.set_read_timeout(Some(wait::PATIENCE)).expect("a timeout");
    stream.write_all(said.as_bytes()).expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it ends the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn every_listener_says_what_is_wrong_with_a_handshake() {
    let (authority, etcd) = (Authority::new(), Etcd::start());
    let good = Tls::new(authority.ca(), Some(authority.issue()));
    let expired = Tls::new(authority.ca(), Some(authority.issue_valid(Valid::Before)));
    // One line in ten seconds is told by a listener: each trouble has servers of its own.
    let encrypted = || {
        let [cert, key] = authority.issue().flags();
        let ca = format!("--tls-ca={}", authority.ca().display());
        let flags = [cert, key, ca, "--tls-client-auth=required".to_owned()];
        Servers::start(&etcd, &flags, Some(good.clone()))
    };

    let servers = encrypted();
    for (listener, address) in &servers.listeners {
        let heard = expired.refused_by(address, "127.0.0.1").expect(listener);
        assert!(heard.contains("CertificateExpired"), "{listener}: {heard}");
        servers.said(
            listener,
            "expired",
            "the certificate of the client has expired: renew it there",
        );
    }

    let servers = encrypted();
    for (listener, address) in &servers.listeners {
        let heard = good.refused_by(address, "elsewhere.test").expect(listener);
        assert!(heard.contains("not valid for name \"elsewhere.test\""), "{listener}: {heard}");
        let sentence = "the client does not accept this side's certificate (BadCertificate)";
        servers.said(listener, "refused-by-peer", sentence);
    }

    let servers = encrypted();
    for (listener, address) in &servers.listeners {
        let (said, heard) = match *listener {
            "http" => ("GET /readyz HTTP/1.1\r\n\r\n", "this port speaks TLS"),
            // The connection ends.
            "kafka" => ("\0\0\0\x0c\0\x12\0\0\0\0\0\x01\0\x02me", ""),
            _ => (PREFACE, "this port speaks TLS"),
        };
        let answer = answer(address, said);
        assert!(
            answer.contains(heard) && answer.is_empty() == heard.is_empty(),
            "{listener}: {answer:?}"
        );
        let sentence = "the client speaks plain text and this port speaks TLS";
        servers.said(listener, "plain-text", sentence);
    }

    let servers = Servers::start(&etcd, &[], None);
    for (listener, address) in &servers.listeners {
        assert!(good.refused_by(address, "127.0.0.1").is_some(), "{listener}");
        if *listener == "kafka" {
            // Kafka's own reader finds it, and counts it as it does whatever ends a connection, too.
            servers.counted(&servers.http, "geminga_kafka_hangups_total{why=\"tls\"} 1");
        }
        let sentence = "the client speaks TLS and nothing is encrypted here";
        servers.said(listener, "tls-on-plain", sentence);
    }
}

/// Files of a component, which are replaced while it runs.
struct Own {
    pair: Pair,
    ca: PathBuf,
}

impl Own {
    fn of(authority: &Authority, dir: &Path, name: &str) -> Self {
        let ca = dir.join(format!("{name}.ca.pem"));
        std::fs::copy(authority.ca(), &ca).expect("writable");
        Self { pair: authority.issue(), ca }
    }

    fn flags(&self) -> Vec<String> {
        let [cert, key] = self.pair.flags();
        vec![cert, key, format!("--tls-ca={}", self.ca.display())]
    }

    /// The same files of another authority.
    fn become_of(&self, authority: &Authority) {
        std::fs::copy(authority.ca(), &self.ca).expect("writable");
        self.pair.replace_by(&authority.issue());
    }
}

/// Bookies of one authority and brokers of another are ready, each by itself. Whoever connects says what is wrong, and of whom.
#[test]
fn components_of_two_authorities_say_so_and_work_once_they_are_of_one() {
    let (authority, other, etcd) = (Authority::new(), Authority::new(), Etcd::start());
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (host, metastore) = (Host::here(), format!("etcd://{}/test", etcd.endpoint()));
    let strangers = Tls::new(other.ca(), Some(other.issue()));
    let names = ["bookie-1", "bookie-2", "bookie-3"];
    let mut bookies = names.map(|name| {
        let own = Own::of(&other, dir.path(), name);
        let address = host.address();
        let node = Node::bookie(&host, name, &address, &metastore, dir.path(), &own.flags());
        (Node { tls: Some(strangers.clone()), ..node }, own)
    });
    let broker_of = |name: &str, authority: &Authority| {
        let own = Own::of(authority, dir.path(), name);
        let address = host.address();
        let node = Node::broker(&host, name, &address, &metastore, dir.path(), &own.flags());
        let looks = Tls::new(authority.ca(), Some(authority.issue()));
        (Node { tls: Some(looks.clone()), ..node }, own, looks)
    };
    bookies.iter_mut().for_each(|(bookie, _)| bookie.wait_ready());
    // The first one owns everything: it is the coordinator, and does not reach the other.
    let (mut broker, _, looks) = broker_of("broker-1", &authority);
    broker.wait_ready();
    let (mut stranger, its, _) = broker_of("broker-2", &other);
    stranger.wait_ready();

    let client = Client::new(&broker.address, dir.path()).by(&looks);
    client.run(&["topic", "create", "t", "--partitions", "1"]).ok();
    let mut producing = client.spawn(&["produce", "t"]);
    producing.feed(b"one\n");
    let theirs = "the certificate of the server is of another authority than those of --tls-ca";
    let lines = |whom: &str| {
        let log = broker.process.log();
        let of =
            |line: &&str| line.contains("WARN") && line.contains(whom) && line.contains(theirs);
        log.lines().filter(of).map(str::to_owned).collect::<Vec<_>>()
    };
    for (bookie, _) in &bookies {
        let whom = format!("address=\"{}\"", bookie.address);
        let told = wait::until("the broker to say so", || {
            Some(lines(&whom)).filter(|told| !told.is_empty())
        });
        assert!(told[0].contains("bookie cannot be reached"), "{told:?}");
    }
    wait::until("the broker to say it of the other", || {
        lines(&format!("address=\"{}\"", stranger.address)).pop()
    });

    let all = bookies.iter().map(|(_, own)| own).chain([&its]);
    all.for_each(|own| own.become_of(&authority));
    producing.finish().ok();
    let read = client.run(&["consume", "t", "--from-beginning", "--until-end"]).ok();
    assert_eq!(read, b"one\n", "{}", String::from_utf8_lossy(&read));
}

/// It would be ready, and nobody who is to connect would.
#[test]
fn a_server_does_not_start_with_a_certificate_for_others() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let start = |server: &str, pair: &Pair, more: &[&str]| {
        let mut command = Command::new(binary::geminga());
        command.args([server, "--http=127.0.0.1:0"]).args(more).args(pair.flags());
        command.arg(format!("--tls-ca={}", authority.ca().display()));
        let ended = Running::command(command, server, dir.path()).finish();
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.trim_end().ends_with("(TLS_FILES)"), "{}", ended.stderr);
        ended.stderr
    };
    let data = format!("--data-dir={}", dir.path().join("data").display());
    let nowhere = "--metastore=etcd://127.0.0.1:1/test";
    let bookie = [nowhere, &data, "--listen=127.0.0.1:0"];
    let broker = [nowhere, "--grpc=127.0.0.1:0", "--kafka=127.0.0.1:0"];
    let (elsewhere, local) = (authority.issue_named(&["elsewhere.test"]), authority.issue());

    let said = start("bookie", &elsewhere, &bookie);
    assert!(said.contains("is for elsewhere.test, not for 127.0.0.1, "), "{said}");
    assert!(said.contains("(--listen)"), "{said}");
    let said =
        start("serving", &local, &[&broker[..], &["--advertise=broker-1.test:7070"]].concat());
    assert!(said.contains("is for localhost, 127.0.0.1, not for broker-1.test, "), "{said}");
    assert!(said.contains("(--advertise)"), "{said}");
}

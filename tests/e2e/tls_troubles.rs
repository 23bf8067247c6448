//! What can go wrong between a client and each kind of listener: what the client hears, and what the server's log and counter say.

use std::io::{Read, Write};
use std::net::TcpStream;

use geminga_harness::{Authority, Etcd, Host, Node, Process, Tls, Valid, binary, http, port, wait};
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

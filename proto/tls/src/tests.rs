//! Handshakes between a listener and a client of this process, and what each end says when there is none.

use std::path::Path;
use std::time::Duration;

use geminga_harness::{Authority, Pair, Valid};
use geminga_runtime::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::Endpoint;

use super::*;

fn files(authority: Option<&Authority>, pair: Option<&Pair>) -> Files {
    Files {
        cert: pair.map(|pair| pair.cert.clone()),
        key: pair.map(|pair| pair.key.clone()),
        ca: authority.map(Authority::ca),
    }
}

fn load(authority: &Authority, pair: Option<&Pair>) -> Credentials {
    Credentials::load(files(Some(authority), pair)).expect("good files")
}

/// As a test of a stranger needs it: a certificate that its own authority would not take.
fn load_unchecked(authority: &Authority, pair: &Pair) -> Credentials {
    Credentials::unchecked(files(Some(authority), Some(pair))).expect("good files")
}

/// A health service behind a listener.
struct Server {
    address: String,
    tasks: Tasks,
}

impl Server {
    async fn start(security: Security) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tasks = Tasks::new("test");
        let incoming = Incoming::new(listener, security, 8, &tasks).of_http2();
        let (_, health) = tonic_health::server::health_reporter();
        let stop = tasks.cancelled();
        tasks.spawn("server", async move {
            let server = tonic::transport::Server::builder().add_service(health);
            server.serve_with_incoming_shutdown(incoming, stop).await.unwrap();
        });
        Self { address, tasks }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap()
    }

    /// Asks once; what went wrong in its innermost words.
    async fn ask(&self, dial: &Dial) -> Result<(), String> {
        let channel = dial.lazily(&self.endpoint());
        let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
        let request = tonic_health::pb::HealthCheckRequest::default();
        match client.check(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(status_cause(&status)),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

fn required(credentials: Credentials) -> Security {
    Security::tls("test", credentials, Protocol::Grpc, ClientAuth::Required)
}

#[tokio::test]
async fn components_of_one_authority_talk() {
    let authority = Authority::new();
    let (one, two) = (authority.issue(), authority.issue());
    let server = Server::start(required(load(&authority, Some(&one)))).await;
    server.ask(&Dial::Tls(load(&authority, Some(&two)))).await.unwrap();
    let connected = Dial::Tls(load(&authority, Some(&two))).connect(&server.endpoint()).await;
    assert!(connected.is_ok());
}

#[tokio::test]
async fn without_tls_nothing_is_different() {
    let server = Server::start(Security::plain("test")).await;
    server.ask(&Dial::Plain).await.unwrap();
}

/// What a client is told, by the kind of certificate that it shows.
#[tokio::test]
async fn a_client_hears_why_its_certificate_is_refused() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = Server::start(required(load(&authority, Some(&authority.issue())))).await;
    let none = load(&authority, None);
    for (client, expected) in [
        (none, "asks for a certificate and none was shown: give --tls-cert"),
        (
            load_unchecked(&authority, &authority.issue_valid(Valid::Before)),
            "finds this side's certificate expired, or not valid yet",
        ),
        (
            load_unchecked(&authority, &authority.issue_valid(Valid::Later)),
            "finds this side's certificate expired, or not valid yet",
        ),
        (
            load_unchecked(&authority, &authority.issue_to_server()),
            "does not accept this side's certificate",
        ),
        (load_unchecked(&authority, &stranger.issue()), "does not know the authority of this"),
    ] {
        let said = server.ask(&Dial::Tls(client)).await.unwrap_err();
        assert!(said.contains(expected), "{said:?} instead of {expected:?}");
    }
}

/// What a client says of a server that it does not take for the one that it wants.
#[tokio::test]
async fn a_client_says_what_is_wrong_with_a_server() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for (shown, expected) in [
        (authority.issue_valid(Valid::Before), "the certificate of the server has expired: renew"),
        (authority.issue_valid(Valid::Later), "the certificate of the server is not valid yet"),
        (authority.issue_named(&["elsewhere.test"]), "is for elsewhere.test, not for the address"),
        (stranger.issue(), "is of another authority than those of --tls-ca"),
    ] {
        let credentials = load_unchecked(&authority, &shown);
        let security = Security::tls("test", credentials, Protocol::Grpc, ClientAuth::None);
        let server = Server::start(security).await;
        let said = server.ask(&Dial::Tls(load(&authority, None))).await.unwrap_err();
        assert!(said.contains(expected), "{said:?} instead of {expected:?}");
    }
}

#[tokio::test]
async fn plain_text_on_a_tls_port_is_told_to_the_client() {
    let authority = Authority::new();
    let server = Server::start(required(load(&authority, Some(&authority.issue())))).await;
    let said = server.ask(&Dial::Plain).await.unwrap_err();
    assert!(said.contains("this port speaks TLS: connect with --tls-ca"), "{said}");

    let mut http = TcpStream::connect(&server.address).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    http.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("speaks TLS"), "{answer}");
}

#[tokio::test]
async fn tls_on_a_plain_port_is_told_to_the_client() {
    let server = Server::start(Security::plain("test")).await;
    let said = server.ask(&Dial::Tls(load(&Authority::new(), None))).await.unwrap_err();
    assert!(said.contains("the server does not speak TLS at this address"), "{said}");
}

#[tokio::test]
async fn a_listener_that_asks_no_client_serves_any() {
    let authority = Authority::new();
    for clients in [ClientAuth::None, ClientAuth::Optional] {
        let credentials = load(&authority, Some(&authority.issue()));
        let server =
            Server::start(Security::tls("test", credentials, Protocol::Grpc, clients)).await;
        server.ask(&Dial::Tls(load(&authority, None))).await.unwrap();
        server.ask(&Dial::Tls(load(&authority, Some(&authority.issue())))).await.unwrap();
    }
}

/// Clients that connect and say nothing, more than there are places, hold up nobody: the oldest are given up.
#[tokio::test]
async fn silent_clients_keep_nobody_out_and_are_bounded() {
    let authority = Authority::new();
    let dial = Dial::Tls(load(&authority, Some(&authority.issue())));
    for (security, dial) in [
        (required(load(&authority, Some(&authority.issue()))), dial),
        (Security::plain("test"), Dial::Plain),
    ] {
        let server = Server::start(security).await;
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(TcpStream::connect(&server.address).await.unwrap());
        }
        server.ask(&dial).await.unwrap();
        // Long before the time that each has for itself.
        let limit = Duration::from_secs(7);
        let ended = tokio::time::timeout(limit, silent[0].read(&mut [0])).await.expect("closed");
        assert!(matches!(ended, Ok(0) | Err(_)), "the oldest is closed: {ended:?}");
        let mut byte = [0];
        let newest = silent[19].read(&mut byte);
        let open = tokio::time::timeout(Duration::from_millis(50), newest).await;
        assert!(open.is_err(), "the newest is not");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_its_time() {
    let authority = Authority::new();
    let security = required(load(&authority, Some(&authority.issue())));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let began = tokio::time::Instant::now();
    assert!(security.accept(stream).await.is_none());
    assert_eq!(began.elapsed().as_secs(), 10);
    drop(client);
}

/// Before it is known, a client is not listened to for long: a first message that announces 64 KiB or more ends it, one below waits
/// for the rest of it.
#[tokio::test(start_paused = true)]
async fn messages_of_a_handshake_are_bounded() {
    let authority = Authority::new();
    let security = required(load(&authority, Some(&authority.issue())));
    for (announced, seconds) in [(0xffff_u32, 10), (0x1_0000, 0)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        // A record of a handshake, and in it the beginning of a client's first message.
        let [_, a, b, c] = announced.to_be_bytes();
        client.write_all(&[0x16, 3, 1, 0, 6, 1, a, b, c, 3, 3]).await.unwrap();
        let began = tokio::time::Instant::now();
        assert!(security.accept(stream).await.is_none());
        let took = began.elapsed().as_secs();
        assert!((seconds..=seconds + 1).contains(&took), "{announced}: {took} s");
    }
}

/// A client of a plain listener has to say something in time, as well.
#[tokio::test(start_paused = true)]
async fn the_first_bytes_have_their_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let began = tokio::time::Instant::now();
    assert!(Security::plain("test").accept(stream).await.is_none());
    assert_eq!(began.elapsed().as_secs(), 10);
    drop(client);
}

/// A client that has its place and does not go on loses it, whether or not anything is encrypted; one that has said its preface keeps it.
#[tokio::test]
async fn a_preface_of_http2_has_its_time() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// Settings without any.
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    /// A ping with eight bytes.
    const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let server = Server::start(Security::plain("test")).await;
    let begin = async |said: &[u8]| {
        let mut client = TcpStream::connect(&server.address).await.unwrap();
        client.write_all(said).await.unwrap();
        client
    };
    let mut short = begin(&PREFACE[..PREFACE.len() - 1]).await;
    let mut whole = begin(&[PREFACE, &SETTINGS].concat()).await;
    // The server has taken both: it answers who said all.
    let mut settings = [0; 9];
    whole.read_exact(&mut settings).await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    let mut rest = Vec::new();
    // Closed, or reset.
    let ended = tokio::time::timeout(Duration::from_secs(5), short.read_to_end(&mut rest));
    let _ = ended.await.expect("it is closed");
    whole.write_all(&PING).await.unwrap();
    let answered = async {
        let mut frame = [0; 9];
        loop {
            whole.read_exact(&mut frame).await.unwrap();
            let mut body = vec![0; usize::from(frame[2])];
            whole.read_exact(&mut body).await.unwrap();
            if frame[3] == PING[3] {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answered).await.expect("it is served");
}

#[test]
fn files_are_refused_in_a_sentence() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (one, two) = (authority.issue(), authority.issue());
    let mixed = Pair { cert: one.cert.clone(), key: two.key.clone() };
    let swapped = Pair { cert: one.key.clone(), key: one.cert.clone() };
    let absent = Pair { cert: Path::new("no/such.pem").to_owned(), key: one.key.clone() };
    let absent_too = absent.clone();
    for (pair, expected) in [
        (mixed, "cannot be used together"),
        (swapped, "holds no certificate in PEM"),
        (absent, "no/such.pem cannot be read"),
        (authority.issue_valid(Valid::Before), "has expired: renew it"),
        (authority.issue_valid(Valid::Later), "is not valid yet"),
        (authority.issue_to_server(), "is not for both server and client authentication"),
        (stranger.issue(), "is not signed by an authority in the file of --tls-ca"),
    ] {
        let error = Credentials::load(files(Some(&authority), Some(&pair))).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
    // Of a client only what is wrong whoever judges it.
    let client = |pair: &Pair| Credentials::of_client(files(Some(&authority), Some(pair)));
    for (pair, expected) in [
        (absent_too, "no/such.pem cannot be read"),
        (authority.issue_valid(Valid::Before), "has expired: renew it"),
        (authority.issue_valid(Valid::Later), "is not valid yet"),
        (stranger.issue_valid(Valid::Before), "has expired: renew it"),
    ] {
        let error = client(&pair).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
    }
    client(&authority.issue_to_server()).unwrap();
    client(&stranger.issue()).unwrap();
    let half = Files { cert: Some(one.cert), ..Files::default() };
    assert!(matches!(Credentials::load(half), Err(LoadError::Half)));
}

#[test]
fn expiry_is_known() {
    let authority = Authority::new();
    // The first of January 2100.
    assert_eq!(load(&authority, Some(&authority.issue())).now().expires, Some(4_102_444_800));
    // Of a client's, too, whoever signed it.
    let stranger = Authority::new();
    let pair = stranger.issue();
    let client = Credentials::of_client(files(Some(&authority), Some(&pair))).unwrap();
    assert_eq!(client.now().expires, Some(4_102_444_800));
}

/// New files count once two looks saw the same; bad ones change nothing.
#[tokio::test(start_paused = true)]
async fn files_are_followed() {
    let authority = Authority::new();
    let pair = authority.issue();
    let credentials = load(&authority, Some(&pair));
    let tasks = Tasks::new("test");
    credentials.keep_up("own", &tasks);
    let first = credentials.now();
    let settle = || async { tokio::time::sleep(Duration::from_secs(10)).await };
    settle().await;
    assert!(std::sync::Arc::ptr_eq(&first, &credentials.now()), "nothing changed");
    pair.replace_by(&Authority::new().issue());
    settle().await;
    assert!(std::sync::Arc::ptr_eq(&first, &credentials.now()), "a stranger's is not taken");
    pair.replace_by(&authority.issue());
    settle().await;
    assert!(!std::sync::Arc::ptr_eq(&first, &credentials.now()), "a good one is");
    assert!(tasks.finish(Duration::from_secs(1)).await);
}

/// A certificate of the same authority that shares no name with the one in force is somebody else's.
#[test]
fn another_name_is_not_taken() {
    let authority = Authority::new();
    let pair = authority.issue();
    let credentials = load(&authority, Some(&pair));
    let look =
        || credentials.take(files::Contents::read(&files(Some(&authority), Some(&pair))).unwrap());
    let first = credentials.now();
    pair.replace_by(&authority.issue_named(&["elsewhere.test"]));
    look();
    assert!(std::sync::Arc::ptr_eq(&first, &credentials.now()), "another's is not taken");
    pair.replace_by(&authority.issue_named(&["elsewhere.test", "localhost"]));
    look();
    assert!(!std::sync::Arc::ptr_eq(&first, &credentials.now()), "one that shares a name is");
}

/// Of the same authority, sharing a name, but without the one to which others are told to connect: nobody could talk to this process.
#[test]
fn a_renewed_certificate_without_the_advertised_name_is_not_taken() {
    let authority = Authority::new();
    let pair = authority.issue_named(&["a.test", "told.test"]);
    let credentials = load(&authority, Some(&pair));
    let look =
        || credentials.take(files::Contents::read(&files(Some(&authority), Some(&pair))).unwrap());
    credentials.require_host("--advertise", "told.test").expect("it is for it");
    credentials
        .require_host("--advertise", "other.test")
        .expect_err("which asks for nothing later");
    credentials.check_host("--kafka-advertise", "a.test").expect("nor does this");
    let first = credentials.now();
    pair.replace_by(&authority.issue_named(&["a.test"]));
    look();
    assert!(std::sync::Arc::ptr_eq(&first, &credentials.now()), "one without that name is not");
    pair.replace_by(&authority.issue_named(&["told.test"]));
    look();
    assert!(!std::sync::Arc::ptr_eq(&first, &credentials.now()), "one with it is");
}

/// What came too early is taken when its time has come, though the file does not change any more.
#[test]
#[allow(clippy::disallowed_methods, reason = "certificates are judged by the machine's clock")]
fn a_certificate_is_taken_once_it_is_valid() {
    let authority = Authority::new();
    let pair = authority.issue();
    let credentials = load(&authority, Some(&pair));
    let look =
        || credentials.take(files::Contents::read(&files(Some(&authority), Some(&pair))).unwrap());
    let first = credentials.now();
    pair.replace_by(&authority.issue_valid(Valid::Soon));
    look();
    assert!(std::sync::Arc::ptr_eq(&first, &credentials.now()), "not valid yet");
    let limit = std::time::Instant::now() + Duration::from_secs(20);
    while std::sync::Arc::ptr_eq(&first, &credentials.now()) {
        assert!(std::time::Instant::now() < limit, "it is valid for long");
        std::thread::yield_now();
        look();
    }
}

#[test]
fn components_are_known_by_their_certificate() {
    let address = Some("10.0.0.1:1".parse().unwrap());
    let peer = |encrypted, certified| Peer { address, encrypted, certified };
    assert!(peer(false, false).is_component(), "the operator trusts the network");
    assert!(!peer(true, false).is_component());
    assert!(peer(true, true).is_component());
    assert!(!peer(false, false).is_trusted() && !peer(true, false).is_trusted());
    assert!(peer(true, true).is_trusted());
    let local =
        Peer { address: Some("[::ffff:127.0.0.1]:1".parse().unwrap()), ..peer(false, false) };
    assert!(local.is_trusted());
    let ask = |peer: Option<Peer>| {
        let mut request = tonic::Request::new(());
        if let Some(peer) = peer {
            request.extensions_mut().insert(Caller { peer, cut: Cut::default() });
        }
        component_only(request).is_ok()
    };
    assert!(ask(Some(peer(true, true))));
    assert!(!ask(Some(peer(true, false))) && !ask(None));
}

/// Names, wildcards and addresses, as those who connect compare them; with an authority and without.
#[test]
fn a_certificate_is_for_the_hosts_that_it_names() {
    let authority = Authority::new();
    let shown = authority.issue_named(&["a.test", "*.pods.test", "10.0.0.7", "::1"]);
    let own = Files { ca: None, ..files(Some(&authority), Some(&shown)) };
    let alone = Credentials::load(own).expect("good files");
    for credentials in [load(&authority, Some(&shown)), alone] {
        let check = |host: &str| credentials.check_host("--advertise", host);
        for host in ["a.test", "A.test", "b-0.pods.test", "10.0.0.7", "::1"] {
            assert!(check(host).is_ok(), "{host}");
        }
        for host in ["b.test", "pods.test", "x.b-0.pods.test", "10.0.0.8", "::2", "no name"] {
            let said = check(host).expect_err(host).to_string();
            let expected = format!("not for {host}, by which others are told to connect (--advert");
            assert!(said.contains(&expected), "{said}");
        }
        let said = check("b.test").expect_err("another").to_string();
        assert!(said.contains(" is for a.test, *.pods.test, 10.0.0.7, "), "{said}");
    }
    assert!(load(&authority, None).check_host("--advertise", "b.test").is_ok());
}

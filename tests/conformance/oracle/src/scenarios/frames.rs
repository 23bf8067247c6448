//! What is no request: keys and versions that nobody serves, garbage, and other protocols. Only whether the connection is closed,
//! and what is said in the one case where it is not.

use kafka_protocol::messages::ApiVersionsRequest;

use crate::script::{Script, bare, text};

const API_VERSIONS: i16 = 18;

pub(super) fn play(script: &mut Script) {
    for key in [9_999, -1, 4, 5, 6, 7] {
        script.raw(&format!("key {key}"), 0, &bare(key, 0, &[]));
    }
    // Below what is served, and far above it.
    for (what, key) in [("produce", 0), ("fetch", 1), ("offsets", 2), ("commit", 8), ("topics", 19)]
    {
        script.raw(&format!("{what} in version 0"), 0, &bare(key, 0, &[0; 32]));
        script.raw(&format!("{what} in version 99"), 99, &bare(key, 99, &[0; 32]));
        script.raw(&format!("{what} in version -1"), -1, &bare(key, -1, &[0; 32]));
    }
    script.raw("metadata cut off", 9, &bare(3, 9, &[]));
    script.raw("metadata of garbage", 1, &bare(3, 1, &[0x7f, 0xff, 0xff, 0xff, 1, 2, 3]));
    let many = [0, 1, 0, 0, 0x75, 0x30, 0x00, 0xff, 0x00, 0x00];
    script.raw("produce that claims 16.7 million topics", 3, &bare(0, 3, &many));
    script.raw("a negative length", 0, &(-5i32).to_be_bytes());
    script.raw("no length", 0, &0i32.to_be_bytes());
    script.raw("two gigabytes", 0, &i32::MAX.to_be_bytes());
    script.raw("hello by TLS", 0, &tls_hello());
    script.raw("hello by HTTP", 0, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let named = |name: &str, version: &str| {
        ApiVersionsRequest::default()
            .with_client_software_name(text(name))
            .with_client_software_version(text(version))
    };
    for (what, name, version) in
        [("no name", "", "1"), ("a bad name", "-x", "1"), ("a bad version", "x", "1 2")]
    {
        let answer = script.quietly(3, &named(name, version));
        script.note(what, 3, answer.error_code.into());
    }
    let stepping = script.step_down(&bare(API_VERSIONS, 99, &[0, 2, b'x', 2, b'1', 0]));
    script.note("versions in version 99", 99, stepping);
}

/// The beginning of one, as clients send it.
fn tls_hello() -> Vec<u8> {
    let mut hello = vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03];
    hello.resize(517, 0x5a);
    hello
}

//! Against peers that are no broker, or one with ill will.

use geminga_runtime::Tasks;
use tokio::net::TcpListener;

use super::*;

/// What a client makes of a peer that reads a request and says these bytes, then hangs up.
async fn against(said: Vec<u8>) -> Result<(), SourceError> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let tasks = Tasks::new("peer");
    tasks.spawn("peer", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_i32().await.unwrap();
        let mut request = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut request).await.unwrap();
        stream.write_all(&said).await.unwrap();
    });
    let opened = Connection::open(&address, &Dial::Plain).await.map(|_| ());
    tasks.finish(Duration::from_secs(1)).await;
    opened
}

fn frame(body: &[u8]) -> Vec<u8> {
    [&i32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

#[tokio::test]
async fn what_a_peer_claims_is_not_believed() {
    // Correlation 1, no error, versions of one API.
    let good = [&[0, 0, 0, 1, 0, 0, 0, 0, 0, 1][..], &[0, 3, 0, 0, 0, 9]].concat();
    assert_eq!(against(frame(&good)).await, Ok(()));
    for (said, why) in [
        (Vec::new(), "closed the connection"),
        (i32::MAX.to_be_bytes().to_vec(), "are the most"),
        ((-1_i32).to_be_bytes().to_vec(), "are the most"),
        (64_000_000_i32.to_be_bytes().to_vec(), "in the middle of an answer"),
        (frame(&[0, 0, 0, 2]), "another request"),
        (vec![0x15, 3, 3, 0, 2, 2, 80], "--from-tls"),
        (frame(&[0, 0, 0, 1, 0, 0, 0x7f, 255, 255, 255]), "no answer to"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "are the most"),
    ] {
        let error = against(said).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn an_api_that_is_not_served_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let dial = Dial::Plain.open(&address, Protocol::Kafka);
    let mut connection = Connection {
        address: "h:1".to_owned(),
        stream: dial.await.unwrap(),
        correlation: 0,
        versions: HashMap::from([(3, (0, 2))]),
    };
    let request = kafka_wire::MetadataRequest::default();
    let error = connection.call(4, 12, &request).await.unwrap_err();
    assert!(matches!(error, SourceError::Version { least: 4, most: 12, .. }), "{error}");
}

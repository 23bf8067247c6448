//! Records are not copied on their way out: what the socket is given lies where the log has it in memory.

use std::pin::Pin;
use std::task::{Context, Poll};

use super::*;

/// A socket that takes everything, and notes where it lay and how much it was.
#[derive(Debug, Clone, Default)]
struct Noting(Arc<Mutex<Vec<(usize, usize)>>>);

impl Noting {
    fn note(&self, bytes: &[u8]) -> usize {
        self.0.lock().push(place(bytes));
        bytes.len()
    }
}

impl AsyncWrite for Noting {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(self.note(bytes)))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(pieces.iter().map(|piece| self.note(piece)).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn place(bytes: &[u8]) -> (usize, usize) {
    (bytes.as_ptr().addr(), bytes.len())
}

#[tokio::test]
async fn records_go_to_the_socket_from_where_the_log_has_them() {
    let (rig, topic) = rig().await;
    fill(&rig, &topic).await;
    // Memory that is in use twice is the log's: two copies would lie in two places.
    let kept = rig.read(&topic, 0, 0).await;
    let kept_bytes: usize = kept.iter().map(Bytes::len).sum();
    assert!(kept.len() == 5 && kept_bytes > 3_600_000, "{kept_bytes} bytes");
    for version in [4, FETCH, 12] {
        let noted = Noting::default();
        let (mut to, reader) = duplex(1 << 20);
        let (listener, address) = (LISTENER.to_owned(), ([127, 0, 0, 1], 1).into());
        let peer = Arc::new(Peer { listener, address, lanes: Lanes::default() });
        let stop = Tasks::new("stop");
        to.write_all(&codec::encode_request(1, version, &fetch(0, 0, 1))).await.unwrap();
        drop(to);
        let kafka = rig.kafka(0).clone();
        let serve = serve(kafka, (peer, None), (reader, noted.clone()), stop.cancelled());
        Box::pin(serve).await.unwrap();
        let noted = noted.0.lock();
        for batch in &kept {
            assert!(noted.contains(&place(batch)), "version {version}: a batch was copied");
        }
        let all: usize = noted.iter().map(|(_, bytes)| bytes).sum();
        assert!(all - kept_bytes < 200, "{all} bytes: and nothing was written twice");
    }
}

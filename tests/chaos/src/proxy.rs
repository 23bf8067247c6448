//! A TCP proxy in front of one listener. The bytes of one connection stay in order and none is changed; when they arrive is
//! ours to decide, for each connection and direction by itself.
//!
//! One task accepts; each connection has one task for both directions. Nothing is buffered beyond one chunk in each direction,
//! so a slow receiver slows its sender.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use geminga_runtime::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::dice::Dice;

/// Bytes that are held up together.
const CHUNK: usize = 16 * 1024;
/// The pause after an accept that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// What a proxy does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// Hands them on.
    Open,
    /// Hands them on after up to this time, drawn anew for each chunk.
    Slow(Duration),
    /// Keeps them, and all connections, until it is opened again.
    Silent,
    /// Ends all connections, and each new one at once.
    Cut,
}

/// See the [module](self). It ends with the tasks that it was started among.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: String,
    link: watch::Sender<Link>,
    felt: Felt,
}

/// How often a link that is not open was felt: chunks and connections that were held up, connections that were ended or refused.
#[derive(Debug, Clone, Default)]
struct Felt(Arc<AtomicU64>);

impl Felt {
    fn again(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Proxy {
    /// Starts one in front of `target`, on a port of its own at `ip`. `seed`: of its delays.
    ///
    /// # Errors
    /// When the port cannot be listened on.
    pub(crate) async fn start(
        ip: Ipv4Addr,
        target: &str,
        seed: u64,
        tasks: &Tasks,
    ) -> Result<Self> {
        let port = geminga_harness::port::free();
        let listener = TcpListener::bind((ip, port)).await.context("proxy")?;
        let (link, state) = watch::channel(Link::Open);
        let felt = Felt::default();
        let felt_by_all = felt.clone();
        let (stop, of_connections) = (tasks.cancelled(), tasks.clone());
        let target: Arc<str> = Arc::from(target);
        tasks.spawn("proxy", async move {
            let mut number = 0;
            let accept = async {
                loop {
                    let Ok((stream, _)) = listener.accept().await else {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    };
                    number += 1;
                    let connection = Connection {
                        target: Arc::clone(&target),
                        state: state.clone(),
                        felt: felt_by_all.clone(),
                        dice: [Dice::new(seed, number * 2), Dice::new(seed, number * 2 + 1)],
                    };
                    let stop = of_connections.cancelled();
                    of_connections.spawn("connection", async move {
                        tokio::select! {
                            () = stop => {}
                            () = connection.run(stream) => {}
                        }
                    });
                }
            };
            tokio::select! {
                () = stop => {}
                () = accept => {}
            }
        });
        Ok(Self { address: format!("{ip}:{port}"), link, felt })
    }

    /// Where to connect, `HOST:PORT`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// How often anything but an open link was felt since the start.
    pub(crate) fn felt(&self) -> u64 {
        self.felt.0.load(Ordering::Relaxed)
    }

    /// From now on.
    pub(crate) fn set(&self, link: Link) {
        self.link.send_replace(link);
    }
}

struct Connection {
    target: Arc<str>,
    state: watch::Receiver<Link>,
    felt: Felt,
    /// Of either direction.
    dice: [Dice; 2],
}

impl Connection {
    async fn run(mut self, mut near: TcpStream) {
        if !passes(&mut self.state, &self.felt).await {
            return;
        }
        let Ok(mut far) = TcpStream::connect(&*self.target).await else { return };
        // What they delay is ours to decide. Without it, nothing breaks.
        let _ = near.set_nodelay(true).and_then(|()| far.set_nodelay(true));
        let mut state = self.state.clone();
        let (from_near, to_near) = near.split();
        let (from_far, to_far) = far.split();
        let [there, back] = &self.dice;
        let both = async {
            tokio::join!(
                carry(from_near, to_far, self.state.clone(), &self.felt, there),
                carry(from_far, to_near, self.state.clone(), &self.felt, back),
            )
        };
        tokio::select! {
            _ = both => {}
            // An error means that the proxy is gone.
            _ = state.wait_for(|link| *link == Link::Cut) => self.felt.again(),
        }
    }
}

/// Waits until bytes may pass; false when they never will.
async fn passes(state: &mut watch::Receiver<Link>, felt: &Felt) -> bool {
    if matches!(*state.borrow(), Link::Silent | Link::Cut) {
        felt.again();
    }
    match state.wait_for(|link| *link != Link::Silent).await {
        Ok(link) => *link != Link::Cut,
        Err(_) => false,
    }
}

/// Carries bytes until either side ends.
async fn carry(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut state: watch::Receiver<Link>,
    felt: &Felt,
    dice: &Dice,
) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let link = *state.borrow();
        if let Link::Slow(most) = link {
            felt.again();
            tokio::time::sleep(dice.between(Duration::ZERO, most)).await;
        }
        if !passes(&mut state, felt).await || to.write_all(&chunk[..length]).await.is_err() {
            return;
        }
    }
    // The other direction may go on: a half-closed connection is one.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A proxy in front of a listener, and one connection through both.
    async fn connected(tasks: &Tasks) -> (Proxy, TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let proxy = Proxy::start(Ipv4Addr::LOCALHOST, &target, 1, tasks).await.unwrap();
        let near = TcpStream::connect(proxy.address()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (proxy, near, far)
    }

    #[tokio::test]
    async fn bytes_pass_in_order_in_both_directions_however_slow() {
        let tasks = Tasks::new("test");
        let (proxy, mut near, mut far) = connected(&tasks).await;
        assert_eq!(proxy.felt(), 0);
        proxy.set(Link::Slow(Duration::from_millis(5)));
        let sent: Vec<u8> = (0..CHUNK * 3).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut got = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(near.write_all(&sent), far.read_exact(&mut got));
        wrote.unwrap();
        read.unwrap();
        assert!(got == sent);
        far.write_all(b"back").await.unwrap();
        drop(far);
        let mut back = Vec::new();
        near.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"back");
        assert!(proxy.felt() >= 3);
        assert!(tasks.finish(Duration::from_secs(10)).await);
    }

    #[tokio::test]
    async fn a_silent_link_keeps_everything_until_it_is_opened() {
        let tasks = Tasks::new("test");
        let (proxy, mut near, mut far) = connected(&tasks).await;
        proxy.set(Link::Silent);
        near.write_all(b"x").await.unwrap();
        let mut byte = [0];
        let early = tokio::time::timeout(Duration::from_millis(100), far.read_exact(&mut byte));
        assert!(early.await.is_err());
        proxy.set(Link::Open);
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!((byte, proxy.felt()), (*b"x", 1));
        tasks.finish(Duration::from_secs(10)).await;
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_lets_none_in() {
        let tasks = Tasks::new("test");
        let (proxy, mut near, mut far) = connected(&tasks).await;
        proxy.set(Link::Cut);
        let mut rest = Vec::new();
        assert_eq!(far.read_to_end(&mut rest).await.unwrap_or(0), 0);
        assert_eq!(near.read_to_end(&mut rest).await.unwrap_or(0), 0);
        assert_eq!(proxy.felt(), 1);
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(refused.read_to_end(&mut rest).await.unwrap_or(0), 0);
        assert_eq!(proxy.felt(), 2);
        tasks.finish(Duration::from_secs(10)).await;
    }
}

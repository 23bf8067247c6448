//! The load of a window on NATS JetStream: a stream for each, on a connection of its own, by as much of the text protocol
//! as that takes: `PUB` with a reply subject, and the acknowledgement that comes to it. What costs a client least is left to
//! it: many `PUB`s go in one write.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail};
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::report::Report;
use crate::window::{Args, Window, report};

/// Bytes of `PUB`s that go in one write.
const WRITE_BYTES: usize = 256 * 1024;
/// Where answers come to, a subject of each stream below it.
const INBOX: &str = "_INBOX.load";

/// Records that were sent and are not acknowledged, by number.
type Sent = Arc<Mutex<HashMap<u64, (Instant, OwnedSemaphorePermit)>>>;

/// Makes the streams, or loads them.
pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let names: Vec<String> = (0..args.streams).map(|n| format!("{}-{n}", args.name)).collect();
    if let Some(copies) = args.create {
        for name in &names {
            create(&args.servers[0], name, copies).await?;
        }
        return report(&args, Vec::new());
    }
    let begin = Instant::now();
    let servers = args.servers.iter().cycle();
    let loads = names.iter().zip(servers).map(|(name, server)| load(&args, name, server, begin));
    report(&args, try_join_all(loads).await?)
}

/// What a server sends.
enum Said {
    /// To the inbox: the last word of the subject, and what it says.
    Answer(String, Vec<u8>),
    Ping,
    Other,
}

async fn connect(
    server: &str,
    stream: &str,
) -> anyhow::Result<(BufReader<OwnedReadHalf>, OwnedWriteHalf)> {
    let socket = TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    let (read, mut write) = socket.into_split();
    let hello =
        format!("CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB {INBOX}.{stream}.* 1\r\n");
    write.write_all(hello.as_bytes()).await?;
    Ok((BufReader::with_capacity(WRITE_BYTES, read), write))
}

async fn hear(read: &mut BufReader<OwnedReadHalf>) -> anyhow::Result<Said> {
    let mut line = String::new();
    if read.read_line(&mut line).await? == 0 {
        bail!("the server closed the connection");
    }
    let mut words = line.split_ascii_whitespace();
    match words.next() {
        Some("MSG") => {
            let subject = words.next().context("a message without a subject")?.to_owned();
            let length = words.next_back().context("a message without a length")?.parse()?;
            let mut said = vec![0; length];
            read.read_exact(&mut said).await?;
            read.read_exact(&mut [0; 2]).await?;
            let to = subject.rsplit('.').next().unwrap_or_default().to_owned();
            Ok(Said::Answer(to, said))
        }
        Some("PING") => Ok(Said::Ping),
        Some("-ERR") => bail!("the server refuses: {line}"),
        _ => Ok(Said::Other),
    }
}

async fn create(server: &str, name: &str, copies: usize) -> anyhow::Result<()> {
    let (mut read, mut write) = connect(server, name).await?;
    let config = serde_json::json!({
        "name": name, "subjects": [name], "retention": "limits", "storage": "file", "num_replicas": copies,
    });
    let config = config.to_string();
    let request = format!(
        "PUB $JS.API.STREAM.CREATE.{name} {INBOX}.{name}.0 {}\r\n{config}\r\n",
        config.len()
    );
    write.write_all(request.as_bytes()).await?;
    loop {
        match hear(&mut read).await? {
            Said::Answer(_, said) => return judge(&said),
            Said::Ping => write.write_all(b"PONG\r\n").await?,
            Said::Other => {}
        }
    }
}

/// Whether an answer of JetStream is a good one.
fn judge(said: &[u8]) -> anyhow::Result<()> {
    let answer: serde_json::Value = serde_json::from_slice(said)?;
    match answer.get("error") {
        Some(error) => bail!("JetStream refuses: {error}"),
        None => Ok(()),
    }
}

async fn load(
    args: &Args,
    subject: &str,
    server: &str,
    begin: Instant,
) -> anyhow::Result<Histogram<u64>> {
    let (read, mut write) = connect(server, subject).await?;
    let mut window = Window::new(args, begin)?;
    let (places, end, sent) = (window.places(), window.end(), Sent::default());
    let publish = async {
        publish(args, subject, &mut write, &places, end, &sent).await?;
        // Whoever has all places knows that nothing is outstanding.
        let _all = places.acquire_many(u32::try_from(args.window)?).await?;
        anyhow::Ok(())
    };
    tokio::select! {
        published = publish => published?,
        ended = acknowledgements(read, &sent, &mut window) => ended?,
    }
    Ok(window.micros)
}

/// Sends as long as the load lasts. A server's pings are not answered: it is patient for longer than a load lasts.
async fn publish(
    args: &Args,
    subject: &str,
    write: &mut OwnedWriteHalf,
    places: &Arc<Semaphore>,
    end: Instant,
    sent: &Sent,
) -> anyhow::Result<()> {
    let value = vec![0x5a; args.size];
    let (mut number, mut out) = (0u64, Vec::with_capacity(2 * WRITE_BYTES));
    while Instant::now() < end {
        let mut place = Some(Arc::clone(places).acquire_owned().await?);
        while let Some(taken) = place.take() {
            sent.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(number, (Instant::now(), taken));
            write!(out, "PUB {subject} {INBOX}.{subject}.{number} {}\r\n", value.len())?;
            out.extend_from_slice(&value);
            out.extend_from_slice(b"\r\n");
            number += 1;
            if out.len() < WRITE_BYTES {
                place = Arc::clone(places).try_acquire_owned().ok();
            }
        }
        write.write_all(&out).await?;
        out.clear();
    }
    Ok(())
}

/// Takes acknowledgements until the connection fails.
async fn acknowledgements(
    mut read: BufReader<OwnedReadHalf>,
    sent: &Sent,
    window: &mut Window,
) -> anyhow::Result<()> {
    loop {
        let Said::Answer(number, said) = hear(&mut read).await? else { continue };
        judge(&said)?;
        let taken = sent.lock().unwrap_or_else(PoisonError::into_inner).remove(&number.parse()?);
        let (at, place) = taken.context("an acknowledgement of nothing")?;
        window.acked(at, place);
    }
}

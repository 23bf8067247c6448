//! What a load of a fixed window is, the same for all systems: on each stream so many records are sent and not
//! acknowledged; one that is acknowledged lets the next go. Latency is from sending to acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::report::{Report, histogram};

/// Acknowledgements before this long are not counted.
const WARM_UP: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Servers; each stream connects to one of them, in turn.
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) servers: Vec<String>,
    /// What streams are called, with a number behind.
    #[arg(long, default_value = "load")]
    pub(crate) name: String,
    /// Streams, or topics of one partition, each with a connection of its own.
    #[arg(long, default_value_t = 1)]
    pub(crate) streams: usize,
    /// Records unacknowledged on each.
    #[arg(long, default_value_t = 100)]
    pub(crate) window: usize,
    /// Bytes of a record.
    #[arg(long, default_value_t = 1024)]
    pub(crate) size: usize,
    /// For so long.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) seconds: f64,
    /// Make the streams first, with this many copies, and do nothing else.
    #[arg(long)]
    pub(crate) create: Option<usize>,
}

/// One stream's window, and what its acknowledgements said.
#[derive(Debug)]
pub(crate) struct Window {
    places: Arc<Semaphore>,
    begin: Instant,
    end: Instant,
    pub(crate) micros: Histogram<u64>,
}

impl Window {
    /// A window that is open for as long as the load lasts.
    pub(crate) fn new(args: &Args, begin: Instant) -> anyhow::Result<Self> {
        let end = begin + WARM_UP + Duration::from_secs_f64(args.seconds);
        let places = Arc::new(Semaphore::new(args.window));
        Ok(Self { places, begin, end, micros: histogram()? })
    }

    /// Whether records are still to be sent.
    pub(crate) fn is_open(&self) -> bool {
        Instant::now() < self.end
    }

    /// When nothing more is to be sent.
    pub(crate) fn end(&self) -> Instant {
        self.end
    }

    /// Where to wait for a place, which is given back with the acknowledgement.
    pub(crate) fn places(&self) -> Arc<Semaphore> {
        Arc::clone(&self.places)
    }

    /// A record was acknowledged that was sent then.
    pub(crate) fn acked(&mut self, sent: Instant, place: OwnedSemaphorePermit) {
        drop(place);
        let now = Instant::now();
        if now >= self.begin + WARM_UP && now < self.end {
            let micros = u64::try_from((now - sent).as_micros()).unwrap_or(u64::MAX);
            self.micros.saturating_record(micros);
        }
    }
}

/// All streams together.
pub(crate) fn report(args: &Args, windows: Vec<Histogram<u64>>) -> anyhow::Result<Report> {
    let mut all = histogram()?;
    for one in windows {
        all.add(one)?;
    }
    Ok(Report::new(&all, args.seconds))
}
